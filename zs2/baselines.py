"""What ZS² is compared with, on the same model and prompts: other noises, and Text2Video-Zero.

Every function is `ZS2Sampler`'s call with some arguments settled: families, ControlNets, segments and
the other knobs are the sampler's.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from zs2.arguments import is_one_clip, real, whole
from zs2.clip import Clip
from zs2.conditions import EMBEDS, given_embeds
from zs2.config import DEFAULTS, ClipConfig
from zs2.noise import SQRT_E
from zs2.request import OwnPart, Prompt, generator_of, own_parts, seeds_of, storyboards_of
from zs2.sampler import ZS2Sampler
from zs2.schedulers import Part, part, step_index

# Text2Video-Zero's t0 and t1 are 44 and 47 of 50 steps: 5 and 2 steps from the noise.
PAPER_STEPS, WARP_STEP, START_STEP = 50, 5, 2
MOTION_FIELD_SIZE = 512  # pixels a side of the picture that motion strengths are measured in
SETTLED = ("noise", "alpha", "kl_target", "solver", "noise_candidates", "momentum", "chain")
PER_FRAME = (*EMBEDS, "video")
# What does not go with a clip that is denoised in parts, and what is no change of it.
WHOLE_CLIPS = {"speed": DEFAULTS.speed, "clips_per_call": 1, "in_between": 1, "share": None}


def iid(
    sampler: ZS2Sampler, prompt: str | Sequence[Prompt] | None, **kwargs: Any
) -> Clip | list[Clip]:
    """Frame by frame: independent noise, plain self-attention; each frame is the pipeline's own picture.

    With scheduler="ddim" this is the paper's DDIM (section 6). See `ZS2Sampler.__call__` for the rest.

    Raises:
        ValueError: noise or momentum, which are settled here.
    """
    _check_settled("iid", ("noise", "momentum"), kwargs)
    return sampler(prompt, noise="iid", momentum=0.0, **kwargs)


def mixed(
    sampler: ZS2Sampler,
    prompt: str | Sequence[Prompt] | None,
    *,
    alpha: float,
    momentum: float | Sequence[float] = 0.0,
    **kwargs: Any,
) -> Clip | list[Clip]:
    """PYoCo's mixed noise, ε^i = √α·ε_shared + √(1−α)·ε_ind^i, with plain self-attention unless told.

    For the λ of a ZS² clip beside it, `matched_mixed_alpha`.
    """
    _check_settled("mixed", ("noise",), kwargs)
    return sampler(prompt, noise="mixed", alpha=alpha, momentum=momentum, **kwargs)


def progressive(
    sampler: ZS2Sampler,
    prompt: str | Sequence[Prompt] | None,
    *,
    alpha: float,
    momentum: float | Sequence[float] = 0.0,
    **kwargs: Any,
) -> Clip | list[Clip]:
    """PYoCo's progressive noise, ε^i = √α·ε^{i−1} + √(1−α)·ε_ind^i, with plain self-attention unless told.

    For the λ of a ZS² clip beside it, `matched_progressive_alpha`: at that α and the same μ this *is* ZS²
    with its default solver.
    """
    _check_settled("progressive", ("noise",), kwargs)
    return sampler(prompt, noise="progressive", alpha=alpha, momentum=momentum, **kwargs)


def _check_settled(baseline: str, settled: Sequence[str], given: Mapping[str, Any]) -> None:
    for name in settled:
        if name in given:
            raise ValueError(f"{name}: expected none, as {baseline} settles it; leave it out")


def matched_progressive_alpha(kl_target: float) -> float:
    """The α at which neighbours of the progressive model differ by λ: E[KL] = √e·(1 − √α).

    Raises:
        ValueError: λ < 0.
    """
    return matched_mixed_alpha(kl_target) ** 2


def matched_mixed_alpha(kl_target: float) -> float:
    """The α at which neighbours of the mixed model differ by λ: E[KL] = √e·(1 − α).

    Each holds √α of what is shared, so they correlate by α where progressive ones do by √α.

    Raises:
        ValueError: λ < 0.
    """
    if not kl_target >= 0:
        raise ValueError(f"kl_target: expected ≥ 0, found {kl_target}")
    return max(0.0, 1 - kl_target / SQRT_E)


@overload
def text2video_zero(  # pyright: ignore[reportOverlappingOverload]  # a text is a sequence of texts
    sampler: ZS2Sampler, prompt: str | None, **kwargs: Any
) -> Clip: ...
@overload
def text2video_zero(sampler: ZS2Sampler, prompt: Sequence[Prompt], **kwargs: Any) -> list[Clip]: ...
def text2video_zero(
    sampler: ZS2Sampler,
    prompt: str | Sequence[Prompt] | None,
    *,
    negative_prompt: str | Sequence[str | None] | None = None,
    motion_field_strength_x: float = 12.0,
    motion_field_strength_y: float = 12.0,
    t0: int | None = None,
    t1: int | None = None,
    num_frames: int = DEFAULTS.num_frames,
    num_inference_steps: int | None = None,
    num_videos_per_prompt: int = 1,
    seed: int | Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    latents: Float[Tensor, "1 channel h w"] | None = None,
    **kwargs: Any,
) -> Clip | list[Clip]:
    """Text2Video-Zero (arXiv 2303.13439): a moved copy of frame 1's early latents is every frame's start.

    Frame 1 is denoised to t1 and on to t0, moved for frames 2…n by the motion field (section 3.3.1),
    given back the noise between t0 and t1, and all frames are denoised from t1 on with cross-frame
    attention to frame 1, which is momentum attention at μ = 1. With DDIM and PNDM the
    latents are those of diffusers' TextToVideoZeroPipeline.

    Not as in the paper: no background smoothing, which needs a saliency model (diffusers has none
    either). Solvers of several steps that predict x_0 (`dpm++`, `unipc`) begin afresh at t1, because
    their memory of frame 1 is not that of a moved frame; PNDM goes on with it, as in diffusers.

    Args:
        motion_field_strength_x, motion_field_strength_y: pixels, in a picture 512 wide and high, by
            which what is seen moves left and up from one frame to the next.
        t0, t1: the steps that are left at them, less one: 0 ≤ t0 ≤ t1 < num_inference_steps; default 44
            and 47 of 50 steps, and accordingly of others.
        latents: initial noise of frame 1.
        **kwargs: as for `ZS2Sampler.__call__`, less those that settle noise and attention. Callbacks
            see frame 1 alone up to t0, then all frames from t1 on; steps count from the schedule's first.

    Returns:
        A Clip for a prompt, a list of Clips for a list or for num_videos_per_prompt > 1.

    Raises:
        ValueError: for an argument out of its range, with what was expected and found.
    """
    _check_settled("Text2Video-Zero", SETTLED, kwargs)
    for name, plain in WHOLE_CLIPS.items():
        if kwargs.get(name, plain) != plain:
            raise ValueError(
                f"{name}: expected {plain}, as Text2Video-Zero denoises clip by clip and in parts, "
                f"found {kwargs[name]!r}; leave it out"
            )
    steps = sampler.defaults.num_inference_steps
    if num_inference_steps is not None:
        steps = whole("num_inference_steps", num_inference_steps)
    num_frames = whole("num_frames", num_frames)
    config = ClipConfig(num_frames, kwargs.get("segment_frames"))
    copies = whole("num_videos_per_prompt", num_videos_per_prompt)
    begin, warp = begin_and_warp(steps, t0, t1)
    texts = {"prompt": prompt, "negative_prompt": negative_prompt}
    texts |= {name: kwargs.get(name) for name in ("prompt_2", "negative_prompt_2")}
    embeds = given_embeds(sampler.pipe, kwargs, num_frames, texts)
    run = _Run(
        sampler,
        config,
        {**kwargs, **embeds, "num_inference_steps": steps},
        begin,
        warp,
        (
            real("motion_field_strength_x", motion_field_strength_x),
            real("motion_field_strength_y", motion_field_strength_y),
        ),
    )
    storyboards = storyboards_of(prompt, embeds, copies)
    seeds = seeds_of(seed, len(storyboards), copies, generator)
    own = own_parts(config, storyboards, copies, config.kl_target, negative_prompt, seeds)
    clips = [
        replace(run.clip(each, generator_of(each.seed, generator), latents), seed=each.seed)
        for each in own
    ]
    several = not isinstance(prompt, str | None) or copies > 1
    return clips if several else clips[0]


@dataclass(frozen=True)
class _Run:
    """What the clips of one call share: steps `begin` and `warp` are those of t1 and t0."""

    sampler: ZS2Sampler
    config: ClipConfig
    call: dict[str, Any]
    begin: int
    warp: int
    strength: tuple[float, float]

    def clip(self, own: OwnPart, generator: torch.Generator, latents: Tensor | None) -> Clip:
        prompts = own.prompts
        if prompts:
            self.config.frame_prompts(prompts)  # their number is checked before frame 1 is denoised
        head, n = prompts[:1], self.config.num_frames
        call = {**self.call, "negative_prompt": own.negative_prompt}
        first = {**_first_frame(call), "num_frames": 1, "output_type": "latent"}
        to_t1 = Part(0, self.begin)
        x_t1 = self._denoise(to_t1, head, generator, latents, first).latents
        paused: Any = to_t1.scheduler
        to_t0 = Part(self.begin, self.warp, copy.deepcopy(paused))
        x_t0 = self._denoise(to_t0, head, generator, x_t1, first).latents

        moved = translated(x_t0[0].float(), n, *self.strength)[1:]
        # drawn for the whole clip, whatever its segments, where the generator is
        noise = torch.randn(moved.shape, generator=generator, device=generator.device)
        noised = add_noise(paused, moved, noise.to(moved.device), self.warp, self.begin)
        to_end = Part(self.begin, None, without_memory(paused))
        return self._denoise(
            to_end,
            prompts,
            generator,
            torch.cat([x_t1.float(), noised]),
            {**call, "num_frames": n},
        )

    def _denoise(
        self,
        steps: Part,
        prompts: tuple[str, ...],
        generator: torch.Generator,
        latents: Tensor | None,
        call: dict[str, Any],
    ) -> Clip:
        before: Any = steps.scheduler
        callback = call.get("callback_on_step_end")
        if before is not None and latents is not None:
            latents = latents.float() / before.init_noise_sigma
            if callback is not None:
                callback = functools.partial(_report, callback, step_index(before, steps.first))
        settled = {"noise": "iid", "momentum": 1.0, "generator": generator, "latents": latents}
        call = {**call, **settled, "callback_on_step_end": callback}
        with part(steps):
            # prompt_embeds stand for no prompts
            clips = self.sampler([list(prompts)] if prompts else None, **call)
        return clips[0] if isinstance(clips, list) else clips


def _report(
    callback: Callable[..., dict[str, Any]], first: int, pipe: Any, step: int, *others: Any
) -> dict[str, Any]:
    return callback(pipe, first + step, *others)


def _first_frame(call: dict[str, Any]) -> dict[str, Any]:
    """The call's conditions of frame 1 alone."""
    first = {name: value for name, value in call.items() if name != "segment_frames"}
    for name in PER_FRAME:
        if first.get(name) is not None:
            first[name] = first[name][:1]
    guides = first.get("conditioning_frames")
    if guides is not None:
        one = is_one_clip(guides)
        first["conditioning_frames"] = guides[:1] if one else [guide[:1] for guide in guides]
    return first


def translated(
    latents: Float[Tensor, "channel h w"], num_frames: int, strength_x: float, strength_y: float
) -> Float[Tensor, "frame channel h w"]:
    """Frame 1's latents seen through the motion field of every frame (arXiv 2303.13439, 3.3.1).

    Frame k is moved by (k−1)·(strength_x, strength_y) pixels of a 512 × 512 picture, less half a pixel
    (diffusers' grid is that much off, except for frame 1, which is not moved), to the nearest latent
    pixel; edges reflect. By indices, so exactly at any dtype.
    """
    _, h, w = latents.shape
    frames = [latents]
    for k in range(1, num_frames):
        rows = _sources(h, k * strength_y).to(latents.device)
        columns = _sources(w, k * strength_x).to(latents.device)
        frames.append(latents[:, rows[:, None], columns])
    return torch.stack(frames)


def _sources(size: int, pixels: float) -> Tensor:
    """For every pixel of a row of latents, the one it is taken from."""
    shift = (pixels - 0.5) * size / MOTION_FIELD_SIZE
    source = (torch.arange(size, dtype=torch.float64) + shift).round().long() % (2 * size)
    return torch.where(source < size, source, 2 * size - 1 - source)


def add_noise(
    scheduler: Any,
    latents: Float[Tensor, "frame channel h w"],
    noise: Float[Tensor, "frame channel h w"],
    step: int,
    earlier: int,
) -> Float[Tensor, "frame channel h w"]:
    """Bring latents from the noise level of `step` back to that of an `earlier` one, q(x_t1 | x_t0).

    Variance-preserving schedulers shrink the picture as they add, those in σ-space (Euler) only add.
    Where a scheduler knows timesteps alone, the product of α runs from t0 to t1−1 as in diffusers.
    """
    low, high = step_index(scheduler, step), step_index(scheduler, earlier)
    if hasattr(scheduler, "sigmas"):
        least, most = scheduler.sigmas[low].double() ** 2, scheduler.sigmas[high].double() ** 2
        if scheduler.init_noise_sigma > 1:
            return latents + (most - least).sqrt().to(latents) * noise
        kept = (1 + least) / (1 + most)
    else:
        t0, t1 = int(scheduler.timesteps[low]), int(scheduler.timesteps[high])
        kept = scheduler.alphas[t0:t1].prod()
    return kept.sqrt().to(latents) * latents + (1 - kept).sqrt().to(latents) * noise


def without_memory(scheduler: Any) -> Any:
    """A solver that remembers predictions of x_0 takes its next step as its first."""
    if hasattr(scheduler, "lower_order_nums"):
        scheduler.lower_order_nums = 0
        scheduler.last_sample = None
    return scheduler


def begin_and_warp(steps: int, t0: int | None, t1: int | None) -> tuple[int, int]:
    """The steps of n, counted from the noise, that t1 and t0 name; None is what suits n.

    Raises:
        ValueError: unless 0 ≤ t0 ≤ t1 < steps.
    """
    begin = round(START_STEP * steps / PAPER_STEPS)
    warp = min(max(round(WARP_STEP * steps / PAPER_STEPS), begin + 1), steps - 1)
    t0 = steps - 1 - warp if t0 is None else t0
    t1 = steps - 1 - begin if t1 is None else t1
    if not 0 <= t0 <= t1 < steps:
        raise ValueError(
            f"t0, t1: expected 0 ≤ t0 ≤ t1 < num_inference_steps = {steps}, found t0 = {t0}, "
            f"t1 = {t1}; give both, or neither for values that suit the steps"
        )
    return steps - 1 - t1, steps - 1 - t0
