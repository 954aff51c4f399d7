"""Checkpoints by name: what a model is (without torch), and how its pipeline is loaded."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BUNDLED = Path(__file__).parent / "mini"
DEFAULTS_FILE = "zs2.json"  # a model folder may carry its own steps, guidance and size
PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionInstructPix2PixPipeline",
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


class ModelError(ValueError):
    """A model that cannot be used; the message says what was expected, found, and the remedy."""


@dataclass(frozen=True)
class ModelDefaults:
    """What a checkpoint prefers where the user says nothing (diffusers' defaults otherwise)."""

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a checkpoint before it is loaded.

    Attributes:
        name: as the user wrote it.
        location: a local folder, or a hub id.
        revision: the hub's commit; None for a local folder (its weights are its revision).
        height, width: pixels at which it samples by default.
        latent_channels, scale_factor: latents are (latent_channels, height/scale, width/scale).
        pipeline: the diffusers class, one of PIPELINES.
    """

    name: str
    location: str
    revision: str | None
    height: int
    width: int
    latent_channels: int
    scale_factor: int
    defaults: ModelDefaults = field(default_factory=ModelDefaults)
    pipeline: str = "StableDiffusionPipeline"

    @property
    def is_local(self) -> bool:
        return self.revision is None

    @property
    def edits(self) -> bool:
        """Whether it changes a source clip by instruction, and so needs one."""
        return self.pipeline == "StableDiffusionInstructPix2PixPipeline"


def bundled_models() -> list[str]:
    """Names of the models that come with zs2."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/model_index.json"))


def describe(model: str) -> ModelInfo:
    """Find a model and read its configuration; no weights are loaded and torch is not imported.

    Args:
        model: a bundled name, a local folder, or a hub id with optional `@revision`.

    Raises:
        ModelError: unknown name, a folder that is no usable pipeline, a hub that does not answer.
    """
    if model in bundled_models():
        return _describe_folder(model, BUNDLED / model)
    path = Path(model).expanduser()
    if model and path.is_dir():
        return _describe_folder(model, path)
    if model.endswith(".safetensors"):
        raise ModelError(
            f"model {model!r}: single-file checkpoints are not read yet; convert it once to a "
            "folder with diffusers (from_single_file, then save_pretrained) and name the folder"
        )
    if path.is_absolute() or model.startswith((".", "~")) or not _HUB_ID.fullmatch(model):
        raise ModelError(
            f"model {model!r}: expected a bundled name ({', '.join(bundled_models())}), a local "
            "folder in diffusers' layout, or a hub id such as 'owner/name'; found none of them"
        )
    return _describe_hub(model)


def _describe_folder(name: str, folder: Path) -> ModelInfo:
    _check_weights(name, folder)
    configs = {part: _read_json(name, folder / part) for part in _CONFIGS}
    return _info(name, str(folder), None, configs, _own_defaults(name, folder / DEFAULTS_FILE))


_CONFIGS = ("model_index.json", "unet/config.json", "vae/config.json")


def _describe_hub(model: str) -> ModelInfo:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    # Its lines of retries say less than the error below.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    repo, _, revision = model.partition("@")
    try:
        paths = [Path(hf_hub_download(repo, part, revision=revision or None)) for part in _CONFIGS]
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model {model!r}: not bundled, no such folder, and the hub gave no such model "
            f"({type(error).__name__}); check the name, the network, HF_ENDPOINT and HF_TOKEN, "
            "or name a local folder"
        ) from error
    commit = paths[0].parent.name  # …/snapshots/<commit>/model_index.json
    configs = {part: _read_json(model, path) for part, path in zip(_CONFIGS, paths, strict=True)}
    return _info(model, repo, commit, configs, ModelDefaults())


def _info(
    name: str,
    location: str,
    revision: str | None,
    configs: dict[str, dict[str, Any]],
    defaults: ModelDefaults,
) -> ModelInfo:
    index, unet, vae = (configs[part] for part in _CONFIGS)
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise ModelError(
            f"model {name!r}: expected a {' or '.join(PIPELINES)}, found {pipeline}; "
            "other families are not supported yet"
        )
    scale = 2 ** (len(vae["block_out_channels"]) - 1)
    size = unet["sample_size"]
    height, width = size if isinstance(size, list) else (size, size)
    return ModelInfo(
        name,
        location,
        revision,
        height=defaults.height or height * scale,
        width=defaults.width or width * scale,
        latent_channels=vae["latent_channels"],
        scale_factor=scale,
        defaults=defaults,
        pipeline=pipeline,
    )


def _check_weights(name: str, folder: Path) -> None:
    if not (folder / "model_index.json").is_file():
        raise ModelError(
            f"model {name!r}: expected a diffusers pipeline folder, found no model_index.json in "
            f"{folder}; save one with pipe.save_pretrained(folder)"
        )
    for part in ("unet", "vae", "text_encoder"):
        if any((folder / part).glob("*.safetensors")):
            continue
        pickled = sorted(path.name for path in (folder / part).glob("*.bin"))
        found = f"pickled weights {pickled[0]}, which can run code" if pickled else "no weights"
        raise ModelError(
            f"model {name!r}: expected .safetensors weights in {folder / part}, found {found}; "
            "save the pipeline with save_pretrained(folder, safe_serialization=True)"
        )


def _own_defaults(name: str, path: Path) -> ModelDefaults:
    if not path.is_file():
        return ModelDefaults()
    values = _read_json(name, path)
    known = [f.name for f in fields(ModelDefaults)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ModelError(
            f"model {name!r}: expected {', '.join(known)} in {path}, found {', '.join(unknown)}; "
            "remove it"
        )
    return ModelDefaults(**values)


def _read_json(name: str, path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {name!r}: expected readable JSON in {path}, found {error}; "
            "copy or save the model again"
        ) from error


def load_pipeline(
    info: ModelInfo,
    *,
    torch_dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    **kwargs: Any,
) -> Any:
    """Load a model's diffusers pipeline: safetensors only, no remote code.

    Args:
        torch_dtype: default float16 on a GPU, float32 on the CPU.
        device: default the GPU when there is one.
        **kwargs: for the pipeline's own `from_pretrained`.

    Raises:
        ModelError: when the weights cannot be loaded.
    """
    import torch
    from diffusers import DiffusionPipeline

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = torch_dtype or (torch.float32 if device.type == "cpu" else torch.float16)
    try:
        pipe = DiffusionPipeline.from_pretrained(
            info.location,
            revision=info.revision,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=info.is_local,
            **kwargs,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"model {info.name!r}: its weights cannot be loaded from {info.location}: {error}"
        ) from error
    return pipe.to(device)
