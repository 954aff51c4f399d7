"""`zs2 models`: which checkpoints are at hand, whether zs2 runs them, what they need in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.console import size, table
from zs2.checkpoints import folders, hub
from zs2.models import ModelError, ModelInfo, bundled_models, describe, parameters


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        source: `bundled`, `cached` (of a hub, on this machine), or `named` on the command line.
        info: None where it cannot be used; then `reason` says why.
        parameters: numbers that its weights hold; None where they are not on this machine.
    """

    name: str
    source: str
    info: ModelInfo | None = None
    parameters: int | None = None
    reason: str | None = None

    @property
    def is_usable(self) -> bool:
        return self.info is not None


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
    return Entry(info.name, source, info, parameters(info))


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
    """One object a model; bytes are those of the weights alone."""
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
    info, count = entry.info, entry.parameters
    return fields | {
        "pipeline": info.pipeline,
        "height": info.height,
        "width": info.width,
        "num_inference_steps": info.defaults.num_inference_steps,
        "guidance_scale": info.defaults.guidance_scale,
        "edits": info.edits,
        "location": info.location,
        "revision": info.revision,
        "parameters": count,
        "bytes_float16": None if count is None else 2 * count,
        "bytes_float32": None if count is None else 4 * count,
    }


def text(entries: Sequence[Entry]) -> str:
    """The models as a table, then why the others cannot be used."""
    header = ("model", "from", "pipeline", "size", "steps", "guidance", "float16", "float32")
    rows = [_row(entry, entry.info) for entry in entries if entry.info]
    lines = [table(rows, header)] if rows else []
    if rows:
        lines.append("Memory is that of the weights alone; '-' where they are not on this machine.")
    lines += [f"{entry.name}: not usable: {entry.reason}" for entry in entries if entry.reason]
    return "\n".join(lines)


def _row(entry: Entry, info: ModelInfo) -> tuple[object, ...]:
    count = entry.parameters
    return (
        entry.name,
        entry.source,
        info.pipeline.removesuffix("Pipeline"),
        f"{info.width}×{info.height}",
        info.defaults.num_inference_steps,
        f"{info.defaults.guidance_scale:g}",
        "-" if count is None else size(2 * count),
        "-" if count is None else size(4 * count),
    )
