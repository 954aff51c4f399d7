"""One clip on several samplers, each of which has a share: a run of the clip's segments.

Momentum attention is causal, and what one segment leaves to the next is one running average a layer
(section 6.1). Everything else is frame by frame, the scheduler's steps too. So the owner of a share takes
a denoising step as soon as it has the averages that the share before left at that step, and hands its own
on: a wavefront, in which each share is a step behind the one before. With T steps and G equal shares the
clip takes (T+G−1)/(T·G) of the time that one sampler needs. UNet calls are the same calls, so the result
is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

Averages = dict[str, Tensor]  # of each layer: Float[Tensor, "copy token feature"]


@dataclass(frozen=True)
class Share:
    """The frames `start` ≤ frame < `stop` of a clip, and how to talk to the owners of the shares beside.

    Attributes:
        receive: of a UNet call's number, 0 the first, what the share before left in that call; waits for
            it. Not called for the share that begins the clip.
        send: of a UNet call's number, what this share leaves to the next. Not called for the last share.
    """

    start: int
    stop: int
    receive: Callable[[int], Averages]
    send: Callable[[int, Averages], None]

    def check(self, num_frames: int, segment_frames: int) -> None:
        """Raise ValueError unless it is a run of whole segments of such a clip."""
        ends = (self.stop == num_frames) or self.stop % segment_frames == 0
        if not (0 <= self.start < self.stop <= num_frames and ends) or self.start % segment_frames:
            raise ValueError(
                f"share: expected a run of whole segments, {num_frames} frames in segments of "
                f"{segment_frames}, found the frames {self.start} to {self.stop}"
            )


def cut(num_frames: int, segment_frames: int, count: int) -> list[tuple[int, int]]:
    """Start and stop of `count` shares of a clip, equal to a segment, the longer ones first; of as many
    as it has segments, where those are fewer."""
    total = -(-num_frames // segment_frames)
    count = max(1, min(count, total))
    each, longer = divmod(total, count)
    firsts = [i * each + min(i, longer) for i in range(count + 1)]
    edges = [min(first * segment_frames, num_frames) for first in firsts]
    return list(pairwise(edges))
