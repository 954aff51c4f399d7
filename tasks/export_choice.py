"""Which finished clips an export takes: those that meet its conditions, and are whole."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from manifests.best_by import SCORE_NAMES
from manifests.columns import COLUMNS, META
from manifests.kinds import count
from manifests.ledger import ledger_batches
from manifests.links import check_own
from manifests.result import from_record, to_record
from manifests.scores import Scores
from manifests.storage import RunFolder
from tasks.decoding import sum_of
from tasks.job import Engine

RECORD_COLUMNS = (
    *("id", "digest", "prompt", "seed", "model", "model_revision", "num_frames", "height", "width"),
    *("fps", "bytes", "sha256", "params", "kl_achieved"),
)
_COMPARED = {
    **{">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt},
    **{"!=": operator.ne, "=": operator.eq},
}
_NAMED = 10  # damaged clips in an error


class ExportError(ValueError):
    """An export that cannot be made as asked for; the message says what to do."""


@dataclass(frozen=True)
class Conditions:
    """What clips to export: each a column, a comparison and the value to compare with."""

    tests: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = ()

    def meets(self, record: Mapping[str, Any]) -> bool:
        """Whether a record meets every one."""
        if not self.tests:
            return True
        params = json.loads(record.get("params") or "{}")
        return all(_holds(record.get(n, params.get(n)), test, v) for n, test, v in self.tests)

    def __str__(self) -> str:
        """As `--where` takes them; `--min-score` is one of them, too."""
        signs = {test: sign for sign, test in _COMPARED.items()}
        return " and ".join(f"{name}{signs[test]}{value}" for name, test, value in self.tests)


ALL = Conditions()


def conditions_of(texts: Iterable[str]) -> Conditions:
    """Conditions from texts: `column=value` or with `!=`, `>=`, `<=`, `>`, `<`.

    A column is the record's own, a score's, or a parameter's. A clip without the column meets none.

    Raises:
        ExportError: a text that is no condition, or numbers compared with words.
    """
    tests: list[tuple[str, Any, str]] = []
    for text in texts:
        found = re.fullmatch(r"\s*([A-Za-z_][\w-]*)\s*(>=|<=|!=|>|<|=)\s*(.*?)\s*", text, re.DOTALL)
        if found is None:
            raise ExportError(f"--where: expected column=value or column>=number, found {text!r}")
        name, sign, value = found.groups()
        if sign not in ("=", "!=") and _number(value) is None:
            raise ExportError(f"--where: expected a number after {sign}, found {value!r}")
        tests.append((name, _COMPARED[sign], value))
    return Conditions(tuple(tests))


def _holds(found: Any, test: Callable[[Any, Any], bool], value: str) -> bool:
    if found is None:
        return False
    wanted = _number(value)
    if isinstance(found, int | float) and not isinstance(found, bool) and wanted is not None:
        return test(found, wanted)
    if test not in (operator.eq, operator.ne):
        return False
    return test(found if isinstance(found, str) else json.dumps(found), value)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def record_of(row: Mapping[str, Any], scores: Scores) -> dict[str, Any]:
    """What an export keeps of a ledger row: what the clip is, not when and where it was made."""
    whole = to_record(from_record(dict(row)))
    record = {n: v for n, v in whole.items() if n in RECORD_COLUMNS or n.startswith(META)}
    return {**record, **(scores.of(record["id"], record["digest"]) or {})}


class Wanted(NamedTuple):
    """A clip to export, and its file as the ledger knows it."""

    id: str
    bytes: int
    file_name: str
    sha256: str


def wanted(folder: RunFolder, scores: Scores, conditions: Conditions) -> list[Wanted]:
    """The finished clips that meet the conditions, by their ids; in about 400 bytes a clip.

    Raises:
        ExportError: none, and why.
    """
    found: list[Wanted] = []
    finished, columns = 0, set[str]()
    for batch in ledger_batches(folder.root, statuses=["ok"]):
        for row in batch.to_pylist():
            record = record_of(row, scores)
            finished += 1
            columns.update(record)
            if conditions.meets(record):
                name, digest = str(row["file_name"]), str(record.get("sha256"))
                found.append(Wanted(record["id"], record.get("bytes") or 0, name, digest))
    if not finished:
        raise ExportError(
            f"{folder.name}: expected finished clips, found none; `zs2 status {folder.name}` says what "
            "became of its rows"
        )
    if not found:
        _check_columns(folder, conditions, columns, is_scored=len(scores) > 0)
        raise ExportError(
            f"{folder.name}: expected finished clips that meet {conditions}, found none; ask for less"
        )
    return sorted(found)


def _check_columns(
    folder: RunFolder, conditions: Conditions, columns: set[str], is_scored: bool
) -> None:
    """Raise ExportError for a condition that no clip can meet: of a column that there is not."""
    engine = (each.name for each in fields(Engine))
    known = {*columns, *RECORD_COLUMNS, *COLUMNS, *SCORE_NAMES, *engine}
    for name, _, _ in conditions.tests:
        if name in SCORE_NAMES and not is_scored:
            raise ExportError(
                f"{name}: expected scored clips, found none; run `zs2 eval {folder.name}` first"
            )
        if name not in known:
            near = get_close_matches(name, sorted(known), 3)
            meant = (
                f"did you mean {' or '.join(near)}?" if near else "meta_ columns are the run's own"
            )
            raise ExportError(
                f"--where: expected a column, a parameter or a score, found {name!r}; {meant}"
            )


def without_frames(folder: RunFolder, found: list[Wanted]) -> int:
    """Take folders of PNGs out, which are no video to `datasets`; how many they were.

    Raises:
        ExportError: nothing else is there.
    """
    kept = [each for each in found if not _is_frames(each)]
    left_out = len(found) - len(kept)
    if not kept:
        raise ExportError(
            f"{folder.name}: expected videos, found {count(left_out, 'folder')} of PNGs alone; export them "
            "with --format parquet, which has them as `frames`, or webdataset"
        )
    found[:] = kept
    return left_out


def _is_frames(clip: Wanted) -> bool:
    return Path(clip.file_name).name == clip.id


class DamagedError(Exception):
    """A clip that is gone or not what the ledger says."""


def clips_of(
    folder: RunFolder, records: Iterable[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], Path]]:
    """Every clip with its file, as the ledger knows it.

    Raises:
        DamagedError: it is gone or damaged.
    """
    for record in records:
        with _whole_file(folder, record.pop("file_name"), record.get("sha256")) as path:
            yield record, path


@contextmanager
def _whole_file(folder: RunFolder, name: str, sha256: str | None) -> Generator[Path]:
    if Path(name).is_absolute() or ".." in Path(name).parts:  # of a ledger that no run wrote
        raise DamagedError("not a file of the run folder")
    try:
        with folder.finished_file(name) as path:
            if folder.remote is None:
                check_own(folder.root, path)
            if sum_of(path)[0] != sha256:
                raise DamagedError("not what the ledger describes")
            yield path
    except FileNotFoundError as error:
        raise DamagedError("gone") from error


def fault_of(folder: RunFolder, clip: Wanted) -> str | None:
    """What is wrong with a clip's file."""
    try:
        with _whole_file(folder, clip.file_name, clip.sha256):
            return None
    except DamagedError as error:
        return str(error)


def all_damaged(folder: RunFolder, found: Iterable[Wanted]) -> ExportError:
    """One error of all clips that are damaged: whoever mends one wants to know of the others."""
    faults = [(each.file_name, fault_of(folder, each)) for each in found]
    damaged = [f"{name} ({fault})" for name, fault in faults if fault is not None]
    more = f" and {len(damaged) - _NAMED:,} more" if len(damaged) > _NAMED else ""
    return ExportError(
        f"expected the files that the ledger describes, found {count(len(damaged), 'clip')} gone or "
        f"damaged: {', '.join(damaged[:_NAMED])}{more}; remove what is damaged and run `zs2 render` "
        "again, which makes what is missing, or leave them out with --skip-damaged"
    )
