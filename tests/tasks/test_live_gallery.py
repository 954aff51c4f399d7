"""The gallery of a run that goes on: a process of its own, bounded, gone with the run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from manifests.journal import Journal
from manifests.result import ResultRow
from manifests.storage import RunFolder
from tasks import live_gallery as live
from tasks.live_gallery import live_gallery, write_page
from tests.gallery_folder import data_of, rows_of


def row(row_id: str, **more: Any) -> ResultRow:
    return ResultRow(row_id, "ab" * 16, "ok", prompt="p", finished_at=datetime.now(UTC), **more)


def until(holds: Any, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.1)
    return bool(holds())


def test_the_page_follows_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """While it is open the page has the rows that have ended, and says that the run goes on and how
    far it is; afterwards no process is left and nothing writes any more."""
    monkeypatch.setattr(live, "FIRST", 0.1)
    folder = RunFolder(tmp_path / "out").create()
    page = folder.gallery_file
    with Journal(folder.results, "r1") as journal, live_gallery(folder, "r.parquet", 7):
        journal.append(row("a"))
        assert until(page.exists)
        data = data_of(folder.root)
        assert (data["title"], data["state"], data["news"]["total"]) == ("r.parquet", "running", 7)
        assert [each["id"] for each in rows_of(folder.root)] == ["a"]
        journal.append(row("b"))
        assert until(lambda: len(rows_of(folder.root)) == 2)
        assert data_of(folder.root)["news"]["clips_per_second"] > 0
    page.unlink()
    time.sleep(0.5)
    assert not page.exists() and not list(folder.root.rglob(".tmp-*"))


def test_a_short_run_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run that ends before the first page was due has only the last one."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    folder = RunFolder(tmp_path / "out").create()
    with live_gallery(folder, "r", 1):
        pass
    assert not folder.gallery_file.exists()


def test_it_ends_with_a_driver_that_is_killed(tmp_path: Path):
    """SIGKILL leaves no process that writes on."""
    folder = RunFolder(tmp_path / "out").create()
    script = (
        "import sys, time; from manifests.storage import RunFolder\n"
        "from tasks import live_gallery as live\n"
        "live.FIRST = 0.05\n"
        "with live.live_gallery(RunFolder(sys.argv[1]), 'r', 1): time.sleep(600)"
    )
    driver = subprocess.Popen([sys.executable, "-c", script, str(folder.root)])
    try:
        assert until(folder.gallery_file.exists)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()

    def writers() -> list[str]:
        commands = (p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists())
        return [c.decode() for c in commands if str(folder.root).encode() in c]

    assert until(lambda: not writers(), 20), writers()


def test_a_ledger_that_cannot_be_read_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """What goes wrong with the page is told in the log; the run goes on."""
    monkeypatch.setattr(live, "FIRST", 0.05)
    folder = RunFolder(tmp_path / "out").create()
    (folder.results / "part-000001-00000-of-00001.parquet").write_bytes(b"none")
    started: list[Any] = []
    popen = subprocess.Popen

    def note(*words: Any, **options: Any) -> Any:
        started.append(popen(*words, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", note)
    with live_gallery(folder, "r", 1):
        assert until(lambda: bool(started) and started[0].poll() is not None)
    assert "cannot be read" in caplog.text


def test_only_this_runs_rows_make_its_rate(tmp_path: Path):
    """Rows of earlier runs are shown and counted, not taken for this one's speed."""
    folder = RunFolder(tmp_path / "out").create()
    begun = datetime.now(UTC) - timedelta(seconds=10)
    with Journal(folder.results, "r1") as journal:
        journal.append(ResultRow("old", "ab" * 16, "ok", finished_at=begun - timedelta(days=1)))
        for i in range(5):
            journal.append(row(f"n{i}"))
    write_page(folder, "r", 9, begun, 4.0)
    data = data_of(folder.root)
    assert data["of"] == 6 and data["news"]["clips_per_second"] == pytest.approx(0.5, rel=0.2)
