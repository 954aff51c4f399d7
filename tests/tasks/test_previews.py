"""Previews: an h264 clip and a first frame of what browsers cannot play, step through or pause."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manifests.links import LinkError
from manifests.storage import RunFolder
from tasks import previews
from tasks.assemble import decode
from tasks.previews import CLIP, POSTER, has_preview, make_missing, needs_preview, write_preview
from tests.gallery_folder import CODECS, FPS, FRAMES, clip_row, moving


def test_a_preview_shows_the_clip(tmp_path: Path):
    """As many frames at the same rate, near the clip's own in every pixel; the poster is the first
    frame, exactly; nothing else lies there."""
    frames = moving(1)
    write_preview(frames, tmp_path / "p", FPS)
    shown, rate = decode(tmp_path / "p" / CLIP)
    assert shown.shape == frames.shape and rate == FPS
    assert np.abs(shown.astype(int) - frames).mean() < 6
    with Image.open(tmp_path / "p" / POSTER) as poster:
        assert np.array_equal(np.asarray(poster), frames[0])
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [CLIP, POSTER]


def test_a_large_clip_has_a_small_preview(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No side is longer than a page shows, and the shape stays."""
    monkeypatch.setattr(previews, "MAX_SIDE", 32)
    write_preview(moving(1, frames=3)[:, :24], tmp_path / "p", FPS)
    shown, _ = decode(tmp_path / "p" / CLIP)
    assert shown.shape == (3, 16, 32, 3)


def test_a_preview_that_fails_leaves_nothing(tmp_path: Path):
    """Whole or not at all: what stood there stays."""
    write_preview(moving(1), tmp_path / "p", FPS)
    before = (tmp_path / "p" / CLIP).read_bytes()
    with pytest.raises(ValueError, match="fps"):
        write_preview(moving(2), tmp_path / "p", 1e6)
    assert (tmp_path / "p" / CLIP).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_missing_previews_are_made_once(tmp_path: Path):
    """Of every codec that needs one, from the finished file; a clip that is damaged is named and
    costs the others nothing; h264 has none."""
    folder = RunFolder(tmp_path)
    rows = [clip_row(folder, f"clip-{codec}", codec) for codec in CODECS]
    for row in rows:
        preview = folder.preview_path(row.digest, row.id)
        assert preview.exists() == needs_preview(row.id[5:])
        for path in sorted(preview.glob("*")):
            path.unlink()
    lost = replace(clip_row(folder, "lost", "gif"), id="other")
    (tmp_path / str(lost.file_name)).write_bytes(b"GIF89a")
    made, faults = make_missing(folder, [lost, *rows])
    assert made == 5 and len(faults) == 1 and str(lost.file_name) in faults[0]
    for row in rows:
        codec = row.id[5:]
        assert has_preview(folder, row, codec) == needs_preview(codec)
        if needs_preview(codec):
            shown, rate = decode(folder.preview_path(row.digest, row.id) / CLIP)
            assert (len(shown), rate) == (FRAMES, FPS)
    assert make_missing(folder, rows) == (0, [])


def test_nothing_is_written_through_links(tmp_path: Path):
    """A link in the place of previews/ leads nothing out of the run folder."""
    folder = RunFolder(tmp_path / "out")
    row = clip_row(folder, "a")
    (tmp_path / "elsewhere").mkdir()
    folder.previews.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LinkError), folder.preview_delivery(row.digest, row.id):
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []
