"""What people see: numbers in words, tables, progress where there is no terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.commands import manifest, run, status
from flows.console import Counted, Progress, duration, size, table
from manifests.columns import COLUMNS
from manifests.result import ResultRow
from manifests.storage import RunFolder
from tasks.plan import Plan


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_duration(seconds: float, text: str) -> None:
    """Two units at most; rounding never says 60 s."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e9, "2.0 GB"), (3e15, "3000.0 TB")],
)
def test_size(count: float, text: str) -> None:
    """Decimal units, one figure after the point."""
    assert size(count) == text


def test_table_aligns_columns() -> None:
    """Every column begins at one place; no line ends in blanks; no rows are no text."""
    lines = table([("a", "bb"), ("ccc", "")], ("x", "header")).splitlines()
    assert lines == ["x    header", "a    bb", "ccc"]
    assert table([]) == ""


@pytest.mark.parametrize("width", [60, 100])
def test_columns_fit_the_terminal(width: int) -> None:
    """Every column begins a line, and no line is longer than the terminal is wide."""
    lines = manifest.columns(False, width).splitlines()
    assert max(map(len, lines)) <= width
    heads = [line.partition(":")[0] for line in lines if not line.startswith(" ")]
    assert heads == [*COLUMNS, "meta_*"]
    assert "guidance_scale: float, default the model's" in lines


def test_the_rate_is_said_with_the_clock_it_is_of(tmp_path: Path) -> None:
    """The time that a run took holds its start and end; the rate does not, and says so."""
    counts = {"ok": 4, "failed": 0, "invalid": 0}
    summary = {
        **{"rows": counts, "rendered": counts, "left": 0, "state": "finished", "frames": 44},
        **{"frames_per_second": 4.4, "wall_seconds": 10.0},
    }
    said = run._closing_lines(summary, RunFolder(tmp_path), "m.parquet", 34.0).splitlines()[0]
    assert said == (
        "4 rows rendered in 34 s (44 frames, 4.4 frames/s but for 24 s of starting and ending); "
        "4 of 4 are ok"
    )


def test_status_says_causes_first_and_one_row_whole() -> None:
    """A cause with its count, then one row's own message, uncut however long its path is."""
    told = f"{'/long/folder' * 50}/a.mp4: expected a video"
    cause = {
        "stage": "sample",
        "error": "ClipError",
        "rows": 1200,
        "message": "…: expected a video",
    }
    report = {
        **{"out": "o", "state": "finished", "error": None, "rows_per_second": None, "rows": 1200},
        **{"ok": 0, "failed": 1200, "invalid": 0, "left": 0},
        "failures": [cause | {"example": "r7", "told": told}],
        "notes": [cause | {"rows": 1, "example": "r8", "told": "prompt truncated"}],
    }
    assert status.text(report).splitlines()[2:] == [
        "1,200× sample, ClipError: …: expected a video",
        f"    e.g. r7: {told}",
        "1× ok, with a note: r8: prompt truncated",
    ]


def test_progress_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Plain lines on standard error: the plan, then at most one line in five seconds with the rows
    ended, the failures and the time left; with quiet, nothing."""
    for quiet in (False, True):
        with Progress(quiet) as progress:
            plan = Plan(rows=4, done=1, invalid_rows=1)
            plan.work.rows = 2
            progress.on_plan(plan)
            for status in ("invalid", "failed", "ok"):
                progress.on_row(ResultRow("a", "", status, num_frames=8))  # type: ignore[arg-type]
        said = capsys.readouterr()
        assert said.out == ""
        if quiet:
            assert said.err == ""
        else:
            lines = said.err.splitlines()
            assert lines[0].startswith("starting")
            assert lines[1] == "2 rows to render in 0 shards, 1 done before, 1 invalid"
            assert lines[2].startswith("1/2 rows, ") and lines[2].endswith(" left, 1 failed")
            assert len(lines) == 3


def test_counted_work_says_how_far_it_is_and_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Where there is no terminal a line comes every few seconds, for new parts alone; parts that were
    there before count as done and not into the rate. Quiet says nothing."""
    now = [100.0]
    monkeypatch.setattr("flows.console.time.monotonic", lambda: now[0])
    for quiet in (False, True):
        with Counted("rendering", 10, quiet) as progress:
            for is_new in (False, False, True, True):
                now[0] += 10.0
                progress.step(is_new)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["rendering 3/10, 3 min 30 s left", "rendering 4/10, 2 min 0 s left"]
