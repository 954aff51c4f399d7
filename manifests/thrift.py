"""Thrift's compact protocol, as far as Parquet's footers and page headers go."""

from __future__ import annotations

from io import BytesIO

Fields = dict[int, object]

NEST = 16
SHORT = 4096  # bytes; what is longer (statistics quote values) is passed over


def _byte(stream: BytesIO) -> int:
    found = stream.read(1)
    if not found:
        raise EOFError
    return found[0]


def _varint(stream: BytesIO) -> int:
    number = shift = 0
    while shift < 70:
        byte = _byte(stream)
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number
        shift += 7
    raise ValueError("a number of too many bytes")


def _integer(stream: BytesIO) -> int:
    number = _varint(stream)
    return number >> 1 ^ -(number & 1)


def read_struct(stream: BytesIO, depth: int = 0) -> Fields:
    """A struct's fields by their numbers.

    Raises:
        EOFError: the bytes end before it. ValueError: it is none of Parquet's.
    """
    if depth > NEST:
        raise ValueError("too deep")
    fields: Fields = {}
    number = 0
    while head := _byte(stream):
        number = number + (head >> 4) if head >> 4 else _integer(stream)
        kind = head & 15
        fields[number] = kind == 1 if kind in (1, 2) else _value(stream, kind, depth)
    return fields


def _value(stream: BytesIO, kind: int, depth: int) -> object:
    match kind:
        case 1 | 2 | 3:
            return _byte(stream)
        case 4 | 5 | 6:
            return _integer(stream)
        case 7:
            return _skip(stream, 8)
        case 8:
            size = _varint(stream)
            return stream.read(size) if size <= SHORT else _skip(stream, size)
        case 9 | 10:
            return _list(stream, depth)
        case 12:
            return read_struct(stream, depth + 1)
        case _:
            raise ValueError(f"no field of Parquet's is of type {kind}")


def _list(stream: BytesIO, depth: int) -> list[object]:
    if depth > NEST:
        raise ValueError("too deep")
    head = _byte(stream)
    size = head >> 4 if head >> 4 < 15 else _varint(stream)
    return [_value(stream, head & 15, depth + 1) for _ in range(size)]


def _skip(stream: BytesIO, size: int) -> None:
    if stream.seek(size, 1) > len(stream.getbuffer()):
        raise EOFError
