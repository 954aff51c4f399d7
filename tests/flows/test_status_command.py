"""`zs2 status` of a run that is going on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.commands.status import status, text
from flows.errors import UsageError
from manifests.journal import Journal
from manifests.result import ResultRow
from manifests.run_file import write_json
from manifests.storage import RunFolder


def test_the_rate_is_of_the_run_that_goes_on(tmp_path: Path):
    """Rows that it has ended, over the time since the first of them; what earlier runs left counts
    as done and not for the rate. Failures are grouped; without a run there is no rate."""
    folder = RunFolder(tmp_path).create()
    begun = datetime.now(UTC) - timedelta(seconds=100)
    content = {"run_id": "now", "state": "running", "manifest": "m", "rows": 120}
    write_json(folder.run_file, {**content, "started_at": begun.isoformat()})
    with Journal(folder.results, "earlier") as journal:
        for number in range(60):
            journal.append(ResultRow(f"e{number}", "", "ok", finished_at=begun))
    with folder.lock("now"), Journal(folder.results, "now") as journal:
        assert status(str(tmp_path))["rows_per_second"] is None
        for number in range(20):
            ended = begun + timedelta(seconds=number)
            message = None if number else "no such clip"
            state = "failed" if message else "ok"
            journal.append(
                ResultRow(f"n{number}", "", state, error_message=message, finished_at=ended)
            )
        report = status(str(tmp_path))
    assert (report["ok"], report["failed"], report["left"]) == (79, 1, 40)
    assert report["rows_per_second"] == pytest.approx(20 / 100, rel=0.5)
    assert report["eta_seconds"] == pytest.approx(40 / report["rows_per_second"])
    assert [(c["rows"], c["message"]) for c in report["failures"]] == [(1, "no such clip")]
    assert status(str(tmp_path))["rows_per_second"] is None


def test_the_picture_of_a_run(tmp_path: Path):
    """`--picture` draws the last run, and says where; before a row has ended there is nothing to draw,
    and a name that is no SVG's is refused."""
    folder = RunFolder(tmp_path / "out").create()
    begun = datetime.now(UTC)
    content = {"run_id": "now", "state": "running", "manifest": "m", "rows": 2}
    write_json(folder.run_file, {**content, "started_at": begun.isoformat()})
    out, picture = str(tmp_path / "out"), tmp_path / "now.svg"
    with pytest.raises(UsageError, match="nothing to draw"):
        status(out, picture)
    with Journal(folder.results, "now") as journal:
        ended = begun + timedelta(seconds=3)
        journal.append(ResultRow("r", "", "ok", started_at=begun, finished_at=ended, num_frames=8))
    assert f"throughput: {picture}" in text(status(out, picture))
    assert "<svg" in picture.read_text("utf-8")
    with pytest.raises(UsageError, match=r"expected a file named ….svg, found .*now.png"):
        status(out, picture.with_suffix(".png"))
    with pytest.raises(UsageError, match="expected a folder that is there"):
        status(out, tmp_path / "nowhere" / "now.svg")
