"""`ZS2Sampler`: ZS² around a diffusers pipeline, which it leaves unharmed.

One clip after the other: draw the dependency noise, open the three contexts (momentum attention,
segments, scheduler), let the pipeline denoise all frames as one batch, decode frame by frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zs2 import noise as noise_models
from zs2.attention import MomentumState, momentum_attention
from zs2.config import DEFAULTS, ClipConfig
from zs2.models import ModelDefaults, describe, load_pipeline
from zs2.noise import NoiseTrace
from zs2.schedulers import scheduling
from zs2.segments import segmented

SEED_LIMIT = 2**63
OUTPUT_TYPES = ("np", "pil", "latent")

Prompt = str | list[str]


@dataclass(frozen=True)
class Clip:
    """One sampled clip.

    Attributes:
        frames: RGB, 0..255; None with output_type="latent".
        latents: what the pipeline denoised, before decoding.
        prompts: one, or one per segment.
        seed: what `seed=` renders the clip again; None when a generator or latents were given.
        trace: λ reached and α used per frame pair; None when latents were given.
    """

    frames: UInt8[np.ndarray, "frame height width 3"] | None
    latents: Float[Tensor, "frame channel h w"]
    prompts: tuple[str, ...]
    seed: int | None
    trace: NoiseTrace | None

    @property
    def images(self) -> list[Any]:
        """The frames as PIL pictures."""
        from PIL import Image

        return [] if self.frames is None else [Image.fromarray(frame) for frame in self.frames]


class ZS2Sampler:
    """Samples video clips from the text-to-image pipeline it wraps.

    Args:
        pipe: a diffusers StableDiffusionPipeline. It may be changed at any time (LoRA, scheduler,
            offload, dtype); every call finds it as it is and leaves it so.
        defaults: the checkpoint's own steps and guidance.
    """

    def __init__(self, pipe: Any, defaults: ModelDefaults | None = None) -> None:
        self.pipe = pipe
        self.defaults = defaults or ModelDefaults()

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "zs2-mini",
        *,
        torch_dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> ZS2Sampler:
        """Load a bundled name, a local folder or a hub id (optionally `id@revision`).

        Args:
            torch_dtype: default float16 on a GPU, float32 on the CPU.
            device: default the GPU when there is one.
            **kwargs: for the pipeline's own `from_pretrained`.

        Raises:
            ModelError: when there is no such model or it has no usable weights, with the remedy.
        """
        info = describe(str(model))
        pipe = load_pipeline(info, torch_dtype=torch_dtype, device=device, **kwargs)
        return cls(pipe, info.defaults)

    @overload
    def __call__(self, prompt: str, **kwargs: Any) -> Clip: ...
    @overload
    def __call__(self, prompt: list[Prompt], **kwargs: Any) -> list[Clip]: ...
    def __call__(
        self,
        prompt: str | list[Prompt],
        *,
        negative_prompt: str = "",
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
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        scheduler: str | None = None,
        latents: Float[Tensor, "frame channel h w"] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "np",
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        **pipe_kwargs: Any,
    ) -> Clip | list[Clip]:
        """Sample one clip per prompt, one after the other; each depends on its own arguments only.

        Args:
            prompt: one clip's prompt; or a list of clips, each a prompt or a storyboard (a list with
                one prompt per segment).
            seed: of the clip, 0 ≤ seed < 2^63, or a list with one per clip; drawn when absent.
            generator: instead of `seed`, the caller's own; several clips draw from it in turn.
            num_frames, segment_frames, chain, noise, alpha, kl_target, solver, noise_candidates,
                momentum: see `ClipConfig`.
            height, width: pixels, multiples of 8; default the model's.
            num_inference_steps, guidance_scale: default the model's own, else 50 and 7.5.
            scheduler: a short name of `zs2.schedulers`; default the pipeline's own.
            latents: initial noise, instead of the noise model's.
            prompt_embeds, negative_prompt_embeds: instead of prompts: (1 or num_frames, token, d).
            output_type: `np` (uint8 frames), `pil` (as `np`; see `Clip.images`) or `latent`.
            **pipe_kwargs: for the pipeline's own call (eta, clip_skip, cross_attention_kwargs, …).

        Returns:
            A Clip for a prompt, a list of Clips for a list.

        Raises:
            ValueError: for an argument out of its range, with what was expected and found.
        """
        config = ClipConfig(
            num_frames=num_frames,
            segment_frames=segment_frames,
            chain=chain,
            noise=noise,
            alpha=alpha,
            kl_target=_frozen(kl_target),
            solver=solver,
            noise_candidates=noise_candidates,
            momentum=_frozen(momentum),
        )
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type: expected one of {OUTPUT_TYPES}, found {output_type!r}")
        if seed is not None and generator is not None:
            raise ValueError("expected seed or generator, found both; leave one out")
        own = self.defaults
        steps = num_inference_steps or own.num_inference_steps
        guidance = own.guidance_scale if guidance_scale is None else guidance_scale
        call = {
            **pipe_kwargs,
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "callback_on_step_end": callback_on_step_end,
            **self._size(height, width),
        }
        storyboards = [(prompt,)] if isinstance(prompt, str) else [_storyboard(p) for p in prompt]
        seeds = _seeds(seed, len(storyboards), generator)
        clips = [
            self._sample(
                storyboard,
                config,
                generator or torch.Generator().manual_seed(clip_seed),
                call,
                scheduler=scheduler,
                negative_prompt=negative_prompt,
                latents=latents,
                embeds=(prompt_embeds, negative_prompt_embeds),
            )
            for storyboard, clip_seed in zip(storyboards, seeds, strict=True)
        ]
        if generator is None:
            clips = [replace(clip, seed=s) for clip, s in zip(clips, seeds, strict=True)]
        if output_type != "latent":
            clips = [replace(clip, frames=self.decode(clip.latents)) for clip in clips]
        return clips[0] if isinstance(prompt, str) else clips

    def _sample(
        self,
        prompts: tuple[str, ...],
        config: ClipConfig,
        generator: torch.Generator,
        call: dict[str, Any],
        *,
        scheduler: str | None,
        negative_prompt: str,
        latents: Tensor | None,
        embeds: tuple[Tensor | None, Tensor | None],
    ) -> Clip:
        pipe = self.pipe
        shape = (pipe.unet.config.in_channels, *self._latent_size(call))
        trace = None
        if latents is None:
            latents, trace = draw_noise(config, shape, generator)
        elif tuple(latents.shape) != (config.num_frames, *shape):
            raise ValueError(
                f"latents: expected shape {(config.num_frames, *shape)}, "
                f"found {tuple(latents.shape)}"
            )
        conditions = self._conditions(prompts, config, negative_prompt, embeds, call)
        state = MomentumState(config.momentums, config.chain)
        with ExitStack() as contexts:
            contexts.enter_context(momentum_attention(pipe.unet, state))
            contexts.enter_context(
                segmented(pipe.unet, config.num_frames, config.frames_per_call, state)
            )
            contexts.enter_context(scheduling(pipe, scheduler, trace))
            dtype = conditions["prompt_embeds"].dtype
            result = pipe(
                **call,
                **conditions,
                latents=latents.to(dtype),
                generator=generator,
                output_type="latent",
            )
        return Clip(None, result.images, prompts, None, trace)

    @torch.no_grad()
    def _conditions(
        self,
        prompts: tuple[str, ...],
        config: ClipConfig,
        negative_prompt: str,
        embeds: tuple[Tensor | None, Tensor | None],
        call: dict[str, Any],
    ) -> dict[str, Tensor]:
        """One text embedding per frame; each distinct prompt is encoded once, by itself.

        By itself, because an encoder's answer depends on its batch in the last bits.
        """
        guided = call["guidance_scale"] > 1
        frame_prompt = config.frame_prompts(prompts)
        if embeds[0] is not None:
            given = {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
            return {
                name: value.expand(config.num_frames, -1, -1)
                for name, value in given.items()
                if value is not None
            }
        encoded = {
            text: self.pipe.encode_prompt(
                text,
                self.pipe._execution_device,
                1,
                guided,
                negative_prompt,
                clip_skip=call.get("clip_skip"),
                lora_scale=(call.get("cross_attention_kwargs") or {}).get("scale"),
            )
            for text in dict.fromkeys(prompts)
        }
        per_frame = [encoded[prompts[i]] for i in frame_prompt]
        conditions = {"prompt_embeds": torch.cat([positive for positive, _ in per_frame])}
        if guided:
            conditions["negative_prompt_embeds"] = torch.cat(
                [negative for _, negative in per_frame]
            )
        return conditions

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "frame channel h w"]
    ) -> UInt8[np.ndarray, "frame height width 3"]:
        """Latents to RGB frames, one frame a call: bytes and memory do not depend on the clip.

        A checkpoint's safety checker is honoured; a flagged frame is black, as in diffusers.
        """
        pipe = self.pipe
        device = pipe._execution_device
        frames: list[np.ndarray] = []
        for latent in latents.to(device, pipe.vae.dtype).split(1):
            image = pipe.vae.decode(latent / pipe.vae.config.scaling_factor, return_dict=False)[0]
            image, flagged = pipe.run_safety_checker(image, device, image.dtype)
            denormalize = None if flagged is None else [not flag for flag in flagged]
            pixels = pipe.image_processor.postprocess(
                image, output_type="np", do_denormalize=denormalize
            )
            frames.append((pixels * 255).round().astype(np.uint8))
        pipe.maybe_free_model_hooks()
        return np.concatenate(frames)

    def _size(self, height: int | None, width: int | None) -> dict[str, int]:
        sample_size = self.pipe.unet.config.sample_size
        own = sample_size if isinstance(sample_size, list | tuple) else (sample_size, sample_size)
        scale = self.pipe.vae_scale_factor
        size = {"height": height or own[0] * scale, "width": width or own[1] * scale}
        for name, value in size.items():
            if value % 8 or value < 8:
                raise ValueError(f"{name}: expected a positive multiple of 8, found {value}")
        return size

    def _latent_size(self, call: dict[str, Any]) -> tuple[int, int]:
        scale = self.pipe.vae_scale_factor
        return call["height"] // scale, call["width"] // scale


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
    if config.alpha is None:
        raise ValueError(f"alpha: expected a value for noise={config.noise!r}, found None")
    model = noise_models.mixed_noise if config.noise == "mixed" else noise_models.progressive_noise
    return model(shape, n, config.alpha, generator)


def _storyboard(prompt: Prompt) -> tuple[str, ...]:
    return (prompt,) if isinstance(prompt, str) else tuple(prompt)


def _frozen(value: float | Sequence[float]) -> float | tuple[float, ...]:
    return value if isinstance(value, int | float) else tuple(value)


def _seeds(
    seed: int | Sequence[int] | None, count: int, generator: torch.Generator | None
) -> list[int]:
    if seed is None:
        if generator is not None:
            return [0] * count  # not used: the caller's generator draws
        return [int(s) for s in torch.randint(SEED_LIMIT - 1, (count,))]
    seeds = [seed] * count if isinstance(seed, int) else list(seed)
    if len(seeds) != count:
        raise ValueError(f"seed: expected one number or one per clip ({count}), found {len(seeds)}")
    for value in seeds:
        if not 0 <= value < SEED_LIMIT:
            raise ValueError(f"seed: expected 0 ≤ seed < 2^63, found {value}")
    return seeds
