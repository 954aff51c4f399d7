"""Shards of an export, the same bytes for the same clips: a tar, a Parquet file, a folder of videos.

A clip is a record (what `tasks.export.record_of` keeps of its ledger row) and its finished file, or its
folder of PNGs.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.files import publish_folder, write_aside
from tasks.decoding import frame_files

Record = Mapping[str, Any]
Clips = Iterable[tuple[Record, Path]]

FORMATS = {"webdataset": ".tar", "parquet": ".parquet", "videofolder": ""}

_GROUP_BYTES = 64 * 2**20  # of a Parquet file's row group
_FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as `datasets` stores files


def key_of(row_id: str) -> str:
    """An id as a sample's key in a tar, which ends at its first dot: a dot becomes %2E, which no id
    has."""
    return row_id.replace(".", "%2E")


def fitted(record: Record, schema: pa.Schema) -> dict[str, Any]:
    """A record for a table: as JSON what its columns of text hold of other kinds."""
    texts = {field.name for field in schema if field.type == pa.string()}
    return {
        name: json.dumps(value) if name in texts and not isinstance(value, str | None) else value
        for name, value in record.items()
    }


def write_shard(form: str, path: Path, clips: Clips, schema: pa.Schema) -> None:
    """Write a shard, whole or not at all. schema: of the records."""
    if form == "webdataset":
        _write_tar(path, clips)
    elif form == "parquet":
        _write_parquet(path, clips, schema)
    else:
        _write_folder(path, clips, schema)


def _write_tar(path: Path, clips: Clips) -> None:
    with write_aside(path) as aside, tarfile.open(aside, "w", format=tarfile.PAX_FORMAT) as tar:
        for record, file in clips:
            key = key_of(record["id"])
            for part in frame_files(file):
                name = f"{key}.{part.name}" if file.is_dir() else f"{key}{file.suffix}"
                with part.open("rb") as data:
                    tar.addfile(_member(name, part.stat().st_size), data)
            words = json.dumps(record, ensure_ascii=False, sort_keys=True)
            for name, text in ((f"{key}.json", words), (f"{key}.txt", record.get("prompt") or "")):
                data = text.encode()
                tar.addfile(_member(name, len(data)), io.BytesIO(data))


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)  # no times, owners or rights of this machine
    info.size = size
    return info


def _write_parquet(path: Path, clips: Clips, schema: pa.Schema) -> None:
    """The records with `video`, or for folders of PNGs `frames`, as `datasets` stores files."""
    full = pa.schema([*schema, pa.field("video", _FILE), pa.field("frames", pa.list_(_FILE))])
    features = {
        "video": {"_type": "Video"},
        "frames": {"feature": {"_type": "Image"}, "_type": "List"},
    }
    full = full.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    with (
        write_aside(path) as aside,
        # pictures and videos are packed already: their columns gain nothing by it
        pq.ParquetWriter(
            aside, full, compression="zstd", use_dictionary=False, write_statistics=False
        ) as writer,
    ):
        for group in _groups(clips):
            rows = [fitted(row, schema) for row in group]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=full))


def _groups(clips: Clips) -> Iterator[list[dict[str, Any]]]:
    group, held = list[dict[str, Any]](), 0
    for record, file in clips:
        files = [{"bytes": part.read_bytes(), "path": part.name} for part in frame_files(file)]
        own = {"frames": files} if file.is_dir() else {"video": files[0]}
        group.append({"video": None, "frames": None, **record, **own})
        held += sum(len(each["bytes"]) for each in files)
        if held >= _GROUP_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group


def _write_folder(path: Path, clips: Clips, schema: pa.Schema) -> None:
    """<id>.mp4 and so on, and metadata.parquet with `file_name` first."""
    records: list[dict[str, Any]] = []
    with publish_folder(path) as folder:
        for record, file in clips:
            name = record["id"] + file.suffix
            shutil.copyfile(file, folder / name)
            records.append({"file_name": name, **fitted(record, schema)})
        full = pa.schema([pa.field("file_name", pa.string()), *schema])
        pq.write_table(pa.Table.from_pylist(records, schema=full), folder / "metadata.parquet")
