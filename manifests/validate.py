"""Validation of a whole manifest: every row, every fault, in one streaming pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.columns import is_id
from manifests.digest import id_hash
from manifests.inputs import InputFiles
from manifests.kinds import count, describe
from manifests.read import Manifest, RawRow
from manifests.row import Fault, ManifestRow, RowError, parse_row


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


def check_rows(
    manifest: Manifest,
    defaults: Mapping[str, Any] | None = None,
    inputs: InputFiles | None = None,
) -> Iterator[tuple[RawRow, ManifestRow | list[Problem]]]:
    """Every row of a manifest with what it asks for, or with all that is wrong with it.

    Args:
        inputs: where rows may read clips and pictures from; None does not look for them.

    One pass; holds one batch of rows, and about 130 bytes a row to find duplicate ids. Of rows with
    one id the first counts and the later ones are problems that name it.

    Raises:
        ManifestError: where a file turns out to be damaged.
    """
    seen: dict[bytes, int] = {}
    for raw in manifest.rows():
        faults: list[Fault] = []
        row: ManifestRow | None = None
        try:
            row = parse_row(raw.values, defaults)
            if inputs is not None:
                inputs.find(row, Path(raw.file).parent)
        except RowError as error:
            faults += error.faults
        name = raw.values.get("id")
        if is_id(name):
            first = seen.setdefault(id_hash(str(name)), raw.position)
            if first != raw.position:
                file, line = manifest.locate(first)
                hint = f"it is first used by row {line} of {file}"
                faults.append(Fault("id", "an id that no other row has", describe(name), hint))
        if faults:
            yield raw, [Problem.at(raw, fault) for fault in faults]
        elif row is not None:
            yield raw, row


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
