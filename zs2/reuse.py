"""Deep features of one UNet call used in the next: most of `speed="fast"` (see `zs2.speed`).

From one denoising step to the next the deep features of a UNet change little (Ma et al., "DeepCache",
CVPR 2024). So in every second call only its outermost blocks run, the first of the way down and the last
of the way up; what the blocks between them gave the last one is that of the call before. Of a ControlNet
only what feeds those blocks runs then.

A clip's segments run one after another inside each step, so what is kept is kept by segment: cached by
block alone, as published packages do, one segment would get another's. It is used once and given up
with the clip's context; it never meets another clip or other guidance copies. Layers that do not run
leave no average behind, and none is missed: each step begins its averages anew.

Costs: memory for one feature map a frame and guidance copy, all frames of a clip at a time (for SD 1.5 at
512 px in half precision 5.2 MB a picture, 10.5 MB a guided frame), and a little likeness to what would
have been sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from zs2.patching import forward_as
from zs2.speed import Speed


class Shortcuts:
    """The shortcuts of one clip's denoising, call by call.

    Args:
        speed: which ones are taken.
        schedule: the timesteps of the scheduler at work.

    Attributes:
        reusing: of the UNet call at hand the deep part is not to be computed.
    """

    def __init__(self, speed: Speed, schedule: Callable[[], Sequence[Any]]) -> None:
        self.reusing = False
        self._speed = speed
        self._schedule = schedule
        self._call = -1
        self._start = 0
        self._kept: dict[int, Tensor] = {}  # by the segment's first frame
        self._feature: Tensor | None = None

    def next_call(self, copies: int) -> int:
        """Of the guidance copies of the call that begins, the first that is to be computed: 0, or the
        last, the prompt's own."""
        self._call += 1
        guided = self._speed.guided_calls(len(self._schedule()))
        return copies - 1 if self._call >= guided else 0

    def enter_segment(self, start: int, rows: int) -> None:
        """The segment from frame `start` on comes next, as so many pictures."""
        feature = self._kept.pop(start, None)
        if feature is not None and len(feature) != rows:
            feature = None  # other guidance copies than in the last step
        self._start, self._feature, self.reusing = start, feature, feature is not None

    def deep(self, feature: Tensor) -> Tensor:
        """What the last block takes from below: as computed, or where it was not, that of before."""
        if self._feature is not None:
            return self._feature
        self._kept[self._start] = feature
        return feature

    def clear(self) -> None:
        """Forget all features."""
        self._kept.clear()
        self._feature = None


@contextmanager
def shortcuts(
    speed: Speed, unet: Any, nets: Sequence[Any], schedule: Callable[[], Sequence[Any]]
) -> Generator[Shortcuts | None]:
    """Take a speed's shortcuts in a UNet and its ControlNets while the context is open; None where
    there is none to take. A UNet of one block has no deep part, and is always computed whole."""
    if not (speed.reuses or speed.unguided_tenths):
        yield None
        return
    taken = Shortcuts(speed, schedule)
    with ExitStack() as contexts:
        if speed.reuses and len(unet.down_blocks) > 1:
            for part, forward in [
                *_encoder(unet, taken),
                *_decoder(unet, taken),
                *(found for net in nets for found in _control(net, taken)),
            ]:
                contexts.enter_context(forward_as(part, forward))
        try:
            yield taken
        finally:
            taken.clear()


_Forward = tuple[Any, Callable[..., Any]]


def _encoder(model: Any, taken: Shortcuts) -> list[_Forward]:
    """Of a UNet or ControlNet, all on the way down but the first block, whose downsampler is deep, too."""
    first, *others = model.down_blocks
    found = [(part, _skipped(part, taken)) for part in first.downsamplers or ()]
    for block in others:
        residuals = len(block.resnets) + len(block.downsamplers or ())
        found.append((block, _skipped(block, taken, residuals)))
    if model.mid_block is not None:
        found.append((model.mid_block, _skipped(model.mid_block, taken)))
    return found


def _decoder(unet: Any, taken: Shortcuts) -> list[_Forward]:
    """All on the way up but the last block."""
    *others, last = unet.up_blocks[:-1]
    whole = last.forward

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        computed = hidden_states if taken.reusing else whole(hidden_states, *args, **kwargs)
        return taken.deep(computed)

    return [*((block, _skipped(block, taken)) for block in others), (last, forward)]


def _control(net: Any, taken: Shortcuts) -> list[_Forward]:
    """All whose residuals go into the UNet's deep part."""
    shallow = 1 + len(net.down_blocks[0].resnets)
    outputs = [*net.controlnet_down_blocks[shallow:], net.controlnet_mid_block]
    return [*_encoder(net, taken), *((part, _skipped(part, taken)) for part in outputs)]


def _skipped(part: Any, taken: Shortcuts, residuals: int = 0) -> Callable[..., Any]:
    """A part that answers with a stand-in where deep features are reused: one number, which adds to
    and averages as any picture, and which nothing that is computed reads."""
    whole = part.forward

    def forward(
        hidden_states: Float[Tensor, "batch channel h w"], *args: Any, **kwargs: Any
    ) -> Any:
        if not taken.reusing:
            return whole(hidden_states, *args, **kwargs)
        nothing = hidden_states.new_zeros(1, 1, 1, 1)
        return (nothing, (nothing,) * residuals) if residuals else nothing

    return forward
