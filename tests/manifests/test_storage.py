"""manifests.storage: paths, files that appear whole, the run's lock, sweeping."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from manifests import files
from manifests.storage import (
    LockedError,
    RunFolder,
    StorageError,
    aside_path,
    publish_folder,
    write_aside,
)

DIGEST = "ab" * 16
PIPED: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "check": True}


def test_every_path_is_where_the_layout_says(tmp_path: Path):
    """videos/<two hex>/<id>.<suffix> by codec; png is a folder; names in tables are relative."""
    run = RunFolder(tmp_path / "out")
    names = {
        codec: run.file_name(run.video_path(DIGEST, "star", codec))
        for codec in ("h264", "ffv1", "png")
    }
    assert names == {
        "h264": "videos/ab/star.mp4",
        "ffv1": "videos/ab/star.mkv",
        "png": "videos/ab/star",
    }
    assert run.file_name(run.video_path(DIGEST, "star", "webp")) == "videos/ab/star.webp"
    assert run.latents_path(DIGEST) == tmp_path / f"out/latents/{DIGEST}.safetensors"
    assert run.run_file == tmp_path / "out/run.json"
    assert not (tmp_path / "out").exists()
    assert {p.name for p in run.create().root.iterdir()} == {"videos", "results", "latents", "logs"}
    assert not list(run.results.iterdir())


@pytest.mark.parametrize(
    ("digest", "row_id"),
    [
        ("../../etc", "a"),
        (DIGEST, "../a"),
        (DIGEST, ".a"),
        ("", "a"),
        ("AB" * 16, "a"),
        (DIGEST, "a/b"),
    ],
)
def test_no_digest_or_id_leads_out_of_the_folder(tmp_path: Path, digest: str, row_id: str):
    """Checked here again, whatever the manifest's reader let through."""
    with pytest.raises(ValueError, match="not a digest"):
        RunFolder(tmp_path).video_path(digest, row_id, "h264")
    if digest != DIGEST:
        with pytest.raises(ValueError, match="not a digest"):
            RunFolder(tmp_path).latents_path(digest)


def test_a_root_that_cannot_be_one_is_refused_with_the_remedy(tmp_path: Path):
    """A file, a URL of another kind, an impossible name, a place where nothing can be written."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="another output folder"):
        RunFolder(tmp_path / "file")
    for url in ("ftp://bucket/out", "https://example.org/out"):
        with pytest.raises(StorageError, match="one of s3://"):
            RunFolder(url)
    with pytest.raises(StorageError, match="local folder"):
        RunFolder("a\0b")
    for impossible in (tmp_path / "file" / "out", Path("/proc/zs2"), tmp_path / ("x" * 300)):
        with pytest.raises(StorageError, match=r"choose another folder|another output folder"):
            RunFolder(impossible).create()


def test_a_folder_without_write_permission_is_refused(tmp_path: Path):
    """Before any work, not at its first file."""
    out = tmp_path / "out"
    RunFolder(out).create()
    (out / "results").chmod(0o500)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may write anywhere
    try:
        with pytest.raises(StorageError, match="choose another folder"):
            RunFolder(out).create()
    finally:
        os.seteuid(user)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path):
    """On an error the old file stays and the temporary goes."""
    path = tmp_path / "deep" / "clip.mp4"
    with write_aside(path) as aside:
        assert aside.suffix == ".mp4" and aside.parent == path.parent
        aside.write_text("one")
        assert not path.exists()
    with pytest.raises(RuntimeError), write_aside(path) as aside:
        aside.write_text("tw")
        raise RuntimeError
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["clip.mp4"]


def test_a_file_that_was_never_written_is_an_error(tmp_path: Path):
    """An encoder that wrote nothing does not pass for one that did."""
    with pytest.raises(FileNotFoundError), write_aside(tmp_path / "clip.mp4"):
        pass


def test_a_folder_replaces_the_old_one_as_a_whole(tmp_path: Path):
    """Frames of two renderings never stand beside each other."""
    path = tmp_path / "clip"
    for count in (3, 2):
        with publish_folder(path) as aside:
            for number in range(count):
                (aside / f"{number}.png").write_text("x")
        assert len(list(path.iterdir())) == count
    with pytest.raises(RuntimeError), publish_folder(path) as aside:
        (aside / "0.png").write_text("x")
        raise RuntimeError
    assert len(list(path.iterdir())) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["clip"]


@pytest.mark.parametrize("exchange", [True, False])
def test_two_attempts_may_put_the_same_folder_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
):
    """An actor of a killed run and one of the next may finish the same row at the same time: both
    succeed, what stands there is one of the two, and nothing is left beside it; also on a file
    system that cannot exchange two names."""
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    path = tmp_path / "clip"
    with publish_folder(path) as first:
        (first / "0.png").write_text("first")
        with publish_folder(path) as second:
            (second / "0.png").write_text("second")
        assert (path / "0.png").read_text() == "second"
    assert (path / "0.png").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["clip"]


def test_a_replaced_folder_is_there_at_every_moment(tmp_path: Path):
    """A kill at any moment of a replacement leaves the old folder or the new one: the two change
    places in one step."""
    path = tmp_path / "clip"
    with publish_folder(path) as aside:
        (aside / "0.png").write_text("old")
    missing: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            if not path.exists():
                missing.append(time.monotonic())

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(25):
        with publish_folder(path) as aside:
            (aside / "0.png").write_text("new")
    done.set()
    thread.join()
    assert not missing


def test_a_sweep_beside_an_encoder_that_still_writes(tmp_path: Path):
    """The encoder of an actor that was killed writes on for a moment: the sweep does not break on
    it, and the next one removes what is left."""
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], **PIPED)
    run = RunFolder(tmp_path).create()
    name = aside_path(run.videos / "a").name.replace(
        f"-{os.getpid()}-", f"-{child.stdout.strip()}-"
    )
    left = run.videos / name
    left.mkdir()
    done = threading.Event()

    def write() -> None:
        for number in itertools.count():
            if done.is_set():
                return
            with suppress(FileNotFoundError):
                (left / f"{number}.png").touch()

    thread = threading.Thread(target=write)
    thread.start()
    run.sweep_temporary()
    done.set()
    thread.join()
    run.sweep_temporary()
    assert not left.exists()


def test_a_second_run_is_refused_and_told_who_holds_the_folder(tmp_path: Path):
    """The message names the first run; when that ends, the folder is free."""
    run = RunFolder(tmp_path).create()
    assert run.lock_holder() is None
    with run.lock("first-run"):
        holder = run.lock_holder()
        assert (
            holder is not None and holder["run_id"] == "first-run" and holder["pid"] == os.getpid()
        )
        with (
            pytest.raises(LockedError, match=f"first-run.*{os.getpid()}"),
            RunFolder(tmp_path).lock("second"),
        ):
            pass
    assert run.lock_holder() is None
    with run.lock("second"):
        pass


def test_a_run_that_fails_frees_its_lock(tmp_path: Path):
    """Whatever ends the run."""
    run = RunFolder(tmp_path).create()
    with pytest.raises(RuntimeError), run.lock("first"):
        raise RuntimeError
    with run.lock("second"):
        pass


HOLD = """
import sys, time
from pathlib import Path
from manifests.storage import RunFolder, aside_path
run = RunFolder(sys.argv[1])
with run.lock("killed-run"):
    aside_path(run.videos / "clip.mp4").write_text("half")
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_run_leaves_no_lock_and_its_leftovers_are_swept(tmp_path: Path):
    """SIGKILL: the next run starts at once and removes what the dead one was writing."""
    run = RunFolder(tmp_path).create()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match="killed-run"), run.lock("next"):
            pass
        assert run.sweep_temporary() == 0, "the other attempt lives"
        other.send_signal(signal.SIGKILL)
    with run.lock("next"):
        assert run.sweep_temporary() == 1
    assert not list(run.videos.iterdir())


def test_sweeping_takes_nothing_but_dead_attempts(tmp_path: Path):
    """Finished files, other hidden files and the attempts of other hosts stay."""
    run = RunFolder(tmp_path).create()
    keep = [run.videos / "clip.mp4", run.videos / ".hidden", aside_path(run.videos / "own.mp4")]
    keep.append(run.videos / ".tmp-01234567-1-0123456789ab-elsewhere.mp4")
    for path in keep:
        path.write_text("x")
    folder = run.videos / ".tmp-01234567-1-0123456789ab-old"
    folder.mkdir()
    (folder / "0.png").write_text("x")
    os.utime(folder, (1, 1))
    assert run.sweep_temporary() == 1
    assert sorted(run.videos.iterdir()) == sorted(keep)
