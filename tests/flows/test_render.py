"""`zs2 render` end to end on one machine: real Prefect, Ray, sampler and ffmpeg, tiny weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from tests.flows.running import Answer, processes, write_rows, zs2

LEDGER = [
    "id",
    "digest",
    "status",
    "stage",
    "error_type",
    "error_message",
    "attempts",
    "file_name",
    "sha256",
    "bytes",
    "num_frames",
    "height",
    "width",
    "fps",
    "prompt",
    "seed",
    "model",
    "model_revision",
    "params",
    "kl_achieved",
    "seconds_sample",
    "seconds_temporal",
    "seconds_spatial",
    "seconds_assemble",
    "device",
    "node",
    "started_at",
    "finished_at",
    "recipe",
    "meta_lines",
    "meta_tag",
]


def rows_of(model: Path) -> list[dict[str, Any]]:
    """Six rows: every codec, both kinds of super-resolution, a storyboard, a list of λ."""
    common = {
        "model": str(model),
        "num_inference_steps": 2,
        "num_frames": 4,
        "kl_target": [0.05],
        "meta_tag": "blue",
    }
    rows: list[dict[str, Any]] = [
        {"id": "plain", "prompt": ["a red star"]},
        {"id": "faster", "prompt": ["a"], "kl_target": [0.01, 0.1, 0.3], "codec": "gif"},
        {"id": "still", "prompt": ["b"], "kl_target": [0.0], "codec": "webp"},
        {"id": "smooth", "prompt": ["c"], "temporal_scale": 2, "codec": "ffv1"},
        {"id": "large", "prompt": ["d"], "spatial_scale": 2, "codec": "png"},
        {
            "id": "story",
            "prompt": ["one", "two", "three"],
            "num_frames": 6,
            "segment_frames": 2,
            "temporal_scale": 2,
            "spatial_scale": 2,
            "meta_lines": 3,
        },
    ]
    return [{**common, **row} for row in rows]


FRAMES = {"plain": 4, "faster": 4, "still": 4, "smooth": 7, "large": 4, "story": 11}
SUFFIXES = {
    "plain": ".mp4",
    "faster": ".gif",
    "still": ".webp",
    "smooth": ".mkv",
    "large": "",
    "story": ".mp4",
}


class Run(NamedTuple):
    """A finished run: its manifest, folder, and what the command answered."""

    manifest: Path
    out: Path
    answer: Answer

    def ledger(self) -> dict[str, dict[str, Any]]:
        """The ledger's rows by id."""
        table = pq.read_table(sorted((self.out / "results").glob("part-*.parquet")))
        rows = table.to_pylist()
        assert len({row["id"] for row in rows}) == len(rows), "an id stands twice in the ledger"
        return {row["id"]: row for row in rows}

    def json(self, name: str) -> dict[str, Any]:
        return json.loads((self.out / name).read_text("utf-8"))


def times(folder: Path) -> dict[str, int]:
    """Every file of a folder, and when it was last written."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


def content(path: Path) -> dict[str, bytes]:
    """A video's bytes; of a folder of frames, each frame's."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of `rows_of`; nothing it started is alive afterwards."""
    folder = tmp_path_factory.mktemp("run")
    manifest = write_rows(folder / "six.parquet", rows_of(tiny_model))
    answer = zs2("render", manifest, "-o", folder / "out", "--json", ZS2_TEST="render")
    return Run(manifest, folder / "out", answer)


def test_a_run_ends_well(run: Run) -> None:
    """Exit code 0; on standard output the summary as one JSON object and nothing else, on standard
    error plain lines of ours; no process of Prefect or Ray outlives the command."""
    assert run.answer.code == 0, run.answer.err
    summary = json.loads(run.answer.out)
    assert summary["rendered"] == summary["rows"] == {"ok": 6, "failed": 0, "invalid": 0}
    assert (summary["state"], summary["left"]) == ("finished", 0)
    first, *lines = run.answer.err.splitlines()
    lines = [line for line in lines if not line.startswith("still starting 2 samplers: ")]
    begun = {"6 rows to render in 1 shard", "starting 2 samplers …"}  # whichever comes first
    assert first == "starting Prefect and Ray …" and begun <= set(lines)
    progress = [line for line in lines if line not in begun]
    assert all("/6 rows, " in line and line.endswith(" 0 failed") for line in progress)
    assert processes("ZS2_TEST=render") == {}


def _previews(run: Run) -> list[tuple[Path, list[str]]]:
    """The folders of previews and what is in each."""
    folders = (run.out / "previews").glob("*/*")
    return [(folder, sorted(path.name for path in folder.iterdir())) for folder in folders]


def test_the_tree(run: Run) -> None:
    """Every video lies at videos/<first two hex of digest>/<id>.<suffix>, whole, and nothing else
    does; those that browsers do not play have a preview, and no others; no temporary file and no
    latents are left."""
    ledger = run.ledger()
    for row_id, row in ledger.items():
        expected = f"videos/{row['digest'][:2]}/{row_id}{SUFFIXES[row_id]}"
        assert row["file_name"] == expected
        assert (run.out / expected).exists()
    found = {p.relative_to(run.out).as_posix() for p in (run.out / "videos").glob("*/*")}
    assert found == {row["file_name"] for row in ledger.values()}
    previews = {p.relative_to(run.out / "previews").as_posix(): row for p, row in _previews(run)}
    assert previews == {
        f"{row['digest'][:2]}/{row_id}": ["clip.mp4", "poster.png"]
        for row_id, row in ledger.items()
        if SUFFIXES[row_id] != ".mp4"
    }
    assert list(run.out.rglob(".*")) == []
    assert list((run.out / "latents").iterdir()) == []
    assert {path.name for path in run.out.iterdir()} == {
        *("videos", "previews", "latents", "logs", "results", "run.lock"),
        *("run.json", "summary.json", "metadata.parquet", "index.html", "throughput.svg"),
    }


def test_the_ledger(run: Run) -> None:
    """One row per id of the manifest with exactly the columns of DESIGN.md; frames, rate and size
    are those of the post-processed clip, and sha256 and bytes those of the file."""
    assert pq.read_schema(next((run.out / "results").glob("*.parquet"))).names == LEDGER
    ledger = run.ledger()
    asked = {row["id"]: row for row in rows_of(Path("x"))}
    assert ledger.keys() == asked.keys()
    for row_id, row in ledger.items():
        assert (row["status"], row["attempts"]) == ("ok", 1)
        assert (row["stage"], row["error_type"], row["error_message"]) == (None, None, None)
        assert row["num_frames"] == FRAMES[row_id]
        scale = asked[row_id].get("spatial_scale", 1)
        assert (row["height"], row["width"]) == (32 * scale, 32 * scale)
        # no GIF has exactly 8 frames/s
        assert row["fps"] == pytest.approx(8 * asked[row_id].get("temporal_scale", 1), rel=0.05)
        assert row["prompt"] == "\n".join(asked[row_id]["prompt"])
        assert row["meta_tag"] == "blue"
        assert row["meta_lines"] == asked[row_id].get("meta_lines")
        path = run.out / row["file_name"]
        if path.is_file():
            assert row["bytes"] == path.stat().st_size
            assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert row["started_at"] < row["finished_at"]
        assert row["seconds_sample"] > 0 and row["seconds_assemble"] > 0
        assert (row["seconds_temporal"] is not None) == ("temporal_scale" in asked[row_id])
        assert (row["seconds_spatial"] is not None) == ("spatial_scale" in asked[row_id])
        assert row["device"] == "cpu"
        assert len(row["kl_achieved"]) == asked[row_id]["num_frames"] - 1
    faster = ledger["faster"]["kl_achieved"]
    assert faster == sorted(faster) and faster[0] < 0.02 < 0.15 < faster[2]
    assert ledger["still"]["kl_achieved"] == [0, 0, 0]
    assert len({row["model_revision"] for row in ledger.values()}) == 1


def test_metadata_summary_and_gallery(run: Run) -> None:
    """metadata.parquet names every file with its prompt and meta columns; summary.json adds the run
    up; index.html names every video; run.json holds what `status` and `retry` need; one log."""
    metadata = pq.read_table(run.out / "metadata.parquet").to_pylist()
    ledger = run.ledger()
    assert {row["file_name"] for row in metadata} == {r["file_name"] for r in ledger.values()}
    assert list(metadata[0])[:2] == ["file_name", "prompt"]
    assert {row["meta_tag"] for row in metadata} == {"blue"}

    summary = run.json("summary.json")
    assert summary["rows"] == {"ok": 6, "failed": 0, "invalid": 0}
    assert summary["frames"] == sum(FRAMES.values())
    assert summary["unet_calls"] == 2 * (5 + 3)  # steps × (clips of one segment, one of three)
    assert set(summary["seconds_by_stage"]) == {"sample", "temporal", "spatial", "assemble"}
    assert all(seconds > 0 for seconds in summary["seconds_by_stage"].values())
    assert summary["versions"]["zs2"]

    page = (run.out / "index.html").read_text("utf-8")
    assert all(row["file_name"] in page for row in ledger.values())
    assert "http://" not in page and "https://" not in page

    content = run.json("run.json")
    assert content["state"] == "finished"
    assert content["manifest"] == str(run.manifest)
    digest = hashlib.sha256(run.manifest.read_bytes()).hexdigest()
    assert [part["sha256"] for part in content["identity"]] == [digest]
    assert content["settings"]["keep_latents"] is False
    assert len(list((run.out / "logs").iterdir())) == 1


def test_status_of_a_finished_run(run: Run) -> None:
    """`zs2 status` counts from the folder alone, as text and as JSON."""
    report = json.loads(zs2("status", run.out, "--json").out)
    assert {k: report[k] for k in ("state", "rows", "ok", "failed", "invalid", "left")} == {
        "state": "finished",
        **{"rows": 6, "ok": 6, "failed": 0, "invalid": 0, "left": 0},
    }
    assert report["failures"] == []
    text = zs2("status", run.out).out.splitlines()
    assert text == [
        f"{run.out}: finished",
        "6 ok, 0 failed, 0 invalid, 0 left of 6 rows",
    ]


def test_the_same_command_again(run: Run) -> None:
    """Rerun is resume: exit code 0, nothing rendered, no file of videos/ or the ledger touched; and
    with --quiet nothing is said."""
    before = times(run.out / "videos") | times(run.out / "results")
    answer = zs2("render", run.manifest, "-o", run.out, "--quiet", ZS2_TEST="again")
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    assert times(run.out / "videos") | times(run.out / "results") == before
    summary = run.json("summary.json")
    assert summary["rendered"] == {"ok": 0, "failed": 0, "invalid": 0}
    assert summary["rows"] == {"ok": 6, "failed": 0, "invalid": 0}
    assert processes("ZS2_TEST=again") == {}


def assert_sample_equals_run(run: Run, row_id: str, folder: Path) -> None:
    out = folder / f"clip{SUFFIXES[row_id]}"
    answer = zs2("sample", "--from", run.manifest, "--id", row_id, "-o", out, "--json")
    assert (answer.code, answer.err) == (0, "")
    report, row = json.loads(answer.out), run.ledger()[row_id]
    assert (report["digest"], report["sha256"]) == (row["digest"], row["sha256"])
    assert content(out) == content(run.out / row["file_name"])
    assert [path.name for path in folder.iterdir()] == [out.name]


def test_sample_gives_the_bytes_of_the_run(run: Run, tmp_path: Path) -> None:
    """`zs2 sample --from MANIFEST --id ROW` renders the same file, byte for byte, in a process that
    has neither Prefect nor Ray; nothing but the report is printed."""
    assert_sample_equals_run(run, "story", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("row_id", sorted(set(FRAMES) - {"story"}))
def test_sample_gives_the_bytes_of_the_run_in_every_codec(
    row_id: str, run: Run, tmp_path: Path
) -> None:
    """As above, for h264, gif, webp, ffv1 and png."""
    assert_sample_equals_run(run, row_id, tmp_path)


@pytest.mark.slow
def test_bad_rows_skipped(run: Run, tmp_path: Path) -> None:
    """--on-invalid=skip renders the others, writes the bad rows to the ledger as `invalid` with all
    their faults, and exits 3; without it the same manifest exits 2 and changes nothing."""
    out = tmp_path / "out"
    shutil.copytree(run.out, out)
    bad = {"id": "bad", "prompt": ["x"], "height": 37, "fps": -1.0}
    manifest = write_rows(
        tmp_path / "seven.parquet", [*pq.read_table(run.manifest).to_pylist(), bad]
    )
    before = times(out)
    refused = zs2("render", manifest, "-o", out)
    assert refused.code == 2
    assert "--on-invalid=skip" in refused.err
    assert {k: v for k, v in times(out).items() if k != "run.lock"} == {
        k: v for k, v in before.items() if k != "run.lock"
    }

    answer = zs2("render", manifest, "-o", out, "--on-invalid=skip")
    assert answer.code == 3
    assert "1 invalid" in answer.err and f"zs2 status {out}" in answer.err
    row = Run(manifest, out, answer).ledger()["bad"]
    assert (row["status"], row["file_name"]) == ("invalid", None)
    assert "height" in row["error_message"] and "fps" in row["error_message"]
    assert times(out / "videos") == times(run.out / "videos")  # none rendered again


@pytest.mark.slow
def test_a_change_renders_what_it_touches(tiny_model: Path, tmp_path: Path) -> None:
    """One changed row renders again, alone. With --keep-latents a change of post-processing makes
    new videos without a UNet call. A row that left the manifest leaves the ledger; files stay."""
    rows = rows_of(tiny_model)[:3]
    manifest, out = tmp_path / "m.parquet", tmp_path / "out"

    def render() -> dict[str, Any]:
        write_rows(manifest, rows)
        answer = zs2("render", manifest, "-o", out, "--keep-latents", "--json")
        assert answer.code == 0, answer.err
        return json.loads(answer.out)

    assert render()["unet_calls"] == 6
    first = times(out / "videos")
    rows[0] = {**rows[0], "prompt": ["a green star"]}
    summary = render()
    assert (summary["rendered"]["ok"], summary["unet_calls"]) == (1, 2)
    second = times(out / "videos")
    assert first.items() <= second.items() and len(second) == 4

    rows = [{**row, "codec": "ffv1", "temporal_scale": 2} for row in rows[:2]]
    summary = render()
    assert (summary["rendered"]["ok"], summary["unet_calls"]) == (2, 0)
    assert summary["rows"] == {"ok": 2, "failed": 0, "invalid": 0}
    third = times(out / "videos")
    assert second.items() <= third.items() and len(third) == 6
