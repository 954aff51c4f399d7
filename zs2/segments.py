"""Long clips under an unmodified diffusers pipeline: the UNet call is cut into segments of m frames.

The pipeline sees one batch of all frames' latents, laid out (g f): g guidance copies outermost, frames
innermost. Inside each denoising step the UNet runs segment after segment, every call of one fixed
shape g·m, the last one padded, and each layer's running average passes from one segment to the next
(section 6.1). Momentum attention is causal, so this is the one-shot long clip at the memory of one
segment.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from jaxtyping import Float
from torch import Tensor

from zs2.attention import MomentumState
from zs2.patching import forward_as
from zs2.per_frame import PER_FRAME_ARGUMENTS, Texts, take_rows

if TYPE_CHECKING:
    from zs2.controlnet import ControlRun
    from zs2.relay import Share
    from zs2.reuse import Shortcuts


@dataclass(frozen=True)
class Segment:
    """`count` frames from `start` on, in a call of `padded_count` frames."""

    start: int
    count: int
    padded_count: int

    def frames(self, device: torch.device | str = "cpu") -> Tensor:
        """The clip's frames in this call; padding repeats the last one."""
        numbers = torch.arange(self.start, self.start + self.padded_count, device=device)
        return numbers.clamp(max=self.start + self.count - 1)

    def rows(self, copies: int, num_frames: int, device: torch.device) -> Tensor:
        """Batch rows of this segment in a (g f) batch."""
        offsets = torch.arange(copies, device=device) * num_frames
        return (offsets[:, None] + self.frames(device)[None, :]).flatten()


def segments(num_frames: int, segment_frames: int) -> list[Segment]:
    """Cut n frames into segments of m; every call has m frames, also the last."""
    return [
        Segment(start, min(segment_frames, num_frames - start), segment_frames)
        for start in range(0, num_frames, segment_frames)
    ]


@contextmanager
def segmented(
    unet: torch.nn.Module,
    num_frames: int,
    segment_frames: int,
    state: MomentumState,
    control: ControlRun | None = None,
    plan: list[Segment] | None = None,
    share: Share | None = None,
    shortcuts: Shortcuts | None = None,
    texts: Texts | None = None,
    clips: int = 1,
) -> Generator[None]:
    """Run `unet` in segments, or in the calls of `plan`, carrying `state` through them.

    `control` runs inside the same segments, before each UNet call, and gives it residuals. Where the
    batch holds a `share` of the clip, what `state` begins and ends with passes through it; where it holds
    the numbers of `texts`, each call has the texts themselves. `shortcuts` may leave guidance copies out, for
    which the prompt's own answers then. Several `clips` lie side by side inside each guidance copy, and
    each has averages of its own. The number of frames is given, never guessed from the batch; a batch
    that is not a multiple of it raises ValueError.
    """
    whole: Callable[..., Any] = unet.forward
    plan = plan or segments(num_frames, segment_frames)
    calls = count()

    def forward(
        sample: Float[Tensor, "batch channel h w"],
        timestep: Any,
        encoder_hidden_states: Tensor | None = None,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        batch = sample.shape[0]
        if batch % num_frames:
            raise ValueError(
                f"expected a UNet batch of whole clips, a multiple of {num_frames} frames, "
                f"found {batch}"
            )
        copies = batch // num_frames
        kwargs["encoder_hidden_states"] = encoder_hidden_states
        if state.texts is not None:
            state.texts.next_step(encoder_hidden_states)
        state.reset()
        call = next(calls)
        if share is not None and share.start > 0:
            state.carried.update(share.receive(call))
        if control is not None:
            control.next_step()
        first_copy = 0 if shortcuts is None else shortcuts.next_call(copies // clips) * clips
        prediction: Tensor | None = None
        for segment in plan:
            state.enter_segment(segment.start, segment.count, segment.padded_count)
            skipped = first_copy * segment.padded_count
            rows = segment.rows(copies, num_frames, sample.device)[skipped:]
            if shortcuts is not None:
                shortcuts.enter_segment(segment.start, len(rows))
            chosen = {
                name: take_rows(value, rows, batch) if name in PER_FRAME_ARGUMENTS else value
                for name, value in kwargs.items()
            }
            if texts is not None:
                chosen["encoder_hidden_states"] = texts.gather(chosen["encoder_hidden_states"])
            chosen_sample = take_rows(sample, rows, batch)
            chosen_timestep = take_rows(timestep, rows, batch)
            if state.texts is not None:
                state.texts.enter_segment(segment, chosen["encoder_hidden_states"])
            if control is not None:
                chosen |= control.residuals(
                    segment,
                    chosen_sample,
                    chosen_timestep,
                    chosen["encoder_hidden_states"],
                    chosen.get("added_cond_kwargs"),
                )
            output = whole(chosen_sample, chosen_timestep, return_dict=False, **chosen)
            made: Tensor = output[0].unflatten(0, (copies - first_copy, -1))[:, : segment.count]
            if prediction is None:  # one for all segments: a list of theirs would be held beside it
                prediction = made.new_empty(len(made), num_frames, *made.shape[2:])
            prediction[:, segment.start : segment.start + segment.count] = made
        if share is not None and share.stop < len(state.momentum):
            share.send(call, dict(state.carried))
        assert prediction is not None, "a clip has a segment"
        if first_copy:  # equal copies: guidance then adds their difference, 0
            prediction = torch.cat([prediction] * (copies // clips))
        whole_clip = prediction.flatten(0, 1)
        return UNet2DConditionOutput(sample=whole_clip) if return_dict else (whole_clip,)

    with forward_as(unet, forward):
        yield
