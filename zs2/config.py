"""What decides a clip: one frozen, validated record, and the only home of its defaults."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zs2.checks import at_least_one, in_range, one_of, spread
from zs2.speed import SPEEDS

NOISE_MODELS = ("dependency", "iid", "mixed", "progressive")
SOLVERS = ("expected", "exact", "search", "algorithm1")
CHAINS = ("exact", "anchor")
SCHEDULERS = ("ddim", "dpm++", "unipc", "euler", "euler_a", "pndm", "lcm")

SEGMENT_FRAMES = 8  # the paper's m


@dataclass(frozen=True)
class ClipConfig:
    """How one clip is sampled; every field in the words of the manifest.

    Args:
        num_frames: n ≥ 1.
        segment_frames: m, frames in one UNet call; None is min(8, n).
        chain: `exact` carries each layer's running average over a segment border, `anchor` restarts
            it from the previous segment's last frame (section 6.1).
        noise: noise model between frames; `alpha` is given for `mixed` and `progressive` only.
        kl_target: λ, one value or n−1 of them; 0 is a still clip.
        solver, noise_candidates: how λ becomes a noise, see `zs2.noise`.
        momentum: μ, one value or n of them (the first is not used).
        speed: `exact`, or `fast`, which leaves work out: see `zs2.speed`.

    Raises:
        ValueError: saying what was expected and what was found.
    """

    num_frames: int = 8
    segment_frames: int | None = None
    chain: str = "exact"
    noise: str = "dependency"
    alpha: float | None = None
    kl_target: float | tuple[float, ...] = 0.01
    solver: str = "expected"
    noise_candidates: int = 1
    momentum: float | tuple[float, ...] = 0.98
    speed: str = "exact"

    def __post_init__(self) -> None:
        at_least_one("num_frames", self.num_frames)
        at_least_one("noise_candidates", self.noise_candidates)
        one_of("chain", self.chain, CHAINS)
        one_of("noise", self.noise, NOISE_MODELS)
        one_of("solver", self.solver, SOLVERS)
        one_of("speed", self.speed, tuple(SPEEDS))
        if self.segment_frames is not None:
            at_least_one("segment_frames", self.segment_frames)
            if self.segment_frames > self.num_frames:
                raise ValueError(
                    f"segment_frames: expected at most num_frames={self.num_frames}, "
                    f"found {self.segment_frames}"
                )
        if (self.noise in ("mixed", "progressive")) != (self.alpha is not None):
            raise ValueError(
                f"alpha: expected a value for noise='mixed' and 'progressive' only, "
                f"found alpha={self.alpha} with noise={self.noise!r}"
            )
        if self.alpha is not None:
            in_range("alpha", (self.alpha,), 0.0, 1.0)
        in_range("kl_target", self.kl_targets, 0.0, math.inf)
        in_range("momentum", self.momentums, 0.0, 1.0)

    @property
    def frames_per_call(self) -> int:
        """m: frames in one UNet call."""
        return self.segment_frames or min(SEGMENT_FRAMES, self.num_frames)

    @property
    def num_segments(self) -> int:
        """⌈n/m⌉."""
        return -(-self.num_frames // self.frames_per_call)

    @property
    def kl_targets(self) -> tuple[float, ...]:
        """λ for every frame pair: n−1 values."""
        return spread("kl_target", self.kl_target, self.num_frames - 1, "num_frames − 1")

    @property
    def momentums(self) -> tuple[float, ...]:
        """μ for every frame: n values."""
        return spread("momentum", self.momentum, self.num_frames, "num_frames")

    def frame_prompts(self, prompts: Sequence[str]) -> list[int]:
        """The index of each frame's prompt: one prompt for all, or one per segment (a storyboard).

        Raises:
            ValueError: for any other number of prompts.
        """
        if len(prompts) == 1:
            return [0] * self.num_frames
        if len(prompts) != self.num_segments:
            raise ValueError(
                f"prompt: expected 1 prompt or {self.num_segments} (one per segment: "
                f"{self.num_frames} frames in segments of {self.frames_per_call}), "
                f"found {len(prompts)}"
            )
        return [frame // self.frames_per_call for frame in range(self.num_frames)]


DEFAULTS = ClipConfig()
