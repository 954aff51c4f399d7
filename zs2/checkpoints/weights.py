"""Which files of a pipeline hold its weights, and what a safetensors header says of them: no torch."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The parts of the supported pipelines that have weights; the others are configuration.
WEIGHTED = ("unet", "vae", "text_encoder", "text_encoder_2", "image_encoder", "safety_checker")
HALF = "fp16"  # the variant that diffusers and the hub name so
_CONFIGURATION = (".json", ".txt", ".model")
_FILE = re.compile(
    r"(?P<stem>diffusion_pytorch_model|pytorch_model|model)"
    r"(?P<early>\.fp16)?(-\d+-of-\d+)?(?P<late>\.fp16)?\.(?P<format>safetensors|bin)"
)
_LARGEST_HEADER = 100_000_000  # bytes, as the format's own library has it
_LARGEST_TEXT = 64 * 2**20  # bytes; indexes of sharded weights have a few
_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}


@dataclass(frozen=True)
class Selection:
    """The files that one way of loading a pipeline needs.

    Attributes:
        configuration: JSON and tokenizer files.
        weights: weight files, each part once: one format, one variant.
        variant: `fp16`, or None: what to ask diffusers for.
        pickled: those of `weights` that are pickles.
        missing: parts without weights.
    """

    configuration: tuple[str, ...]
    weights: tuple[str, ...]
    variant: str | None
    pickled: tuple[str, ...]
    missing: tuple[str, ...]


def select(
    index: Mapping[str, Any], names: Collection[str], *, half: bool, without: Collection[str] = ()
) -> Selection:
    """Choose a pipeline's files: safetensors before pickles, the fp16 variant where `half`
    wants it or there is nothing else.

    Args:
        index: the content of model_index.json.
        names: files of the folder or repository, relative, with `/`.
        without: parts that will not be loaded.
    """
    parts = [part for part in components(index) if part not in without]
    found = {part: weights_of(part, index[part][0], names) for part in parts if part in WEIGHTED}
    has_half = any(HALF in variants for variants in found.values())
    only_half = any(set(variants) == {HALF} for variants in found.values())
    variant = HALF if only_half or (half and has_half) else None
    chosen: list[str] = []
    for variants in found.values():
        chosen += variants.get(variant) or variants.get(None, [])
    return Selection(
        configuration=tuple(
            name
            for name in names
            if name == "model_index.json"
            or (name.partition("/")[0] in parts and name.endswith(_CONFIGURATION))
        ),
        weights=tuple(chosen),
        variant=variant,
        pickled=tuple(name for name in chosen if name.endswith(".bin")),
        missing=tuple(part for part, variants in found.items() if not variants),
    )


def parameters(folder: Path, names: Collection[str], index: Mapping[str, Any]) -> int | None:
    """How many numbers a pipeline's weights hold, by the headers of its files.

    Args:
        names: the files that the pipeline has, whether in the folder or still on a hub.

    Returns:
        None where they are pickled, or not all in the folder.

    Raises:
        OSError, ValueError: a file that is no whole safetensors file.
    """
    for half in (False, True):
        selection = select(index, names, half=half)
        files = [folder / name for name in selection.weights]
        if not selection.pickled and all(file.is_file() for file in files):
            return sum(read_named(folder, name).parameters() for name in selection.weights)
    return None


def components(index: Mapping[str, Any]) -> list[str]:
    """The parts that a model_index.json names and that are there (an absent one is [null, null])."""
    return [
        part
        for part, value in index.items()
        if isinstance(value, list) and not part.startswith("_") and value[:1] not in ([], [None])
    ]


def weights_of(part: str, library: str, names: Iterable[str]) -> dict[str | None, list[str]]:
    """Of a part's folder ("" for the root): variant (None: the full weights) → files, in the better of
    the two formats there is."""
    stems = {"diffusion_pytorch_model"} if library == "diffusers" else {"model", "pytorch_model"}
    found: dict[str, dict[str | None, list[str]]] = {"safetensors": {}, "bin": {}}
    for name in sorted(names):
        folder, _, file = name.rpartition("/")
        match = _FILE.fullmatch(file)
        if folder == part and match and match["stem"] in stems:
            variant = HALF if match["early"] or match["late"] else None
            found[match["format"]].setdefault(variant, []).append(name)
    return found["safetensors"] or found["bin"]


def names_in(folder: Path) -> list[str]:
    """The files of a folder, relative, with `/`; links are followed. None where there is no folder."""
    found: list[str] = []
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root)
        # a link to a folder around it would go on for ever
        folders[:] = [name for name in folders if not _holds(here / name, here)]
        found += [(here / name).relative_to(folder).as_posix() for name in files]
    return sorted(name for name in found if (folder / name).is_file())


def _holds(folder: Path, other: Path) -> bool:
    """Whether a folder is another one or around it, links followed or not."""
    real = folder.resolve()
    return any(around.resolve().is_relative_to(real) for around in (other, *other.parents))


@dataclass(frozen=True)
class Header:
    """What a safetensors file says before its data.

    Attributes:
        metadata: free text that the writer left.
        shapes, dtypes: of the tensors, by name; a dtype as the format writes it, such as `F16`.
    """

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]

    def parameters(self, *prefixes: str) -> int:
        """How many numbers the tensors of these names hold; of all where no prefix is given.
        Integers, which stay what they are at every precision, do not count."""
        return sum(
            math.prod(shape)
            for name, shape in self.shapes.items()
            if self.dtypes[name] in _FLOATS and name.startswith(prefixes or ("",))
        )


def read_named(folder: Path, name: str) -> Header:
    """Read the header of a file of a folder.

    Raises:
        OSError: not to be read. ValueError: no whole safetensors file; it is named.
    """
    try:
        return read_header(folder / name)
    except ValueError as error:
        raise ValueError(f"{name} is none: {error}") from error


def read_header(path: Path) -> Header:
    """Read a safetensors file's header: 8 bytes of its length, then JSON.

    Raises:
        OSError: not to be read. ValueError: no safetensors file, or not a whole one.
    """
    size = _size(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= _LARGEST_HEADER:
            raise ValueError("it does not begin with the length of a header")
        header = file.read(length)
    try:
        tensors = json.loads(header)
        metadata = tensors.pop("__metadata__", {})
        shapes = {name: _shape(tensor["shape"]) for name, tensor in tensors.items()}
        dtypes = {name: str(tensor["dtype"]) for name, tensor in tensors.items()}
        ends = [tensor["data_offsets"][1] for tensor in tensors.values()]
        data = max((int(end) for end in ends), default=0)
    except (AttributeError, IndexError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("its header describes no tensors") from error
    if (expected := 8 + length + data) != size:
        raise ValueError(f"its header promises {expected:,} bytes, it has {size:,}")
    if not isinstance(metadata, dict):
        raise ValueError("its header describes no tensors")
    return Header(metadata, shapes, dtypes)


def _shape(sizes: Any) -> tuple[int, ...]:
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise TypeError(f"no shape: {sizes}")
    return tuple(sizes)


def _size(path: Path) -> int:
    """Bytes of a regular file: others, such as pipes, may have no end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    return status.st_size


def read_text(path: Path) -> str:
    """The text of a configuration file.

    Raises:
        OSError: not to be read. ValueError: no UTF-8, no regular file, or far too large for one.
    """
    if (size := _size(path)) > _LARGEST_TEXT:
        raise ValueError(f"{size:,} bytes where a configuration has at most {_LARGEST_TEXT:,}")
    return path.read_text(encoding="utf-8")
