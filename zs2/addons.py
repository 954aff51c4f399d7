"""What is added to a checkpoint, by name: LoRAs, IP-Adapters, ControlNets, depth models; no torch.

Each is described before it is loaded, from its name, its configuration and the headers of its files;
`use_loras`, `use_ip_adapter` and `load_controlnet` then put it to work. Weights are safetensors; pickled
ones are refused unless they are named as trusted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from zs2.checkpoints.weights import names_in, read_header, read_text
from zs2.models import ModelError, names_model

if TYPE_CHECKING:
    from zs2.checkpoints.controlnet_file import load_controlnet
    from zs2.checkpoints.ip_adapter import use_ip_adapter
    from zs2.checkpoints.lora import use_loras

__all__ = [
    "AddOn",
    "describe_addon",
    "fetch_addon",
    "load_controlnet",
    "use_ip_adapter",
    "use_loras",
]

KINDS = ("controlnet", "lora", "ip_adapter", "depth")
FORMS = {
    "lora": "'owner/name', 'owner/name@revision/path/file.safetensors', a local .safetensors file or "
    "a folder, each optionally with ':weight'",
    "ip_adapter": "'owner/name/folder/file.safetensors' (optionally 'owner/name@revision/…') or a "
    "local .safetensors file",
    "controlnet": "a hub id 'owner/name' (optionally '@revision' and '/path/file.safetensors'), a local "
    "folder, or a local .safetensors file",
    "depth": "a hub id 'owner/name' (optionally '@revision') or a local folder",
}
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_HUB_FILE = re.compile(
    r"(?P<repository>[\w.-]+/[\w.-]+(@(refs/pr/\d+|[^/@]+))?)"
    r"/(?P<file>[^@]+\.(safetensors|bin|pt|pth|ckpt))"
)
# Of the kinds that are a folder: what its weights are called, what it is, and what else is needed.
_STEMS = {"controlnet": "diffusion_pytorch_model", "depth": "model"}
_CLASSES = {"controlnet": "ControlNetModel", "depth": "…ForDepthEstimation"}
_CONFIGURATION = {
    "controlnet": ("config.json",),
    "depth": ("config.json", "preprocessor_config.json"),
}
_TELLTALES = {"lora": "lora", "controlnet": r"controlnet_cond_embedding|input_hint_block"}
_FORMATS = (".safetensors", *PICKLED)
_LORA_FILE = "pytorch_lora_weights.safetensors"  # what diffusers and its training scripts write
_HOMES = {
    "load_controlnet": "zs2.checkpoints.controlnet_file",
    "use_ip_adapter": "zs2.checkpoints.ip_adapter",
    "use_loras": "zs2.checkpoints.lora",
}


def __getattr__(name: str) -> object:
    # Lazy, because a plan describes add-ons without torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True)
class AddOn:
    """Something added to a checkpoint, known before it is loaded.

    Attributes:
        kind: one of `KINDS`.
        name: as the user wrote it, less the weight.
        location: a local file or folder, or a hub id.
        revision: the hub's commit; None when local (its weights are its revision).
        file: its weights inside the location; None where the location is the file.
        weight: a LoRA's strength.
    """

    kind: str
    name: str
    location: str
    revision: str | None
    file: str | None
    weight: float = 1.0

    @property
    def is_local(self) -> bool:
        """Whether `location` is on this machine and no hub id."""
        return self.revision is None


def describe_addon(kind: str, name: str, *, trusted: Sequence[str] = ()) -> AddOn:
    """Find an add-on and check what can be known of it; no weights are loaded, torch is not imported.

    Args:
        kind: `controlnet`, `lora`, `ip_adapter` or `depth` (a transformers depth-estimation model).
        name: a hub id, folder or file, in one of the kind's `FORMS`.
        trusted: add-ons whose weights may be pickles, which can run code: hub ids, folders, files.

    Raises:
        ModelError: no such add-on, a thing of another kind, or pickled weights that are not trusted.
    """
    bare, weight = _split_weight(name) if kind == "lora" else (name, 1.0)
    path = Path(bare).expanduser()
    if bare and path.is_dir():
        file = _choose(kind, bare, path, names_in(path))
        is_trusted = names_model(bare, trusted) or names_model(str(path / file), trusted)
        _check_format(kind, bare, file, is_trusted)
        _check_header(kind, bare, path / file)
        return AddOn(kind, bare, str(path), None, file, weight)
    if bare and path.is_file() and kind != "depth":
        is_trusted = names_model(bare, trusted) or names_model(str(path.parent), trusted)
        _check_format(kind, bare, path.name, is_trusted)
        _check_header(kind, bare, path)
        if kind == "controlnet" and is_as_saved(path):
            return AddOn(kind, bare, str(path.parent), None, path.name)
        return AddOn(kind, bare, str(path), None, None, weight)
    hub_file = _HUB_FILE.fullmatch(bare) if kind != "depth" else None
    is_path = path.is_absolute() or bare.startswith((".", "~")) or path.suffix in _FORMATS
    if not hub_file and (is_path or not _HUB_ID.fullmatch(bare)):
        raise _error(kind, bare, f"{FORMS[kind]}; found none of them", "check the name")
    repository, file = hub_file.group("repository", "file") if hub_file else (bare, None)
    return replace(_describe_hub(kind, bare, repository, file, trusted), weight=weight)


def _describe_hub(
    kind: str, name: str, repository: str, file: str | None, trusted: Sequence[str]
) -> AddOn:
    from zs2.checkpoints import hub  # late: most runs add nothing from a hub

    found = hub.find(repository)
    folder = hub.fetch(found, _beside(kind, file or ""))
    names = hub.file_names(found)
    file = file or _choose(kind, name, folder, names)
    if file not in names:
        raise _error(
            kind, name, f"a file of {repository}; found {_listed(names)}", "name one of these"
        )
    _check_format(kind, name, file, names_model(repository, trusted))
    return AddOn(kind, name, found.id, found.commit, file)


def fetch_addon(addon: AddOn, *beside: str) -> Path:
    """An add-on's weights file on this machine, downloaded where the cache has it not; the
    configuration of a ControlNet or depth model lies beside it.

    Args:
        beside: further files of its repository that are wanted, where it has them.

    Raises:
        ModelError: a hub that does not answer, or a file that is no such add-on.
    """
    if addon.revision is None:
        return Path(addon.location, addon.file or "")
    from zs2.checkpoints import hub

    file = addon.file or ""
    wanted = (file, *_beside(addon.kind, file), *beside)
    path = hub.fetch(hub.Repository(addon.location, addon.revision), wanted) / file
    _check_header(addon.kind, addon.name, path)
    return path


def is_as_saved(controlnet: Path) -> bool:
    """Whether a ControlNet's file lies as diffusers saves it, its configuration beside it."""
    named = controlnet.name.startswith(_STEMS["controlnet"])
    return named and (controlnet.parent / "config.json").is_file()


def identity_of(addon: AddOn) -> str:
    """16 hex digits, the same for the same weights: a local file that was written again is another
    add-on. The strength does not count.

    Raises:
        ModelError: a local file that is gone.
    """
    identity = [addon.location, addon.revision, addon.file]
    if addon.is_local:
        try:
            state = fetch_addon(addon).stat()
        except OSError as error:
            raise _error(
                addon.kind, addon.name, f"its file as before; found {error}", "put it back"
            ) from error
        identity += [str(state.st_mtime_ns), str(state.st_size)]
    return sha256(json.dumps(identity).encode()).hexdigest()[:16]


def _beside(kind: str, file: str) -> list[str]:
    folder = PurePosixPath(file).parent
    return [str(folder / name) for name in _CONFIGURATION.get(kind, ())]


def _split_weight(name: str) -> tuple[str, float]:
    bare, colon, text = name.rpartition(":")
    if not colon or Path(name).expanduser().exists():  # a file's own name may have a colon
        return name, 1.0
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise _error(
            "lora", name, f"a number after ':'; found {text!r}", f"write for instance {bare}:0.8"
        )
    return bare, weight


def _choose(kind: str, name: str, folder: Path, names: Sequence[str]) -> str:
    """The weights that a folder or repository means, of the files it has."""
    if kind == "ip_adapter":
        raise _error(kind, name, f"a file; found {_listed(names)}", "name one of these")
    if kind == "lora":
        return _choose_lora(name, names)
    _check_class(kind, name, folder / "config.json")
    stem = _STEMS[kind]
    variants = [f"{stem}.safetensors", f"{stem}.fp16.safetensors"]
    pickles = [f"{stem}.bin", "pytorch_model.bin"]
    for file in (*variants, *pickles):
        if file in names:
            return file
    raise _error(
        kind, name, f"its weights as {variants[0]}; found {_listed(names)}", "save it again"
    )


def _choose_lora(name: str, names: Sequence[str]) -> str:
    for suffix in _FORMATS:
        files = [file for file in names if file.endswith(suffix) and "/" not in file]
        if len(files) == 1 or _LORA_FILE in files:
            return _LORA_FILE if _LORA_FILE in files else files[0]
        if files:
            break
    found = _listed(names)
    raise _error("lora", name, f"one .safetensors file; found {found}", "name the file itself")


def _check_class(kind: str, name: str, path: Path) -> None:
    """That a folder's configuration is that of such a model."""
    wanted = _CLASSES[kind]
    try:
        config = json.loads(read_text(path))
        found = str(config.get("_class_name") or (config.get("architectures") or ["no class"])[0])
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise _error(
            kind, name, f"the config.json of a {wanted}; found {error}", f"name a {kind} folder"
        ) from error
    if not found.endswith(wanted.removeprefix("…")):
        raise _error(
            kind, name, f"a {wanted}; found a {found}", "name a model of that kind, or another kind"
        )


def _check_format(kind: str, name: str, file: str, is_trusted: bool) -> None:
    if file.endswith(PICKLED) and not is_trusted:
        raise _error(
            kind,
            name,
            f".safetensors weights; found pickled weights {file}, which can run code",
            "name a .safetensors file, or trust this one (--trust-pickle on the command line, trusted= "
            "in Python) if you know where it comes from",
        )
    if not file.endswith(_FORMATS):
        raise _error(kind, name, f".safetensors weights; found {file}", "name a .safetensors file")


def _check_header(kind: str, name: str, path: Path) -> None:
    """That a safetensors file holds such an add-on, by the names of its tensors."""
    if path.suffix in PICKLED:
        return
    try:
        tensors = read_header(path).shapes
    except (OSError, ValueError) as error:
        raise _error(
            kind, name, f"a readable .safetensors file; found {error}", "copy or save it again"
        ) from error
    if kind == "lora" and any("dora_scale" in tensor for tensor in tensors):
        raise _error(
            kind,
            name,
            "a plain LoRA; found a DoRA, which diffusers cannot apply",
            "name another file",
        )
    if kind == "ip_adapter" and not _reads_pictures(tensors):
        faces = any("proj.0." in tensor or "perceiver" in tensor for tensor in tensors)
        found = "one that reads faces by another program" if faces else _listed(tensors)
        raise _error(
            kind,
            name,
            f"an IP-Adapter that reads a picture by CLIP (tensors image_proj.… and ip_adapter.…); "
            f"found {found}",
            "name another file",
        )
    wanted = _TELLTALES.get(kind)
    if wanted and not any(re.search(wanted, tensor) for tensor in tensors):
        raise _error(
            kind,
            name,
            f"tensors named like {wanted}; found {_listed(tensors)}",
            "name another file",
        )


def _reads_pictures(tensors: Collection[str]) -> bool:
    """Whether these are an IP-Adapter's: plain, plus or full-face (FaceID has neither)."""
    projections = ("image_proj.proj.weight", "image_proj.latents", "image_proj.proj.3.weight")
    return any(name in tensors for name in projections) and any(
        tensor.startswith("ip_adapter.") for tensor in tensors
    )


def _listed(names: Collection[str]) -> str:
    shown = sorted(names)[:5]
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "nothing"


def _error(kind: str, name: str, expected: str, remedy: str) -> ModelError:
    return ModelError(f"{kind} {name!r}: expected {expected}; {remedy}")
