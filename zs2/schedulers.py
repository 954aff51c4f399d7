"""Schedulers by their short names, and how their own noise is made to follow the clip."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zs2.noise import NoiseTrace, step_noise

SCHEDULER_CLASSES = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "lcm": "LCMScheduler",
}


def make_scheduler(name: str | None, current: Any) -> Any:
    """A fresh scheduler of the checkpoint's own noise schedule: `name`, or the kind of `current`.

    Raises:
        ValueError: for a name that is not in `SCHEDULER_CLASSES`.
    """
    if name is None:
        return type(current).from_config(current.config)
    if name not in SCHEDULER_CLASSES:
        raise ValueError(
            f"scheduler: expected one of {', '.join(SCHEDULER_CLASSES)}, found {name!r}"
        )
    return getattr(diffusers, SCHEDULER_CLASSES[name]).from_config(current.config)


class _FollowClip(TorchFunctionMode):
    """Answers `torch.randn` of a whole clip with noise correlated over its frames.

    Schedulers draw their step noise by a plain `torch.randn` over the batch; only that call is
    answered, and only in the thread that steps.
    """

    def __init__(self, trace: NoiseTrace) -> None:
        super().__init__()
        self.trace = trace
        self.num_frames = len(trace.alpha) + 1

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.randn and self._is_clip(args):
            channel, height, width = args[0][1:]
            noise = step_noise((channel, height, width), self.trace, options.get("generator"))
            return noise.to(options.get("device"), options.get("dtype"))
        return func(*args, **options)

    def _is_clip(self, args: tuple[Any, ...]) -> bool:
        shape = args[0] if args else ()
        return isinstance(shape, tuple | list) and len(shape) == 4 and shape[0] == self.num_frames


@contextmanager
def scheduling(pipe: Any, name: str | None, trace: NoiseTrace | None) -> Generator[None]:
    """Give `pipe` a fresh scheduler whose step noise follows `trace`; put its own back afterwards.

    With `trace` None (latents given by the user, one frame) the scheduler draws as it always does.
    """
    original = pipe.scheduler
    scheduler = make_scheduler(name, original)
    if trace is not None and len(trace.alpha):
        step = scheduler.step

        @functools.wraps(step)  # pipelines look at its signature for `generator` and `eta`
        def follow(*args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, ...]:
            with _FollowClip(trace):
                return step(*args, **kwargs)

        scheduler.step = follow
    pipe.scheduler = scheduler
    try:
        yield
    finally:
        pipe.scheduler = original
