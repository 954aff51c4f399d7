"""Validation of a whole manifest: every row, every fault, in one streaming pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from manifests.columns import is_id
from manifests.digest import id_hash
from manifests.fault import Fault
from manifests.inputs import InputFiles
from manifests.kinds import count, describe
from manifests.object_store import is_url
from manifests.read import Manifest, RawRow
from manifests.row import ManifestRow, RowError, parse_row
from manifests.table import Table

_POSITION = 5  # bytes of a row's position


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault and where it stands. `row` counts from 0 inside the file; `id` is as found."""

    file: str
    row: int
    id: str
    column: str
    expected: str
    found: str
    hint: str = ""

    @classmethod
    def at(cls, raw: RawRow, fault: Fault) -> Problem:
        """A fault of a raw row, with its place."""
        found = raw.values.get("id", "")
        shown = found if is_id(found) or found == "" else describe(found)
        return cls(raw.file, raw.row, shown, *fault)

    def __str__(self) -> str:
        fault = Fault(self.column, self.expected, self.found, self.hint)
        return f"{self.file} row {self.row}: {fault}"


class RowCheck:
    """Checks the rows of a manifest in their order; holds about 40 bytes a row, to find duplicates.

    Args:
        inputs: where rows may read clips and pictures from; None does not look for them.

    Of rows with one id the first counts and the later ones are problems that name it.
    """

    def __init__(
        self,
        manifest: Manifest,
        defaults: Mapping[str, Any] | None = None,
        inputs: InputFiles | None = None,
    ) -> None:
        self._manifest = manifest
        self._defaults = defaults
        self._inputs = inputs
        self._firsts = Table(_POSITION, manifest.num_rows)

    def row(self, raw: RawRow) -> ManifestRow | list[Problem]:
        """What a row asks for, or all that is wrong with it."""
        faults: list[Fault] = []
        row: ManifestRow | None = None
        try:
            row = parse_row(raw.values, self._defaults)
            if self._inputs is not None:
                self._inputs.find(row, folder_of(raw.file))
        except RowError as error:
            faults += error.faults
        name: Any = raw.values.get("id")
        if is_id(name) and not self.is_first(name, raw.position):
            faults.append(self._used_already(name))
        if row is None or faults:
            return [Problem.at(raw, fault) for fault in faults]
        return row

    def is_first(self, row_id: str, position: int) -> bool:
        """Whether the id is met here for the first time; asking again changes nothing."""
        here = position.to_bytes(_POSITION)
        return self._firsts.setdefault(id_hash(row_id), here) == here

    def _used_already(self, row_id: str) -> Fault:
        first = self._firsts.get(id_hash(row_id)) or b""
        file, line = self._manifest.locate(int.from_bytes(first))
        hint = f"it is first used by row {line} of {file}"
        return Fault("id", "an id that no other row has", describe(row_id), hint)


@lru_cache(1)
def folder_of(file: str) -> Path | str:
    """The folder of a manifest's file, where the names of its rows' inputs count from; a URL's is a
    URL."""
    return file.rpartition("/")[0] if is_url(file) else Path(file).parent


def check_rows(
    manifest: Manifest,
    defaults: Mapping[str, Any] | None = None,
    inputs: InputFiles | None = None,
) -> Iterator[tuple[RawRow, ManifestRow | list[Problem]]]:
    """Every row of a manifest with what it asks for, or with all that is wrong with it.

    One pass; holds one batch of rows, and what a `RowCheck` holds.

    Raises:
        ManifestError: where a file turns out to be damaged.
    """
    check = RowCheck(manifest, defaults, inputs)
    for raw in manifest.rows():
        yield raw, check.row(raw)


def format_problems(problems: Sequence[Problem], limit: int = 50) -> str:
    """One report of all problems, aligned; past `limit` lines, counts by column."""
    if not problems:
        return "no problems"
    rows = len({(problem.file, problem.row) for problem in problems})
    head = f"{count(len(problems), 'problem')} in {count(rows, 'row')} (rows count from 0)"
    shown = problems[:limit]
    columns = [
        [p.file for p in shown],
        [f"row {p.row}" for p in shown],
        [p.id or "-" for p in shown],
        [p.column for p in shown],
    ]
    widths = [min(max(map(len, column)), 60) for column in columns]
    lines = [head]
    for index, problem in enumerate(shown):
        cells = [c[index].ljust(width) for c, width in zip(columns, widths, strict=True)]
        hint = f" ({problem.hint})" if problem.hint else ""
        lines.append(
            f"  {'  '.join(cells)}  expected {problem.expected}, found {problem.found}{hint}"
        )
    rest = problems[limit:]
    if rest:
        by_column = Counter(problem.column for problem in rest).most_common()
        counts = ", ".join(f"{column}: {count:,}" for column, count in by_column[:10])
        lines.append(
            f"  … and {len(rest):,} more ({counts}); `zs2 manifest validate --json` lists all"
        )
    return "\n".join(lines)
