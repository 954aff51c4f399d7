"""`zs2 show`: what rendered a clip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.show import show, text
from flows.errors import UsageError
from manifests.result import ResultRow
from manifests.storage import RunFolder
from tasks.assemble import assemble
from tests.gallery_folder import CODECS, clip_row, moving, write_run


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of every codec, an id with a dot in it, and a failed row."""
    folder = RunFolder(tmp_path_factory.mktemp("run") / "out")
    rows = [clip_row(folder, f"clip-{codec}", codec) for codec in CODECS]
    rows += [clip_row(folder, "a.b"), clip_row(folder, "a.c", "png")]
    rows.append(ResultRow("bad", "", "failed", stage="sample", error_message="NaN", prompt="p"))
    write_run(folder, rows)
    return folder


@pytest.mark.parametrize("row_id", [*(f"clip-{codec}" for codec in CODECS), "a.b", "a.c"])
def test_a_clip_by_its_file(out: RunFolder, row_id: str):
    """Every codec's file, or folder of frames, leads to its row: all of the ledger's columns, the
    parameters, and a command that renders it again."""
    (path,) = [p for p in out.videos.glob("*/*") if p.name in (row_id, row_id + p.suffix)]
    found = show(str(path))
    assert found == show(str(out.root), row_id)
    assert found["id"] == row_id and found["file_name"] == out.file_name(path)
    assert found["params"]["kl_target"] == 0.02
    assert f"--from /data/squares.parquet --id {row_id} -o {path.name}" in found["again"]
    assert found["again"].endswith("--set fps=8.0")


def test_a_row_without_a_clip(out: RunFolder):
    """A failed row is found by its id, with its error."""
    assert show(str(out.root), "bad")["error_message"] == "NaN"
    assert "error_message  NaN" in text(show(str(out.root), "bad"))


def test_a_clip_that_left_its_run(out: RunFolder, tmp_path: Path):
    """An mp4 or mkv tells its row by itself; of a GIF, or a film of others, nothing is known."""
    frames, comment = moving(1), json.dumps({"zs2": "ab" * 16, "id": "x", "seed": 5, "fps": 8.0})
    assemble(frames, tmp_path / "x.mp4", 8.0, "h264", title="a star", comment=comment)
    assert show(str(tmp_path / "x.mp4")) == {
        **{"id": "x", "prompt": "a star", "seed": 5, "digest": "ab" * 16, "params": {"fps": 8.0}}
    }
    assemble(frames, tmp_path / "other.mkv", 8.0, "ffv1")
    (gif,) = out.videos.glob("*/clip-gif.gif")
    shutil.copy(gif, tmp_path)
    (tmp_path / "text.mp4").write_text("none")
    for name in ("other.mkv", "clip-gif.gif", "text.mp4"):
        with pytest.raises(UsageError, match=f"{name}: expected"):
            show(str(tmp_path / name))


def test_wrong_words(out: RunFolder, tmp_path: Path):
    """A run folder alone, an id that it lacks and a file that is not there say what to give."""
    with pytest.raises(UsageError, match="which clip"):
        show(str(out.root))
    with pytest.raises(UsageError, match="a row with id nobody"):
        show(str(out.root), "nobody")
    with pytest.raises(UsageError, match="found no such file"):
        show(str(tmp_path / "none.mp4"))


def test_the_command(out: RunFolder):
    """In words, and as one JSON object."""
    runner = CliRunner()
    said = runner.invoke(app, ["show", str(out.root), "clip-gif", "--json"])
    assert said.exit_code == 0 and json.loads(said.stdout)["id"] == "clip-gif"
    assert "again: zs2 sample" in runner.invoke(app, ["show", str(out.root), "clip-gif"]).stdout
