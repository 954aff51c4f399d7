"""Columns of a manifest as Python objects, whatever stands in them: nothing raises, nothing grows
beyond bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.kinds import MAX_VALUE_BYTES, Oversize

# What pyarrow raises for times past the year 9999, zones that nobody knows, structs whose names
# repeat, and text that is not UTF-8.
_UNSPEAKABLE = (ValueError, OverflowError, LookupError, TypeError, pa.ArrowException)


def to_python(column: pa.Array, *, widen: bool) -> list[Any]:
    """A column's values as Python objects.

    Text that is not UTF-8 comes as bytes, and what takes more than MAX_VALUE_BYTES as `Oversize`,
    for validation to refuse. What Python has no object for comes as text. Equal texts of a
    dictionary are one object.

    Args:
        widen: take float32 and float16 for the doubles that they were written for.
    """
    if widen:
        column = _widen(column)
    sizes = _sizes(column)
    if sizes is None:
        return _converted(column)
    large = sizes > MAX_VALUE_BYTES
    small = column.filter(pa.array(~large)) if large.any() else column
    values = iter(_converted(small))
    return [
        Oversize(int(size)) if is_large else next(values)
        for size, is_large in zip(sizes, large, strict=True)
    ]


def has_oversize(column: pa.Array) -> bool:
    """Whether any value takes more than MAX_VALUE_BYTES, without reading them."""
    return _sizes(column) is not None


def _converted(column: pa.Array) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        used = pc.call_function("unique", [column.indices.drop_null()])
        known = dict(zip(used.to_pylist(), _converted(column.dictionary.take(used)), strict=True))
        return [None if at is None else known[at] for at in column.indices.to_pylist()]
    try:
        return column.to_pylist()
    except _UNSPEAKABLE:
        return [_scalar(value) for value in column]


def _scalar(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return value.as_buffer().to_pybytes() if hasattr(value, "as_buffer") else b"\xff"
    except _UNSPEAKABLE:
        return _told(value)


def _told(value: Any) -> str:
    """A value that Python cannot hold, as Arrow writes it, or as the number that it is stored as."""
    for kind in (pa.string(), pa.int64(), pa.int32()):
        try:
            return str(value.cast(kind).as_py())
        except _UNSPEAKABLE:
            continue
    return f"a value of type {str(value.type)[:80]}"


def _sizes(column: pa.Array) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Bytes of each value; None where none can be larger than MAX_VALUE_BYTES."""
    if column.nbytes <= MAX_VALUE_BYTES and not _has_dictionary(column.type):
        return None
    sizes = _bytes_of(column)
    return sizes if sizes.size and sizes.max() > MAX_VALUE_BYTES else None


def _has_dictionary(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return True
    return any(_has_dictionary(kind.field(index).type) for index in range(kind.num_fields))


def _bytes_of(column: pa.Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        return _bytes_of(column.storage)
    if pa.types.is_dictionary(kind):
        sizes = np.append(_bytes_of(column.dictionary), 0.0)
        return sizes[pc.fill_null(column.indices, len(sizes) - 1).to_numpy(zero_copy_only=False)]
    if pa.types.is_struct(kind):
        parts = [_bytes_of(column.field(index)) for index in range(kind.num_fields)]
        return np.sum(parts, axis=0) if parts else np.zeros(len(column))
    if is_list(kind) or pa.types.is_map(kind):
        return _bytes_of_lists(column)
    try:
        lengths = pc.fill_null(pc.call_function("binary_length", [column]), 0)
    except pa.ArrowException:  # numbers and times
        return np.full(len(column), 8.0)
    return lengths.to_numpy(zero_copy_only=False).astype(np.float64)


def _bytes_of_lists(column: pa.Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    if pa.types.is_fixed_size_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    if pa.types.is_map(column.type):
        column = pa.ListArray.from_arrays(
            column.offsets,
            pa.StructArray.from_arrays([column.keys, column.items], ["key", "value"]),
        )
    offsets = column.offsets.to_numpy(zero_copy_only=False)
    first, last = int(offsets[0]), int(offsets[-1])
    values = column.values.slice(first, last - first)
    ends = np.concatenate(([0.0], np.cumsum(_bytes_of(values) + 8)))
    return np.diff(ends[offsets - first])


def is_list(found: pa.DataType) -> bool:
    """Whether a column of this type holds lists, whatever kind of list; a map is none."""
    return (
        pa.types.is_list(found)
        or pa.types.is_large_list(found)
        or pa.types.is_fixed_size_list(found)
    )


def _widen(column: pa.Array) -> pa.Array:
    """float32 and float16 as the doubles that they were written for: 0.01 in a float32 column means
    0.01, as it does in a double column, and not 0.009999999776."""
    lists = is_list(column.type)
    scalar = column.type.value_type if lists else column.type
    if not (pa.types.is_float32(scalar) or pa.types.is_float16(scalar)):
        return column
    # the shortest text that gives the float32 back is what was written
    for step in (pa.float32(), pa.string(), pa.float64()):
        column = pc.cast(column, pa.list_(step) if lists else step)
    return column
