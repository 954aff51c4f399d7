"""Latents to RGB frames, as the pipeline's own last step does it, a fixed number of frames a call."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from zs2.decode_calls import frames_a_call


@torch.no_grad()
def decode(
    pipe: Any, latents: Float[Tensor, "frame channel h w"], frames_per_call: int | None = None
) -> UInt8[np.ndarray, "frame height width 3"]:
    """Decode in calls of one fixed shape, the last one padded: neither the clip's length nor where it is
    cut decides a frame's bytes, and memory does not grow with it.

    A checkpoint's safety checker is honoured (a flagged frame is black, as in diffusers), and so is an
    SDXL pipeline's watermark.

    Args:
        frames_per_call: the same for all parts of a clip; default `frames_a_call`, and 1 where there is
            one frame, as in diffusers.
    """
    device = pipe._execution_device
    side = pipe.vae_scale_factor
    size = frames_per_call
    if size is None:
        fitting = frames_a_call(latents.shape[-2] * side, latents.shape[-1] * side)
        size = 1 if len(latents) == 1 else fitting
    frames: list[np.ndarray] = []
    with _decodable(pipe) as vae:
        for call in latents.to(device, vae.dtype).split(size):
            padded = call
            if len(call) < size:
                padded = torch.cat([call, call[-1:].expand(size - len(call), *call.shape[1:])])
            frames.append(_decode_call(pipe, vae, padded, device)[: len(call)])
    pipe.maybe_free_model_hooks()
    return np.concatenate(frames)


def _decode_call(pipe: Any, vae: Any, latents: Tensor, device: torch.device) -> np.ndarray:
    image = vae.decode(_unscaled(latents, vae.config), return_dict=False)[0]
    flagged = None
    if hasattr(pipe, "run_safety_checker"):
        image, flagged = pipe.run_safety_checker(image, device, image.dtype)
    if getattr(pipe, "watermark", None) is not None:
        image = pipe.watermark.apply_watermark(image)
    denormalize = None if flagged is None else [not flag for flag in flagged]
    pixels = pipe.image_processor.postprocess(image, output_type="np", do_denormalize=denormalize)
    return (pixels * 255).round().astype(np.uint8)


def _unscaled(latents: Tensor, config: Any) -> Tensor:
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return latents / config.scaling_factor
    shape = (1, -1, 1, 1)
    spread, middle = (latents.new_tensor(values).view(shape) for values in (std, mean))
    return latents * spread / config.scaling_factor + middle


@contextmanager
def in_tiles(pipe: Any, latents: Float[Tensor, "frame channel h w"]) -> Generator[None]:
    """Within this, `decode` takes a frame in overlapping tiles of half its longer side, blended where
    they meet: about a quarter of the memory. Pixels near the seams can differ from the whole frame's.
    """
    vae = pipe.vae
    names = ("use_tiling", "tile_latent_min_size", "tile_sample_min_size")
    own = {name: getattr(vae, name) for name in names}
    # a multiple of 4: the overlap is a quarter, and has to be whole
    side = max(8, max(latents.shape[-2:]) // 2 // 4 * 4)
    vae.use_tiling = True
    vae.tile_latent_min_size = side
    vae.tile_sample_min_size = side * pipe.vae_scale_factor
    try:
        yield
    finally:
        for name, value in own.items():
            setattr(vae, name, value)


@contextmanager
def _decodable(pipe: Any) -> Generator[Any]:
    """The pipeline's autoencoder; SDXL's overflows in float16 and decodes in float32."""
    vae = pipe.vae
    overflows = (
        hasattr(pipe, "text_encoder_2")
        and vae.dtype == torch.float16
        and vae.config.get("force_upcast")
    )
    if overflows:
        vae.to(torch.float32)
    try:
        yield vae
    finally:
        if overflows:
            vae.to(torch.float16)
