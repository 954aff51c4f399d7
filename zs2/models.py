"""Checkpoints by name: what a model is (without torch), and how its pipeline is loaded."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BUNDLED = Path(__file__).parent / "mini"
SINGLE_FILES = (".safetensors", ".ckpt")
DTYPES = ("float16", "bfloat16", "float32")
# Arguments of diffusers' `from_pretrained` that `load_pipeline` passes on, besides the pipeline's parts;
# where its files come from is `describe`'s.
OPTIONS = ("disable_mmap", "low_cpu_mem_usage", "quantization_config")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


class ModelError(ValueError):
    """A model that cannot be used; the message says what was expected, found, and the remedy."""


@dataclass(frozen=True)
class ModelDefaults:
    """What a checkpoint prefers where the user says nothing (its pipeline's defaults otherwise)."""

    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    height: int | None = None
    width: int | None = None


# The supported diffusers classes, each with what it does where the user says nothing.
PIPELINE_DEFAULTS = {
    "StableDiffusionPipeline": ModelDefaults(),
    "StableDiffusionXLPipeline": ModelDefaults(guidance_scale=5.0),
    "StableDiffusionInstructPix2PixPipeline": ModelDefaults(num_inference_steps=100),
}
PIPELINES = tuple(PIPELINE_DEFAULTS)


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a checkpoint before it is loaded.

    Attributes:
        name: as the user wrote it.
        location: a local folder or file, or a hub id.
        revision: the hub's commit; None for a local model (its weights are its revision).
        height, width: pixels at which it samples by default.
        latent_channels, scale_factor: latents are (latent_channels, height/scale, width/scale).
        pipeline: the diffusers class, one of PIPELINES.
        trusted: its weights may be pickles.
        configuration: of a single file: where its JSON and tokenizer files are, a folder or
            `hub id@commit`. Its weights and this together are its revision.
        configuration_hash: over the names and contents of those files.
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
    trusted: bool = False
    configuration: str | None = None
    configuration_hash: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether `location` is on this machine and no hub id."""
        return self.revision is None

    @property
    def edits(self) -> bool:
        """Whether it changes a source clip by instruction, and so needs one."""
        return self.pipeline == "StableDiffusionInstructPix2PixPipeline"


@dataclass(frozen=True)
class Memory:
    """What a model needs beside its weights, in bytes; see `zs2.memory` for what is counted.

    Attributes:
        unet: while the UNet runs a segment.
        decode: while the autoencoder decodes a frame; for a model that edits, encodes one if that is
            more.
    """

    unet: int
    decode: int

    @property
    def peak(self) -> int:
        """The larger one: they come one after the other."""
        return max(self.unet, self.decode)


def bundled_models() -> list[str]:
    """Names of the models that come with zs2."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/model_index.json"))


def describe(model: str, *, trusted: Sequence[str] = ()) -> ModelInfo:
    """Find a model and read its configuration; no weights are loaded and torch is not imported
    (except to look into a trusted `.ckpt`).

    Args:
        model: a bundled name, a local folder, a `.safetensors` file, or a hub id with optional
            `@revision` (branch, tag or commit).
        trusted: models whose weights may be pickles, which can run code: hub ids (of any revision,
            or with the one that is meant), folders, files (`--trust-pickle` on the command line).

    Raises:
        ModelError: unknown name, no usable pipeline, pickles that are not trusted, code of the
            checkpoint's own, a hub that does not answer.
    """
    from zs2.checkpoints import folders, single_file  # late: they build on this module

    if model in bundled_models():
        return folders.describe(model, BUNDLED / model)
    path = Path(model).expanduser()
    is_trusted = names_model(model, trusted)
    if model and path.is_dir():
        return folders.describe(model, path, is_trusted=is_trusted)
    if path.suffix in SINGLE_FILES and path.is_file():
        inside = names_model(str(path.parent), trusted)
        return single_file.describe(model, path, is_trusted=is_trusted or inside)
    is_path = path.is_absolute() or model.startswith((".", "~")) or path.suffix in SINGLE_FILES
    if is_path or not _HUB_ID.fullmatch(model):
        raise ModelError(
            f"model {model!r}: expected a bundled name ({', '.join(bundled_models())}), a local "
            "folder in diffusers' layout, a .safetensors file, or a hub id such as 'owner/name'; "
            "found none of them"
        )
    return _describe_hub(model, is_trusted)


def parameters(info: ModelInfo) -> int | None:
    """How many numbers a described model's weights hold, counted from the headers of its files.

    Returns:
        None where they are pickled, or not on this machine yet.

    Raises:
        ModelError: a file that is not whole.
    """
    from zs2.checkpoints import folders, hub, parts, single_file, weights

    try:
        if info.configuration is not None:
            return single_file.parameters(Path(info.location))
        if info.revision is None:
            folder = Path(info.location)
            names = weights.names_in(folder)
        else:
            repository = hub.Repository(info.location, info.revision)
            folder, names = hub.folder_of(repository), hub.file_names(repository)
        index = folders.read_json(info.name, folder / "model_index.json")
        return weights.parameters(folder, names, index)
    except (OSError, ValueError) as error:
        raise parts.not_whole(info.name, error) from error


def configurations(info: ModelInfo) -> dict[str, dict[str, Any]]:
    """The JSON of a described model's pipeline, UNet and autoencoder, by file name; torch is not imported.

    Raises:
        ModelError: a file that is missing or no JSON, or of which the hub has to be asked in vain.
    """
    from zs2.checkpoints import folders, hub, single_file

    if info.configuration is not None:
        folder = single_file.configuration_folder(info.configuration)
    elif info.revision is None:
        folder = Path(info.location)
    else:
        folder = hub.folder_of(hub.Repository(info.location, info.revision))
    return folders.read_configs(info.name, folder)


def names_model(model: str, listed: Iterable[str]) -> bool:
    """Whether a list of hub ids, folders and files has this model: the id with any revision, where
    the list says none; a path however it is written."""
    if isinstance(listed, str):
        raise TypeError(
            f"trusted: expected a list of names, found the text {listed!r}; write [{listed!r}]"
        )
    path = Path(model).expanduser()
    names = {model, model.partition("@")[0]}
    return any(
        Path(entry).expanduser().resolve() == path.resolve() if path.exists() else entry in names
        for entry in listed
    )


def _describe_hub(model: str, is_trusted: bool) -> ModelInfo:
    from zs2.checkpoints import folders, hub

    repository = hub.find(model)
    folder = hub.fetch(repository, folders.CONFIGS, quiet=True)
    return folders.describe(
        model,
        folder,
        location=repository.id,
        revision=repository.commit,
        names=hub.file_names(repository),
        is_trusted=is_trusted,
    )


def load_pipeline(
    info: ModelInfo,
    *,
    torch_dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    safety_checker: Any = True,
    **kwargs: Any,
) -> Any:
    """Load a model's diffusers pipeline: safetensors (pickles where `describe` was told to trust
    them, by torch's restricted unpickler), no remote code. From a hub only what is needed comes.

    Args:
        torch_dtype: or the name of one; default float16 on a GPU, float32 on the CPU.
        device: default the GPU when there is one.
        safety_checker: True honours the checkpoint's own, if it has one; False or None does
            without; else a checker to use. Stable Diffusion XL has none.
        **kwargs: for the pipeline's own `from_pretrained`: its parts, and OPTIONS.

    Raises:
        ModelError: when the weights cannot be had or loaded; a device that is not there, a dtype or
            an argument that nothing takes.
    """
    import torch

    from zs2.checkpoints import folders, parts, single_file
    from zs2.checkpoints.quiet import brief, part_of

    where, dtype = placement(torch_dtype, device)
    _check_arguments(info, kwargs)
    if safety_checker is not True and info.pipeline != "StableDiffusionXLPipeline":
        kwargs = {
            "safety_checker": safety_checker or None,
            "requires_safety_checker": bool(safety_checker),
            **kwargs,
        }
    try:
        if info.configuration is not None:
            pipe = single_file.load(info, info.configuration, dtype, kwargs)
            parts.check_loaded(info.name, info.configuration, pipe)
        else:
            pipe = folders.load(info, dtype, kwargs)
    except (ModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except pickle.UnpicklingError as error:  # its own message advises to read without restraint
        raise ModelError(
            f"model {info.name!r}: expected tensors only in the pickles of {info.location}, found "
            "more; get the model as safetensors"
        ) from error
    except Exception as error:  # a folder put together wrongly makes the libraries raise anything
        part = part_of(error) or "pipeline"
        raise ModelError(
            f"model {info.name!r}: expected a {part} that loads from {info.location}, found that it "
            f"cannot be loaded: {brief(error)}; check this part, or copy or save the model again"
        ) from error
    return pipe.to(where)


def placement(
    torch_dtype: torch.dtype | str | None, device: str | torch.device | None
) -> tuple[torch.device, torch.dtype]:
    """Where a model goes, and in which precision: the GPU when there is one, else the CPU; float16
    there, float32 here.

    Args:
        torch_dtype: one of torch's floating-point types, or a name of DTYPES.

    Raises:
        ModelError: a device that is not there, or another dtype.
    """
    import torch

    wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(wanted)
        torch.empty(0, device=found)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        here = ", ".join(f"'cuda:{i}'" for i in range(torch.cuda.device_count()))
        raise ModelError(
            f"device {str(wanted)!r}: expected one that this machine's torch can use, which are "
            f"'cpu'{here and ', '}{here}; found that it cannot ({str(error).splitlines()[0][:100]}); "
            "leave the device out, or install torch for it"
        ) from error
    dtype = torch_dtype or (torch.float32 if found.type == "cpu" else torch.float16)
    if isinstance(dtype, str) and dtype in DTYPES:
        dtype = getattr(torch, dtype)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ModelError(
            f"torch_dtype: expected {', '.join(DTYPES)} (by name, or torch's), found {torch_dtype!r}"
        )
    return found, dtype


def _check_arguments(info: ModelInfo, kwargs: Mapping[str, Any]) -> None:
    """Refuse what neither the pipeline nor its loader takes; diffusers would only log it."""
    import diffusers

    parts = set(signature(getattr(diffusers, info.pipeline)).parameters)
    unknown = sorted(set(kwargs) - parts - set(OPTIONS))
    if unknown:
        raise ModelError(
            f"model {info.name!r}: expected no argument {unknown[0]!r}; {info.pipeline} takes its parts "
            f"({', '.join(sorted(parts))}) and {', '.join(OPTIONS)}; check the name"
        )
