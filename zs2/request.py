"""What one call of the sampler asks for, checked: clips, their seeds, their size, what guides them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from jaxtyping import Float
from torch import Tensor

from zs2 import noise as noise_models
from zs2.arguments import Pictures, Video, is_sequence, per_frame, video_of, whole
from zs2.conditions import TextEncoding
from zs2.config import ClipConfig
from zs2.controlnet import Control
from zs2.in_between import FineClip
from zs2.models import ModelDefaults
from zs2.noise import NoiseTrace
from zs2.per_frame import Texts
from zs2.relay import Share
from zs2.schedulers import check_steps

OUTPUT_TYPES = ("np", "pil", "latent")
SEED_LIMIT = 2**63
IP_ADAPTER = ("ip_adapter_image", "ip_adapter_image_embeds")

Prompt = str | Sequence[str]  # a storyboard has one text a segment


@dataclass(frozen=True)
class OwnPart:
    """What one clip of a call has of its own.

    Attributes:
        prompts: one, or one per segment; empty where its embeddings are given.
        negative_prompt: None is none, "" an empty one: for SDXL they differ.
        config: the call's, with the clip's own λ.
        seed: None where the caller's generator draws.
    """

    prompts: tuple[str, ...]
    negative_prompt: str | None
    config: ClipConfig
    seed: int | None


@dataclass(frozen=True)
class Request:
    """What the clips of one call share.

    Attributes:
        config: the clip, but for its λ.
        pipe_arguments: of the pipeline's own call.
        text: how texts are encoded.
        scheduler: a short name; None is the pipeline's own.
        size: height and width in pixels.
        embeds: given text embeddings, by their diffusers names.
        latents: given initial noise.
        video: the clip to edit.
        controls: ControlNets with their clips.
        in_between: k: frames a gap, its first one included.
        share: the part of the clip to sample; None is all of it.
        clips_per_call: clips that lie side by side in a UNet call.

    Raises:
        ValueError: more steps than the scheduler can take; in_between with what is given for the
            clip's own frames only; a share that is no run of segments, or of given latents; a speed
            that does not go with editing; several clips a call with what is one clip's.
    """

    config: ClipConfig
    pipe_arguments: dict[str, Any]
    text: TextEncoding
    scheduler: str | None
    size: tuple[int, int]
    embeds: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    latents: Tensor | None = None
    video: Video | None = None
    controls: Sequence[Control] = ()
    in_between: int = 1
    share: Share | None = None
    clips_per_call: int = 1

    def __post_init__(self) -> None:
        arguments = self.pipe_arguments
        if arguments.get("timesteps") is None and arguments.get("sigmas") is None:
            check_steps(self.scheduler, self.text.pipe.scheduler, arguments["num_inference_steps"])
        if self.video is not None and self.config.speed != "exact":
            raise ValueError(
                f"speed: expected exact with video, whose three-way guidance has no last copy to go on "
                f"with, found {self.config.speed}; leave it out"
            )
        if self.in_between < 1:
            raise ValueError(f"in_between: expected at least 1, found {self.in_between}")
        if self.share is not None:
            self.share.check(self.config.num_frames, self.config.frames_per_call)
            if self.latents is not None:  # a scheduler's own noise would differ from share to share
                raise ValueError("share: expected none beside latents, found both; leave one out")
        given = {
            "latents": self.latents is not None,
            "video": self.video is not None,
            "prompt_embeds": bool(self.embeds),
            "a ControlNet": bool(self.controls),
        }
        found = [name for name, is_given in given.items() if is_given]
        if self.in_between > 1 and found:
            raise ValueError(
                f"in_between: expected 1 with {found[0]}, which says nothing of frames between "
                f"others, found {self.in_between}; interpolate the finished frames instead"
            )
        given |= {
            "in_between": self.in_between > 1,
            "a share of a clip": self.share is not None,
            "callback_on_step_end": arguments.get("callback_on_step_end") is not None,
            "ip_adapter_image": any(arguments.get(name) is not None for name in IP_ADAPTER),
            "long_prompt='chunk'": self.text.long_prompt == "chunk",  # texts of different lengths
        }
        found = [name for name, is_given in given.items() if is_given]
        if self.clips_per_call > 1 and found:
            raise ValueError(
                f"clips_per_call: expected 1 with {found[0]}, which one clip has to itself, found "
                f"{self.clips_per_call}"
            )


def defaults_of(pipe_class: type) -> ModelDefaults:
    """Steps and guidance of a pipeline's own call."""
    wanted = ("num_inference_steps", "guidance_scale")
    for kind in pipe_class.__mro__:
        call = kind.__dict__.get("__call__")
        has = inspect.signature(call).parameters if call else {}
        if all(name in has for name in wanted):
            return ModelDefaults(**{name: has[name].default for name in wanted})
    return ModelDefaults()


def check_latents(latents: Any, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `latents` is a tensor of that shape."""
    if not isinstance(latents, Tensor) or latents.shape != shape:
        raise ValueError(
            f"latents: expected a tensor of shape {shape}, found {type(latents).__name__} of shape "
            f"{tuple(np.shape(latents))}"
        )


def storyboards_of(prompt: Any, embeds: Mapping[str, Tensor], copies: int) -> list[tuple[str, ...]]:
    """One tuple of prompts a clip; empty where its embeddings are given.

    Raises:
        ValueError: no prompts, or something else than texts.
    """
    if prompt is None:
        if "prompt_embeds" not in embeds:
            raise ValueError("prompt: expected a prompt or prompt_embeds, found neither")
        return [()] * copies
    clips: Sequence[Any] = prompt if is_sequence(prompt) else [prompt]
    tuples: list[tuple[Any, ...]] = [
        tuple(clip) if is_sequence(clip) else (clip,) for clip in clips
    ]
    for storyboard in tuples:
        if not storyboard or not all(isinstance(text, str) for text in storyboard):
            raise ValueError(
                f"prompt: expected a text, or a list of clips, each a text or a list of texts, "
                f"found {prompt!r}"
            )
    return [storyboard for storyboard in tuples for _ in range(copies)]


def check_output_type(name: str) -> None:
    """See that the sampler gives clips of this kind.

    Raises:
        ValueError: with those that there are.
    """
    if name not in OUTPUT_TYPES:
        raise ValueError(f"output_type: expected one of {OUTPUT_TYPES}, found {name!r}")


def seeds_of(seed: Any, count: int, copies: int, generator: Any) -> Sequence[int | None]:
    """A seed a clip; the copies of a prompt count on from its own. None where the generator draws.

    Args:
        seed: one number, one a clip, or None to draw them.

    Raises:
        ValueError: a wrong number of them, or one out of range.
    """
    if seed is not None and generator is not None:
        raise ValueError("expected seed or generator, found both; leave one out")
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(f"generator: expected a torch.Generator, found {generator!r}")
    if seed is None:
        if generator is not None:
            return [None] * count  # the caller's generator draws
        return [int(s) for s in torch.randint(SEED_LIMIT - 1, (count,))]
    clips = count // copies
    several = isinstance(seed, Sequence) or getattr(seed, "ndim", 0) == 1
    given = list(seed) if several else [seed] * clips
    if len(given) != clips:
        raise ValueError(
            f"seed: expected one number or one per prompt ({clips}), found {len(given)}"
        )
    seeds = [whole("seed", first, least=0) + copy for first in given for copy in range(copies)]
    for value in seeds:
        if value >= SEED_LIMIT:
            raise ValueError(f"seed: expected 0 ≤ seed < 2^63, found {value}")
    return seeds


def generator_of(seed: int | None, given: torch.Generator | None) -> torch.Generator:
    """A clip's own generator: the one given, else a fresh one of its seed."""
    if given is not None:
        return given
    assert seed is not None, "a clip without a seed has its caller's generator"
    return torch.Generator().manual_seed(seed)


def own_parts(
    config: ClipConfig,
    storyboards: Sequence[tuple[str, ...]],
    copies: int,
    kl_target: Any,
    negative_prompt: Any,
    seeds: Sequence[int | None],
) -> list[OwnPart]:
    """What each clip has of its own.

    Args:
        config: with any λ.
        copies: of each prompt, one behind the other.
        kl_target: see `ClipConfig`, of all clips, or a list of such lists, one per prompt.
        negative_prompt: one text or None, or a list with one per prompt.

    Raises:
        ValueError: another number of them than of prompts, or no λ.
    """
    prompts = len(storyboards) // copies
    targets = list(kl_target) if _is_nested(kl_target) else [kl_target]
    unwanted = list(negative_prompt) if is_sequence(negative_prompt) else [negative_prompt]
    if not all(isinstance(text, str | None) for text in unwanted):
        raise ValueError(
            "negative_prompt: expected a text or None, or a list of them, one per prompt, found "
            f"{negative_prompt!r}"
        )
    for name, found in (("kl_target", targets), ("negative_prompt", unwanted)):
        if len(found) not in (1, prompts):
            raise ValueError(f"{name}: expected one per prompt ({prompts}), found {len(found)}")
    configs = [replace(config, kl_target=per_frame("kl_target", target)) for target in targets]
    return [
        OwnPart(
            storyboard,
            unwanted[number // copies % len(unwanted)],
            configs[number // copies % len(configs)],
            seed,
        )
        for number, (storyboard, seed) in enumerate(zip(storyboards, seeds, strict=True))
    ]


def _is_nested(value: Any) -> bool:
    """Whether a value is a list of lists, or an array of two dimensions, not a list of numbers."""
    if hasattr(value, "ndim"):
        return value.ndim > 1
    return is_sequence(value) and any(
        is_sequence(each) or getattr(each, "ndim", 0) > 0 for each in value
    )


def lora_scale_of(cross_attention_kwargs: Any) -> Any:
    """The weight of LoRAs that the pipeline's own call is given.

    Raises:
        ValueError: no dict.
    """
    if not isinstance(cross_attention_kwargs, Mapping | None):
        raise ValueError(
            "cross_attention_kwargs: expected a dict of arguments for attention processors, found "
            f"{cross_attention_kwargs!r}"
        )
    return (cross_attention_kwargs or {}).get("scale")


def size_of(
    pipe: Any, height: int | None, width: int | None, video: Video | None
) -> tuple[int, int]:
    """Height and width in pixels: as given, else of the clip to edit, else the model's.

    Raises:
        ValueError: no positive multiples of 8.
    """
    sample_size = pipe.unet.config.sample_size
    own = sample_size if isinstance(sample_size, list | tuple) else (sample_size, sample_size)
    scale = pipe.vae_scale_factor
    default = (own[0] * scale, own[1] * scale) if video is None else video.shape[1:3]
    given = (default[0] if height is None else height, default[1] if width is None else width)
    size = (whole("height", given[0]), whole("width", given[1]))
    for name, value in zip(("height", "width"), size, strict=True):
        if value % 8:
            raise ValueError(f"{name}: expected a positive multiple of 8, found {value}")
    return size


def source_of(pipe: Any, video: Pictures | None, num_frames: int) -> Video | None:
    """The clip to edit, for a pipeline that edits; None for one that does not.

    Raises:
        ValueError: one without the other, or of another length.
    """
    edits = isinstance(pipe, StableDiffusionInstructPix2PixPipeline)
    if edits != (video is not None):
        wanted = "the clip to edit" if edits else "none, as the model makes clips from text alone"
        raise ValueError(f"video: expected {wanted}, found {'none' if video is None else 'a clip'}")
    return None if video is None else video_of("video", video, num_frames)


def draw_noise(
    config: ClipConfig, shape: tuple[int, int, int], generator: torch.Generator
) -> tuple[Float[Tensor, "frame channel h w"], NoiseTrace]:
    """The clip's initial noise by its noise model."""
    n = config.num_frames
    if config.noise == "dependency":
        return noise_models.dependency_noise(
            shape, n, config.kl_targets, generator, config.solver, config.noise_candidates
        )
    if config.noise == "iid":
        return noise_models.iid_noise(shape, n, generator)
    assert config.alpha is not None  # checked by the config
    model = noise_models.mixed_noise if config.noise == "mixed" else noise_models.progressive_noise
    return model(shape, n, config.alpha, generator)


def conditions_of(
    clip: OwnPart, request: Request, fine: FineClip, texts: Texts | None
) -> dict[str, Tensor]:
    """The text arguments of the pipeline's call for one clip: one row for each of its frames.

    Args:
        texts: takes the texts themselves; see `TextEncoding.conditions`.
    """
    n = request.config.num_frames
    prompt_of = clip.config.frame_prompts(clip.prompts) if clip.prompts else [0] * n
    return request.text.conditions(
        clip.prompts,
        fine.nearest(prompt_of),
        clip.negative_prompt,
        request.pipe_arguments["guidance_scale"] > 1,
        {k: fine.own(v) if len(v) == n else v for k, v in request.embeds.items()},
        texts,
    )
