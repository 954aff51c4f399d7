"""manifests.inputs: clips and pictures of rows, inside the allowed folders and by their content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from manifests.digest import content_hash
from manifests.fault import Fault
from manifests.inputs import InputFiles, RootError
from manifests.read import open_manifest
from manifests.row import ManifestRow, RowError, parse_row
from manifests.validate import check_rows
from tests.manifests.conftest import Write


def row(**columns: Any) -> ManifestRow:
    return parse_row({"id": "a", "prompt": "p", **columns})


def fault(files: InputFiles, asked: ManifestRow, base: Path) -> Fault:
    with pytest.raises(RowError) as error:
        files.find(asked, base)
    (found,) = error.value.faults
    return found


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The manifest's folder, with a clip in it, a clip beside it, and a folder of pictures."""
    folder = tmp_path / "manifests"
    (folder / "frames").mkdir(parents=True)
    (folder / "clip.mp4").write_bytes(b"clip")
    (folder / "frames" / "1.png").write_bytes(b"one")
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    return folder


def test_names_count_from_the_manifests_folder(base: Path):
    """Whatever the working folder; a folder of pictures is an input too, and so is an absolute name
    inside the folder."""
    files = InputFiles()
    assert files.find(row(source_video="clip.mp4"), base) == {"source_video": base / "clip.mp4"}
    assert files.find(row(source_video="frames"), base)["source_video"] == base / "frames"
    detour = row(source_video="frames/../clip.mp4")
    assert files.find(detour, base)["source_video"] == base / "clip.mp4"
    absolute = row(source_video=str(base / "clip.mp4"))
    assert files.find(absolute, base)["source_video"] == base / "clip.mp4"
    assert files.find(row(), base) == {}


@pytest.mark.parametrize("how", ["dots", "absolute", "link", "link in a folder", "folder link"])
def test_nothing_outside_the_allowed_folders_is_read(base: Path, how: str):
    """Not by `..`, an absolute name or a link: the fault names the folders and the remedy. With the
    other folder as a root, or with all allowed, the same name is found."""
    outside = base.parent / "secret.mp4"
    (base / "link.mp4").symlink_to(outside)
    (base / "mixed").mkdir()
    (base / "mixed" / "1.png").symlink_to(outside)
    (base / "up").symlink_to(base.parent)
    name = {
        "dots": "../secret.mp4",
        "absolute": str(outside),
        "link": "link.mp4",
        "link in a folder": "mixed",
        "folder link": "up/secret.mp4",
    }[how]
    asked = row(source_video=name)
    told = fault(InputFiles(), asked, base)
    assert told.column == "source_video" and told.expected == f"a path inside {base}"
    assert str(outside) in told.found and "--input-root" in told.hint
    for roots in ([base.parent], None):
        assert "source_video" in InputFiles(roots).find(asked, base)


def test_a_name_that_is_not_beside_the_manifest_is_looked_for_under_each_root(base: Path):
    """The first that is there wins, the manifest's folder before the roots; what is found must still
    lie inside them."""
    roots = [base.parent / "one", base.parent / "two"]
    for folder in roots:
        (folder / "in").mkdir(parents=True)
        (folder / "in" / "far.mp4").write_bytes(b"far")
        (folder / "clip.mp4").write_bytes(b"other")
    (roots[1] / "last.mp4").write_bytes(b"last")
    (roots[1] / "link.mp4").symlink_to(base.parent / "secret.mp4")
    files = InputFiles(roots)
    for name, folder in (("clip.mp4", base), ("in/far.mp4", roots[0]), ("last.mp4", roots[1])):
        assert files.find(row(source_video=name), base)["source_video"] == folder / name
    for name in ("link.mp4", "../secret.mp4"):
        assert "a path inside" in fault(files, row(source_video=name), base).expected
    told = fault(files, row(source_video="gone.mp4"), base)
    assert told.hint == f"relative names count from {base} or {roots[0]} or {roots[1]}"


def test_a_root_that_is_no_folder_is_refused(base: Path):
    """Rather than taken as one that holds nothing."""
    for name, found in (("gone", "does not exist"), ("clip.mp4", "is no folder")):
        with pytest.raises(RootError, match=f"{name}: expected a folder, but it {found}"):
            InputFiles([base / name])


def test_what_is_not_there_is_told_with_the_place_that_was_looked_at(base: Path):
    """Missing files, a folder where one picture is meant, a pipe, links that go round, names too
    long; all of a row at once."""
    files = InputFiles()
    told = fault(files, row(source_video="gone.mp4"), base)
    assert f"nothing of that name at {base}/gone.mp4" in told.found
    assert told.hint == f"relative names count from {base}"
    adapter = row(ip_adapter="x.safetensors", ip_adapter_image="frames")
    told = fault(files, adapter, base)
    assert (told.expected, told.found) == ("a picture", f"a folder at {base}/frames")
    os.mkfifo(base / "pipe")
    assert "neither a file nor a folder" in fault(files, row(source_video="pipe"), base).found
    (base / "round").symlink_to("round")
    assert "round" in fault(files, row(source_video="round"), base).found
    assert "too long" in fault(files, row(source_video="x" * 5000), base).found
    both = row(
        source_video="gone.mp4", ip_adapter="x.safetensors", ip_adapter_image="../secret.mp4"
    )
    with pytest.raises(RowError) as error:
        files.find(both, base)
    assert {f.column for f in error.value.faults} == {"source_video", "ip_adapter_image"}


def test_content_is_what_tells_inputs_apart(base: Path):
    """A file under another name is the same input, one changed byte makes another; of a folder the
    names count too, hidden files do not."""
    (base / "copy.mp4").write_bytes(b"clip")
    assert content_hash(base / "clip.mp4") == content_hash(base / "copy.mp4")
    (base / "copy.mp4").write_bytes(b"clop")
    assert content_hash(base / "clip.mp4") != content_hash(base / "copy.mp4")
    frames = base / "frames"
    before = content_hash(frames)
    (frames / ".DS_Store").write_bytes(b"x")
    assert content_hash(frames) == before
    (frames / "1.png").rename(frames / "2.png")
    assert content_hash(frames) != before


def test_a_file_is_hashed_once(base: Path, monkeypatch: pytest.MonkeyPatch):
    """Also when many rows name it: the second answer needs no file."""
    files = InputFiles()
    found = files.find(row(source_video="clip.mp4"), base)["source_video"]
    first = files.content("source_video", found)
    (base / "clip.mp4").unlink()
    assert files.content("source_video", found) == first
    with pytest.raises(RowError, match=r"source_video: expected a readable file, found .*gone"):
        files.content("source_video", base / "gone")


def test_validation_looks_for_inputs_when_asked(write: Write):
    """With the folders of the run a missing clip is a problem of its row; without them the rows are
    checked alone."""
    manifest = open_manifest(
        write({"id": ["a", "b"], "prompt": ["p", "p"], "source_video": ["gone.mp4", None]})
    )
    bad, good = (checked for _, checked in check_rows(manifest, None, InputFiles()))
    assert isinstance(bad, list) and bad[0].column == "source_video" and bad[0].id == "a"
    assert isinstance(good, ManifestRow)
    assert all(isinstance(checked, ManifestRow) for _, checked in check_rows(manifest))
