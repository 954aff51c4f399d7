"""`zs2 status`: how a run stands, read from its folder; the run itself is not asked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.console import duration
from flows.earlier_run import earlier_run
from flows.errors import UsageError
from manifests.files import write_aside
from manifests.journal import lines_of, list_journals, records_of
from manifests.ledger import known
from manifests.run_file import read_derived, read_json
from manifests.storage import RunFolder
from tasks.publish import Cause, failures_by_cause, notes_by_cause
from tasks.throughput import draw, timeline

MOST_NOTES = 5
MOST_SHOWN = 400  # characters of a cause; the example has its message whole


def status(out: str, picture: Path | None = None) -> dict[str, Any]:
    """Counts, rate and failures of the run in `out`, a folder or a URL.

    Args:
        picture: where to draw the last run's throughput, if anywhere.

    Raises:
        UsageError: no run was there, or nothing of it has ended that could be drawn.
    """
    with earlier_run(out).view() as folder:
        report = _status(out, folder)
        if picture is not None:
            _draw(out, folder, picture)
    return {**report, **({"picture": str(picture)} if picture else {})}


def _draw(out: str, folder: RunFolder, picture: Path) -> None:
    if picture.suffix.lower() != ".svg":
        raise UsageError(f"--picture: expected a file named ….svg, found {picture}")
    if not picture.absolute().parent.is_dir():
        raise UsageError(f"--picture: expected a folder that is there, found none for {picture}")
    content = read_json(folder.run_file) or {}
    made = timeline(folder, datetime.fromisoformat(content["started_at"]))
    if made is None:
        raise UsageError(f"{out}: no row of the last run has ended: there is nothing to draw")
    with write_aside(picture) as aside:
        aside.write_text(draw(made), "utf-8")


def _status(out: str, folder: RunFolder) -> dict[str, Any]:
    content = read_json(folder.run_file) or {}
    holder = folder.lock_holder()
    counts = known(folder.root).counts()
    total: int = content["rows"]
    left = max(0, total - sum(counts.values()))
    rate = _rows_per_second(folder, content["run_id"]) if holder is not None else None
    return {
        "out": out,
        "manifest": content["manifest"],
        "run_id": content["run_id"],
        "state": _state(content["state"], holder is not None),
        "error": content.get("error"),
        "rows": total,
        **counts,
        "left": left,
        "rows_per_second": rate,
        "eta_seconds": left / rate if rate else None,
        "failures": [cause._asdict() for cause in failures_by_cause(folder)],
        "notes": [cause._asdict() for cause in _notes(folder)],
    }


def _notes(folder: RunFolder) -> list[Cause]:
    """What was noted of rows that are ok, once their run has ended: its summary says whether there are
    any, and reading a journal for them would take long."""
    summary = read_derived(folder.summary_file) or {}
    if not summary.get("noted") or list_journals(folder.results):
        return []
    return notes_by_cause(folder)


def _state(written: str, is_held: bool) -> str:
    if is_held:
        return "running"
    return "killed (the same command goes on where it stopped)" if written == "running" else written


def _rows_per_second(folder: RunFolder, run_id: str) -> float | None:
    """Of the run that goes on, from its journal: since its first row ended."""
    rows, first = 0, dict[str, Any]()
    for path, header in list_journals(folder.results):
        if header.run_id == run_id:
            with path.open("rb") as file:
                _, begun = next(records_of(file), (0, {}))
                rows += sum(1 for _ in lines_of(file))
            first = first or begun
    if "finished_at" not in first:  # it has not begun to render, or it is publishing
        return None
    seconds = (datetime.now(UTC) - datetime.fromisoformat(first["finished_at"])).total_seconds()
    return rows / seconds if seconds > 0 else None


def text(report: Mapping[str, Any]) -> str:
    """The status as lines for people."""
    lines = [
        f"{report['out']}: {report['state']}",
        f"{report['ok']:,} ok, {report['failed']:,} failed, {report['invalid']:,} invalid, "
        f"{report['left']:,} left of {report['rows']:,} rows",
    ]
    if report["error"]:
        lines.append(report["error"])
    if report["rows_per_second"]:
        lines.append(
            f"{report['rows_per_second']:.2f} rows/s, about {duration(report['eta_seconds'])} left"
        )
    if report.get("picture"):
        lines.append(f"throughput: {report['picture']}")
    for cause in report["failures"]:
        lines += _cause_lines(cause, f"{cause['stage']}, {cause['error']}")
    for cause in report["notes"][:MOST_NOTES]:
        lines += _cause_lines(cause, "ok, with a note")
    if len(report["notes"]) > MOST_NOTES:
        lines.append(f"{len(report['notes']) - MOST_NOTES} notes more: --json has all")
    return "\n".join(lines)


def _cause_lines(cause: Mapping[str, Any], what: str) -> list[str]:
    """What rows have in common, and one of them; of a single row its own words alone."""
    if cause["rows"] == 1:
        return [f"1× {what}: {cause['example']}: {cause['told']}"]
    is_same = cause["told"] == cause["message"]
    return [
        f"{cause['rows']:,}× {what}: {_cut(cause['message'])}",
        f"    e.g. {cause['example']}" + ("" if is_same else f": {cause['told']}"),
    ]


def _cut(message: str) -> str:
    return message if len(message) <= MOST_SHOWN else message[: MOST_SHOWN - 1] + "…"
