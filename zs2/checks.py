"""Checks of a clip's settings, with errors that say what was expected and found. Loads no torch."""

from __future__ import annotations

import math
from numbers import Real


def spread(
    name: str, value: float | tuple[float, ...], count: int, meaning: str
) -> tuple[float, ...]:
    """One value, or a list of one, for all `count` things; or their own, as `meaning` says in words.

    Raises:
        ValueError: another number of them.
    """
    if isinstance(value, int | float | Real):
        return (float(value),) * count
    if len(value) == 1:
        return (float(value[0]),) * count
    if len(value) != count:
        raise ValueError(
            f"{name}: expected one number or {meaning} = {count} of them, found {len(value)}"
        )
    return tuple(float(v) for v in value)


def at_least_one(name: str, value: int) -> None:
    """Raise ValueError below 1."""
    if value < 1:
        raise ValueError(f"{name}: expected a whole number of at least 1, found {value}")


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError for any other name."""
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(allowed)}, found {value!r}")


def in_range(name: str, values: tuple[float, ...], low: float, high: float) -> None:
    """Raise ValueError unless all are finite and low ≤ value ≤ high."""
    for value in values:
        is_number = isinstance(value, Real) and math.isfinite(value)
        if not (is_number and low <= value <= high):
            wanted = f"a number in [{low:g}, {high:g}]" if math.isfinite(high) else f"≥ {low:g}"
            raise ValueError(f"{name}: expected {wanted}, found {value!r}")
