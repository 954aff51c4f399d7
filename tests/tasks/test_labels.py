"""Words in a finished file: title and comment, in every container."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from manifests.storage import SUFFIXES
from tasks.assemble import Assembled, assemble, decode
from tasks.labels import LabelError, read_labels
from tests.gallery_folder import CODECS, moving

TITLE = 'a "red" star = é; 星\nover \\ the <sea> & ]]> moon'
COMMENT = json.dumps({"zs2": "ab" * 16, "prompt": TITLE})


def write(folder: Path, codec: str, frames: int = 4, **words: str) -> Assembled:
    clip = moving(3, frames)
    return assemble(clip, folder / f"clip{SUFFIXES[codec]}", 8.0, codec, **words)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("frames", [1, 4])
def test_words_come_back(tmp_path: Path, codec: str, frames: int) -> None:
    """Any text: quotes, =, <, newlines, other alphabets; and the pictures are what they would be
    without."""
    told = write(tmp_path / "told", codec, frames, title=TITLE, comment=COMMENT)
    assert read_labels(told.path) == {"title": TITLE, "comment": COMMENT}
    silent = write(tmp_path / "silent", codec, frames)
    assert read_labels(silent.path) == {}
    assert np.array_equal(decode(told.path)[0], decode(silent.path)[0])
    assert decode(told.path)[1] == pytest.approx(decode(silent.path)[1], nan_ok=True)


@pytest.mark.parametrize("codec", CODECS)
def test_words_are_cleaned(tmp_path: Path, codec: str) -> None:
    """One that is too long is cut at 32,000 bytes, what no program's argument may hold is replaced."""
    done = write(tmp_path, codec, title="\0\ud800" + "é" * 200_000, comment="x")
    found = read_labels(done.path)
    assert found["title"].startswith(" ?éé") and 31_000 < len(found["title"].encode()) <= 32_000
    assert found["comment"] == "x"


def test_one_frame_of_a_folder_tells(tmp_path: Path) -> None:
    """A PNG that left its folder still knows where it is from."""
    done = write(tmp_path, "png", title=TITLE, comment=COMMENT)
    assert read_labels(done.path / "00003.png")["comment"] == COMMENT


def test_other_programs_find_them(tmp_path: Path) -> None:
    """As readers of those formats know them: a GIF's comment in ASCII, a WebP's XMP, a PNG's text, an
    mp4's and mkv's tags."""
    with Image.open(write(tmp_path, "gif", title=TITLE).path) as picture:
        assert json.loads(picture.info["comment"].decode("ascii")) == {"title": TITLE}
        assert picture.info["loop"] == 0
    for frames in (1, 4):
        done = write(tmp_path, "webp", frames, title="a < b")
        with Image.open(done.path) as picture:
            assert b"a &lt; b" in picture.info["xmp"]
        assert struct.unpack("<I", done.path.read_bytes()[4:8])[0] == done.bytes - 8
    with Image.open(write(tmp_path, "png", title=TITLE).path / "00000.png") as picture:
        assert picture.info["Title"] == TITLE
    for codec in ("h264", "ffv1"):
        with av.open(str(write(tmp_path, codec, title=TITLE).path)) as container:
            assert {k.lower(): v for k, v in container.metadata.items()}["title"] == TITLE


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png", "x.mp4", "x.mkv"])
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    """Other files under such a name, and files cut anywhere: LabelError or nothing found, never
    another kind of error and never an endless search."""
    (tmp_path / name).write_bytes(b"no such thing at all, whatever its name may say of it")
    with pytest.raises((LabelError, OSError)):
        read_labels(tmp_path / name)
    codec = {"gif": "gif", "webp": "webp", "mkv": "ffv1", "mp4": "h264", "png": "png"}[name[2:]]
    done = write(tmp_path / "good", codec, title=TITLE, comment=COMMENT)
    file = done.path / "00000.png" if codec == "png" else done.path
    whole = file.read_bytes()
    for part in (5, 14, 40, 100, 900, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:part])
        try:
            read_labels(tmp_path / name)
        except (LabelError, OSError):
            continue


def test_entities_in_a_webp_are_refused(tmp_path: Path) -> None:
    """XMP from a stranger that declares entities is not expanded."""
    done = write(tmp_path, "webp", title="x" * 60)
    data = done.path.read_bytes()
    bomb = b'<!DOCTYPE a [<!ENTITY b "bbbb">]>'
    done.path.write_bytes(data.replace(b'<x:xmpmeta xmlns:x="adobe:ns:meta/">', bomb + b"     "))
    with pytest.raises(LabelError, match="declarations"):
        read_labels(done.path)
