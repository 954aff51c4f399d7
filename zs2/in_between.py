"""Frames between a clip's frames, sampled by the diffusion model itself.

A frame at time i + t, 0 < t < 1, starts from a noise on the arc between ε^i and ε^{i+1}, which keeps it
N(0, I), and has a momentum state between theirs: K̈^{i+t} = μ_t·K̈^i + (1−μ_t)·K^{i+t} with
μ_t = 1 − t·(1−μ_{i+1}), which is K̈^i at t = 0 and Eq. 2's own step at t = 1 (but over a segment border
with chain="anchor", where frame i+1 begins from frame i itself and the frames between still from K̈^i).
It is denoised in the same steps, in UNet calls of its own after those of the segment that holds frame i:
the clip's own frames never see it, and are bit by bit those of the clip without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from zs2.attention import MomentumState
from zs2.config import ClipConfig
from zs2.segments import Segment, segments


def arc(
    a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"], t: float
) -> Float[Tensor, "*shape"]:
    """The noise at `t` in [0, 1] of the great arc from `a` to `b`: N(0, I) as they are.

    (sin((1−t)θ)·a + sin(tθ)·b) / sin θ, cos θ their correlation, whose weights' squares and mixed term
    add up to 1. Equal noises give themselves, bit by bit.
    """
    if torch.equal(a, b):
        return a.clone()
    a64, b64 = a.double(), b.double()
    cosine = float((a64 * b64).sum() / (a64.norm() * b64.norm()))
    theta = math.acos(min(1.0, max(-1.0, cosine)))
    if math.sin(theta) < 1e-6:  # the same or opposite directions: there is no one arc
        return a.clone() if t <= 0.5 else b.clone()
    wa, wb = math.sin((1 - t) * theta), math.sin(t * theta)
    return ((wa * a64 + wb * b64) / math.sin(theta)).to(a.dtype)


class FineClip:
    """A clip of n frames with in_between − 1 more in every gap, as one batch for the UNet.

    The batch holds each segment's frames, then those in the gaps that begin at them.

    Args:
        config: of the clip's own frames.
        in_between: 1 adds none.
        share: first frame and end of the segments that the batch holds, of the clip's own; default all.

    Attributes:
        num_frames: of the batch; of all segments (n−1)·in_between + 1.
        plan: the UNet's calls, each of `config.frames_per_call` frames of one kind.
        places: of every frame in the batch, i and j: it shows the time i + j/in_between.
    """

    def __init__(
        self, config: ClipConfig, in_between: int = 1, share: tuple[int, int] | None = None
    ) -> None:
        self.config = config
        self.in_between = in_between
        self.start, self.stop = share or (0, config.num_frames)
        self.plan: list[Segment] = []
        self.places: list[tuple[int, int]] = []
        size, last = config.frames_per_call, config.num_frames - 1
        for segment in segments(config.num_frames, size):
            if not self.start <= segment.start < self.stop:
                continue
            own = range(segment.start, segment.start + segment.count)
            self._add([(i, 0) for i in own], size)
            gaps = [(i, j) for i in own if i < last for j in range(1, in_between)]
            for at in range(0, len(gaps), size):
                self._add(gaps[at : at + size], size)
        self.num_frames = len(self.places)

    def _add(self, places: list[tuple[int, int]], size: int) -> None:
        self.plan.append(Segment(len(self.places), len(places), size))
        self.places += places

    def spread(self, noise: Float[Tensor, "frame channel h w"]) -> Float[Tensor, "all channel h w"]:
        """The batch's noise, of the clip's."""
        if self.in_between == 1:
            return self.own(noise)
        k = self.in_between
        return torch.stack(
            [arc(noise[i], noise[i + 1], j / k) if j else noise[i] for i, j in self.places]
        )

    def own(self, values: Any) -> Any:
        """Of an array or tensor with a value for each of the clip's frames, the batch's."""
        return values[self.start : self.stop]

    def nearest(self, values: Sequence[int]) -> list[int]:
        """Of a value per frame, that of the nearest frame, the earlier one in the middle."""
        return [values[i + (2 * j > self.in_between)] for i, j in self.places]

    def in_order(self, batch: Float[Tensor, "all ..."]) -> Float[Tensor, "all ..."]:
        """The batch's pictures in the order of their times."""
        if self.in_between == 1:
            return batch
        order = sorted(range(self.num_frames), key=lambda at: self.places[at])
        return batch[torch.tensor(order, device=batch.device)]

    def state(self) -> MomentumState:
        """The momentum state of the batch."""
        momentum, chain = self.config.momentums, self.config.chain
        if self.in_between == 1:
            return MomentumState(momentum, chain, first=self.start)
        return FineState(momentum, chain, fine=self)


@dataclass
class FineState(MomentumState):
    """As `MomentumState`, for the batch of a `FineClip`.

    Attributes:
        latest: of every layer, the averages at the frames of the segment that came last.
        gaps: of the frames between others that come next, their places; empty for the clip's own.
    """

    fine: FineClip = field(kw_only=True)
    latest: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    gaps: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def reset(self) -> None:
        super().reset()
        self.latest.clear()

    def enter_segment(self, start: int, count: int, padded_count: int) -> None:
        places = self.fine.places[start : start + count]
        self.gaps = places if places[0][1] else []
        if self.gaps:
            self.padded_count = padded_count
        else:
            super().enter_segment(places[0][0], count, padded_count)

    def average(
        self, layer: str, hidden_states: Float[Tensor, "batch token feature"]
    ) -> Float[Tensor, "batch token feature"]:
        states = hidden_states.unflatten(0, (-1, self.padded_count))
        if not self.gaps:
            average = super().average(layer, hidden_states)
            self.latest[layer] = average.unflatten(0, (-1, self.padded_count))
            return average
        places = self.gaps + self.gaps[-1:] * (self.padded_count - len(self.gaps))
        before = torch.tensor([i - self.start for i, _ in places], device=states.device)
        weights = [1 - j / self.fine.in_between * (1 - self.momentum[i + 1]) for i, j in places]
        mu = torch.tensor(weights, dtype=torch.float32, device=states.device)[None, :, None, None]
        previous = self.latest[layer].index_select(1, before)
        average = torch.lerp(states.float(), previous.float(), mu)
        return average.to(hidden_states.dtype).flatten(0, 1)
