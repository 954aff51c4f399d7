"""What a manifest value may be: each kind parses one value and says, in words, what it expects.

A kind keeps its limits and the sentence that states them together, so that the two cannot part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Literal

INT32_MAX = 2**31 - 1
MAX_TEXT = 100_000  # characters; a prompt past this is a mistake (a file's content), not a prompt

MAX_VALUE_BYTES = 2**22  # of one value of a row, a whole list or a `meta_` value, as it is stored


class KindError(ValueError):
    """A value that its column does not take. `expected` and `hint` are for the report."""

    def __init__(self, expected: str, hint: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Oversize:
    """What stands for a value of more than MAX_VALUE_BYTES, which is not read."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Kind:
    """How a column's values are parsed.

    `holds` is what the column's Arrow type must carry; with `lists` a list of it may stand, too.
    `parse` returns the normalised value or raises `KindError`.
    """

    expected: str
    holds: Literal["text", "number"]
    parse: Callable[[Any], Any]
    lists: bool = False


def describe(value: Any) -> str:
    """A value as the report shows it: one printable line of at most about 80 characters."""
    if isinstance(value, Oversize):
        return f"a value of {value.bytes:,} bytes"
    if isinstance(value, bytes):
        return f"{_cut(repr(value))} (bytes that are not UTF-8 text)"
    if isinstance(value, str):
        # repr of a megabyte is a megabyte: cut first, then escape control characters
        shown = _cut(repr(value[:80]))
        return f"{shown} ({len(value):,} characters)" if len(value) > 80 else shown
    if isinstance(value, Sequence):
        items: Sequence[Any] = value
        inner = ", ".join(describe(item) for item in items[:4])
        dots = ", …" if len(items) > 4 else ""
        return f"[{_cut(inner)}{dots}] ({count(len(items), 'value')})"
    return _cut(repr(value))


def count(number: int, noun: str) -> str:
    """`1 row`, `2 rows`, `1,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _cut(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plain(value: Any) -> Any:
    """A value as JSON types, for `meta_*`: dates and times as ISO text, bytes as hex, decimals as
    numbers where that is exact and as text otherwise."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    isoformat = getattr(value, "isoformat", None)
    return isoformat() if callable(isoformat) else str(value)


def whole(low: int, high: int = INT32_MAX, step: int = 1) -> Kind:
    """Whole numbers low ≤ value ≤ high, multiples of `step`; 8.0 is 8, True is not 1."""
    kind = "a whole number" if step == 1 else f"a multiple of {step}"
    expected = f"{kind} ≥ {low}" if high == INT32_MAX else f"{kind} from {low} to {high}"

    def parse(value: Any) -> int:
        if type(value) is int:
            number = value
        elif isinstance(value, (float, Decimal)) and _is_whole(value):
            number = int(value)
        else:
            raise KindError(expected, _text_for_number(value))
        if number > INT32_MAX >= high:
            raise KindError(f"{kind} from {low} to {high}")
        if not low <= number <= high or number % step:
            raise KindError(expected, _near_multiple(number, low, high, step))
        return number

    return Kind(expected, "number", parse)


def _is_whole(value: float | Decimal) -> bool:
    return math.isfinite(value) and value == int(value)


def _near_multiple(number: int, low: int, high: int, step: int) -> str:
    if step == 1:
        return ""
    below = number // step * step
    near = [str(n) for n in (below, below + step) if low <= n <= high]
    return f"nearest: {' or '.join(near)}" if near else ""


def _text_for_number(value: Any) -> str:
    return "write the column as numbers, not text" if isinstance(value, str) else ""


def number(low: float, high: float = math.inf, *, above: bool = False) -> Kind:
    """Finite numbers low ≤ value ≤ high (low < value if `above`), as floats; never -0.0."""
    least = f"> {low:g}" if above else f"≥ {low:g}"
    expected = f"a number {least}" if high == math.inf else f"a number {least} and ≤ {high:g}"

    def parse(value: Any) -> float:
        if type(value) is not float:
            if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
                raise KindError(expected, _text_for_number(value))
            try:
                value = float(value)
            except OverflowError:
                raise KindError(expected) from None
        # written so that NaN is outside, too
        if not low <= value <= high or value == math.inf or (above and value == low):
            raise KindError(expected)
        return value + 0.0

    return Kind(expected, "number", parse)


def per_frame(element: Kind, count: str) -> Kind:
    """One number for the whole clip, or a list of them (`count` says how many, in words)."""
    expected = f"{element.expected}, or a list of {count} of them"

    def parse(value: Any) -> float | tuple[float, ...]:
        if type(value) is float or not isinstance(value, (list, tuple)):
            try:
                return element.parse(value)
            except KindError as refusal:
                raise KindError(expected, refusal.hint) from None
        if not value:
            raise KindError(expected, "leave the value null for the default")
        try:
            values: tuple[float, ...] = tuple(element.parse(item) for item in value)
        except KindError as refusal:
            raise KindError(expected, refusal.hint) from None
        return values[0] if len(values) == 1 else values

    return Kind(expected, "number", parse, lists=True)


def text(expected: str = f"text of at most {MAX_TEXT:,} characters", *, empty: bool = True) -> Kind:
    """Text without NUL characters, at most 100,000 characters long."""

    def parse(value: Any) -> str:
        if not isinstance(value, str):
            raise KindError(expected)
        _check_text(value, expected)
        if not (empty or value.strip()):
            raise KindError(expected)
        return value

    return Kind(expected, "text", parse)


def _check_text(value: str, expected: str) -> None:
    if len(value) > MAX_TEXT:
        raise KindError(expected, f"shorten it to {MAX_TEXT:,} characters")
    if "\0" in value:
        raise KindError(f"{expected}, without NUL characters", "remove the \\x00")


def texts(expected: str) -> Kind:
    """One text or a list of them, as a tuple."""

    def parse(value: Any) -> tuple[str, ...]:
        items: tuple[Any, ...]
        if isinstance(value, str):
            items = (value,)
        elif isinstance(value, (list, tuple)) and value:
            items = tuple(value)
        else:
            raise KindError(expected)
        for item in items:
            if not isinstance(item, str):
                raise KindError(expected)
            _check_text(item, expected)
        return items

    return Kind(expected, "text", parse, lists=True)


def names(expected: str) -> Kind:
    """Any number of texts, none of them blank, as a tuple; one alone need not stand in a list."""

    def parse(value: Any) -> tuple[str, ...]:
        if isinstance(value, str) and value.lstrip().startswith("["):
            raise KindError(expected, "write the column as a list, not as JSON text")
        items = (value,) if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise KindError(expected)
        for item in items:
            if not isinstance(item, str) or not item.strip():
                raise KindError(expected)
            _check_text(item, expected)
        return tuple(items)

    return Kind(expected, "text", parse, lists=True)


def choice(options: Sequence[str], *, named: Sequence[str] = ()) -> Kind:
    """One of the named options. Those `named` may be followed by a colon and a name."""
    expected = quoted([*options, *(f"{option}:NAME" for option in named)])
    allowed = frozenset(options)

    def parse(value: Any) -> str:
        if value.__class__ is str:
            option, _, name = value.partition(":")
            if value in allowed or (option in named and name.strip() and "\0" not in name):
                return value
        raise KindError(expected, _meant(value, options))

    return Kind(expected, "text", parse)


def quoted(options: Sequence[str]) -> str:
    """`a`, `b` or `c`, as sentences name options."""
    names = [f"`{option}`" for option in options]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _meant(value: Any, options: Sequence[str]) -> str:
    if not isinstance(value, str):
        return ""
    close = get_close_matches(value[:100].lower(), options, n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else ""


def steps(*allowed: int) -> Kind:
    """One of a few whole numbers."""
    expected = f"{', '.join(map(str, allowed[:-1]))} or {allowed[-1]}"
    inner = whole(allowed[0], allowed[-1])

    def parse(value: Any) -> int:
        try:
            number = inner.parse(value)
        except KindError as refusal:
            raise KindError(expected, refusal.hint) from None
        if number not in allowed:
            raise KindError(expected)
        return number

    return Kind(expected, "number", parse)
