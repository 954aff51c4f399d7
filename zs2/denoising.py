"""What is in place around a pipeline while it denoises clips: momentum attention, segments, shortcuts and
the scheduler, each put back as it was afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from zs2.attention import momentum_attention
from zs2.compiled import compiled
from zs2.controlnet import ControlRun, check_fits
from zs2.in_between import FineClip
from zs2.per_frame import Texts
from zs2.request import Request
from zs2.reuse import shortcuts
from zs2.schedulers import StepNoise, first_index, scheduling
from zs2.segments import segmented
from zs2.speed import SPEEDS
from zs2.text_attention import text_attention


def denoising(
    pipe: Any,
    request: Request,
    fine: FineClip,
    noises: Sequence[StepNoise],
    texts: Texts | None,
    is_compiled: bool,
) -> ExitStack:
    """Open contexts in which a call of `pipe` denoises the clips of `request` as ZS² does.

    Args:
        fine: the frames of each clip.
        noises: of each clip in the batch; none where the caller gave the latents.
        texts: what the numbers in the pipeline's embeddings stand for.
        is_compiled: with compiled blocks (`zs2.compiled`).
    """
    config, clips = request.config, request.clips_per_call
    state, n, m = fine.state(), fine.num_frames, config.frames_per_call
    control, schedule = None, lambda: pipe.scheduler.timesteps
    several = config.num_frames > 1  # one is its own average: its attention stays the user's
    with ExitStack() as contexts:
        if several:
            contexts.enter_context(momentum_attention(pipe.unet, state))
        if is_compiled:
            contexts.enter_context(compiled(pipe.unet, request.in_between))
        for i, guide in enumerate(request.controls):
            check_fits(guide.net, pipe.unet)
            if several:
                contexts.enter_context(momentum_attention(guide.net, state, f"controlnet.{i}."))
        if request.controls:
            guides = [replace(guide, frames=fine.own(guide.frames)) for guide in request.controls]
            control = ControlRun(
                guides, *request.size, schedule, lambda: first_index(pipe.scheduler)
            )
        if several and not is_compiled:  # compiled blocks project their texts themselves
            is_held = request.pipe_arguments["callback_on_step_end"] is None
            contexts.enter_context(text_attention(pipe.unet, state, is_held, apart=clips > 1))
        nets = [guide.net for guide in request.controls]
        taken = contexts.enter_context(shortcuts(SPEEDS[config.speed], pipe.unet, nets, schedule))
        contexts.enter_context(
            segmented(
                pipe.unet, n, m, state, control, fine.plan, request.share, taken, texts, clips
            )
        )
        contexts.enter_context(scheduling(pipe, request.scheduler, noises, fine))
        return contexts.pop_all()
