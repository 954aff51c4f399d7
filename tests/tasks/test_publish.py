"""What a run leaves behind its videos, made from a real journal, read by the programs it is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from manifests.journal import Journal
from manifests.ledger import Known, iter_results
from manifests.result import ResultRow
from manifests.storage import RunFolder
from tasks.assemble import assemble
from tasks.publish import (
    Tally,
    failures_by_cause,
    notes_by_cause,
    parameters_of,
    publish,
    summarise,
    versions,
)

DIGEST = "ab" + "0" * 30


def ok_row(folder: RunFolder, row_id: str, codec: str = "h264", **more: Any) -> ResultRow:
    """An ok row and its real, small video."""
    path = folder.video_path(DIGEST, row_id, codec)
    done = assemble(np.zeros((3, 32, 32, 3), np.uint8), path, 8.0, codec)
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "file_name": folder.file_name(path),
        "sha256": done.sha256,
        "bytes": done.bytes,
        "num_frames": 3,
        "height": 32,
        "width": 32,
        "fps": 8.0,
        "prompt": f"prompt of {row_id}",
        "seed": 7,
        "model": "tiny",
        "params": json.dumps({"codec": codec}),
        "kl_achieved": (0.01, 0.02),
        "seconds_sample": 2.0,
        "seconds_assemble": 0.5,
        "started_at": now,
        "finished_at": now,
    }
    return ResultRow(row_id, DIGEST, "ok", **{**values, **more})


def failed_row(row_id: str, stage: str, kind: str, message: str) -> ResultRow:
    return ResultRow(row_id, DIGEST, "failed", stage, kind, message, attempts=3)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "out").create()


def journal(folder: RunFolder, rows: list[ResultRow], run_id: str = "r1") -> None:
    with Journal(folder.results, run_id) as file:
        for row in rows:
            file.append(row)


def ids(*names: str) -> Known:
    known = Known()
    for name in names:
        known.put(name, DIGEST, "ok")
    return known


def tally_of(rows: list[ResultRow]) -> Tally:
    tally = Tally(wall_seconds=10.0, device_seconds=20.0)
    for row in rows:
        tally.add(row, {"unet_calls": 4, "native_pictures": 32})
    return tally


def publish_rows(folder: RunFolder, rows: list[ResultRow], **more: Any) -> dict[str, Any]:
    journal(folder, rows)
    known = ids(*(row.id for row in rows))
    return publish(folder, known, tally_of(rows), run_id="r1", title="demo", **more)


Load = Callable[..., Any]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """`datasets.load_dataset("videofolder", …)`, its rows by split; nothing is decoded."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()

    def load_rows(**where: str) -> dict[str, list[dict[str, Any]]]:
        found = datasets.load_dataset("videofolder", cache_dir=str(tmp_path / "cache"), **where)
        return {
            split: list(rows.cast_column("video", datasets.Video(decode=False)))
            for split, rows in found.items()
        }

    return load_rows


def test_metadata_loads_as_a_videofolder(folder: RunFolder, load: Load):
    """`datasets` finds every ok row's video, whatever its codec (GIF and WebP files, folders of PNG
    too), beside its prompt, parameters and meta columns; failed rows are not in it."""
    codecs = ("h264", "ffv1", "gif", "webp", "png")
    rows = [ok_row(folder, f"clip-{codec}", codec, meta={"meta_x": codec}) for codec in codecs]
    publish_rows(folder, [*rows, failed_row("bad", "sample", "E", "m")])
    (split,) = load(data_dir=str(folder.root)).values()
    assert {Path(row["video"]["path"]) for row in split} == {
        folder.root / str(row.file_name) for row in rows
    }
    assert all(Path(row["video"]["path"]).exists() for row in split)
    by_id = {row["id"]: row for row in split}
    assert by_id["clip-gif"]["prompt"] == "prompt of clip-gif"
    assert by_id["clip-gif"]["meta_x"] == "gif" and by_id["clip-gif"]["seed"] == 7
    assert json.loads(by_id["clip-png"]["params"]) == {"codec": "png"}
    assert by_id["clip-h264"]["kl_achieved"] == [0.01, 0.02]


def test_metadata_of_rows_that_datasets_takes_for_splits(folder: RunFolder, load: Load):
    """An id such as `test-1` makes `datasets` guess a split from the file's name, in its own way of
    reading a folder; naming metadata.parquet loads all rows, for every id."""
    rows = [ok_row(folder, row_id) for row_id in ("a", "test-1", "train", "eval.2")]
    publish_rows(folder, rows)
    (split,) = load(data_files=str(folder.metadata_file)).values()
    assert sorted(row["id"] for row in split) == ["a", "eval.2", "test-1", "train"]
    assert all(Path(row["video"]["path"]).exists() for row in split)


def test_metadata_columns(folder: RunFolder):
    """file_name and prompt come first, meta columns last; what only the ledger is for is left out."""
    publish_rows(folder, [ok_row(folder, "a", meta={"meta_b": 1, "meta_a": "x"})])
    names = pq.read_schema(folder.metadata_file).names
    assert names[:2] == ["file_name", "prompt"] and names[-2:] == ["meta_a", "meta_b"]
    assert not {"status", "error_message", "attempts", "node"} & set(names)
    assert {"sha256", "fps", "seed", "model_revision", "params", "finished_at"} <= set(names)


def test_metadata_goes_with_the_last_good_row(folder: RunFolder):
    """A run without any ok row leaves no metadata.parquet, also where an earlier one stood."""
    publish_rows(folder, [ok_row(folder, "a")])
    assert folder.metadata_file.exists()
    journal(folder, [failed_row("a", "sample", "E", "m")], "r2")
    publish(folder, ids("a"), Tally(), run_id="r2", title="demo")
    assert not folder.metadata_file.exists()


def test_rows_that_left_the_manifest_leave_the_ledger(folder: RunFolder):
    """After publish the ledger has one row for each id of the manifest and no other; the files of
    the others stay."""
    rows = [ok_row(folder, name) for name in ("a", "b")]
    journal(folder, rows)
    publish(folder, ids("a"), tally_of(rows), run_id="r1", title="demo")
    assert [row.id for row in iter_results(folder.root)] == ["a"]
    assert pq.read_table(folder.metadata_file)["id"].to_pylist() == ["a"]
    assert (folder.root / str(rows[1].file_name)).exists()
    assert "videos/ab/b.mp4" not in folder.gallery_file.read_text("utf-8")


def test_summary(folder: RunFolder):
    """Counts by status of the ledger and of this run, seconds by stage, rates of finished videos over
    the wall clock, device-hours and their cost; the file holds what is returned."""
    rows = [
        ok_row(folder, "a"),
        ok_row(folder, "b", seconds_temporal=1.0),
        replace(failed_row("c", "sample", "E", "m"), num_frames=3),
    ]
    summary = publish_rows(folder, rows, price_per_hour=3.6)
    assert summary == json.loads(folder.summary_file.read_text("utf-8"))
    assert summary["rows"] == summary["rendered"] == {"ok": 2, "failed": 1, "invalid": 0}
    assert summary["seconds_by_stage"] == {
        **{"sample": 4.0, "temporal": 1.0, "spatial": 0.0, "assemble": 1.0},
    }
    assert (summary["frames"], summary["unet_calls"], summary["wall_seconds"]) == (6, 12, 10.0)
    assert (summary["clips_per_second"], summary["frames_per_second"]) == (0.2, 0.6)
    assert summary["native_pictures_per_second"] == 96 / 4.0
    assert summary["device_hours"] == pytest.approx(20 / 3600, abs=1e-6)
    assert summary["cost"] == pytest.approx(0.02, abs=1e-6)
    assert summary["versions"] == versions() and "torch" in summary["versions"]


def test_summary_of_a_run_that_did_nothing(folder: RunFolder):
    """The same command again leaves the figures of the run that rendered; its own counts are 0."""
    first = publish_rows(folder, [ok_row(folder, "a")], price_per_hour=1.0)
    again = publish(folder, ids("a"), Tally(), run_id="r2", title="demo")
    assert again == {**first, "rendered": {"ok": 0, "failed": 0, "invalid": 0}}


def test_summary_without_any_work():
    """No rows, no seconds: rates of 0 and unknown speed, not a division by zero."""
    summary = summarise(Tally(), {}, 0, "r", None)
    assert (summary["clips_per_second"], summary["frames_per_second"]) == (0.0, 0.0)
    assert summary["native_pictures_per_second"] is None and summary["cost"] is None


def test_publishing_again_gives_the_same(folder: RunFolder):
    """A crash after compaction costs nothing: publish once more, and ledger, metadata and gallery
    hold the same."""
    rows = [ok_row(folder, "a"), failed_row("b", "sample", "E", "m")]
    publish_rows(folder, rows)
    files = [folder.metadata_file, folder.gallery_file]
    before = [path.read_bytes() for path in files]
    results = list(iter_results(folder.root))
    publish(folder, ids("a", "b"), Tally(), run_id="r2", title="demo")
    assert list(iter_results(folder.root)) == results
    assert pq.read_table(folder.metadata_file).num_rows == 1
    assert [path.read_bytes() for path in files] == before


def test_failures_by_cause(folder: RunFolder):
    """Failures are grouped by stage, kind and first line, the commonest first, with one id each;
    ok rows, those with a note too, are not failures."""
    invalid = ResultRow("i", "", "invalid", "validate", "InvalidRow", "height: 37")
    rows = [
        ok_row(folder, "fine", error_type="note", error_message="prompt truncated"),
        failed_row("a", "assemble", "AssembleError", "disk full"),
        failed_row("b", "sample", "SamplingError", "NaN\nmore of row b"),
        failed_row("c", "sample", "SamplingError", "NaN\nmore of row c"),
        invalid,
    ]
    journal(folder, rows)
    causes = failures_by_cause(folder)
    assert causes[0][:4] == ("sample", "SamplingError", "NaN", 2)
    assert causes[0][4] in ("b", "c")
    assert sorted(causes[1:]) == [
        ("assemble", "AssembleError", "disk full", 1, "a", "disk full"),
        ("validate", "InvalidRow", "height: 37", 1, "i", "height: 37"),
    ]


def test_notes_by_cause(folder: RunFolder):
    """What was noted of rows that are ok, one group whatever the numbers in it; a summary counts them, and
    those of failures are none."""
    notes = {
        "a": "prompt truncated: 40 tokens, read 32",
        "b": "prompt truncated: 50 tokens, read 32",
    }
    rows = [ok_row(folder, i, error_type="note", error_message=told) for i, told in notes.items()]
    journal(
        folder, [*rows, ok_row(folder, "c"), failed_row("d", "sample", "SamplingError", "NaN 3")]
    )
    (cause,) = notes_by_cause(folder)
    assert (cause.rows, cause.message) == (2, "prompt truncated: … tokens, read …")
    assert cause.told == notes[cause.example]
    assert publish(folder, ids("a", "b", "c", "d"), Tally(), run_id="r", title="t")["noted"] == 2


def test_one_cause_with_many_names_is_one_cause(folder: RunFolder):
    """Rows whose messages differ in their own files, models and paths alone stand together; the
    example keeps its message, path and all."""
    long = "/a/very/long/folder" * 8
    rows = [
        *(
            replace(
                failed_row(
                    f"clip{i}", "sample", "ClipError", f"{long}/c {i}.mp4: expected a video"
                ),
                params=json.dumps({"source_video": f"c {i}.mp4"}),
            )
            for i in range(3)
        ),
        *(
            replace(
                failed_row(
                    f"m{i}", "sample", "ModelError", f"model 'o/n{i}': expected weights of a model"
                ),
                model=f"o/n{i}",
                params=json.dumps({"ip_adapter_image": "a"}),
            )
            for i in range(2)
        ),
    ]
    for i in range(2):
        message = (
            f"/in/m.parquet row {i}: control_video: expected a video, found none at /in/{i}.mp4"
        )
        rows.append(ResultRow(f"i{i}", "", "invalid", "validate", "InvalidRow", message))
    journal(folder, rows)
    found = {cause.message: cause for cause in failures_by_cause(folder)}
    assert {message: cause.rows for message, cause in found.items()} == {
        "…: expected a video": 3,
        "model '…': expected weights of a model": 2,
        "control_video: expected a video, found none at …": 2,
    }
    cause = found["…: expected a video"]
    assert cause.told == f"{long}/c {cause.example.removeprefix('clip')}.mp4: expected a video"


def test_parameters_of(folder: RunFolder):
    """A row's parameters as a mapping; none where a row never had any."""
    assert parameters_of(ok_row(folder, "a")) == {"codec": "h264"}
    assert parameters_of(failed_row("b", "sample", "E", "m")) == {}
