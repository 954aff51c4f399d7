"""What decides a clip: one frozen, validated record, and the only home of its defaults."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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

    def __post_init__(self) -> None:
        _at_least_one("num_frames", self.num_frames)
        _at_least_one("noise_candidates", self.noise_candidates)
        _one_of("chain", self.chain, CHAINS)
        _one_of("noise", self.noise, NOISE_MODELS)
        _one_of("solver", self.solver, SOLVERS)
        if self.segment_frames is not None:
            _at_least_one("segment_frames", self.segment_frames)
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
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha: expected a number in [0, 1], found {self.alpha}")
        _in_range("kl_target", self.kl_targets, 0.0, math.inf)
        _in_range("momentum", self.momentums, 0.0, 1.0)

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
        return _spread("kl_target", self.kl_target, self.num_frames - 1, "num_frames − 1")

    @property
    def momentums(self) -> tuple[float, ...]:
        """μ for every frame: n values."""
        return _spread("momentum", self.momentum, self.num_frames, "num_frames")

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


def _spread(
    name: str, value: float | tuple[float, ...], count: int, meaning: str
) -> tuple[float, ...]:
    if isinstance(value, int | float):
        return (float(value),) * count
    if len(value) == 1:
        return (float(value[0]),) * count
    if len(value) != count:
        raise ValueError(
            f"{name}: expected one number or {meaning} = {count} of them, found {len(value)}"
        )
    return tuple(float(v) for v in value)


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}: expected a whole number of at least 1, found {value}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(allowed)}, found {value!r}")


def _in_range(name: str, values: tuple[float, ...], low: float, high: float) -> None:
    for value in values:
        if not (low <= value <= high and math.isfinite(value)):
            wanted = f"a number in [{low:g}, {high:g}]" if math.isfinite(high) else f"≥ {low:g}"
            raise ValueError(f"{name}: expected {wanted}, found {value}")


DEFAULTS = ClipConfig()
