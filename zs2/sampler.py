"""`ZS2Sampler`: ZS² around a diffusers pipeline, which it leaves unharmed.

One clip after the other: draw the dependency noise, open the contexts (momentum attention, segments,
scheduler), let the pipeline denoise all frames as one batch, decode frame by frame.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zs2.arguments import Pictures, check_names, per_frame, real, whole
from zs2.attention import momentum_attention
from zs2.clip import Clip
from zs2.compiled import compiled, prepare
from zs2.conditions import EMBEDS, TextEncoding, source_latents
from zs2.config import DEFAULTS, ClipConfig
from zs2.controlnet import ControlRun, check_fits, check_pipeline, picture_pipeline
from zs2.decoding import decode
from zs2.in_between import FineClip
from zs2.models import ModelDefaults, describe, load_pipeline
from zs2.noise import NoiseTrace
from zs2.per_frame import Texts
from zs2.relay import Share
from zs2.request import (
    Prompt,
    Request,
    check_latents,
    check_output_type,
    controls_of,
    defaults_of,
    draw_noise,
    seeds_of,
    size_of,
    source_of,
    storyboards_of,
)
from zs2.reuse import shortcuts
from zs2.schedulers import scheduling
from zs2.segments import segmented
from zs2.speed import SPEEDS, steps_of
from zs2.text_attention import text_attention
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
        self.controlnet = controlnet or getattr(pipe, "controlnet", None)
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
    def __call__(self, prompt: str | None, **kwargs: Any) -> Clip: ...
    @overload
    def __call__(self, prompt: list[Prompt], **kwargs: Any) -> list[Clip]: ...
    def __call__(
        self,
        prompt: str | list[Prompt] | None,
        *,
        negative_prompt: str | None = None,
        num_videos_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        num_frames: int = DEFAULTS.num_frames,
        segment_frames: int | None = DEFAULTS.segment_frames,
        chain: str = DEFAULTS.chain,
        noise: str = DEFAULTS.noise,
        alpha: float | None = DEFAULTS.alpha,
        kl_target: float | Sequence[float] = DEFAULTS.kl_target,
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
        output_type: str = "np",
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        **pipe_kwargs: Any,
    ) -> Clip | list[Clip]:
        """Sample one clip per prompt, one after the other; each depends on its own arguments only.

        Args:
            prompt: one clip's prompt; or a list of clips, each a prompt or a storyboard (a list with
                one prompt per segment): ["a", "b"] are two clips, [["a", "b"]] is one of two segments.
                None where `prompt_embeds` are given.
            negative_prompt: None is none, which SDXL tells from an empty one.
            num_videos_per_prompt: k > 1 gives k clips of each prompt, of seeds seed … seed+k−1.
            seed: of the clip, 0 ≤ seed < 2^63, or a list with one per clip; drawn when absent.
            generator: instead of `seed`, the caller's own; several clips draw from it in turn.
            num_frames, segment_frames, chain, noise, alpha, kl_target, solver, noise_candidates,
                momentum, speed: see `ClipConfig`.
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
            output_type: `np` (uint8 frames), `pil` (as `np`; see `Clip.images`) or `latent`.
            **pipe_kwargs: for the pipeline's own call: prompt_embeds and its like (one row, or one a
                frame), eta, guidance_rescale, cross_attention_kwargs, ip_adapter_image,
                image_guidance_scale, …

        Returns:
            A Clip for a prompt, a list of Clips for a list or for num_videos_per_prompt > 1.

        Raises:
            ValueError: for an argument out of its range, with what was expected and found.
            TypeError: for an argument that neither this call nor the pipeline's has.
            PromptError: a prompt too long, with long_prompt="fail".
        """
        pipe = picture_pipeline(self.pipe)
        check_names(type(pipe), _ARGUMENTS, pipe_kwargs)
        config = ClipConfig(
            num_frames=whole("num_frames", num_frames),
            segment_frames=segment_frames and whole("segment_frames", segment_frames),
            chain=chain,
            noise=noise,
            alpha=alpha,
            kl_target=per_frame("kl_target", kl_target),
            solver=solver,
            noise_candidates=whole("noise_candidates", noise_candidates),
            momentum=per_frame("momentum", momentum),
            speed=speed,
        )
        check_output_type(output_type)
        own = self.defaults
        steps = num_inference_steps
        if steps is None and any(pipe_kwargs.get(name) for name in ("timesteps", "sigmas")):
            steps = own.num_inference_steps  # named, in other words
        scheduler, steps = steps_of(speed, scheduler, steps, own.num_inference_steps)
        guidance = own.guidance_scale if guidance_scale is None else guidance_scale
        call: dict[str, Any] = {
            **pipe_kwargs,
            "num_inference_steps": whole("num_inference_steps", steps),
            "guidance_scale": real("guidance_scale", guidance),
            "callback_on_step_end": callback_on_step_end,
        }
        embeds = {name: call.pop(name) for name in EMBEDS if call.get(name) is not None}
        lora_scale = (call.get("cross_attention_kwargs") or {}).get("scale")
        source = source_of(self.pipe, video, config.num_frames)
        kept, second = self.texts and self.texts.get, (prompt_2, negative_prompt_2)
        request = Request(
            config,
            call,
            TextEncoding(self.pipe, long_prompt, clip_skip, lora_scale, second, kept),
            negative_prompt,
            scheduler,
            size_of(self.pipe, height, width, source),
            embeds,
            latents,
            source,
            controls_of(
                self.controlnet,
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
            whole("in_between", in_between),
            share,
        )
        num_videos_per_prompt = whole("num_videos_per_prompt", num_videos_per_prompt)
        storyboards = storyboards_of(prompt, embeds, num_videos_per_prompt)
        seeds = seeds_of(seed, len(storyboards), num_videos_per_prompt, generator)
        clips = [
            self._sample(pipe, prompts, request, generator or torch.Generator().manual_seed(s))
            for prompts, s in zip(storyboards, seeds, strict=True)
        ]
        if generator is None:
            clips = [replace(clip, seed=s) for clip, s in zip(clips, seeds, strict=True)]
        if output_type != "latent":
            clips = [replace(clip, frames=self.decode(clip.latents)) for clip in clips]
        return clips if isinstance(prompt, list | tuple) or num_videos_per_prompt > 1 else clips[0]

    def decode(
        self, latents: Float[Tensor, "frame channel h w"]
    ) -> UInt8[np.ndarray, "frame height width 3"]:
        """Latents to RGB frames, see `zs2.decoding.decode`."""
        return decode(self.pipe, latents)

    def _sample(
        self, pipe: Any, prompts: tuple[str, ...], request: Request, generator: torch.Generator
    ) -> Clip:
        config, call, n = request.config, dict(request.call), request.config.num_frames
        height, width = request.size
        scale = pipe.vae_scale_factor
        shape = (pipe.vae.config.latent_channels, height // scale, width // scale)
        latents, trace = request.latents, None
        if latents is None:
            latents, trace = draw_noise(config, shape, generator)
        check_latents(latents, (n, *shape))
        share = request.share
        fine = FineClip(config, request.in_between, share and (share.start, share.stop))
        if request.video is None:
            call |= {"height": height, "width": width}
        else:
            call["image"] = source_latents(pipe, fine.own(request.video), height, width)
        # a callback may look at the embeddings themselves
        texts = None if call["callback_on_step_end"] else Texts()
        call |= request.text.conditions(
            prompts,
            fine.nearest(config.frame_prompts(prompts) if prompts else [0] * n),
            request.negative_prompt,
            call["guidance_scale"] > 1,
            {k: fine.own(v) if len(v) == n else v for k, v in request.embeds.items()},
            texts,
        )
        with self._zs2(pipe, request, fine, trace, texts):
            result = pipe(
                **call,
                latents=fine.spread(latents).to(call["prompt_embeds"].dtype),
                generator=generator,
                output_type="latent",
            )
        return Clip(None, fine.in_order(result.images), prompts, None, trace)

    def _zs2(
        self,
        pipe: Any,
        request: Request,
        fine: FineClip,
        trace: NoiseTrace | None,
        texts: Texts | None,
    ) -> ExitStack:
        """Momentum attention, segments and scheduler, in place while the context is open."""
        config = request.config
        state, n, m = fine.state(), fine.num_frames, config.frames_per_call
        control, schedule = None, lambda: pipe.scheduler.timesteps
        several = config.num_frames > 1  # one is its own average: its attention stays the user's
        with ExitStack() as contexts:
            if several:
                contexts.enter_context(momentum_attention(pipe.unet, state))
            if self.is_compiled:
                contexts.enter_context(compiled(pipe.unet, request.in_between))
            for i, guide in enumerate(request.controls):
                check_fits(guide.net, pipe.unet)
                if several:
                    contexts.enter_context(momentum_attention(guide.net, state, f"controlnet.{i}."))
            if request.controls:
                guides = [
                    replace(guide, frames=fine.own(guide.frames)) for guide in request.controls
                ]
                control = ControlRun(guides, *request.size, schedule)
            if several and not self.is_compiled:  # compiled blocks project their texts themselves
                is_held = request.call["callback_on_step_end"] is None
                contexts.enter_context(text_attention(pipe.unet, state, is_held))
            nets = [guide.net for guide in request.controls]
            taken = contexts.enter_context(
                shortcuts(SPEEDS[config.speed], pipe.unet, nets, schedule)
            )
            contexts.enter_context(
                segmented(pipe.unet, n, m, state, control, fine.plan, request.share, taken, texts)
            )
            contexts.enter_context(scheduling(pipe, request.scheduler, trace, fine))
            return contexts.pop_all()


_ARGUMENTS = tuple(inspect.signature(ZS2Sampler.__call__).parameters)
