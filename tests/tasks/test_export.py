"""Finished clips in shards: what trainers load, the same bytes each time, whole or not at all."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.export import text as export_text
from flows.errors import UsageError
from manifests.best_by import SCORE_NAMES
from manifests.result import ResultRow
from manifests.scores import ScoreJournal, ScoreRow
from manifests.storage import RunFolder
from tasks import export_formats
from tasks.export import ShardSize, export, shard_size
from tasks.export_choice import ExportError, conditions_of
from tasks.export_formats import FORMATS
from tasks.export_place import INDEX
from tests.gallery_folder import clip_row, write_run

IDS = ("a.b", "c", "d", "e", "train-f")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Five finished clips, one of them a folder of PNGs and one a GIF, a failed one; three scored."""
    folder = RunFolder(tmp_path_factory.mktemp("run") / "out")
    codecs = {"d": "png", "e": "gif"}
    rows = [
        clip_row(folder, i, codecs.get(i, "h264"), meta={"meta_n": at, "meta_tags": [i, "x"]})
        for at, i in enumerate(IDS)
    ]
    failed = ResultRow("z", "", "failed", stage="sample", error_message="NaN", prompt="p")
    write_run(folder, [*reversed(rows), failed])
    write_scores(folder, rows[:3])
    return folder


def write_scores(folder: RunFolder, rows: list[ResultRow]) -> None:
    with ScoreJournal(folder.root) as journal:
        for at, row in enumerate(rows):
            values = dict.fromkeys(SCORE_NAMES, 0.5) | {"clip_score": 20.0 + at}
            journal.append(ScoreRow(row.id, row.digest, "scorer", values))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def video_bytes(run: RunFolder, row_id: str) -> bytes:
    (path,) = run.videos.glob(f"*/{row_id}.mp4")
    return path.read_bytes()


def test_webdataset_loads(run: RunFolder, tmp_path: Path) -> None:
    """`webdataset` finds every clip under its own key, a dot in an id or not: the file's bytes, the
    prompt, the record with scores and meta columns; of a folder every frame."""
    import webdataset

    done = export(run, str(tmp_path / "x"), "webdataset", ShardSize(clips=2))
    assert done.shards == [f"shard-00000{n}.tar" for n in range(3)] and done.clips == 5
    urls = f"{tmp_path}/x/shard-{{000000..000002}}.tar"
    samples = {s["__key__"]: s for s in webdataset.WebDataset(urls, shardshuffle=False)}  # pyright: ignore
    assert list(samples) == ["a%2Eb", "c", "d", "e", "train-f"]
    told = json.loads(samples["a%2Eb"]["json"])
    assert samples["a%2Eb"]["mp4"] == video_bytes(run, "a.b")
    assert samples["a%2Eb"]["txt"] == b"a square of a.b"
    assert (told["id"], told["clip_score"], told["meta_tags"]) == ("a.b", 20.0, ["a.b", "x"])
    assert "device" not in told and "finished_at" not in told and "file_name" not in told
    assert len([name for name in samples["d"] if name.endswith(".png")]) == told["num_frames"]
    assert (
        samples["e"]["gif"].startswith(b"GIF89a")
        and "clip_score" not in samples["e"]["json"].decode()
    )


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`datasets.load_dataset`, its only split; nothing is decoded."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()

    def rows(*where: str, **more: str) -> list[dict[str, Any]]:
        found = datasets.load_dataset(
            *where, cache_dir=str(tmp_path / "cache"), split="train", **more
        )
        return list(found.cast_column("video", datasets.Video(decode=False)))  # pyright: ignore

    return rows


def test_parquet_loads(run: RunFolder, tmp_path: Path, load: Callable[..., Any]) -> None:
    """`datasets` takes the folder as it is: videos as Video, folders of PNGs as lists of pictures."""
    export(run, str(tmp_path / "x"), "parquet", ShardSize(clips=2))
    rows = load(str(tmp_path / "x"))
    assert [row["id"] for row in rows] == list(IDS)
    assert rows[1]["video"]["bytes"] == video_bytes(run, "c") and rows[1]["frames"] is None
    assert rows[2]["video"] is None and len(rows[2]["frames"]) == rows[2]["num_frames"]
    assert rows[2]["frames"][0].size == (48, 48)
    assert rows[0]["clip_score"] == 20.0 and rows[4]["clip_score"] is None
    assert rows[3]["meta_n"] == 3 and rows[3]["meta_tags"] == ["e", "x"]
    assert json.loads(rows[0]["params"])["num_frames"] == rows[0]["num_frames"]
    assert pq.read_table(tmp_path / "x" / "data").column("id").to_pylist() == list(IDS)


def test_videofolder_loads(run: RunFolder, tmp_path: Path, load: Callable[..., Any]) -> None:
    """`datasets` finds every file by the metadata of its shard, also one whose name has `train` in it;
    folders of PNGs, which it takes for no video, are left out and counted."""
    done = export(run, str(tmp_path / "x"), "videofolder", ShardSize(clips=2))
    assert done.frames_left_out == 1
    rows = load("videofolder", data_files=f"{tmp_path}/x/shard-*/metadata.parquet")
    rows.sort(key=lambda row: row["id"])  # it takes folders in an order of its own
    assert [row["id"] for row in rows] == [each for each in IDS if each != "d"]
    assert Path(rows[3]["video"]["path"]).read_bytes() == video_bytes(run, "train-f")
    assert rows[0]["prompt"] == "a square of a.b"


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_rows_are_the_same_bytes(run: RunFolder, tmp_path: Path, form: str) -> None:
    """Whatever order they ended in; nothing of the machine or the moment is in a shard. A second time
    nothing is written."""
    size = ShardSize(clips=2)
    first = export(run, str(tmp_path / "x"), form, size)
    before = content(tmp_path / "x")
    assert export(run, str(tmp_path / "x"), form, size).made == []
    assert content(tmp_path / "x") == before
    other = RunFolder(tmp_path / "other")
    rows = [
        clip_row(
            other,
            i,
            {"d": "png", "e": "gif"}.get(i, "h264"),
            meta={"meta_n": at, "meta_tags": [i, "x"]},
        )
        for at, i in enumerate(IDS)
    ]
    write_run(other, [replace(row, device="cuda", node="n2", attempts=2) for row in rows])
    write_scores(other, rows[:3])
    again = export(other, str(tmp_path / "y"), form, size)
    assert again.shards == first.shards
    after = content(tmp_path / "y")
    assert {n: d for n, d in after.items() if n != "README.md"} == {
        n: d for n, d in before.items() if n != "README.md"
    }


def test_an_export_goes_on_where_it_stopped(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in a shard leaves the whole ones and nothing of that one, and the export is not marked
    complete; the same command writes the rest alone."""
    whole = export_formats._member  # pyright: ignore

    def broken(name: str, size: int) -> tarfile.TarInfo:
        if name.startswith("d."):
            raise RuntimeError("power lost")
        return whole(name, size)

    monkeypatch.setattr(export_formats, "_member", broken)
    with pytest.raises(RuntimeError):
        export(run, str(tmp_path / "x"), "webdataset", ShardSize(clips=2))
    assert sorted(p.name for p in tmp_path.glob("x/shard*")) == ["shard-000000.tar"]
    assert not json.loads((tmp_path / "x" / INDEX).read_text())["complete"]
    monkeypatch.undo()
    done = export(run, str(tmp_path / "x"), "webdataset", ShardSize(clips=2))
    assert done.made == ["shard-000001.tar", "shard-000002.tar"]
    index = json.loads((tmp_path / "x" / INDEX).read_text())
    assert index["complete"] and [s["clips"] for s in index["shards"]] == [2, 2, 1]


def test_only_what_changed_is_written(run: RunFolder, tmp_path: Path) -> None:
    """Another choice of clips: shards that are no longer there go, those that hold the same stay."""
    dest = str(tmp_path / "x")
    export(run, dest, "webdataset", ShardSize(clips=2))
    done = export(run, dest, "webdataset", ShardSize(clips=2), conditions_of(["meta_n<=2"]))
    assert (done.shards, done.made) == (
        ["shard-000000.tar", "shard-000001.tar"],
        ["shard-000001.tar"],
    )
    assert not (tmp_path / "x" / "shard-000002.tar").exists()


def test_sizes_by_bytes(run: RunFolder, tmp_path: Path) -> None:
    """No shard has more bytes of clips than asked for, but that of a larger clip, which has its own."""
    sizes = {p.stem: p.stat().st_size for p in run.videos.glob("*/*.mp4")}
    limit = sizes["a.b"] + sizes["c"]
    done = export(run, str(tmp_path / "x"), "webdataset", ShardSize(bytes=limit))
    with tarfile.open(tmp_path / "x" / done.shards[0]) as tar:
        assert {n.split(".")[0] for n in tar.getnames()} == {"a%2Eb", "c"}
    assert len(export(run, str(tmp_path / "y"), "webdataset", ShardSize(bytes=1)).shards) == 5
    assert shard_size("500MB") == ShardSize(bytes=500_000_000)
    assert shard_size("2 GiB") == ShardSize(bytes=2**31) and shard_size("7") == ShardSize(7)
    for text in ("", "0", "1.5GB", "many", "5TBx"):
        with pytest.raises(ExportError, match="--shard-size"):
            shard_size(text)


@pytest.mark.parametrize(
    ("conditions", "ids"),
    [
        (["meta_n=1"], ["c"]),
        (["meta_n>=1", "meta_n<4"], ["c", "d", "e"]),
        (["clip_score>=21"], ["c", "d"]),
        (["codec=gif"], ["e"]),
        (["codec!=h264"], ["d", "e"]),
        (["prompt=a square of c"], ["c"]),
    ],
)
def test_conditions(run: RunFolder, tmp_path: Path, conditions: list[str], ids: list[str]) -> None:
    """Of columns, parameters and scores; who lacks the column meets none."""
    done = export(
        run, str(tmp_path / "x"), "webdataset", ShardSize(clips=9), conditions_of(conditions)
    )
    with tarfile.open(tmp_path / "x" / done.shards[0]) as tar:
        assert sorted({n.split(".")[0] for n in tar.getnames()}) == ids


def test_what_cannot_be_exported(run: RunFolder, tmp_path: Path) -> None:
    """No clips, other files at the destination, another format there, words that are no condition: said
    with what to do."""
    with pytest.raises(ExportError, match="found none"):
        export(run, str(tmp_path / "x"), "parquet", ShardSize(1), conditions_of(["meta_n>99"]))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match="found other files"):
        export(run, str(tmp_path / "mine"), "parquet", ShardSize(1))
    export(run, str(tmp_path / "y"), "webdataset", ShardSize(9))
    with pytest.raises(ExportError, match="found one of webdataset"):
        export(run, str(tmp_path / "y"), "parquet", ShardSize(9))
    for text in ("meta_n", "=3", "meta_n>many"):
        with pytest.raises(ExportError, match="--where"):
            conditions_of([text])
    with pytest.raises(ExportError, match="--format"):
        export(run, str(tmp_path / "z"), "zip", ShardSize(9))
    for dest in (run.root, run.root / "shards"):
        with pytest.raises(ExportError, match="expected a folder outside of the run folder"):
            export(run, str(dest), "parquet", ShardSize(9))
    with pytest.raises(
        ExportError, match=r"expected videos, found 1 folder of PNGs .*--format parquet"
    ):
        export(run, str(tmp_path / "z"), "videofolder", ShardSize(9), conditions_of(["id=d"]))
    assert not (tmp_path / "z").exists() and not (tmp_path / "x").exists()


def test_conditions_that_no_clip_can_meet(run: RunFolder, tmp_path: Path) -> None:
    """A column that there is not is told with the nearest; a score before clips were scored, and a run
    without finished clips, with what to run."""

    def refusal(folder: RunFolder, *conditions: str) -> str:
        with pytest.raises(ExportError) as error:
            export(folder, str(tmp_path / "x"), "parquet", ShardSize(9), conditions_of(conditions))
        return str(error.value)

    assert "a score, found 'codek'; did you mean codec" in refusal(run, "codek=gif")
    assert "found 'nope'; " in refusal(run, "nope=1")
    assert "that meet controlnet=mine, found none; ask for less" in refusal(run, "controlnet=mine")
    both = refusal(run, "meta_n <= 9", "clip_score>=999")
    assert "that meet meta_n<=9 and clip_score>=999, found none" in both
    plain = RunFolder(tmp_path / "plain")
    write_run(plain, [clip_row(plain, "a")])
    assert f"run `zs2 eval {plain.root}` first" in refusal(plain, "clip_score>=80")
    bare = RunFolder(tmp_path / "bare")
    write_run(bare, [ResultRow("z", "", "failed", stage="sample", error_message="NaN", prompt="p")])
    assert f"expected finished clips, found none; `zs2 status {bare.root}`" in refusal(bare)


def test_damaged_and_missing_clips_are_named(tmp_path: Path) -> None:
    """A clip that is not what the ledger says is not passed on as if it were, nor is a file outside that
    a stranger's ledger names: all of them are told at once, and left out where that is asked for."""
    folder = RunFolder(tmp_path / "out")
    rows = [clip_row(folder, i) for i in ("a", "b", "c", "d")]
    outside = replace(rows[0], id="o", file_name="../secret.mp4")
    write_run(folder, rows)
    paths = [folder.root / str(row.file_name) for row in rows]
    paths[1].write_bytes(paths[1].read_bytes() + b"x")
    paths[3].unlink()
    found = (
        r"found 2 clips gone or damaged: .*/b\.mp4 \(not what the ledger .*/d\.mp4 \(gone\); remove"
    )
    with pytest.raises(ExportError, match=found):
        export(folder, str(tmp_path / "x"), "webdataset", ShardSize(1))
    done = export(folder, str(tmp_path / "x"), "webdataset", ShardSize(9), skip_damaged=True)
    assert (done.clips, done.damaged) == (2, [rows[1].file_name, rows[3].file_name])
    words = ["export", str(folder.root), "-o", str(tmp_path / "x"), "--skip-damaged"]
    assert "2 clips left out, gone or damaged:" in CliRunner().invoke(app, words).stdout
    paths[0].unlink()
    paths[2].unlink()
    with pytest.raises(ExportError, match="expected clips that are whole, found none"):
        export(folder, str(tmp_path / "x"), "webdataset", ShardSize(9), skip_damaged=True)
    stranger = RunFolder(tmp_path / "stranger")
    write_run(stranger, [outside])
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    with pytest.raises(ExportError, match="found none"):
        export(stranger, str(tmp_path / "z"), "webdataset", ShardSize(9))


@pytest.mark.parametrize("form", FORMATS)
def test_into_a_store(run: RunFolder, tmp_path: Path, bucket: str, form: str) -> None:
    """The same objects as files; a second time nothing is sent."""
    from manifests.object_store import ObjectStore

    export(run, str(tmp_path / "x"), form, ShardSize(clips=2))
    done = export(run, f"{bucket}/x", form, ShardSize(clips=2))
    store = ObjectStore(f"{bucket}/x")
    there = {
        store.name_of(found): (store.read(store.name_of(found)) or (b"",))[0]
        for found in store.list()
    }
    local = content(tmp_path / "x")
    assert set(there) == set(local) and len(done.made) == (2 if form == "videofolder" else 3)
    assert {n for n in there if there[n] != local[n]} <= {"README.md", INDEX}
    assert export(run, f"{bucket}/x", form, ShardSize(clips=2)).made == []
    fewer = export(run, f"{bucket}/x", form, ShardSize(clips=2), conditions_of(["meta_n<=1"]))
    left = {store.name_of(found) for found in store.list()}
    assert {name for name in left if not name.startswith(tuple(fewer.shards))} == {
        "README.md",
        INDEX,
    }
    assert len(fewer.shards) == 1


def test_the_command(run: RunFolder, tmp_path: Path) -> None:
    """In words, and as one JSON object; a score that there is not is refused."""
    words = ["export", str(run.root), "-o", str(tmp_path / "x"), "--shard-size", "2"]
    said = CliRunner().invoke(app, [*words, "--min-score", "clip_score=21", "--json"])
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["clips"] == 2
    assert " B, " in export_text({**json.loads(said.stdout), "bytes": 999})
    assert " 1.5 kB, " in export_text({**json.loads(said.stdout), "bytes": 1500})
    assert (
        "2 clips in 1 shard, 1 of them from before"
        in CliRunner().invoke(app, [*words, "--min-score", "clip_score=21"]).stdout
    )
    for score in ("beauty=1", "clip_score=abc", "clip_score=nan", "clip_score="):
        with pytest.raises(UsageError, match=r"^--min-score: expected"):
            CliRunner().invoke(app, [*words, "--min-score", score], catch_exceptions=False)
