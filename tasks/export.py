"""Finished clips in shards, as trainers read them: `zs2 export OUT --format F -o DEST`.

    DEST/shard-000000.tar, …       webdataset: <id>.mp4 (or <id>.00000.png, …), <id>.json, <id>.txt
    DEST/data/shard-000000.parquet, …   parquet: the record's columns, `video` {bytes, path}, for folders
                                   of PNGs `frames`
    DEST/shard-000000/, …          videofolder: <id>.mp4 and metadata.parquet with `file_name`; no folders
                                   of PNGs, which are no video there
    DEST/README.md                 what it is and how to load it
    DEST/.zs2-export.json          the shards with their sha256; `complete` once all are there

Schema: `id`, `digest`, `prompt` (a storyboard's prompts on a line each), `seed`, `model`,
`model_revision`, `num_frames`, `height`, `width`, `fps`, `bytes`, `sha256`, `params` (JSON: everything
that renders it again), `kl_achieved`, each score where clips were scored, and every `meta_` column.

Clips stand in the order of their ids, so that the same rows give the same shards, byte by byte. A shard
appears whole or not at all; the same command again writes only shards whose rows have changed. DEST may
be a URL: a shard is made in a folder of this machine first.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from manifests.best_by import SCORE_NAMES
from manifests.columns import META
from manifests.ledger import ledger_batches
from manifests.scores import Scores, read_scores
from manifests.storage import RunFolder
from tasks.decoding import sum_of
from tasks.export_choice import (
    ALL,
    RECORD_COLUMNS,
    Conditions,
    DamagedError,
    ExportError,
    Wanted,
    all_damaged,
    clips_of,
    fault_of,
    record_of,
    wanted,
    without_frames,
)
from tasks.export_formats import FORMATS, write_shard
from tasks.export_place import VERSION, Place, check_apart

SHARD_SIZE = "1GB"

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
_FOLDERS = {
    "parquet": "data/"
}  # as on the Hub: readers of Parquet take whatever lies in its folder


@dataclass(frozen=True)
class ShardSize:
    """When a shard is full: after so many clips, or before it would hold more bytes of clips."""

    clips: int | None = None
    bytes: int | None = None


@dataclass
class Export:
    """What was exported.

    Attributes:
        shards: their names; `made`, those that were not there already.
        damaged: files that were left out, as asked for.
        frames_left_out: folders of PNGs, which a videofolder does not take.
    """

    clips: int = 0
    bytes: int = 0
    shards: list[str] = field(default_factory=list[str])
    made: list[str] = field(default_factory=list[str])
    damaged: list[str] = field(default_factory=list[str])
    frames_left_out: int = 0


def shard_size(text: str) -> ShardSize:
    """`1000` clips, or `500MB`, `2GiB` of them.

    Raises:
        ExportError: another text.
    """
    found = re.fullmatch(r"(\d+)\s*(?:([KMG]I?)?(B))?", text.strip().upper())
    if found is None or int(found[1]) == 0:
        raise ExportError(
            f"--shard-size: expected clips, as 1000, or bytes, as 500MB or 2GiB; found {text!r}"
        )
    number = int(found[1])
    return ShardSize(bytes=number * _UNITS[found[2] or ""]) if found[3] else ShardSize(number)


def export(
    folder: RunFolder,
    dest: str,
    form: str,
    size: ShardSize,
    conditions: Conditions = ALL,
    tell: Callable[[str], None] = lambda name: None,
    *,
    skip_damaged: bool = False,
) -> Export:
    """Write the finished clips of a run folder that meet the conditions into shards at `dest`.

    Args:
        folder: to read from (`RunFolder.view`).
        dest: a folder that is new, empty or holds such an export, or a URL.
        tell: called with the name of each shard that was written.
        skip_damaged: leave damaged and missing clips out; all are read once more for that.

    Raises:
        ExportError: no clips; a damaged or missing clip, all of which are then named; another thing at
            `dest`.
        StorageError: an object store that cannot be used.
    """
    if form not in FORMATS:
        raise ExportError(f"--format: expected one of {', '.join(FORMATS)}, found {form!r}")
    scores = read_scores(folder.root)
    place = Place(dest)
    check_apart(folder, place)
    before = place.index(form)
    done = Export()
    found = _left(folder, form, wanted(folder, scores, conditions), skip_damaged, done)
    plan = _planned(found, size)
    with TemporaryDirectory(prefix="zs2-export-") as work:
        schema = _spool(folder, scores, plan, Path(work))
        place.write_index(form, list(before.values()), complete=False)
        place.begin(form, max(plan.values()))
        entries: list[dict[str, Any]] = []
        for entry, records in _spooled(Path(work), max(plan.values()) + 1, form, schema):
            name: str = entry["name"]
            was = before.get(name)
            if was is None or was["key"] != entry["key"] or not place.has(name, was):
                was = _written(folder, place, form, records, schema, name, found)
                done.made.append(name)
                tell(name)
            entries.append({**entry, "sha256": was["sha256"], "bytes": was["bytes"]})
            done.shards.append(name)
            done.clips += len(records)
            done.bytes += int(was["bytes"])
            kept = [each for n, each in before.items() if n not in done.shards]
            place.write_index(form, entries + kept, complete=False)
        place.remove([name for name in before if name not in done.shards])
        place.write_index(form, entries, complete=True)
    return done


def _left(
    folder: RunFolder, form: str, found: list[Wanted], skip_damaged: bool, done: Export
) -> list[Wanted]:
    """FOUND less what the form does not take and, if asked for, what is damaged; DONE hears of both.

    Raises:
        ExportError: nothing is left.
    """
    if form == "videofolder":
        done.frames_left_out = without_frames(folder, found)
    if skip_damaged:
        done.damaged = [each.file_name for each in found if fault_of(folder, each) is not None]
        found = [each for each in found if each.file_name not in set(done.damaged)]
    if not found:
        raise ExportError(
            f"{folder.name}: expected clips that are whole, found none; render them again"
        )
    return found


def _written(
    folder: RunFolder,
    place: Place,
    form: str,
    records: list[dict[str, Any]],
    schema: pa.Schema,
    name: str,
    found: Iterable[Wanted],
) -> dict[str, Any]:
    """Write a shard; its sha256 and bytes. Should one of its clips be damaged, all FOUND are looked at."""
    try:
        with place.shard(name) as path:
            write_shard(form, path, clips_of(folder, records), schema)
            digest, total = sum_of(path)
    except DamagedError as error:
        raise all_damaged(folder, found) from error
    return {"sha256": digest, "bytes": total}


def _planned(found: Iterable[Wanted], size: ShardSize) -> dict[str, int]:
    """The number of each clip's shard, by id."""
    plan: dict[str, int] = {}
    number, clips, total = 0, 0, 0
    for each in found:
        full = clips == size.clips or (size.bytes is not None and total + each.bytes > size.bytes)
        if clips and full:
            number, clips, total = number + 1, 0, 0
        plan[each.id] = number
        clips, total = clips + 1, total + each.bytes
    return plan


def _spool(folder: RunFolder, scores: Scores, plan: Mapping[str, int], work: Path) -> pa.Schema:
    """Put every record, with its file's name, into a file of its shard; the records' schema."""
    held: dict[int, list[str]] = {}
    kinds: dict[str, pa.DataType] = {}
    for batch in ledger_batches(folder.root, statuses=["ok"]):
        kinds |= {
            f.name: f.type for f in batch.schema if f.name in RECORD_COLUMNS or f.name[:5] == META
        }
        for row in batch.to_pylist():
            if row["id"] in plan:
                record = record_of(row, scores) | {"file_name": row["file_name"]}
                held.setdefault(plan[row["id"]], []).append(json.dumps(record) + "\n")
        for number, lines in held.items():
            with Path(work, f"{number}.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(lines)
        held.clear()
    names = [
        *RECORD_COLUMNS,
        *(SCORE_NAMES if len(scores) else ()),
        *sorted(set(kinds) - set(RECORD_COLUMNS)),
    ]
    types = {name: _type(kinds[name]) for name in kinds} | dict.fromkeys(SCORE_NAMES, pa.float64())
    return pa.schema([(name, types[name]) for name in names])


def _spooled(
    work: Path, shards: int, form: str, schema: pa.Schema
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Shard after shard, what the index says of it before it is written, and its records by id."""
    for number in range(shards):
        lines = work / f"{number}.jsonl"
        records = sorted(map(json.loads, lines.open(encoding="utf-8")), key=lambda r: r["id"])
        lines.unlink()
        name = f"{_FOLDERS.get(form, '')}shard-{number:06d}{FORMATS[form]}"
        yield {"name": name, "key": _key(form, records, schema), "clips": len(records)}, records


def _type(kind: pa.DataType) -> pa.DataType:
    """A column's type, where JSON holds its values; of others their JSON text."""
    plain = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string)
    if any(is_it(kind) for is_it in plain):
        return kind
    if pa.types.is_list(kind) and any(is_it(kind.value_type) for is_it in plain):
        return kind
    return pa.string()


def _key(form: str, records: list[dict[str, Any]], schema: pa.Schema) -> str:
    told = [VERSION, form, str(schema), *(json.dumps(r, sort_keys=True) for r in records)]
    return hashlib.sha256("\n".join(map(str, told)).encode()).hexdigest()
