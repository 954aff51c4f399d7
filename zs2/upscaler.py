"""Larger frames by a model: the bundled mini-sr, whatever spandrel loads, diffusers' upscaling pipelines.

Frames are enlarged one by one and in tiles, so neither other frames nor the memory decide a frame's
pixels. A diffusers pipeline gets the same noise for every frame: noise of its own would flicker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from zs2.post_models import MINI_SR, PostModel, PostModelError
from zs2.tiles import in_tiles

if TYPE_CHECKING:
    import torch

Picture = UInt8[np.ndarray, "height width 3"]
Larger = UInt8[np.ndarray, "larger_height larger_width 3"]

MINI_TILE = 384  # pixels; 0.2 GB at ×4
SPANDREL_TILE, SPANDREL_OVERLAP, SPANDREL_MARGIN = 256, 64, 16


@dataclass(frozen=True)
class Words:
    """What a diffusion upscaler follows beside the frame; other upscalers do without."""

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0


Enlarge = Callable[[Picture, Words], Larger]


def load_upscaler(
    model: PostModel,
    scale: int,
    *,
    device: str | torch.device | None = None,
    torch_dtype: torch.dtype | str | None = None,
) -> Enlarge:
    """A described model as a function of a frame and the row's words.

    Args:
        scale: what it is to enlarge by.
        device, torch_dtype: of a diffusers pipeline or spandrel's model; default the GPU when there is
            one, in float16, else the CPU. mini-sr computes on the CPU, in float32.

    Raises:
        PostModelError: it cannot be loaded, or has another scale. So does the function when the model
            raises, returns another shape, or numbers that are not finite.
    """
    if model.scale not in (None, scale):
        raise _other_scale(model, model.scale or 0, scale)
    try:
        if model.kind == MINI_SR:
            return _load_mini(model, scale)
        if model.kind == "spandrel":
            return _load_spandrel(model, scale, device)
        from zs2.diffusion_upscaler import load_pipeline

        return load_pipeline(model, device, torch_dtype)
    except PostModelError:
        raise
    except Exception as error:  # a file of any kind makes the libraries raise anything
        raise PostModelError(
            f"{model.name}: expected an upscaler that loads; found that it cannot be loaded "
            f"({type(error).__name__}: {str(error)[:300]}); copy or download it again, or use mini-sr"
        ) from error


def _load_mini(model: PostModel, scale: int) -> Enlarge:
    from zs2 import mini_sr

    network = mini_sr.load(Path(model.location))
    overlap = 2 * network.reach + 16

    def part(picture: Picture, y: int, x: int) -> np.ndarray:
        del y, x
        return checked(_applied(network, picture, scale), picture, scale, model.name)

    def enlarge(picture: Picture, words: Words) -> Larger:
        del words
        return in_tiles(picture, part, scale, MINI_TILE, overlap, network.reach)

    return enlarge


def _applied(
    network: Callable[..., torch.Tensor], picture: Picture, *scale: int, device: Any = "cpu"
) -> np.ndarray:
    """What a network of (1, 3, height, width) in 0..1 makes of a picture, in 0..255."""
    import torch

    seen = torch.from_numpy(picture.astype(np.float32) / np.float32(255)).permute(2, 0, 1)[None]
    seen = seen.contiguous(memory_format=torch.channels_last).to(device)
    with torch.inference_mode():
        made = network(seen, *scale)
    if made.ndim != 4:
        return made.float().cpu().numpy()
    return made[0].permute(1, 2, 0).float().cpu().numpy() * 255


def _load_spandrel(model: PostModel, scale: int, device: Any) -> Enlarge:
    try:
        from spandrel import (  # pyright: ignore[reportMissingImports]
            ImageModelDescriptor,
            ModelLoader,
        )
    except Exception as error:  # torchvision beside another torch raises more than ImportError
        raise PostModelError(
            f"{model.name}: expected spandrel and a torchvision that fits this torch; found that they "
            f"do not import ({type(error).__name__}: {str(error)[:200]}); pip install 'zs2[spandrel]' "
            "with the torchvision of your torch, or use mini-sr"
        ) from error
    from zs2.models import placement

    where, _ = placement(None, device)
    network = ModelLoader(device=where).load_from_file(model.location)
    channels = getattr(network, "input_channels", None), getattr(network, "output_channels", None)
    if not isinstance(network, ImageModelDescriptor) or channels != (3, 3):
        raise PostModelError(
            f"{model.name}: expected a network that takes and gives RGB pictures; found "
            f"{type(network).__name__} of {channels[0]} and {channels[1]} channels; name another file"
        )
    if network.scale != scale:
        raise _other_scale(model, int(network.scale), scale)
    network.eval()

    def part(picture: Picture, y: int, x: int) -> np.ndarray:
        del y, x
        return checked(_applied(network, picture, device=where), picture, scale, model.name)

    def enlarge(picture: Picture, words: Words) -> Larger:
        del words
        sizes = SPANDREL_TILE, SPANDREL_OVERLAP, SPANDREL_MARGIN
        return in_tiles(picture, part, scale, *sizes)

    return enlarge


def checked(made: np.ndarray, picture: Picture, scale: int, name: str) -> np.ndarray:
    """What a model made of a picture, if it can be one.

    Raises:
        PostModelError: another shape, or NaN.
    """
    height, width, _ = picture.shape
    if made.shape != (height * scale, width * scale, 3):
        raise PostModelError(
            f"{name}: expected a frame of {height * scale}×{width * scale}×3 from one of "
            f"{height}×{width}; found shape {made.shape}; use a model of scale {scale}, or mini-sr"
        )
    if not np.isfinite(made).all():
        raise PostModelError(
            f"{name}: expected finite pixels; found NaN or infinity; try --dtype float32, or use mini-sr"
        )
    return made


def _other_scale(model: PostModel, found: int, wanted: int) -> PostModelError:
    return PostModelError(
        f"{model.name}: expected an upscaler of spatial_scale {wanted}; found one of {found}; set "
        f"spatial_scale to {found}, or use mini-sr"
    )
