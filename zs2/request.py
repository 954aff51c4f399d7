"""What one call of the sampler asks for, checked: clips, their seeds, their size, what guides them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from jaxtyping import UInt8
from torch import Tensor

from zs2.conditions import TextEncoding
from zs2.config import ClipConfig
from zs2.controlnet import Control

SEED_LIMIT = 2**63

Prompt = str | list[str]
Video = UInt8[np.ndarray, "frame height width 3"]


@dataclass(frozen=True)
class Request:
    """What the clips of one call share.

    Attributes:
        config: the clip.
        call: arguments of the pipeline's own call.
        embeds: given text embeddings, by their diffusers names.
        text: how texts are encoded.
        controls: ControlNets with their clips.
    """

    config: ClipConfig
    call: dict[str, Any]
    text: TextEncoding
    negative_prompt: str
    scheduler: str | None
    size: tuple[int, int]
    embeds: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    latents: Tensor | None = None
    video: Video | None = None
    controls: Sequence[Control] = ()


def storyboards_of(
    prompt: str | list[Prompt] | None, embeds: Mapping[str, Tensor], copies: int
) -> list[tuple[str, ...]]:
    """One tuple of prompts a clip; empty where its embeddings are given."""
    if copies < 1:
        raise ValueError(f"num_videos_per_prompt: expected at least 1, found {copies}")
    if prompt is None:
        if "prompt_embeds" not in embeds:
            raise ValueError("prompt: expected a prompt or prompt_embeds, found neither")
        return [()] * copies
    clips = [prompt] if isinstance(prompt, str) else prompt
    tuples = [(clip,) if isinstance(clip, str) else tuple(clip) for clip in clips]
    return [storyboard for storyboard in tuples for _ in range(copies)]


def seeds_of(
    seed: int | Sequence[int] | None, count: int, copies: int, generator: torch.Generator | None
) -> list[int]:
    """A seed a clip; the copies of a prompt count on from its own.

    Raises:
        ValueError: a wrong number of them, or one out of range.
    """
    if seed is None:
        if generator is not None:
            return [0] * count  # not used: the caller's generator draws
        return [int(s) for s in torch.randint(SEED_LIMIT - 1, (count,))]
    clips = count // copies
    given = [seed] * clips if isinstance(seed, int) else list(seed)
    if len(given) != clips:
        raise ValueError(f"seed: expected one number or one per clip ({clips}), found {len(given)}")
    seeds = [first + copy for first in given for copy in range(copies)]
    for value in seeds:
        if not 0 <= value < SEED_LIMIT:
            raise ValueError(f"seed: expected 0 ≤ seed < 2^63, found {value}")
    return seeds


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
    size = (height or default[0], width or default[1])
    for name, value in zip(("height", "width"), size, strict=True):
        if value % 8 or value < 8:
            raise ValueError(f"{name}: expected a positive multiple of 8, found {value}")
    return size


def source_of(pipe: Any, video: Video | None, num_frames: int) -> Video | None:
    """The clip to edit, for a pipeline that edits; None for one that does not.

    Raises:
        ValueError: one without the other, or of another length.
    """
    edits = isinstance(pipe, StableDiffusionInstructPix2PixPipeline)
    if edits != (video is not None):
        wanted = "the clip to edit" if edits else "none, as the model makes clips from text alone"
        raise ValueError(f"video: expected {wanted}, found {'none' if video is None else 'a clip'}")
    if video is not None:
        _check_length("video", video, num_frames)
    return video


def controls_of(
    controlnet: Any,
    frames: Video | Sequence[Video] | None,
    scales: float | Sequence[float],
    part: tuple[float, float],
    num_frames: int,
    *,
    editing: bool,
) -> list[Control]:
    """The sampler's ControlNets with the clips that guide them.

    Raises:
        ValueError: numbers of nets, clips, weights and frames that do not agree.
    """
    if frames is None:
        return []
    if editing:
        raise ValueError(
            "conditioning_frames: expected none beside video, found both; leave one out"
        )
    if controlnet is None:
        raise ValueError(
            "conditioning_frames: expected a ControlNet to guide, found none; set the sampler's "
            "`controlnet`"
        )
    nets = getattr(controlnet, "nets", [controlnet])
    clips = [frames] if isinstance(frames, np.ndarray) else list(frames)
    weights = [scales] * len(nets) if isinstance(scales, int | float) else list(scales)
    for name, found in (
        ("conditioning_frames", clips),
        ("controlnet_conditioning_scale", weights),
    ):
        if len(found) != len(nets):
            raise ValueError(
                f"{name}: expected {len(nets)}, one per ControlNet, found {len(found)}"
            )
    for clip in clips:
        _check_length("conditioning_frames", clip, num_frames)
    return [Control(*guide, *part) for guide in zip(nets, clips, weights, strict=True)]


def per_frame(value: float | Sequence[float]) -> float | tuple[float, ...]:
    """A number, or a tuple of numbers."""
    return value if isinstance(value, int | float) else tuple(value)


def _check_length(name: str, clip: Video, num_frames: int) -> None:
    if len(clip) != num_frames:
        raise ValueError(f"{name}: expected num_frames = {num_frames} frames, found {len(clip)}")
