"""`zs2 status`: how a run stands, read from its folder; the run itself is not asked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flows.console import duration
from flows.errors import UsageError
from manifests.ledger import iter_results, known
from manifests.run_file import read_json
from manifests.storage import RunFolder
from tasks.publish import failures_by_cause

MOST_SHOWN = 400  # characters of a cause; the example has its message whole


def status(out: str) -> dict[str, Any]:
    """Counts, rate and failures of the run in `out`, a folder or a URL.

    Raises:
        UsageError: no run was there.
    """
    with RunFolder(out).view() as folder:
        return _status(out, folder)


def _status(out: str, folder: RunFolder) -> dict[str, Any]:
    content = read_json(folder.run_file)
    if content is None:
        raise UsageError(f"{out}: expected the folder of a run, found no run.json")
    holder = folder.lock_holder()
    counts = known(folder.root).counts()
    total: int = content["rows"]
    left = max(0, total - sum(counts.values()))
    started = datetime.fromisoformat(content["started_at"])
    rate = _rows_per_second(folder, started) if holder is not None else None
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
    }


def _state(written: str, is_held: bool) -> str:
    if is_held:
        return "running"
    return "killed (the same command goes on where it stopped)" if written == "running" else written


def _rows_per_second(folder: RunFolder, started: datetime) -> float | None:
    ended = [
        row.finished_at
        for row in iter_results(folder.root)
        if row.finished_at is not None and row.finished_at >= started
    ]
    seconds = (datetime.now(UTC) - min(ended)).total_seconds() if ended else 0.0
    return len(ended) / seconds if seconds > 0 else None


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
    for cause in report["failures"]:
        lines.append(
            f"{cause['rows']:,}× {cause['stage']}, {cause['error']}: {_cut(cause['message'])}"
        )
        is_same = cause["told"] == cause["message"]
        lines.append(f"    e.g. {cause['example']}" + ("" if is_same else f": {cause['told']}"))
    return "\n".join(lines)


def _cut(message: str) -> str:
    return message if len(message) <= MOST_SHOWN else message[: MOST_SHOWN - 1] + "…"
