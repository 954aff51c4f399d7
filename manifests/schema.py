"""Which Parquet columns a manifest may have: their names and Arrow types, before a row is read."""

from __future__ import annotations

import pyarrow as pa

from manifests.columns import COLUMNS, META
from manifests.kinds import describe
from manifests.misspelt import meant
from manifests.values import is_list

MAX_COLUMNS = 1000  # of which all but about 40 are the user's own

MOST_UNKNOWN = 5  # of a file, told one by one; the rest is counted


def schema_faults(schema: pa.Schema) -> list[str]:
    """What is wrong with a file's columns, a line each: unknown, missing, twice there, too many, or of a
    type whose values could not be meant."""
    faults: list[str] = []
    unknown: list[str] = []
    names: list[str] = schema.names
    if len(names) > MAX_COLUMNS:
        return [f"expected at most {MAX_COLUMNS:,} columns, found {len(names):,}; leave some out"]
    for name in dict.fromkeys(names):
        shown = f"`{name}`" if name.isprintable() and len(name) <= 80 else describe(name)
        if names.count(name) > 1:
            faults.append(f"{shown}: found {names.count(name)} columns of this name, expected one")
        elif name in COLUMNS:
            kind = COLUMNS[name].kind
            found = schema.field(name).type
            if not _holds(found, kind.holds, kind.lists):
                expected = COLUMNS[name].arrow
                cast = f'; in pandas, df["{name}"] = df["{name}"].astype(str)'
                remedy = cast if kind.holds == "text" and _is_number(found) else ""
                faults.append(f"{shown}: expected {expected}, found {_cut_type(found)}{remedy}")
        elif not name.startswith(META):
            unknown.append(f"{shown}: unknown column, {meant(name)}")
    faults += unknown[:MOST_UNKNOWN]
    if len(unknown) > MOST_UNKNOWN:
        faults.append(f"… and {len(unknown) - MOST_UNKNOWN:,} more unknown columns")
    for name in ("id", "prompt"):
        if name not in names:
            faults.append(f"`{name}`: missing, expected a column of {COLUMNS[name].arrow}")
    return faults


def _cut_type(found: pa.DataType) -> str:
    name = str(found)
    return name if len(name) <= 80 else name[:79] + "…"


def _holds(found: pa.DataType, holds: str, lists: bool) -> bool:
    if pa.types.is_dictionary(found):
        found = found.value_type
    if lists and is_list(found):
        return _holds(found.value_type, holds, False)
    if pa.types.is_null(found):
        return True
    if holds == "text":
        return (
            pa.types.is_string(found)
            or pa.types.is_large_string(found)
            or pa.types.is_string_view(found)
        )
    return _is_number(found)


def _is_number(found: pa.DataType) -> bool:
    return pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_decimal(found)
