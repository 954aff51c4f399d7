"""The first rows of a manifest as a manifest of their own: to render a few before the many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.read import Manifest, ManifestError, ManifestFile, open_manifest
from manifests.storage import write_aside


def write_head(manifest: Manifest, rows: int, output: str | Path) -> int:
    """Write the first `rows` rows, or all where there are fewer, to one Parquet file; returns how many.

    They are written as they stand, good or bad, so that each keeps its digest: the run of the whole manifest
    finds again what was rendered of them.

    Raises:
        ManifestError: a damaged file, files whose columns do not go into one, a place that cannot be written,
            or one in which the file would be part of the manifest itself.
    """
    target = Path(output)
    if target.is_dir():
        raise ManifestError(f"{target} is a folder: name a file, such as {target}/head.parquet")
    if _has(manifest, target):
        raise ManifestError(f"{target} is of the manifest itself: name another file")
    schema = _schema([f for f, first in _with_starts(manifest) if first < rows])
    try:
        with write_aside(target) as aside, pq.ParquetWriter(aside, schema) as writer:
            for batch in manifest.batches(min(rows, manifest.num_rows)):
                writer.write_batch(_in(batch.arrow, schema))
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(f"{target} cannot be written ({error})") from error
    if _has(open_manifest(manifest.source), target):
        target.unlink()
        raise ManifestError(
            f"{target} would be part of {manifest.source}, and its rows there twice: name a file "
            "elsewhere, or one that begins with `_`"
        )
    return min(rows, manifest.num_rows)


def _has(manifest: Manifest, target: Path) -> bool:
    return target.resolve() in {file.path.resolve() for file in manifest.files}


def _with_starts(manifest: Manifest) -> list[tuple[ManifestFile, int]]:
    """Its files, each with the position of its first row."""
    found: list[tuple[ManifestFile, int]] = []
    start = 0
    for file in manifest.files:
        found.append((file, start))
        start += file.num_rows
    return found


def _schema(files: Sequence[ManifestFile]) -> pa.Schema:
    """All columns of the files. Fractions are not widened: of a float32 another number is read than of the
    double that Arrow would make of it."""
    types: dict[str, pa.DataType] = {}
    for file in files:
        for field in pq.read_schema(file.path):
            found = field.type
            if pa.types.is_dictionary(found):
                found = found.value_type
            known = types.get(field.name, pa.null())
            if pa.types.is_null(known):
                types[field.name] = _alike(found)
            elif _alike(found) != _alike(known) and not pa.types.is_null(found):
                raise ManifestError(
                    f"{file.name}: `{field.name}`: expected {known} as in {files[0].name}, found {found}; "
                    "ask for no more rows than the files before it have, or write it alike"
                )
    return pa.schema(list(types.items()))


def _alike(found: pa.DataType) -> pa.DataType:
    """One type for all that hold the same values: texts, and whole numbers."""
    if pa.types.is_large_string(found):
        return pa.string()
    return pa.int64() if pa.types.is_integer(found) else found


def _in(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch in the columns of the schema, those that it lacks null."""
    names = batch.schema.names
    columns = [
        batch.column(field.name).cast(field.type)
        if field.name in names
        else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
