"""What is wrong with a row, one value at a time, as reports list it."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """What is wrong with one value: the column, what it takes, what stood there, the remedy."""

    column: str
    expected: str
    found: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.column}: expected {self.expected}, found {self.found}{hint}"
