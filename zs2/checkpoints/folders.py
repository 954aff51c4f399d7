"""Pipelines in diffusers' folder layout, on this machine or in the hub's cache: what they are, and loading.

A single-file checkpoint's configuration has the same layout, less the weights.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zs2.checkpoints import parts, weights
from zs2.models import PIPELINE_DEFAULTS, PIPELINES, ModelDefaults, ModelError, ModelInfo

if TYPE_CHECKING:
    import torch

DEFAULTS_FILE = "zs2.json"  # a model folder may carry its own steps, guidance and size
# As for a row's own values: what is larger is a mistake, or somebody's wish to fill the memory.
MAX_SIDE, MAX_CHANNELS, MAX_STEPS = 8192, 256, 1000
CONFIGS = ("model_index.json", "unet/config.json", "vae/config.json")
# Where a model_index.json may take classes from; any other module is code of the checkpoint's own.
LIBRARIES = ("diffusers", "transformers", "stable_diffusion")


def describe(
    name: str,
    folder: Path,
    *,
    location: str | None = None,
    revision: str | None = None,
    names: Collection[str] | None = None,
    is_trusted: bool = False,
) -> ModelInfo:
    """Describe a pipeline from a folder that has at least its configuration.

    Args:
        location, revision: of the hub repository that the folder is the cache of.
        names: the files of that repository; None takes those of the folder.

    Raises:
        ModelError: see `zs2.models.describe`.
    """
    if names is None:
        names = weights.names_in(folder)
    if "model_index.json" not in names:
        raise ModelError(
            f"model {name!r}: expected a diffusers pipeline, found no model_index.json in "
            f"{location or folder}; save one with pipe.save_pretrained(folder)"
        )
    configs = read_configs(name, folder)
    index, without = configs["model_index.json"], ("safety_checker",)
    parts.check_files(name, location or str(folder), index, names, without=without)
    selection = weights.select(index, names, half=False, without=without)
    check_weights(name, location or str(folder), selection, is_trusted)
    if revision is None:
        for half in (False, True):  # which one will be loaded depends on the machine
            parts.check_headers(
                name, folder, weights.select(index, names, half=half, without=without)
            )
    return info_of(
        name,
        location or str(folder),
        configs,
        own_defaults(name, folder / DEFAULTS_FILE),
        revision=revision,
        trusted=is_trusted,
    )


def read_configs(name: str, folder: Path) -> dict[str, dict[str, Any]]:
    """The configuration files that describe a pipeline.

    Raises:
        ModelError: another kind of pipeline, code of the checkpoint's own, or a file that is
            missing or no JSON.
    """
    index = read_json(name, folder / "model_index.json")
    check_code(name, index)
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise ModelError(
            f"model {name!r}: expected a {' or '.join(PIPELINES)}, found {pipeline}; "
            "other families are not supported"
        )
    return {part: read_json(name, folder / part) for part in CONFIGS}


def info_of(
    name: str,
    location: str,
    configs: Mapping[str, dict[str, Any]],
    own: Mapping[str, Any],
    *,
    revision: str | None = None,
    **further: Any,
) -> ModelInfo:
    """Put a description together.

    Args:
        configs: from `read_configs`. own: from `own_defaults`.
        **further: other attributes of ModelInfo.

    Raises:
        ModelError: an inpainting or other UNet, or a configuration that lacks an entry.
    """
    index, unet, vae = (configs[part] for part in CONFIGS)
    pipeline = index["_class_name"]
    defaults = replace(PIPELINE_DEFAULTS[pipeline], **own)
    try:
        channels, scale = vae["latent_channels"], 2 ** min(len(vae["block_out_channels"]) - 1, 16)
        height, width = _sample_size(unet)
        in_channels = unet["in_channels"]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"model {name!r}: expected the entries of a UNet2DConditionModel and an AutoencoderKL in "
            f"{' and '.join(CONFIGS[1:])}, found {type(error).__name__}: {error}; save it again"
        ) from error
    wanted = 2 * channels if pipeline == "StableDiffusionInstructPix2PixPipeline" else channels
    if in_channels != wanted:
        raise ModelError(
            f"model {name!r}: expected a UNet of {wanted} input channels for {pipeline}, "
            f"found {in_channels}{_INPAINTING if in_channels == 2 * channels + 1 else ''}; "
            "use a checkpoint that samples from text, or InstructPix2Pix"
        )
    _check_sizes(
        name,
        height=(defaults.height or height * scale, 8, MAX_SIDE),
        width=(defaults.width or width * scale, 8, MAX_SIDE),
        latent_channels=(channels, 1, MAX_CHANNELS),
        scale_factor=(scale, 1, MAX_SIDE),
    )
    conditioned = unet.get("addition_embed_type") == "text_time"
    if conditioned != (pipeline == "StableDiffusionXLPipeline"):
        raise ModelError(
            f"model {name!r}: expected the UNet of a {pipeline} in unet/config.json, found one "
            f"{'of' if conditioned else 'not of'} Stable Diffusion XL (addition_embed_type "
            f"{unet.get('addition_embed_type')}); copy or save the whole model again"
        )
    return ModelInfo(
        name,
        location,
        revision,
        height=defaults.height or height * scale,
        width=defaults.width or width * scale,
        latent_channels=channels,
        scale_factor=scale,
        defaults=defaults,
        pipeline=pipeline,
        **further,
    )


def _check_sizes(name: str, **values: tuple[Any, int, int]) -> None:
    for what, (value, low, high) in values.items():
        if type(value) is not int or not low <= value <= high:
            raise ModelError(
                f"model {name!r}: expected a {what} from {low} to {high:,}, found {str(value)[:80]} in "
                "its configuration; save the model again"
            )


def _check_guidance(name: str, value: Any) -> None:
    if type(value) not in (int, float) or not 0 <= value < float("inf"):
        raise ModelError(
            f"model {name!r}: expected a guidance_scale ≥ 0, found {str(value)[:80]} in "
            f"{DEFAULTS_FILE}; correct it"
        )


_INPAINTING = ": an inpainting model, which zs2 does not run"


def _sample_size(unet: Mapping[str, Any]) -> tuple[int, int]:
    """Latent pixels (height, width). Checkpoints from before diffusers 0.9 may say 32 and mean 64,
    and their pipeline corrects it so."""
    size = unet["sample_size"]
    height, width = size if isinstance(size, list) else (size, size)
    saved_by = unet.get("_diffusers_version", "1.0").split(".")
    if [int(number) for number in saved_by[:2]] < [0, 9] and isinstance(size, int):
        height = width = max(size, 64)
    return height, width


def check_code(name: str, index: Mapping[str, Any]) -> None:
    """Refuse a pipeline with parts that are no class of diffusers or transformers.

    Raises:
        ModelError: code of the checkpoint's own.
    """
    named = {part: index[part][0] for part in weights.components(index)}
    own = [
        f"{part} from {library!r}" for part, library in named.items() if library not in LIBRARIES
    ]
    if isinstance(index.get("_class_name"), list):
        own.append(f"the pipeline from {index['_class_name'][0]!r}")
    if own:
        raise ModelError(
            f"model {name!r}: expected parts from diffusers and transformers, found {own[0]}: code of "
            "the checkpoint's own, which zs2 never runs; use a checkpoint with standard parts"
        )


def check_weights(name: str, where: str, selection: weights.Selection, is_trusted: bool) -> None:
    """Refuse a pipeline whose weights are missing, or pickled and not trusted.

    Raises:
        ModelError: with the part and the remedy.
    """
    if selection.missing:
        raise ModelError(
            f"model {name!r}: expected .safetensors weights in {where}/{selection.missing[0]}, found "
            "no weights; save the pipeline with save_pretrained(folder, safe_serialization=True)"
        )
    if selection.pickled and not is_trusted:
        part, _, file = selection.pickled[0].rpartition("/")
        raise ModelError(
            f"model {name!r}: expected .safetensors weights in {where}/{part}, found pickled weights "
            f"{file}, which can run code; save the pipeline with save_pretrained(folder, "
            "safe_serialization=True), or name the model as trusted (--trust-pickle, or "
            "trusted= in Python) if you know where it comes from"
        )


def own_defaults(name: str, path: Path) -> dict[str, Any]:
    """What a model folder's zs2.json says; nothing where there is none.

    Raises:
        ModelError: no JSON, or unknown names.
    """
    if not path.is_file():
        return {}
    values = read_json(name, path)
    known = [f.name for f in fields(ModelDefaults)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ModelError(
            f"model {name!r}: expected {', '.join(known)} in {path}, found {', '.join(unknown)}; "
            "remove it"
        )
    if "num_inference_steps" in values:
        _check_sizes(name, num_inference_steps=(values["num_inference_steps"], 1, MAX_STEPS))
    sides = {side: values[side] for side in ("height", "width") if values.get(side) is not None}
    _check_sizes(name, **{side: (value, 8, MAX_SIDE) for side, value in sides.items()})
    _check_guidance(name, values.get("guidance_scale", 1.0))
    return values


def read_json(name: str, path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ModelError: none there.
    """
    try:
        content = json.loads(weights.read_text(path))
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}, no object")
        return content
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"model {name!r}: expected readable JSON in {path}, found {error}; "
            "copy or save the model again"
        ) from error


def load(info: ModelInfo, dtype: torch.dtype, kwargs: Mapping[str, Any]) -> Any:
    """Load a described folder's or repository's pipeline, on the CPU.

    Raises:
        ModelError: files are missing or not whole, or of several models.
    """
    import diffusers
    import torch

    given = [part for part in weights.WEIGHTED if part in kwargs]
    half = dtype == torch.float16
    if info.revision is None:
        folder = Path(info.location)
        selection = _selection(info, folder, weights.names_in(folder), half, given)
    else:
        from zs2.checkpoints import hub

        repository = hub.Repository(info.location, info.revision, info.name)
        index = hub.fetch(repository, CONFIGS, quiet=True)
        selection = _selection(info, index, hub.file_names(repository), half, given)
        folder = hub.fetch(repository, (*selection.configuration, *selection.weights))
    counts = parts.check_headers(info.name, folder, selection)
    pipe = getattr(diffusers, info.pipeline).from_pretrained(
        folder,
        dtype=dtype,
        variant=selection.variant,
        use_safetensors=None if selection.pickled else True,
        trust_remote_code=False,
        local_files_only=True,
        **kwargs,
    )
    parts.check_loaded(info.name, info.location, pipe, counts)
    return pipe


def _selection(
    info: ModelInfo, folder: Path, names: Collection[str], half: bool, given: Collection[str]
) -> weights.Selection:
    index = read_json(info.name, folder / "model_index.json")
    parts.check_files(info.name, info.location, index, names, without=given)
    selection = weights.select(index, names, half=half, without=given)
    check_weights(info.name, info.location, selection, info.trusted)
    return selection
