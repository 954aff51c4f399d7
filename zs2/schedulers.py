"""Schedulers by their short names, how their own noise is made to follow the clip, and schedules run in
parts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import diffusers
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zs2.in_between import FineClip
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
# PNDM's own Runge-Kutta start needs four steps at least; Stable Diffusion's checkpoints leave it out
OPTIONS = {"pndm": {"skip_prk_steps": True}}


def make_scheduler(name: str | None, current: Any) -> Any:
    """A fresh scheduler of the checkpoint's own noise schedule: `name`, or the kind of `current`.

    Raises:
        ValueError: for a name that is not in `SCHEDULER_CLASSES`, or a kind of `current` that draws
            noise which no seed of the clip decides.
    """
    if name is None and hasattr(
        current, "noise_sampler"
    ):  # of torchsde, from torch's own generator
        raise ValueError(
            "scheduler: expected one whose noise follows the clip's seed, found the checkpoint's own "
            f"{type(current).__name__}, which draws from a generator of its own; name another: "
            f"{', '.join(SCHEDULER_CLASSES)}"
        )
    if name is None:
        return type(current).from_config(current.config)
    if name not in SCHEDULER_CLASSES:
        raise ValueError(
            f"scheduler: expected one of {', '.join(SCHEDULER_CLASSES)}, found {name!r}"
        )
    kind = getattr(diffusers, SCHEDULER_CLASSES[name])
    return kind.from_config(current.config, **OPTIONS.get(name, {}))


def check_steps(name: str | None, current: Any, steps: int) -> None:
    """Raise ValueError for more steps than the scheduler can make of the checkpoint's schedule: past
    its end it finds no noise level (ddim, pndm), stands still at one (dpm++, unipc), or refuses (lcm)."""
    scheduler = make_scheduler(name, current)
    if _can_take(scheduler, steps):
        return
    begin = min(steps - 1, scheduler.config.num_train_timesteps)
    most = next((n for n in range(begin, 0, -1) if _can_take(scheduler, n)), 0)
    kind = name or type(current).__name__
    raise ValueError(
        f"num_inference_steps: expected at most {most}, as the scheduler is {kind} on this model's "
        f"schedule, found {steps}; take fewer steps, or another scheduler"
    )


def _can_take(scheduler: Any, steps: int) -> bool:
    try:
        scheduler.set_timesteps(steps)
    except ValueError:
        return False
    moments = scheduler.timesteps
    known = scheduler.config.num_train_timesteps
    # those with sigmas interpolate between moments, the others look them up
    is_past = not hasattr(scheduler, "sigmas") and float(moments.max()) >= known
    return not is_past and (steps == 1 or float(moments.max()) > float(moments.min()))


class StepNoise(NamedTuple):
    """Where a clip has the noise of its steps from.

    Attributes:
        trace: what it follows from frame to frame.
        generator: what draws it; None is the one that the pipeline passes to its scheduler.
    """

    trace: NoiseTrace
    generator: torch.Generator | None = None


class _FollowClips(TorchFunctionMode):
    """Answers `torch.randn` of a whole batch with noise correlated over each clip's frames.

    Schedulers draw their step noise by a plain `torch.randn` over the batch; only that call is
    answered, and only in the thread that steps.
    """

    def __init__(self, noises: Sequence[StepNoise], fine: FineClip | None) -> None:
        super().__init__()
        self.noises = noises
        self.fine = fine
        num_frames = len(noises[0].trace.alpha) + 1 if fine is None else fine.num_frames
        self.pictures = num_frames * len(noises)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.randn and self._is_batch(args):
            channel, height, width = args[0][1:]
            drawn = [
                step_noise((channel, height, width), trace, own or options.get("generator"))
                for trace, own in self.noises
            ]
            if self.fine is not None:
                drawn = [self.fine.spread(noise) for noise in drawn]
            return torch.cat(drawn).to(options.get("device"), options.get("dtype"))
        if len(self.noises) > 1 and func in (torch.randn, torch.randn_like):
            raise ValueError(
                "clips_per_call: expected 1 with a scheduler that draws noise for less than a whole "
                f"batch, which no clip's seed decides, found {len(self.noises)}"
            )
        return func(*args, **options)

    def _is_batch(self, args: tuple[Any, ...]) -> bool:
        shape = args[0] if args else ()
        return isinstance(shape, tuple | list) and len(shape) == 4 and shape[0] == self.pictures


@dataclass
class Part:
    """The steps `first` ≤ step < `last` of a schedule: what one call of a pipeline runs within `part`.

    Attributes:
        first, last: steps of n, the noisiest is 0; `last` None is n.
        scheduler: None for the part that begins a schedule, else the scheduler that goes on, in the
            state in which an earlier part left it; after the call, in the state this part left it in.
    """

    first: int = 0
    last: int | None = None
    scheduler: Any = None


_part: ContextVar[Part | None] = ContextVar("part", default=None)


@contextmanager
def part(steps: Part) -> Generator[None]:
    """While the context is open, `scheduling` runs these steps of the schedule alone.

    A part that goes on takes latents as the last one left them, over `init_noise_sigma`: pipelines
    multiply what they are given by it.
    """
    token = _part.set(steps)
    try:
        yield
    finally:
        _part.reset(token)


def step_index(scheduler: Any, step: int) -> int:
    """Where step `step` of n begins in `scheduler.timesteps`, which a solver may hold more than n of."""
    if step == 0:
        return 0
    runge_kutta = getattr(scheduler, "prk_timesteps", None)
    if runge_kutta is not None and len(runge_kutta):  # PNDM: four a step for the first three
        return min(4 * step, step + 9)
    # second order: two a step but for the last; PNDM: the second step twice
    left = scheduler.num_inference_steps - 1 - step
    return len(scheduler.timesteps) - 1 - left * scheduler.order


def first_index(scheduler: Any) -> int:
    """Where in `scheduler.timesteps` the part of the schedule begins that is at work; 0 for all of it."""
    steps = _part.get()
    return 0 if steps is None else step_index(scheduler, steps.first)


@contextmanager
def _running(scheduler: Any, steps: Part) -> Generator[None]:
    """Show the pipeline a part of the timesteps, as diffusers' img2img pipelines cut it out themselves.

    Before it steps, the scheduler has all of them again: it counts in the whole schedule.
    """
    set_timesteps, scale_model_input = scheduler.set_timesteps, scheduler.scale_model_input
    goes_on = steps.scheduler is not None
    whole = scheduler.timesteps

    @functools.wraps(set_timesteps)  # pipelines look at its signature for `timesteps`, `sigmas`
    def cut(*args: Any, **kwargs: Any) -> None:
        nonlocal whole
        if not goes_on:
            set_timesteps(*args, **kwargs)
        whole = scheduler.timesteps
        end = None if steps.last is None else step_index(scheduler, steps.last)
        scheduler.timesteps = whole[step_index(scheduler, steps.first) : end]

    def mended(*args: Any, **kwargs: Any) -> Tensor:
        scheduler.timesteps = whole
        return scale_model_input(*args, **kwargs)

    scheduler.set_timesteps, scheduler.scale_model_input = cut, mended
    try:
        yield
    finally:
        scheduler.timesteps = whole
        del scheduler.set_timesteps, scheduler.scale_model_input
        steps.scheduler = scheduler


@contextmanager
def scheduling(
    pipe: Any, name: str | None, noises: Sequence[StepNoise], fine: FineClip | None = None
) -> Generator[None]:
    """Give `pipe` a fresh scheduler whose step noise follows that of its clips; put its own back
    afterwards.

    Frames between a clip's own, those of `fine`, have theirs between its. Without `noises` (latents
    given by the user), and for a clip of one frame alone, the scheduler draws as it always does. Within
    `part` the scheduler may be one that goes on, and runs a part of its schedule.
    """
    original = pipe.scheduler
    steps = _part.get()
    scheduler = (steps and steps.scheduler) or make_scheduler(name, original)
    running = nullcontext() if steps is None else _running(scheduler, steps)
    if len(noises) > 1 or any(len(noise.trace.alpha) for noise in noises):
        step = scheduler.step

        @functools.wraps(step)  # pipelines look at its signature for `generator` and `eta`
        def follow(*args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, ...]:
            with _FollowClips(noises, fine):
                return step(*args, **kwargs)

        scheduler.step = follow
    pipe.scheduler = scheduler
    try:
        with running:
            yield
    finally:
        pipe.scheduler = original
