"""`zs2 prune`: what no row names any more, listed before it goes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from manifests.files import LockedError
from manifests.journal import Journal
from manifests.links import LinkError
from manifests.object_store import ObjectStore
from manifests.storage import RunFolder
from tasks.prune import prune, superseded
from tests.gallery_folder import clip_row, write_run


def run(tmp_path: Path) -> RunFolder:
    """Two clips that rows name, one of them with a preview; what an earlier digest and a row that has
    left the manifest have left behind; an attempt at work."""
    folder = RunFolder(tmp_path / "out")
    rows = [clip_row(folder, "a"), clip_row(folder, "b", "png")]
    gone = clip_row(folder, "gone", "gif")
    write_run(folder, rows)
    assert gone.file_name
    old = folder.video_path("ff" * 16, "a", "h264")
    old.parent.mkdir(exist_ok=True)
    old.write_bytes(b"old")
    (old.parent / ".tmp-00000000-1-000000000000-x.mp4").write_bytes(b"at work")
    (folder.latents / f"{'ab' * 16}.safetensors").write_bytes(b"latents")
    return folder


def test_what_rows_name_stays(tmp_path: Path) -> None:
    """Only superseded videos and previews go, folders of PNGs as a whole; listing deletes nothing."""
    folder = run(tmp_path)
    kept = {str(p) for p in folder.videos.rglob("*")} | {str(p) for p in folder.previews.rglob("*")}
    found = superseded(folder)
    assert [each.name.split("/")[0] + "/" + each.name.split("/")[2] for each in found] == [
        "previews/gone",
        "videos/gone.gif",
        "videos/a.mp4",
    ]
    assert {str(p) for p in folder.videos.rglob("*")} <= kept
    assert prune(folder) == found
    assert superseded(folder) == []
    assert len(list(folder.videos.glob("*/b/*.png"))) == 12
    assert list(folder.videos.glob("*/.tmp-*")) and list(folder.latents.iterdir())
    assert [each.name[:8] for each in prune(folder, latents=True)] == ["latents/"]


def test_only_what_a_run_has_written_goes(tmp_path: Path) -> None:
    """Files of other names stay, also beside superseded ones and in a folder like a clip's; folders that
    are emptied go."""
    folder = run(tmp_path)
    (old,) = folder.videos.glob("ff/a.mp4")
    (gone,) = folder.videos.glob("*/gone.gif")
    own = [
        "notes.txt",
        "ff/notes.txt",
        "ff/.hidden.mp4",
        "00/more/cut.mp4",
        "zz/x.mp4",
        "00/x/y/z.png",
    ]
    for name in own:
        (folder.videos / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.videos / name).write_bytes(b"mine")
    prune(folder)
    assert all((folder.videos / name).exists() for name in own)
    assert not old.exists() and not gone.parent.exists()


def test_not_while_a_run_is_going_on(tmp_path: Path) -> None:
    """LockedError, and everything stays."""
    folder = run(tmp_path)
    with folder.lock("r1"), pytest.raises(LockedError):
        prune(folder)
    assert len(superseded(folder)) == 3


def test_a_link_leads_nowhere(tmp_path: Path) -> None:
    """Nothing is deleted outside of the folder."""
    folder = run(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.mp4").write_bytes(b"mine")
    (folder.videos / "00").symlink_to(tmp_path / "mine")
    prune(folder)
    assert (tmp_path / "mine" / "thesis.mp4").exists()
    folder.previews.rename(tmp_path / "previews")
    folder.previews.symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / "00" / "x").mkdir(parents=True)
    (tmp_path / "mine" / "00" / "x" / "clip.mp4").write_bytes(b"mine")
    with pytest.raises(LinkError):
        prune(folder)
    assert (tmp_path / "mine" / "00" / "x" / "clip.mp4").exists()


def test_of_a_store(tmp_path: Path, bucket: str) -> None:
    """The objects that no row names go, frames of a folder too; those of rows stay."""
    folder = RunFolder(f"{bucket}/run", tmp_path / "staging").create()
    store = ObjectStore(f"{bucket}/run")
    row = clip_row(RunFolder(tmp_path / "local"), "a")
    store.put(str(row.file_name), tmp_path / "local" / str(row.file_name))
    for name in ("videos/ff/old/00000.png", "videos/ff/old/00001.png", "videos/ff/older.mp4"):
        store.write(name, b"x")
    with folder.lock("r1"):
        folder.pull()
        with Journal(folder.results, "r1", folder.commit_journal) as journal:
            journal.append(row)
            journal.append(replace(row, id="b", digest="ee" * 16, status="failed", file_name=None))
    with RunFolder(f"{bucket}/run").view() as seen:
        assert [each.name for each in superseded(seen)] == ["videos/ff/old", "videos/ff/older.mp4"]
    prune(RunFolder(f"{bucket}/run", tmp_path / "other"))
    assert [store.name_of(f) for f in store.list("videos")] == [row.file_name]


def test_the_command(tmp_path: Path) -> None:
    """It lists, says how to delete, and deletes where it is told to."""
    folder = run(tmp_path)
    listed = CliRunner().invoke(app, ["prune", str(folder.root)])
    assert listed.exit_code == 0 and "--yes deletes them" in listed.stdout
    assert "gone.gif" in listed.stdout and len(superseded(folder)) == 3
    done = CliRunner().invoke(app, ["prune", str(folder.root), "--yes", "--json"])
    assert json.loads(done.stdout)["deleted"] and len(json.loads(done.stdout)["files"]) == 3
    assert "nothing to prune" in CliRunner().invoke(app, ["prune", str(folder.root)]).stdout
