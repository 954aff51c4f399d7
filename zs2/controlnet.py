"""ControlNets beside the UNet, segment by segment: pose, edge and depth guidance (section 6.3).

A ControlNet answers the very arguments of a UNet call, so it runs inside the same chunk: residuals for
one segment at a time, where those of all frames at once would be 27 GB for 1,024 frames at 512 px. The
pipeline itself stays a text-to-image pipeline and knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import (
    ControlNetUnionModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from zs2.arguments import Pictures, arguments_of, is_one_clip, real, video_of
from zs2.models import ModelError
from zs2.segments import Segment

ADDED_CONDITIONS = (
    "text_embeds",
    "time_ids",
)  # SDXL's; an IP-Adapter's picture is the UNet's alone
PIPELINES = (
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionInstructPix2PixPipeline,
)
# Arguments of calls that begin with a picture, or that give attention processors of their own.
OTHERS = {"strength", "mask_image", "pag_scale"}


@dataclass(frozen=True)
class Control:
    """One ControlNet and the clip that guides it.

    Attributes:
        net: a diffusers ControlNetModel.
        frames: of the clip's own length; scaled to its size where they differ.
        scale: weight of its residuals.
        start, end: the part of the denoising in which it has a say, 0 ≤ start < end ≤ 1.
        guess_mode: it acts on the guided copy alone, and less on the outer blocks (diffusers' word).

    Raises:
        ValueError: for a part that is none.
    """

    net: Any
    frames: UInt8[np.ndarray, "frame height width 3"]
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    guess_mode: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(
                "control_guidance_start, control_guidance_end: expected 0 ≤ start < end ≤ 1, "
                f"found {self.start} and {self.end}"
            )


class ControlRun:
    """The ControlNets of one clip while it is denoised.

    Args:
        controls: whose residuals are added up.
        height, width: pixels of the clip.
        schedule: the timesteps of the scheduler at work.
        first: of these, the one that the first UNet call is for.
    """

    def __init__(
        self,
        controls: Sequence[Control],
        height: int,
        width: int,
        schedule: Callable[[], Sequence[Any]],
        first: Callable[[], int] = lambda: 0,
    ) -> None:
        self.controls = controls
        self._pictures = [_scaled(control.frames, height, width) for control in controls]
        self._schedule = schedule
        self._first = first
        self._step: int | None = None

    def next_step(self) -> None:
        """The UNet is about to be called for the next timestep."""
        self._step = self._first() if self._step is None else self._step + 1

    def residuals(
        self,
        segment: Segment,
        sample: Float[Tensor, "batch channel h w"],
        timestep: Any,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """What this segment's UNet call takes beside its own arguments, which are given here."""
        added = {k: v for k, v in (added_cond_kwargs or {}).items() if k in ADDED_CONDITIONS}
        frames = segment.frames().numpy()
        down: list[Tensor] = []
        mid: Tensor | None = None
        for control, pictures in zip(self.controls, self._pictures, strict=True):
            if not self._has_a_say(control):
                continue
            more, last = self._answer(
                control,
                torch.from_numpy(pictures[frames]).permute(0, 3, 1, 2).contiguous(),
                sample,
                timestep,
                encoder_hidden_states,
                added,
            )
            down = [a + b for a, b in zip(down, more, strict=True)] if down else list(more)
            mid = last if mid is None else mid + last
        if mid is None:
            return {}
        return {
            "down_block_additional_residuals": [residual.to(sample.dtype) for residual in down],
            "mid_block_additional_residual": mid.to(sample.dtype),
        }

    def _answer(
        self,
        control: Control,
        pictures: UInt8[Tensor, "frame 3 height width"],
        sample: Float[Tensor, "batch channel h w"],
        timestep: Any,
        text: Tensor,
        added: Mapping[str, Any],
    ) -> tuple[list[Tensor], Tensor]:
        """One ControlNet's residuals; in guess mode zeros for the unguided copy, which comes first."""
        net, rows = control.net, len(sample)
        guess = control.guess_mode or net.config.global_pool_conditions
        first = rows // 2 if guess and rows > len(pictures) else 0
        condition = (pictures.to(sample.device).float() / 255).to(net.dtype)
        down, mid = net(
            sample[first:].to(net.dtype),
            timestep,
            encoder_hidden_states=text[first:].to(net.dtype),
            controlnet_cond=condition.repeat((rows - first) // len(condition), 1, 1, 1),
            conditioning_scale=control.scale,
            added_cond_kwargs={name: value[first:] for name, value in added.items()} or None,
            guess_mode=guess,
            return_dict=False,
        )
        if first:
            down = [torch.cat([torch.zeros_like(part), part]) for part in down]
            mid = torch.cat([torch.zeros_like(mid), mid])
        return list(down), mid

    def _has_a_say(self, control: Control) -> bool:
        assert self._step is not None, "asked before the UNet is"
        total = len(self._schedule())
        begins, ends = self._step / total, (self._step + 1) / total
        return begins >= control.start and ends <= control.end


def controls_of(
    controlnet: Any,
    frames: Pictures | Sequence[Pictures] | None,
    settings: Mapping[str, Any],
    num_frames: int,
    *,
    needed: bool,
    editing: bool,
) -> list[Control]:
    """The sampler's ControlNets with the clips that guide them.

    Args:
        settings: fields of `Control`, each one value or one per ControlNet.
        needed: the user's own pipeline is a ControlNet pipeline.

    Raises:
        ValueError: numbers of nets, clips, settings and frames that do not agree.
    """
    if frames is None:
        if needed:
            raise ValueError(
                "conditioning_frames: expected the clip that guides the pipeline's ControlNet, found "
                "none"
            )
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
    nets = list(getattr(controlnet, "nets", _listed(controlnet)))
    clips = [frames] if is_one_clip(frames) else _listed(frames)
    columns = {"conditioning_frames": clips, **{k: _each(v, nets) for k, v in settings.items()}}
    for name, found in columns.items():
        if len(found) != len(nets):
            raise ValueError(
                f"{name}: expected {len(nets)}, one per ControlNet, found {len(found)}"
            )
    videos = [video_of("conditioning_frames", clip, num_frames) for clip in clips]
    numbers = {
        name: found if name == "guess_mode" else [real(name, value) for value in found]
        for name, found in columns.items()
        if name != "conditioning_frames"
    }
    return [Control(*guide) for guide in zip(nets, videos, *numbers.values(), strict=True)]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _each(value: Any, nets: Sequence[Any]) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * len(nets)


def check_fits(net: Any, unet: Any) -> None:
    """See that a ControlNet was made for a checkpoint of this family.

    Raises:
        ModelError: its text is of another width, its added conditions are others, or it is a union of
            ControlNets, which wants to be told which of them is meant.
    """
    if isinstance(net, ControlNetUnionModel):
        raise ModelError(
            "controlnet: expected a ControlNetModel, found a ControlNetUnionModel; name a ControlNet "
            "of one kind of guide"
        )
    traits = ("cross_attention_dim", "addition_embed_type")
    wanted, found = ([model.config.get(trait) for trait in traits] for model in (unet, net))
    if wanted != found:
        kinds = [
            f"cross_attention_dim {width}, added conditions {kind}"
            for width, kind in (wanted, found)
        ]
        raise ModelError(
            f"controlnet: expected one of the checkpoint's family ({kinds[0]}), found one of another "
            f"({kinds[1]}); name a ControlNet that was trained for this checkpoint"
        )


def check_pipeline(pipe: Any) -> None:
    """See that a pipeline is one of the families that are sampled as ZS² does, or a subclass.

    Raises:
        TypeError: any other, or no pipeline at all.
    """
    if not isinstance(pipe, PIPELINES) or OTHERS & arguments_of(type(pipe)):
        raise TypeError(
            "pipe: expected a diffusers StableDiffusionPipeline, StableDiffusionXLPipeline, either's "
            "ControlNet pipeline, or StableDiffusionInstructPix2PixPipeline, found "
            f"{type(pipe).__name__}; ZS2Sampler.from_pretrained loads one"
        )


def picture_pipeline(pipe: Any) -> Any:
    """The text-to-image pipeline of a ControlNet pipeline's parts; any other pipeline itself.

    The ControlNet then runs segment by segment instead of over all frames.
    """
    if getattr(pipe, "controlnet", None) is None:
        return pipe
    parts = {name: part for name, part in pipe.components.items() if name != "controlnet"}
    if hasattr(pipe, "text_encoder_2"):
        zeros = pipe.config.get("force_zeros_for_empty_prompt", True)
        inner = StableDiffusionXLPipeline(
            **parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False
        )
    else:
        inner = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    inner.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return inner


def _scaled(
    frames: UInt8[np.ndarray, "frame height width 3"], height: int, width: int
) -> UInt8[np.ndarray, "frame h w 3"]:
    """Scaled as diffusers scales control pictures; the very frames where they have this size already,
    for a long clip's are large."""
    if frames.shape[1:3] == (height, width):
        return frames
    size, how = (width, height), Image.Resampling.LANCZOS
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, how)) for frame in frames])
