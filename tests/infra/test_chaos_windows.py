"""infra.chaos.watch, windows and processes: what a run shows from outside is told rightly."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.chaos import windows
from infra.chaos.processes import descendants, freeze, is_alive, kill, marked, release, state
from infra.chaos.watch import Event, Watcher
from infra.chaos.windows import Aim
from manifests.storage import aside_path, write_aside


def until(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def journal(out: Path, *ids: str) -> None:
    lines = ['{"zs2_journal":1}', *(json.dumps({"crc": "0", "row": {"id": i}}) for i in ids)]
    (out / "results" / "journal-a.jsonl").write_text("\n".join(lines) + "\n")


def put(path: Path, seconds: int) -> None:
    """A file that was written so many seconds after the others."""
    path.touch()
    os.utime(path, (1e9 + seconds, 1e9 + seconds))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for name in ("results", "videos/ab", "latents"):
        (tmp_path / "out" / name).mkdir(parents=True)
    return tmp_path / "out"


def test_the_windows_of_a_driver(out: Path) -> None:
    """A finished video without a line in a journal, a part aside or newer than the journal that is in
    it, a ledger newer than what is made of it: each is told from the files alone."""
    journal(out)
    assert windows.of_driver(out, set()) == windows.FLIGHT
    (out / "videos/ab/a.mp4").touch()
    assert windows.of_driver(out, set()) == windows.JOURNAL
    assert windows.of_driver(out, {"a"}) == windows.FLIGHT
    journal(out, "a")
    assert windows.of_driver(out, set()) == windows.FLIGHT

    aside = aside_path(out / "results" / "part.parquet")
    aside.touch()
    assert windows.of_driver(out, set()) == windows.COMPACTION
    aside.unlink()
    put(out / "results" / "journal-a.jsonl", 1)
    put(out / "results" / "part-000001-00000-of-00001.parquet", 2)
    assert windows.of_driver(out, set()) == windows.COMPACTION
    put(out / "results" / "journal-a.jsonl", 3)  # a later run's
    assert windows.of_driver(out, set()) == windows.FLIGHT

    (out / "results" / "journal-a.jsonl").unlink()
    assert windows.of_driver(out, {"a"}) == windows.PUBLISH
    for name in windows.PUBLISHED:
        put(out / name, 4)
    assert windows.of_driver(out, {"a"}) == windows.FLIGHT
    aside_path(out / "index.html").touch()
    assert windows.of_driver(out, {"a"}) == windows.PUBLISH


def test_what_happens_in_a_run_folder_is_seen(tmp_path: Path) -> None:
    """Files that appear aside, with the attempt's pid, and get their names; in folders that were made
    meanwhile too; and each line of a journal, once it is whole."""
    events: list[Event] = []
    out = tmp_path / "out"
    watcher = Watcher(out, events.append)
    try:
        (out / "results").mkdir()
        with write_aside(out / "videos/ab/a.mp4") as aside:
            aside.write_text("x")
        assert until(lambda: any(e.what == "named" for e in events))
        seen = {(e.what, e.folder, e.name, e.aside) for e in events}
        assert ("created", "videos", "ab", False) in seen
        assert ("named", "videos/ab", "a.mp4", False) in seen
        assert [e.pid for e in events if e.what == "named"] == [os.getpid()]
        path = out / "results" / "journal-a.jsonl"
        with path.open("w") as file:
            file.write('{"zs2_journal":1}\n{"row":{"id":"a"}}\n{"row":')
            file.flush()
            assert until(lambda: len(watcher.results) == 1)
            file.write('{"id":"b"}}\n')
        assert until(lambda: len(watcher.results) == 2)
        assert [result.record["id"] for result in watcher.results] == ["a", "b"]
    finally:
        watcher.close()


@pytest.mark.parametrize(
    ("aim", "event", "near"),
    [
        (Aim("sampler", windows.DECODE), ("named", "latents", "a.safetensors", False), True),
        (Aim("sampler", windows.DECODE), ("named", "latents", "a.safetensors", True), False),
        (Aim("ffmpeg", windows.ENCODE), ("created", "videos/ab", "a.mp4", True), True),
        (Aim("driver", windows.JOURNAL), ("named", "videos/ab", "a.mp4", False), True),
        (Aim("driver", windows.JOURNAL), ("created", "videos/ab", "a.mp4", True), False),
        (Aim("driver", windows.COMPACTION), ("created", "results", "part.parquet", True), True),
        (Aim("driver", windows.COMPACTION, 1), ("created", "results", "part.parquet", True), False),
        (Aim("driver", windows.PUBLISH, 2), ("created", "", "metadata.parquet", True), False),
        (Aim("driver", windows.PUBLISH, 2), ("created", "", "summary.json", True), True),
        (Aim("driver"), ("named", "videos/ab", "a.mp4", False), False),
    ],
)
def test_which_events_announce_a_window(
    aim: Aim, event: tuple[str, str, str, bool], near: bool
) -> None:
    """A file that is aside, or has its name: of the folder and of the step that were aimed at."""
    what, folder, name, aside = event
    assert aim.is_near(Event(what, folder, name, aside, 1, 0.0)) == near  # pyright: ignore


def test_processes_are_found_frozen_and_ended() -> None:
    """By their parent and by a mark in their environment; a frozen one moves on when it is released."""
    child = subprocess.Popen(
        ["sh", "-c", "sleep 60 & wait"], env={**os.environ, "ZS2_CHAOS": "test-processes"}
    )
    try:
        assert until(lambda: len(descendants(child.pid)) == 1)
        family = {child.pid, *descendants(child.pid)}
        assert set(marked("ZS2_CHAOS=test-processes")) == family
        assert freeze(child.pid) and state(child.pid) == "T"
        release(child.pid)
        assert until(lambda: state(child.pid) == "S")
    finally:
        for pid in [child.pid, *descendants(child.pid)]:
            kill(pid)
        child.wait()
    assert until(lambda: not any(map(is_alive, family)))
    assert not freeze(child.pid)
