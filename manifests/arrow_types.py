"""Arrow types for columns whose values decide them: the user's `meta_*` columns."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa


def merge_types(meta: dict[str, pa.DataType], chunk: dict[str, list[Any]]) -> None:
    """Take a chunk of columns' values into the types found so far, and empty the chunk."""
    for name, values in chunk.items():
        try:
            found = pa.array(values).type
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            found = pa.string()  # values of several types, as text
        if "struct<>" in str(found):
            found = pa.string()  # Parquet has no empty structs
        merge_type(meta, name, found)
    chunk.clear()


def merge_type(meta: dict[str, pa.DataType], name: str, found: pa.DataType) -> None:
    """Types meet as whole numbers and doubles do, or as text: never so that a value cannot be
    written."""
    noted = meta.get(name, pa.null())
    if found == noted or pa.types.is_null(found):
        meta.setdefault(name, found)
    elif pa.types.is_null(noted):
        meta[name] = found
    elif {found, noted} == {pa.int64(), pa.float64()}:
        meta[name] = pa.float64()
    else:
        meta[name] = pa.string()


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def to_array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Values as an array of a type that `merge_types` found for them; into text, what is not text
    goes as JSON."""
    if pa.types.is_string(kind):
        values = [_as_text(value) for value in values]
    elif pa.types.is_float64(kind):
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, kind)
