"""Models that make frames of frames, by name: in-between frames and larger ones. Described without torch.

`model:FILE` puts frames in between, a TorchScript or ONNX file that takes (frame0, frame1, t); `mini-sr`,
`diffusers:MODEL` and `spandrel:FILE` enlarge. `zs2.interpolator` and `zs2.upscaler` load them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from zs2.models import BUNDLED, ModelError, names_model

INTERPOLATORS = {".pt": "torchscript", ".torchscript": "torchscript", ".onnx": "onnx"}
# The upscaling pipelines of diffusers, each with its scale.
UPSCALERS = {"StableDiffusionUpscalePipeline": 4, "StableDiffusionLatentUpscalePipeline": 2}
MINI_SR = "mini-sr"
_BUNDLED_SR = BUNDLED / "zs2-mini-sr"
_SPANDREL = (".safetensors", ".pth", ".pt", ".ckpt")


class PostModelError(RuntimeError):
    """A model that makes frames of frames and failed at it; the message says what to do."""


@dataclass(frozen=True)
class PostModel:
    """A model that makes frames of frames, known before it is loaded.

    Attributes:
        kind: `torchscript` or `onnx` (in-between frames); `mini-sr`, `diffusers` or `spandrel`.
        name: as the user wrote it.
        location: a local file or folder, or a hub id.
        revision: the hub's commit; None when local (its content is its revision).
        pipeline: of diffusers, the class.
        scale: the one it enlarges by, where that is known.
        trusted: it may carry code.
    """

    kind: str
    name: str
    location: str
    revision: str | None = None
    pipeline: str = ""
    scale: int | None = None
    trusted: bool = False

    @property
    def is_local(self) -> bool:
        """Whether `location` is on this machine and no hub id."""
        return self.revision is None


def describe_interpolator(name: str, *, trusted: Sequence[str] = ()) -> PostModel:
    """Find the file of a `temporal_sr`; nothing is loaded.

    Args:
        name: `model:FILE` with a .pt or .torchscript file, which must be trusted, or an .onnx file.
        trusted: files that may carry code (`--trust-pickle` on the command line).

    Raises:
        ModelError: no such file, one of another kind, one that is not trusted, or onnxruntime is missing.
    """
    file = name.removeprefix("model:")
    path = Path(file).expanduser()
    kind = INTERPOLATORS.get(path.suffix.lower())
    if kind is None or not path.is_file():
        found = "no such file" if kind else f"a name that ends with {path.suffix or 'neither'}"
        raise _error(
            "temporal_sr",
            name,
            f"model: and a {' or '.join(INTERPOLATORS)} file; found {found}",
            "check the name",
        )
    is_trusted = names_model(file, trusted)
    if kind == "torchscript" and not is_trusted:
        raise _error(
            "temporal_sr",
            name,
            "a model without code, such as .onnx; found TorchScript, which carries code",
            f"trust this one (--trust-pickle {file} on the command line, trusted= in Python) if you "
            "know where it comes from, or export it as ONNX",
        )
    if kind == "onnx" and find_spec("onnxruntime") is None:
        raise _error(
            "temporal_sr",
            name,
            "onnxruntime to run it; found it is not installed",
            "pip install 'zs2[onnx]'",
        )
    return PostModel(kind, name, str(path), trusted=is_trusted)


def describe_upscaler(name: str, *, trusted: Sequence[str] = ()) -> PostModel:
    """Find the model of a `spatial_sr`; no weights are loaded.

    Args:
        name: `mini-sr`, `diffusers:` and a hub id or folder of an upscaling pipeline, or `spandrel:` and
            a file that spandrel knows.
        trusted: files and models whose weights may be pickles (`--trust-pickle` on the command line).

    Raises:
        ModelError: no such model, one of another kind, pickles that are not trusted, spandrel is missing,
            or a hub that does not answer.
    """
    kind, _, model = name.partition(":")
    if name == MINI_SR:
        return PostModel(MINI_SR, name, str(_BUNDLED_SR), trusted=True)
    if kind == "diffusers" and model:
        return _describe_pipeline(name, model, trusted)
    if kind == "spandrel" and model:
        return _describe_spandrel(name, model, trusted)
    raise _error(
        "spatial_sr",
        name,
        f"{MINI_SR}, lanczos, diffusers:MODEL or spandrel:FILE; found none of them",
        "check the name",
    )


def _describe_spandrel(name: str, file: str, trusted: Sequence[str]) -> PostModel:
    path = Path(file).expanduser()
    if path.suffix.lower() not in _SPANDREL or not path.is_file():
        expected = f"spandrel: and a {' or '.join(_SPANDREL)} file; found no such file"
        raise _error("spatial_sr", name, expected, "check the name")
    is_trusted = names_model(file, trusted)
    if path.suffix.lower() != ".safetensors" and not is_trusted:
        raise _error(
            "spatial_sr",
            name,
            f".safetensors weights; found pickled weights {path.name}, which can run code",
            f"name a .safetensors file, or trust this one (--trust-pickle {file} on the command line, "
            "trusted= in Python) if you know where it comes from",
        )
    for library in ("torchvision", "spandrel"):
        if find_spec(library) is None:
            raise _error(
                "spatial_sr",
                name,
                f"spandrel and a torchvision that fits this torch; found no {library}",
                "pip install 'zs2[spandrel]', or use mini-sr",
            )
    return PostModel("spandrel", name, str(path), trusted=is_trusted)


def _describe_pipeline(name: str, model: str, trusted: Sequence[str]) -> PostModel:
    from zs2.checkpoints import folders, parts, weights  # late: most rows need none

    path = Path(model).expanduser()
    if path.is_dir():
        folder, names, location, revision = path, weights.names_in(path), str(path), None
    elif (
        path.is_absolute()
        or model.startswith((".", "~"))
        or model.partition("@")[0].count("/") != 1
    ):
        expected = "diffusers: and a hub id or a folder; found neither"
        raise _error("spatial_sr", name, expected, "check the name")
    else:
        from zs2.checkpoints import hub

        repository = hub.find(model)
        folder = hub.fetch(repository, ("model_index.json",), quiet=True)
        names, location = hub.file_names(repository), repository.id
        revision = repository.commit
    index = folders.read_json(name, folder / "model_index.json")
    folders.check_code(name, index)
    pipeline = str(index.get("_class_name"))
    if pipeline not in UPSCALERS:
        raise _error(
            "spatial_sr",
            name,
            f"a {' or '.join(UPSCALERS)}; found a {pipeline}",
            "name such a model, or use mini-sr",
        )
    is_trusted = names_model(model, trusted)
    without = ("safety_checker",)  # what the sampler shows has been checked
    parts.check_files(name, location, index, names, without=without)
    selection = weights.select(index, names, half=False, without=without)
    folders.check_weights(name, location, selection, is_trusted)
    scale = UPSCALERS[pipeline]
    return PostModel("diffusers", name, location, revision, pipeline, scale, is_trusted)


def _error(column: str, name: str, expected: str, remedy: str) -> ModelError:
    return ModelError(f"{column} {name!r}: expected {expected}; {remedy}")
