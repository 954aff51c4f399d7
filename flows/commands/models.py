"""`zs2 models`: which checkpoints are at hand, whether zs2 runs them, what they need in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.commands.model_memory import DTYPES, needed
from flows.console import size, table
from zs2.checkpoints import folders, hub
from zs2.config import SEGMENT_FRAMES
from zs2.models import Memory, ModelError, ModelInfo, bundled_models, describe, parameters

_BYTES = {"float16": 2, "float32": 4}  # a number
# What the table calls a pipeline, to leave the names of models their room.
_SHORT = {
    "StableDiffusionPipeline": "SD",
    "StableDiffusionXLPipeline": "SDXL",
    "StableDiffusionInstructPix2PixPipeline": "InstructPix2Pix",
}


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        source: `bundled`, `cached` (of a hub, on this machine), or `named` on the command line.
        info: None where it cannot be used; then `reason` says why.
        parameters: numbers that its weights hold; None where they are not on this machine.
        memory: what rendering adds to the weights, by the name of the dtype.
    """

    name: str
    source: str
    info: ModelInfo | None = None
    parameters: int | None = None
    reason: str | None = None
    memory: dict[str, Memory] = field(default_factory=dict[str, Memory])

    @property
    def is_usable(self) -> bool:
        """Whether it can be rendered with; where not, `reason` says why."""
        return self.info is not None

    def weights(self, dtype: str) -> int | None:
        """Bytes of the weights in a dtype."""
        return None if self.parameters is None else _BYTES[dtype] * self.parameters

    def total(self, dtype: str) -> int | None:
        """Bytes of the weights and the most that rendering adds."""
        weights = self.weights(dtype)
        return None if weights is None else weights + self.memory[dtype].peak


def find(names: Sequence[str] = (), trusted: Sequence[str] = ()) -> list[Entry]:
    """The named models; without names the bundled ones and those of the hub cache, for which the
    hub is not asked."""
    if names:
        return [_named(name, "named", trusted) for name in names]
    return [*(_named(name, "bundled", ()) for name in bundled_models()), *_cached(trusted)]


def _named(name: str, source: str, trusted: Sequence[str]) -> Entry:
    try:
        return _entry(source, describe(name, trusted=trusted))
    except ModelError as error:
        return Entry(name, source, reason=_reason(error))


def _cached(trusted: Sequence[str]) -> Iterator[Entry]:
    for repository, folder in hub.cached():
        name = repository.name
        names = hub.file_names(repository)
        if "model_index.json" not in names:
            yield Entry(name, "cached", reason=f"no pipeline, but {_kind(folder)}")
            continue
        try:
            info = folders.describe(
                name,
                folder,
                location=repository.id,
                revision=repository.commit,
                names=names,
                is_trusted=name in trusted or repository.id in trusted,
            )
            yield _entry("cached", info)
        except ModelError as error:
            yield Entry(name, "cached", reason=_reason(error))


def _entry(source: str, info: ModelInfo) -> Entry:
    return Entry(info.name, source, info, parameters(info), memory=needed(info))


def _kind(folder: Path) -> str:
    """What a repository without a pipeline says it is."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "single files"
    names: list[str] = config.get("architectures") or [config.get("_class_name", "another model")]
    return names[0]


def _reason(error: ModelError) -> str:
    """The message less the name, which stands beside it."""
    return str(error).partition(": ")[2]


def as_json(entries: Sequence[Entry]) -> str:
    """One object a model. Of each dtype, in bytes: `bytes_` the weights alone, `unet_bytes_` what a UNet
    call of a segment of 8 frames at the model's size adds, `decode_bytes_` what decoding a frame adds,
    `total_bytes_` the weights and the larger of both. What depends on weights that are not on this
    machine is null."""
    return json.dumps([_fields(entry) for entry in entries], ensure_ascii=False)


def _fields(entry: Entry) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": entry.name,
        "source": entry.source,
        "usable": entry.is_usable,
        "reason": entry.reason,
    }
    if entry.info is None:
        return fields
    info = entry.info
    fields |= {
        "pipeline": info.pipeline,
        "height": info.height,
        "width": info.width,
        "num_inference_steps": info.defaults.num_inference_steps,
        "guidance_scale": info.defaults.guidance_scale,
        "edits": info.edits,
        "location": info.location,
        "revision": info.revision,
        "parameters": entry.parameters,
    }
    for dtype in DTYPES:
        fields |= {
            f"bytes_{dtype}": entry.weights(dtype),
            f"unet_bytes_{dtype}": entry.memory[dtype].unet,
            f"decode_bytes_{dtype}": entry.memory[dtype].decode,
            f"total_bytes_{dtype}": entry.total(dtype),
        }
    return fields


def text(entries: Sequence[Entry]) -> str:
    """The models as a table, what the memory of those named is made of, and why others cannot be used."""
    header = ("model", "from", "pipeline", "size", "steps", "guidance", *DTYPES)
    rows = [_row(entry, entry.info) for entry in entries if entry.info]
    lines = [table(rows, header), *_LEGEND] if rows else []
    lines += [
        _parts(entry, d) for entry in entries if entry.source == "named" for d in entry.memory
    ]
    lines += [f"{entry.name}: not usable: {entry.reason}" for entry in entries if entry.reason]
    return "\n".join(lines)


_LEGEND = (
    f"Memory, at least: the weights and, at that size, {SEGMENT_FRAMES} frames in the UNet or one",
    "decoded; a GPU's libraries take more. '-': the weights are not on this machine.",
)


def _row(entry: Entry, info: ModelInfo) -> tuple[object, ...]:
    return (
        entry.name,
        entry.source,
        _SHORT[info.pipeline],
        f"{info.width}×{info.height}",
        info.defaults.num_inference_steps,
        f"{info.defaults.guidance_scale:g}",
        *(_size(entry.total(dtype)) for dtype in DTYPES),
    )


def _parts(entry: Entry, dtype: str) -> str:
    weights, adds = _size(entry.weights(dtype)), entry.memory[dtype]
    return (
        f"{entry.name}, {dtype}: weights {weights}, and {size(adds.unet)} in the UNet or "
        f"{size(adds.decode)} decoding"
    )


def _size(count: int | None) -> str:
    return "-" if count is None else size(count)
