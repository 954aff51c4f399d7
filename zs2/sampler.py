"""`ZS2Sampler`: ZS² around a diffusers pipeline, which it leaves unharmed.

One clip after the other, or some side by side: draw the dependency noise, open the contexts (momentum
attention, segments, scheduler), let the pipeline denoise all frames as one batch, decode some at a time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zs2.arguments import Pictures, check_names, per_frame, real, whole
from zs2.clip import Clip
from zs2.compiled import prepare
from zs2.conditions import EMBEDS, TextEncoding, given_embeds, source_latents
from zs2.config import DEFAULTS, ClipConfig
from zs2.controlnet import check_pipeline, controls_of, picture_pipeline
from zs2.decoding import decode
from zs2.denoising import denoising
from zs2.in_between import FineClip
from zs2.models import ModelDefaults, describe, load_pipeline
from zs2.per_frame import Texts
from zs2.relay import Share
from zs2.request import (
    OwnPart,
    Prompt,
    Request,
    check_latents,
    check_output_type,
    conditions_of,
    defaults_of,
    draw_noise,
    generator_of,
    lora_scale_of,
    own_parts,
    seeds_of,
    size_of,
    source_of,
    storyboards_of,
)
from zs2.schedulers import StepNoise
from zs2.speed import steps_of
from zs2.text_cache import TextCache


class ZS2Sampler:
    """Samples video clips from the picture pipeline it wraps.

    Args:
        pipe: a diffusers StableDiffusionPipeline, StableDiffusionXLPipeline, either's ControlNet
            pipeline, or StableDiffusionInstructPix2PixPipeline. It may be changed at any time (LoRA,
            scheduler, offload, dtype); every call finds it as it is and leaves it so. One call at a
            time: threads want a pipeline each.
        defaults: the checkpoint's own steps and guidance; default its pipeline's.
        controlnet: a ControlNetModel, several of them, or a MultiControlNetModel, to guide by; default
            the pipeline's own.

    Attributes:
        pipe, defaults, controlnet: as given; each may be set anew between calls.
        is_compiled: whether it computes with compiled blocks, see `compile`.
        texts: where encodings of texts are kept from call to call; None, the default, encodes anew.
            Whoever sets it clears it where the text encoders change.

    Raises:
        TypeError: another kind of pipeline.
    """

    def __init__(
        self, pipe: Any, defaults: ModelDefaults | None = None, controlnet: Any = None
    ) -> None:
        check_pipeline(pipe)
        self.texts: TextCache | None = None
        self.pipe = pipe
        self.defaults = defaults or defaults_of(type(pipe))
        self.controlnet = controlnet
        self.is_compiled = False

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "zs2-mini",
        *,
        torch_dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        trusted: Sequence[str] = (),
        **kwargs: Any,
    ) -> ZS2Sampler:
        """Load a bundled name, a local folder or `.safetensors` file, or a hub id (or `id@revision`).

        Args:
            torch_dtype: default float16 on a GPU, float32 on the CPU.
            device: default the GPU when there is one.
            trusted: models whose weights may be pickles, which can run code.
            **kwargs: for `zs2.models.load_pipeline`: safety_checker, and the pipeline's own.

        Raises:
            ModelError: when there is no such model or it has no usable weights, with the remedy.
        """
        info = describe(str(model), trusted=trusted)
        pipe = load_pipeline(info, torch_dtype=torch_dtype, device=device, **kwargs)
        return cls(pipe, info.defaults)

    def compile(self) -> None:
        """Compute with compiled blocks from now on: see `zs2.compiled`, its costs and its errors."""
        prepare(self.pipe.unet)
        self.is_compiled = True

    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]  # a text is a sequence of texts
        self, prompt: str | None, **kwargs: Any
    ) -> Clip: ...
    @overload
    def __call__(self, prompt: Sequence[Prompt], **kwargs: Any) -> list[Clip]: ...
    def __call__(
        self,
        prompt: str | Sequence[Prompt] | None,
        *,
        negative_prompt: str | Sequence[str | None] | None = None,
        num_videos_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        num_frames: int = DEFAULTS.num_frames,
        segment_frames: int | None = DEFAULTS.segment_frames,
        chain: str = DEFAULTS.chain,
        noise: str = DEFAULTS.noise,
        alpha: float | None = DEFAULTS.alpha,
        kl_target: float | Sequence[Any] = DEFAULTS.kl_target,
        solver: str = DEFAULTS.solver,
        noise_candidates: int = DEFAULTS.noise_candidates,
        momentum: float | Sequence[float] = DEFAULTS.momentum,
        speed: str = DEFAULTS.speed,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        scheduler: str | None = None,
        latents: Float[Tensor, "frame channel h w"] | None = None,
        long_prompt: str = "truncate",
        clip_skip: int | None = None,
        prompt_2: str | None = None,
        negative_prompt_2: str | None = None,
        conditioning_frames: Pictures | Sequence[Pictures] | None = None,
        controlnet_conditioning_scale: float | Sequence[float] = 1.0,
        control_guidance_start: float | Sequence[float] = 0.0,
        control_guidance_end: float | Sequence[float] = 1.0,
        guess_mode: bool | Sequence[bool] = False,
        video: Pictures | None = None,
        in_between: int = 1,
        share: Share | None = None,
        clips_per_call: int = 1,
        output_type: str = "np",
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        **pipe_kwargs: Any,
    ) -> Clip | list[Clip]:
        """Sample one clip per prompt; each depends on its own arguments only.

        Args:
            prompt: one clip's prompt; or a list of clips, each a prompt or a storyboard (a list with
                one prompt per segment): ["a", "b"] are two clips, [["a", "b"]] is one of two segments.
                None where `prompt_embeds` are given.
            negative_prompt: None is none, which SDXL tells from an empty one; or a list, one per prompt.
            num_videos_per_prompt: k > 1 gives k clips of each prompt, of seeds seed … seed+k−1.
            seed: of the clip, 0 ≤ seed < 2^63, or a list with one per prompt; drawn when absent.
            generator: instead of `seed`, the caller's own; several clips draw from it in turn.
            num_frames, segment_frames, chain, noise, alpha, kl_target, solver, noise_candidates,
                momentum, speed: see `ClipConfig`. kl_target may be a list of such lists, one per prompt.
            height, width: pixels, multiples of 8; default the model's, or those of `video`.
            num_inference_steps, guidance_scale: default the model's own, else its pipeline's.
            scheduler: a short name of `zs2.schedulers`; default the pipeline's own. For steps and
                scheduler at speed `fast` see `zs2.speed.steps_of`.
            latents: initial noise, instead of the noise model's; λ then has no say in the noise that
                a stochastic scheduler adds.
            long_prompt, clip_skip, prompt_2, negative_prompt_2: see `zs2.conditions.TextEncoding`.
            conditioning_frames: what guides `controlnet`, a picture a frame: uint8 RGB (frame, height,
                width, 3) or a list of PIL pictures; for several nets a list of such clips.
            controlnet_conditioning_scale, control_guidance_start, control_guidance_end, guess_mode: see
                `zs2.controlnet.Control`; one value, or one per ControlNet.
            video: the clip that InstructPix2Pix edits, of the same form.
            in_between: k > 1 samples k − 1 more frames between neighbours (`zs2.in_between`).
            share: sample these frames of the clip alone (`zs2.relay`); of several clips one call each.
            clips_per_call: k > 1 denoises k clips side by side, every UNet call k times as large, the
                last one filled up: faster where one clip leaves the hardware idle. It decides a
                clip's last bits; which clips share a call does not.
            output_type: `np` (uint8 frames), `pil` (as `np`; see `Clip.images`) or `latent`.
            **pipe_kwargs: for the pipeline's own call: prompt_embeds and its like (one row, or one a
                frame), eta, guidance_rescale, cross_attention_kwargs, ip_adapter_image,
                image_guidance_scale, …

        Returns:
            A Clip for a prompt, a list of Clips for a list or for num_videos_per_prompt > 1.

        Raises:
            ValueError: for an argument out of its range, with what was expected and found.
            TypeError: for an argument that neither this call nor the pipeline's has.
            PromptError: a prompt too long, with long_prompt="fail", or nothing to encode it with.
            ModelError: a ControlNet of another family, or a UNet that cannot be compiled.
        """
        pipe = picture_pipeline(self.pipe)
        check_names(type(pipe), _ARGUMENTS, pipe_kwargs)
        config = ClipConfig(
            num_frames=whole("num_frames", num_frames),
            segment_frames=segment_frames and whole("segment_frames", segment_frames),
            chain=chain,
            noise=noise,
            alpha=alpha if alpha is None else real("alpha", alpha),
            solver=solver,
            noise_candidates=whole("noise_candidates", noise_candidates),
            momentum=per_frame("momentum", momentum),
            speed=speed,
        )
        check_output_type(output_type)
        defaults = self.defaults
        steps = num_inference_steps
        if steps is None and any(
            pipe_kwargs.get(name) is not None for name in ("timesteps", "sigmas")
        ):
            steps = defaults.num_inference_steps  # named, in other words
        scheduler, steps = steps_of(speed, scheduler, steps, defaults.num_inference_steps)
        guidance = defaults.guidance_scale if guidance_scale is None else guidance_scale
        given = pipe_kwargs | {
            "num_inference_steps": whole("num_inference_steps", steps),
            "guidance_scale": real("guidance_scale", guidance),
            "callback_on_step_end": callback_on_step_end,
        }
        texts = {"prompt": prompt, "negative_prompt": negative_prompt}
        texts |= {"prompt_2": prompt_2, "negative_prompt_2": negative_prompt_2}
        embeds = given_embeds(self.pipe, given, config.num_frames, texts)
        second = (prompt_2, negative_prompt_2)
        lora_scale = lora_scale_of(given.get("cross_attention_kwargs"))
        kept = None if self.texts is None else self.texts.get
        source = source_of(self.pipe, video, config.num_frames)
        side_by_side = whole("clips_per_call", clips_per_call)
        request = Request(
            config=config,
            pipe_arguments={name: value for name, value in given.items() if name not in EMBEDS},
            text=TextEncoding(self.pipe, long_prompt, clip_skip, lora_scale, second, kept),
            scheduler=scheduler,
            size=size_of(self.pipe, height, width, source),
            embeds=embeds,
            latents=latents,
            video=source,
            controls=controls_of(
                self.controlnet or getattr(self.pipe, "controlnet", None),
                conditioning_frames,
                {
                    "controlnet_conditioning_scale": controlnet_conditioning_scale,
                    "control_guidance_start": control_guidance_start,
                    "control_guidance_end": control_guidance_end,
                    "guess_mode": guess_mode,
                },
                config.num_frames,
                needed=hasattr(self.pipe, "controlnet"),
                editing=source is not None,
            ),
            in_between=whole("in_between", in_between),
            share=share,
            clips_per_call=side_by_side,
        )
        if (
            generator is not None and side_by_side > 1
        ):  # its numbers would depend on the clips beside
            raise ValueError(
                f"clips_per_call: expected 1 with a generator, found {side_by_side}; give seeds"
            )
        copies = whole("num_videos_per_prompt", num_videos_per_prompt)
        storyboards = storyboards_of(prompt, embeds, copies)
        seeds = seeds_of(seed, len(storyboards), copies, generator)
        own = own_parts(config, storyboards, copies, kl_target, negative_prompt, seeds)
        clips = [
            clip
            for start in range(0, len(own), side_by_side)
            for clip in self._sample(pipe, own[start : start + side_by_side], request, generator)
        ]
        if output_type != "latent":
            clips = [replace(clip, frames=self.decode(clip.latents)) for clip in clips]
        return clips if not isinstance(prompt, str | None) or copies > 1 else clips[0]

    def decode(
        self, latents: Float[Tensor, "frame channel h w"]
    ) -> UInt8[np.ndarray, "frame height width 3"]:
        """Latents to RGB frames, see `zs2.decoding.decode`."""
        return decode(self.pipe, latents)

    def _sample(
        self,
        pipe: Any,
        clips: Sequence[OwnPart],
        request: Request,
        generator: torch.Generator | None,
    ) -> list[Clip]:
        """The clips of one batch, (clip frame); where they are fewer, the last one fills it up."""
        n, pipe_arguments = request.config.num_frames, dict(request.pipe_arguments)
        is_alone = request.clips_per_call == 1
        batch = [*clips, *[clips[-1]] * (request.clips_per_call - len(clips))]
        height, width = request.size
        scale = pipe.vae_scale_factor
        shape = (pipe.vae.config.latent_channels, height // scale, width // scale)
        generators = [generator_of(clip.seed, generator) for clip in batch]
        latents = [] if request.latents is None else [request.latents]
        noises: list[StepNoise] = []
        if not latents:
            drawn = [draw_noise(c.config, shape, g) for c, g in zip(batch, generators, strict=True)]
            latents = [noise for noise, _ in drawn]
            own = [None] if is_alone else generators
            noises = [StepNoise(trace, g) for (_, trace), g in zip(drawn, own, strict=True)]
        check_latents(latents[0], (n, *shape))
        share = request.share
        fine = FineClip(request.config, request.in_between, share and (share.start, share.stop))
        if request.video is None:
            pipe_arguments |= {"height": height, "width": width}
        else:
            pipe_arguments["image"] = source_latents(pipe, fine.own(request.video), height, width)
        # a callback may look at the embeddings themselves
        texts = None if pipe_arguments["callback_on_step_end"] else Texts()
        conditions = [conditions_of(clip, request, fine, texts) for clip in batch]
        pipe_arguments |= {
            name: torch.cat([each[name] for each in conditions]) for name in conditions[0]
        }
        batched = torch.cat([fine.spread(noise) for noise in latents])
        with denoising(pipe, request, fine, noises, texts, self.is_compiled):
            result = pipe(
                **pipe_arguments,
                latents=batched.to(pipe_arguments["prompt_embeds"].dtype),
                generator=generators[0] if is_alone else None,
                output_type="latent",
            )
        found = [fine.in_order(frames) for frames in result.images.chunk(len(batch))]
        traces = [noise.trace for noise in noises] or [None]
        return [
            Clip(None, frames if is_alone else frames.clone(), clip.prompts, clip.seed, trace)
            for frames, clip, trace in zip(found, clips, traces, strict=False)
        ]


_ARGUMENTS = tuple(inspect.signature(ZS2Sampler.__call__).parameters)
