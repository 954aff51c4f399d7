"""`zs2 show`: what rendered a clip."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.show import show, text
from flows.errors import UsageError
from manifests.result import ResultRow
from manifests.storage import SUFFIXES, RunFolder
from tasks.assemble import assemble, decode
from tests.gallery_folder import CODECS, clip_row, moving, params, write_run


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of every codec, an id with a dot in it, and a failed row."""
    folder = RunFolder(tmp_path_factory.mktemp("run") / "out")
    rows = [clip_row(folder, f"clip-{codec}", codec) for codec in CODECS]
    rows += [
        clip_row(folder, "a.b"),
        clip_row(folder, "a.c", "png"),
        clip_row(folder, "a.mp4", "png"),
    ]
    rows.append(ResultRow("bad", "", "failed", stage="sample", error_message="NaN", prompt="p"))
    write_run(folder, rows)
    return folder


@pytest.mark.parametrize("row_id", [*(f"clip-{codec}" for codec in CODECS), "a.b", "a.c", "a.mp4"])
def test_a_clip_by_its_file(out: RunFolder, row_id: str):
    """Every codec's file, or folder of frames, leads to its row: all of the ledger's columns, the
    parameters, and a command that renders it again."""
    (path,) = [p for p in out.videos.glob("*/*") if p.name in (row_id, row_id + p.suffix)]
    found = show(str(path))
    assert found == show(str(out.root), row_id)
    assert found["id"] == row_id and found["file_name"] == out.file_name(path)
    assert found["params"]["kl_target"] == 0.02
    assert f"--from /data/squares.parquet --id {row_id} -o {path.name}" in found["again"]
    assert found["again"].endswith("--set fps=8.0 --threads 2")


def test_a_row_without_a_clip(out: RunFolder):
    """A failed row is found by its id, with its error."""
    assert show(str(out.root), "bad")["error_message"] == "NaN"
    assert "error_message  NaN" in text(show(str(out.root), "bad"))


def test_a_clip_that_left_its_run(out: RunFolder, tmp_path: Path):
    """A file tells its row by itself, whatever its codec; of one that zs2 wrote without a row, or a
    film of others, nothing is known."""
    frames, comment = moving(1), json.dumps({"zs2": "ab" * 16, "id": "x", "seed": 5, "fps": 8.0})
    assemble(frames, tmp_path / "x.mp4", 8.0, "h264", title="a star", comment=comment)
    again = "zs2 sample -o x.mp4 --seed 5 -- 'a star'"
    for codec in CODECS:
        path = tmp_path / f"x{SUFFIXES[codec]}"
        assemble(frames, path, 8.0, codec, title="a star", comment=comment)
        assert show(str(path)) == {
            **{"id": "x", "prompt": "a star", "seed": 5, "digest": "ab" * 16},
            **{"params": {"fps": 8.0}, "again": again.replace(".mp4", SUFFIXES[codec])},
        }
    assemble(frames, tmp_path / "other.mkv", 8.0, "ffv1")
    long = json.dumps({"zs2": "ab" * 16, "kl_target": [0.123456789] * 4000})
    assemble(frames, tmp_path / "long.gif", 8.0, "gif", title="a star", comment=long)
    with pytest.raises(UsageError, match="longer than the 32,000 bytes"):
        show(str(tmp_path / "long.gif"))
    (gif,) = out.videos.glob("*/clip-gif.gif")
    shutil.copy(gif, tmp_path)
    (tmp_path / "text.mp4").write_text("none")
    for name in ("other.mkv", "clip-gif.gif", "text.mp4"):
        with pytest.raises(UsageError, match=f"{name}: expected"):
            show(str(tmp_path / name))


@pytest.mark.parametrize("codec", ["av1", "gif"])
def test_a_lone_file_renders_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str):
    """The command that a clip's own file names makes that very file, byte by byte; a storyboard's has
    its prompts one by one."""
    monkeypatch.chdir(tmp_path)
    name = f"clip{SUFFIXES[codec]}"
    words = ["a star | at night", "a tree"] if codec == "gif" else ["a star"]
    sets = {"num_frames": 3, "segment_frames": 2, "num_inference_steps": 2, "codec": codec}
    options = [word for pair in sets.items() for word in ("--set", "{}={}".format(*pair))]
    first = CliRunner().invoke(app, ["sample", "-o", name, "--seed", "7", *options, "--", *words])
    assert first.exit_code == 0, first.output
    before = (tmp_path / name).read_bytes()
    told = show(name)
    (tmp_path / name).unlink()
    again = CliRunner().invoke(app, shlex.split(told["again"])[1:])
    assert again.exit_code == 0, again.output
    assert (tmp_path / name).read_bytes() == before
    assert told["prompt"] == (words if codec == "gif" else "a star")


def test_a_folder_whose_name_has_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder of PNGs of the id `clip.v2` is named so, alone and by its manifest, and both commands
    that are shown make its very bytes; a name of another codec's is refused."""
    monkeypatch.chdir(tmp_path)
    values = {"id": "clip.v2", "prompt": "a star", "codec": "png", "seed": 7, "num_frames": 2}
    values |= {"num_inference_steps": 1}
    pq.write_table(pa.Table.from_pylist([values]), "m.parquet")
    words = ["sample", "--from", "m.parquet", "--id", "clip.v2", "-o", "clip.v2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    first = {path.name: path.read_bytes() for path in Path("clip.v2").iterdir()}
    told = show("clip.v2")
    assert told["id"] == "clip.v2" and "-o clip.v2 " in told["again"]
    shutil.rmtree("clip.v2")
    again = CliRunner().invoke(app, shlex.split(told["again"])[1:])
    assert again.exit_code == 0, again.output
    assert {path.name: path.read_bytes() for path in Path("clip.v2").iterdir()} == first
    with pytest.raises(UsageError, match="expected a name with no suffix"):
        CliRunner().invoke(app, [*words[:-1], "x.gif"], catch_exceptions=False)


def test_what_the_command_needs_to_run(tmp_path: Path):
    """It names the pickles that are trusted, the folders that inputs come from and the engine; and, of
    a run's row that names relative files, the folder that they count from."""
    folder = RunFolder(tmp_path / "out")
    told = params(temporal_sr="model:avg.pt", temporal_scale=2, dtype="float16")
    row = clip_row(folder, "a", params=told)
    settings = {"trust_pickles": ["avg.pt"], "input_roots": ["/clips"], "dtype": "float16"}
    write_run(folder, [row, clip_row(folder, "b")], settings=settings, working_folder="/home/me")
    found = show(str(folder.root), "a")
    needed = "-o a.mp4 --input-root /clips --trust-pickle avg.pt --dtype float16"
    assert found["again"].endswith(needed) and found["again_in"] == "/home/me"
    assert "again, in /home/me: zs2 sample" in text(found)
    comment = {"zs2": "ab" * 16, "id": "x", "seed": 5, **json.loads(told)}
    assemble(moving(1), tmp_path / "x.mp4", 8.0, "h264", title="p", comment=json.dumps(comment))
    assert "--trust-pickle avg.pt --dtype float16 " in show(str(tmp_path / "x.mp4"))["again"]


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


def test_a_clip_with_sampled_frames_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`temporal_sr=latent` through all stages: (n−1)·k+1 frames at fps·k, of which every k-th is the
    clip's own; with best_of, too, and a storyboard."""
    monkeypatch.chdir(tmp_path)
    sets = {"num_frames": 3, "segment_frames": 2, "num_inference_steps": 2, "kl_target": 0.5}
    options = [word for pair in sets.items() for word in ("--set", "{}={}".format(*pair))]
    options += ["--seed", "7"]
    fine = ["--set", "temporal_sr=latent", "--set", "temporal_scale=2"]
    for name, more in {"plain.mkv": [], "fine.mkv": fine}.items():
        words = ["sample", "-o", name, *options, *more, "--", "a star", "a tree"]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    own, found = decode("plain.mkv")[0], decode("fine.mkv")
    assert found[1] == 16.0 and len(found[0]) == 5
    assert np.array_equal(found[0][::2], own)
    best = ["sample", "-o", "best.mkv", *options, *fine, "--set", "best_of=2", "--", "a star"]
    done = CliRunner().invoke(app, best)
    assert done.exit_code == 0, done.output
    assert len(decode("best.mkv")[0]) == 5
