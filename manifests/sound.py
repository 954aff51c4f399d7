"""Whether a result can be what a run wrote: others can write to a run folder, too.

A result that is not sound is passed over as a torn line is: its row counts as not done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from manifests.result import RESULT_COLUMNS, STATUSES, TIMES

DECISIVE = ("id", "digest", "status", "file_name")
# A finished file as the run folder names it; nothing that could lead out of the folder.
FILE_NAME = r"^videos/[0-9a-f]{2}/[A-Za-z0-9_-][A-Za-z0-9._-]{0,140}$"
DIGEST = r"^([0-9a-f]{2}){0,32}$"
_NUMBERS = ("attempts", "bytes", "num_frames", "height", "width", "seed")


def is_sound(record: Mapping[str, Any]) -> bool:
    """Whether a flat record can be what `to_record` made: somebody may have written it by hand."""
    for name in RESULT_COLUMNS:
        value = record.get(name)
        if value is None or name == "kl_achieved":
            continue
        is_number = name == "fps" or name.startswith("seconds_")
        kinds = (int,) if name in _NUMBERS else (int, float) if is_number else (str,)
        if type(value) not in kinds or (kinds == (int,) and not -(2**63) <= value < 2**63):
            return False
    kl = record.get("kl_achieved") or []
    if not isinstance(kl, list) or not all(type(value) in (int, float) for value in kl):
        return False
    try:
        for name in TIMES:
            datetime.fromisoformat(record.get(name) or "2000-01-01")
        json.loads(record.get("params") or "{}")
    except (ValueError, RecursionError):
        return False
    return _is_named(record)


def _is_named(record: Mapping[str, Any]) -> bool:
    digest, file_name = record.get("digest"), record.get("file_name")
    if record.get("id") is None or digest is None or re.fullmatch(DIGEST, digest) is None:
        return False
    if record.get("status") not in STATUSES:
        return False
    return file_name is None or re.fullmatch(FILE_NAME, file_name) is not None


def sound_rows(batch: pa.RecordBatch) -> pa.Array:
    """For each row whether its id, digest, status and file name can be a run's."""

    def matches(name: str, pattern: str) -> pa.Array:
        options = pc.MatchSubstringOptions(pattern)
        found = pc.call_function("match_substring_regex", [batch.column(name)], options)
        return pc.fill_null(found, False)

    unnamed = pc.call_function("is_null", [batch.column("file_name")])
    fits = pc.call_function("or", [matches("file_name", FILE_NAME), unnamed])
    for found in (
        matches("digest", DIGEST),
        pc.call_function("is_valid", [batch.column("id")]),
        matches("status", f"^({'|'.join(STATUSES)})$"),
    ):
        fits = pc.call_function("and", [fits, found])
    return fits


def check_schema(found: pa.Schema, types: Mapping[str, pa.DataType]) -> None:
    """That a part of the ledger has the columns that decide, and none of another type.

    Raises:
        ValueError: it is no part that a run wrote.
    """
    for name in found.names:
        if name in types and found.field(name).type != types[name]:
            raise ValueError(f"`{name}`: expected {types[name]}, found {found.field(name).type}")
    missing = [name for name in DECISIVE if name not in found.names]
    if missing:
        raise ValueError(f"a part without `{missing[0]}`")
