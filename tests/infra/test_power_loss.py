"""infra.chaos.record and infra.chaos.power_loss: what is left of a run folder when the power goes."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flows.commands.run import run
from flows.settings import RenderSettings
from infra.chaos.power_loss import Experiment
from infra.chaos.record import Recorder, Tree
from manifests.storage import aside_path, sync, write_aside

# Half of what a torn disk may be is chance; which part of these is looked at depends on the seed alone.
SHARE = 0.08


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Two small runs, recorded."""
    made = Experiment(tmp_path_factory.mktemp("power"))
    made.record()
    return made


def test_every_disk_that_a_power_loss_leaves_is_resumable(experiment: Experiment) -> None:
    """Two runs of three rows, the second with a row changed and one gone, broken off before and after
    every fsync, rename, write and removal: by a kill, by a power loss that leaves what was synced
    alone, and by such as leave names without contents or some names of a folder. Each time the
    ledger opens, rows whose journal line was synced are known, rows that are ok have their whole
    video, no file is torn under its final name, and the same command sweeps, plans and publishes;
    where it renders the rest, the result is that of the undisturbed run."""
    finding = experiment.examine(share=SHARE, resume_every=20)
    assert finding.faults == []
    assert finding.moments > 200
    assert set(finding.states) == {"kill", "strictest", "torn", "mixed"}
    assert sum(finding.states.values()) > 100 and finding.resumed >= 3


@pytest.mark.parametrize("forgotten", ["files", "folders"])
def test_a_forgotten_fsync_is_found(experiment: Experiment, forgotten: str) -> None:
    """The same recording with the syncs of videos, latents and tables left out, or with those of
    folders below `videos`: the examination says so."""
    recorded = experiment.recorder.moments
    journals = {n for m in recorded for n, content in m.files.items() if b"zs2_journal" in content}
    videos = {m.folders[0]["out"]: m.folders[m.folders[0]["out"]]["videos"] for m in recorded}
    below = set(videos.values())
    experiment.recorder.moments = [
        replace(m, synced_files={n: c for n, c in m.synced_files.items() if n in journals})
        if forgotten == "files"
        else replace(
            m, synced_folders={n: c for n, c in m.synced_folders.items() if n not in below}
        )
        for m in recorded
    ]
    try:
        finding = experiment.examine(["strictest"], resume_every=10_000)
    finally:
        experiment.recorder.moments = recorded
    expected = "is torn" if forgotten == "files" else "its video is not whole"
    assert any(expected in fault for fault in finding.faults)


def test_a_run_with_nothing_to_do_sweeps(experiment: Experiment) -> None:
    """An actor of a killed run may outlive the run that follows: what it leaves goes with the next
    time the command is given, though nothing is left to render."""
    out = experiment.disk / "out"
    ended = subprocess.Popen(["true"])
    ended.wait()
    name = aside_path(out / "videos" / "a").name
    left = out / "videos" / name.replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    left.mkdir()
    settings = RenderSettings()  # pyright: ignore[reportCallIssue]
    assert run(str(experiment.manifests[1]), str(out), settings, quiet=True, as_json=False) == 0
    assert not left.exists()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def last(recorder: Recorder, kind: str) -> Tree:
    return recorder.state(len(recorder.moments) - 1, kind, random.Random(0))  # pyright: ignore


def test_what_was_not_synced_is_lost(disk: Path) -> None:
    """Contents without a sync of the file are gone, names without one of the folder too, and a kill
    alone loses neither. A sync of a file does not sync its name, nor a folder's its files."""
    recorder = Recorder(disk)
    with recorder.recording():
        for name in ("both", "content", "name", "none"):
            (disk / name).write_bytes(b"x" * 9)
        sync(disk / "both")
        sync(disk)
        (disk / "content").rename(disk / "renamed")
        sync(disk / "renamed")
    assert last(recorder, "strictest") == {
        **{"both": b"x" * 9, "content": b"x" * 9},
        **{"name": b"", "none": b""},
    }
    assert last(recorder, "kill") == dict.fromkeys(("both", "name", "none", "renamed"), b"x" * 9)
    torn = last(recorder, "torn")
    assert set(torn) == {"both", "name", "none", "renamed"}
    assert torn["renamed"] == torn["both"] == b"x" * 9
    assert b"x" * 9 not in (torn["name"], torn["none"])


def test_an_inode_that_is_used_again_is_another_file(disk: Path) -> None:
    """What an earlier file had synced does not stand for a new one that took its inode."""
    recorder = Recorder(disk)
    with recorder.recording():
        for _ in range(20):
            path = disk / "file"
            path.write_bytes(b"old")
            sync(path)
            path.unlink()
        path.write_bytes(b"new")
        sync(disk)
    assert last(recorder, "strictest") == {"file": b""}


@pytest.fixture
def half_made(disk: Path) -> Iterator[Path]:
    """A folder whose maker was killed before it synced it."""
    os.mkdir(disk / "videos")  # noqa: PTH102
    yield disk / "videos"


def test_a_folder_that_a_killed_run_made_outlasts_a_power_loss(half_made: Path) -> None:
    """The next run's first file in it syncs it."""
    recorder = Recorder(half_made.parent)
    with recorder.recording(), write_aside(half_made / "clip") as aside:
        aside.write_bytes(b"x")
    assert last(recorder, "strictest") == {"videos": None, "videos/clip": b"x"}
