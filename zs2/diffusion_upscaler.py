"""diffusers' upscaling pipelines: ×4 over the pixels, ×2 over the latents (StableDiffusionUpscalePipeline
and StableDiffusionLatentUpscalePipeline).

Every frame of a clip starts from one noise, drawn from the row's seed: where frames agree the larger ones
do. Large frames go in tiles that cut their noise from one canvas and fade into each other; a tile does
not see the others, so unlike a small network's its result is not that of the whole frame.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from zs2.post_models import PostModel, PostModelError
from zs2.tiles import in_tiles
from zs2.upscaler import Enlarge, Larger, Words, checked

if TYPE_CHECKING:
    import torch

Picture = UInt8[np.ndarray, "height width 3"]

# Pixels of a tile: what the published weights were trained on, or near it; and how they are called. The
# latent upscaler's authors use no guidance: 1 follows the prompt without any.
TILES = {
    "StableDiffusionUpscalePipeline": (128, 32),
    "StableDiffusionLatentUpscalePipeline": (512, 128),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "StableDiffusionUpscalePipeline": {
        "num_inference_steps": 25,
        "guidance_scale": 9.0,
        "noise_level": 20,
    },
    "StableDiffusionLatentUpscalePipeline": {"num_inference_steps": 20, "guidance_scale": 1.0},
}


def load_pipeline(
    model: PostModel,
    device: str | torch.device | None = None,
    torch_dtype: torch.dtype | str | None = None,
) -> Enlarge:
    """A described pipeline as `zs2.upscaler.load_upscaler` gives one.

    Raises:
        ModelError: weights that cannot be had or loaded.
    """
    from zs2.models import placement

    where, dtype = placement(torch_dtype, device)
    pipe = _load(model, dtype).to(where)
    pipe.set_progress_bar_config(disable=True)
    return enlarger(pipe, model)


def enlarger(pipe: Any, model: PostModel) -> Enlarge:
    """A loaded pipeline as a function of a frame and the row's words."""
    scale, multiple, shrinks = model.scale or 0, *_geometry(pipe, model)
    tile, overlap = TILES[model.pipeline]
    tile = max(multiple, tile // multiple * multiple)

    def enlarge(picture: Picture, words: Words) -> Larger:
        height, width, _ = picture.shape
        padding = (0, -height % multiple), (0, -width % multiple), (0, 0)
        padded = np.pad(picture, padding, mode="edge")
        canvas = _noise(pipe, words.seed, padded.shape[0] // shrinks, padded.shape[1] // shrinks)

        def part(seen: Picture, y: int, x: int) -> np.ndarray:
            rows = slice(y // shrinks, (y + seen.shape[0]) // shrinks)
            columns = slice(x // shrinks, (x + seen.shape[1]) // shrinks)
            made = call(pipe, model, seen, words, canvas[:, :, rows, columns], (y, x))
            return checked(made, seen, scale, model.name)

        larger = in_tiles(padded, part, scale, tile, overlap)
        return np.ascontiguousarray(larger[: height * scale, : width * scale])

    return enlarge


def call(
    pipe: Any,
    model: PostModel,
    seen: Picture,
    words: Words,
    noise: torch.Tensor,
    corner: tuple[int, int],
) -> np.ndarray:
    """Enlarge one tile from its cut of the noise, in 0..255; `corner` is where it lies, (y, x).

    Raises:
        PostModelError: the pipeline fails, but for want of memory.
    """
    import torch

    image = torch.from_numpy(seen.astype(np.float32) / np.float32(255)).permute(2, 0, 1)[None]
    try:
        made = pipe(
            prompt=[words.prompt],
            negative_prompt=[words.negative_prompt],
            image=image,
            latents=noise.to(pipe.unet.dtype),
            generator=_generator(words.seed, *corner),  # of what else the pipeline draws
            output_type="np",
            **SETTINGS[model.pipeline],
        ).images[0]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise PostModelError(
            f"{model.name}: expected a larger frame from one of {seen.shape[0]}×{seen.shape[1]}; found "
            f"that the pipeline fails ({type(error).__name__}: {str(error)[:300]}); try --dtype "
            "float32, or use mini-sr"
        ) from error
    return np.asarray(made, dtype=np.float32) * 255


def _geometry(pipe: Any, model: PostModel) -> tuple[int, int]:
    """What a frame's sides must be multiples of, and its pixels for one of the noise."""
    halvings = 2 ** (len(pipe.unet.config.block_out_channels) - 1)
    if model.pipeline == "StableDiffusionUpscalePipeline":
        return halvings, 1  # the noise is as large as the frame
    side = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    return halvings * side, side // 2  # of a smaller one the deepest level is a single pixel


def _noise(pipe: Any, seed: int, height: int, width: int) -> torch.Tensor:
    import torch

    shape = (1, pipe.vae.config.latent_channels, height, width)
    return torch.randn(shape, generator=_generator(seed), dtype=torch.float32)


def _generator(*seeds: int) -> torch.Generator:
    """Of the CPU, so that any device gets the same noise; another for other seeds."""
    import torch

    mixed = int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0])
    return torch.Generator("cpu").manual_seed(mixed % 2**63)


def _load(model: PostModel, dtype: torch.dtype) -> Any:
    """From safetensors (pickles where trusted), never with code of the checkpoint's own."""
    import diffusers
    import torch

    from zs2.checkpoints import folders, hub, weights

    half, without = dtype == torch.float16, ("safety_checker",)

    def choose(folder: Path, names: Collection[str]) -> weights.Selection:
        index = folders.read_json(model.name, folder / "model_index.json")
        selection = weights.select(index, names, half=half, without=without)
        folders.check_weights(model.name, model.location, selection, model.trusted)
        return selection

    if model.is_local:
        folder = Path(model.location)
        selection = choose(folder, weights.names_in(folder))
    else:
        repository = hub.Repository(model.location, str(model.revision), model.name)
        folder = hub.fetch(repository, ("model_index.json",), quiet=True)
        selection = choose(folder, hub.file_names(repository))
        folder = hub.fetch(repository, (*selection.configuration, *selection.weights))
    index = folders.read_json(model.name, folder / "model_index.json")
    checker = {"safety_checker": None} if "safety_checker" in index else {}
    return getattr(diffusers, model.pipeline).from_pretrained(
        folder,
        dtype=dtype,
        variant=selection.variant,
        use_safetensors=None if selection.pickled else True,
        trust_remote_code=False,
        local_files_only=True,
        **checker,
    )
