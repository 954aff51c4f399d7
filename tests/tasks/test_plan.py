from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.inputs import InputFiles
from manifests.ledger import Known
from manifests.read import Manifest, open_manifest
from manifests.storage import RunFolder
from manifests.validate import Problem
from tasks.catalogue import Catalogue
from tasks.job import CONTROLNET_COST, Engine
from tasks.plan import MOST_SHARDS, PROBLEMS_KEPT, Plan, jobs_of, make_plan
from tests import tiny_addons, tiny_models

Build = Callable[..., Manifest]


@pytest.fixture
def model(tiny_model: Path) -> str:
    return str(tiny_model)


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that edits clips."""
    folder = tmp_path_factory.mktemp("edits")
    tiny_models.ip2p(folder).save_pretrained(folder / "ip2p", safe_serialization=True)
    return str(folder / "ip2p")


@pytest.fixture
def build(tmp_path: Path, model: str) -> Build:
    """A manifest of the given columns; each row names the tiny model unless it says otherwise."""

    def make(columns: dict[str, list[Any]], name: str = "m.parquet", **options: Any) -> Manifest:
        rows = len(columns["id"])
        table = pa.table({"prompt": ["p"] * rows, "model": [model] * rows} | columns)
        pq.write_table(table, tmp_path / name, **options)
        return open_manifest(tmp_path / name)

    return make


def plan(manifest: Manifest, **more: Any) -> Plan:
    options: dict[str, Any] = {"defaults": {}, "engine": Engine(), "catalogue": Catalogue()}
    options |= more
    return make_plan(manifest, options.pop("catalogue"), **options)


def ids_of(made: Plan, manifest: Manifest, catalogue: Catalogue | None = None) -> list[list[str]]:
    """The ids of each shard, as the shard's task would read them."""
    catalogue = catalogue or Catalogue()
    return [
        [job.row.id for job in jobs_of(shard, manifest, catalogue, {}, Engine())]
        for shard in made.shards
    ]


def finished(folder: RunFolder, made: Plan, ids: list[str], codec: str = "h264") -> Known:
    """What is known when these rows are done, their videos in place."""
    known = Known()
    for row_id in ids:
        found = made.digests.get(row_id)
        assert found is not None
        known.put(row_id, found[0], "ok")
        path = folder.video_path(found[0], row_id, codec)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
    return known


def test_everything_is_pending_at_first(build: Build, tmp_path: Path):
    """A new run renders every row, in the manifest's order, in shards of the asked size; ids and
    digests of all rows are known."""
    manifest = build({"id": list("abcde")})
    made = plan(manifest, shard_rows=2, known=Known(), folder=RunFolder(tmp_path))
    assert ids_of(made, manifest) == [["a", "b"], ["c", "d"], ["e"]]
    assert [shard.index for shard in made.shards] == [0, 1, 2]
    assert (made.rows, made.done, made.work.rows, made.invalid_rows) == (5, 0, 5, 0)
    assert len(made.digests) == 5 and "c" in made.digests


def test_a_large_run_has_larger_shards(build: Build):
    """Never many more shards than MOST_SHARDS, each row in one of them, in its order."""
    manifest = build({"id": [f"r{i}" for i in range(1000)]})
    made = plan(manifest, shard_rows=2)
    assert len(made.shards) == MOST_SHARDS
    assert [p for shard in made.shards for p in shard.positions] == list(range(1000))


def test_done_rows_are_dropped(build: Build, tmp_path: Path):
    """A row with an ok result of the same digest and its video in place is done; the others are
    rendered."""
    folder = RunFolder(tmp_path / "out")
    manifest = build({"id": list("abc")})
    known = finished(folder, plan(manifest), ["a", "c"])
    made = plan(manifest, known=known, folder=folder)
    assert (ids_of(made, manifest), made.done) == ([["b"]], 2)
    assert not plan(build({"id": ["a", "c"]}), known=known, folder=folder).shards


def test_results_that_a_manifest_drops(build: Build, tmp_path: Path):
    """Those whose ids it does not have are counted, whatever became of the others, and told of."""
    folder = RunFolder(tmp_path / "out")
    manifest = build({"id": list("abc")})
    known = finished(folder, plan(manifest), ["a", "c"])
    assert plan(manifest, known=known, folder=folder).told_of_dropped() is None
    made = plan(build({"id": ["a", "new"]}), known=known, folder=folder)
    assert made.dropped == 1 and str(made.told_of_dropped()).startswith("1 result of earlier runs")


@pytest.mark.parametrize("column", ["prompt", "kl_target", "quality"])
def test_a_changed_row_is_rendered_again(build: Build, tmp_path: Path, column: str):
    """A row whose settings changed since it was done is pending, that row alone; added rows too."""
    folder = RunFolder(tmp_path / "out")
    known = finished(folder, plan(build({"id": ["a", "b"]})), ["a", "b"])
    value = {"prompt": "q", "kl_target": 0.5, "quality": 30}[column]
    base = {"prompt": "p"}.get(column)
    changed = build({"id": ["a", "b", "new"], column: [base, value, base]}, "changed.parquet")
    assert ids_of(plan(changed, known=known, folder=folder), changed) == [["b", "new"]]


def test_a_missing_video_is_rendered_again(build: Build, tmp_path: Path):
    """The ledger alone does not make a row done: its file must lie there still."""
    folder = RunFolder(tmp_path / "out")
    manifest = build({"id": ["a", "b"]})
    first = plan(manifest)
    known = finished(folder, first, ["a", "b"])
    digest = first.digests.get("b")
    assert digest is not None
    folder.video_path(digest[0], "b", "h264").unlink()
    assert ids_of(plan(manifest, known=known, folder=folder), manifest) == [["b"]]


def test_a_png_row_is_done_when_its_folder_is_there(build: Build, tmp_path: Path):
    """A folder of frames is a row's video as a file is."""
    folder = RunFolder(tmp_path / "out")
    manifest = build({"id": ["a"], "codec": ["png"]})
    known = finished(folder, plan(manifest), ["a"], "png")
    assert plan(manifest, known=known, folder=folder).done == 1


def test_only_failed(build: Build, tmp_path: Path):
    """`zs2 retry` renders the rows whose newest result is a failure, and no others: not those that
    never ran, nor those that are done."""
    folder = RunFolder(tmp_path / "out")
    manifest = build({"id": ["done", "failed", "new"]})
    first = plan(manifest)
    known = finished(folder, first, ["done"])
    known.put("failed", "0" * 32, "failed")
    made = plan(manifest, known=known, folder=folder, only_failed=True)
    assert ids_of(made, manifest) == [["failed"]]
    assert made.work.rows == 1 and len(made.digests) == 3


def test_bad_rows_are_told_and_skipped(build: Build, model: str):
    """Every bad row is counted and told once under its ledger name, with all that is wrong with it;
    the good rows are planned; a bad id stands under its row's number."""
    told: dict[str, list[Problem]] = {}

    def on_invalid(name: str, problems: list[Problem]) -> None:
        told[name] = problems

    manifest = build(
        {
            "id": ["good", "bad", "../x", "good", "none"],
            "height": [None, 37, None, None, None],
            "fps": [None, -1.0, None, None, None],
            "model": [model, model, model, model, "no/such/model"],
        }
    )
    made = plan(manifest, on_invalid=on_invalid)
    assert ids_of(made, manifest) == [["good"]]
    assert made.invalid_rows == 4 and made.rows == 5
    columns = {name: [problem.column for problem in problems] for name, problems in told.items()}
    assert columns == {
        "bad": ["height", "fps"],
        "invalid-row-2": ["id"],
        "invalid-row-3": ["id"],
        "none": ["model"],
    }
    assert all(name in made.digests for name in [*told, "good"])


def test_problems_are_kept_up_to_a_limit(build: Build):
    """A manifest that is wrong in every row makes a report of bounded length; all rows count."""
    rows = PROBLEMS_KEPT + 50
    made = plan(build({"id": [f"r{i}" for i in range(rows)], "height": [37] * rows}))
    assert (len(made.problems), made.invalid_rows, made.shards) == (PROBLEMS_KEPT, rows, [])


def test_an_unknown_model_is_a_problem_of_its_row(build: Build, model: str):
    """The problem names file, row, id and column, what was found and what would do; one question to
    the hub or the disk serves all rows of the model."""
    manifest = build({"id": ["a", "b", "c"], "model": ["./nowhere", model, "./nowhere"]})
    made = plan(manifest)
    assert [(p.row, p.id, p.column, p.found) for p in made.problems] == [
        (0, "a", "model", "./nowhere"),
        (2, "c", "model", "./nowhere"),
    ]
    assert "a local folder in diffusers' layout" in made.problems[0].hint
    assert ids_of(made, manifest) == [["b"]]


def test_a_model_folder_without_weights_is_a_problem(build: Build, tmp_path: Path):
    """It is found before anything is rendered, and the remedy is told."""
    empty = tmp_path / "empty"
    empty.mkdir()
    (problem,) = plan(build({"id": ["a"], "model": [str(empty)]})).problems
    assert "model_index.json" in problem.hint and "save_pretrained" in problem.hint


def test_allow_list(build: Build, model: str, tmp_path: Path):
    """With --allow-model a row may name what is listed, in whatever spelling of the path; any other
    model is a problem that names the list, a path that climbs out of a listed folder included."""
    detour = str(Path(model) / ".." / Path(model).name)
    sibling = str(Path(model) / "..")
    catalogue = Catalogue([model])
    manifest = build(
        {"id": list("abcd"), "model": [model, detour, sibling, "runwayml/stable-diffusion-v1-5"]}
    )
    made = plan(manifest, catalogue=catalogue)
    assert [problem.id for problem in made.problems] == ["c", "d"]
    assert all("--allow-model" in problem.hint for problem in made.problems)
    assert [i for ids in ids_of(made, manifest, catalogue) for i in ids] == ["a", "b"]
    hub = Catalogue(["owner/name"])
    assert plan(manifest, catalogue=hub).invalid_rows == 4


def test_shards_hold_one_signature_each(build: Build, tiny_pipe: Any, tmp_path: Path, model: str):
    """Rows of two models that alternate are cut so that an actor switches once, not at every row;
    rows of one model keep their order; the saving is told."""
    other = tmp_path / "other"
    tiny_pipe.save_pretrained(other, safe_serialization=True)
    (other / "zs2.json").write_text('{"num_inference_steps": 3, "guidance_scale": 1.0}')
    manifest = build({"id": list("abcdef"), "model": [model, str(other)] * 3})
    made = plan(manifest, shard_rows=2)
    assert ids_of(made, manifest) == [["a", "c"], ["e"], ["b", "d"], ["f"]]
    assert [shard.signature.location for shard in made.shards] == [model] * 2 + [str(other)] * 2
    assert (made.switches.models, made.switches_in_manifest_order.models) == (1, 5)


def test_jobs_are_those_that_were_planned(build: Build):
    """What a shard reads again, later and by position, has the ids and the digests of the plan,
    with the run's defaults merged in the same way."""
    rows = 40
    manifest = build(
        {
            "id": [f"r{i}" for i in range(rows)],
            "kl_target": [None if i % 3 else 0.1 * i for i in range(rows)],
            "meta_n": list(range(rows)),
        },
        row_group_size=7,
    )
    defaults = {"kl_target": 0.3, "num_frames": 3}
    catalogue = Catalogue()
    made = plan(manifest, defaults=defaults, shard_rows=9, catalogue=catalogue)
    jobs = [
        job
        for shard in made.shards
        for job in jobs_of(shard, manifest, catalogue, defaults, Engine())
    ]
    assert [job.row.id for job in jobs] == [f"r{i}" for i in range(rows)]
    assert [made.digests.get(job.row.id) for job in jobs] == [(j.digest, "failed") for j in jobs]
    assert [job.position for job in jobs] == [job.row.meta["meta_n"] for job in jobs]
    assert (jobs[1].row.kl_target, jobs[3].row.kl_target) == (0.3, pytest.approx(0.3))
    assert {job.signature for job in jobs} == {made.shards[0].signature}


def clips(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(name.encode())


def test_inputs_are_looked_for(build: Build, edits: str, tmp_path: Path):
    """A clip that is missing or outside of the manifest's folder is a problem of its row, with the
    remedy; the digest is of its content; with --input-root an outer one is found."""
    (tmp_path / "m").mkdir()
    clips(tmp_path, "m/a.mp4", "outer.mp4")
    names = ["a.mp4", "gone.mp4", "../outer.mp4", None]
    columns = {"id": list("abcd"), "source_video": names, "model": [edits] * 4}
    manifest = build(columns, "m/m.parquet")
    made = plan(manifest)
    assert [(p.id, p.column) for p in made.problems] == [(i, "source_video") for i in "bcd"]
    told = "\n".join(map(str, made.problems))
    assert "gone.mp4" in told and "--input-root" in told and "the clip to edit" in told
    rooted = plan(manifest, catalogue=Catalogue(inputs=InputFiles([tmp_path])))
    assert [problem.id for problem in rooted.problems] == ["b", "d"]
    before = made.digests.get("a")
    (tmp_path / "m" / "a.mp4").write_bytes(b"other")
    assert plan(manifest).digests.get("a") != before


def test_a_clip_that_goes_away_fails_its_row_alone(build: Build, edits: str, tmp_path: Path):
    """Between planning and rendering: the other rows of the shard are jobs as ever."""
    clips(tmp_path, "a.mp4", "b.mp4")
    manifest = build({"id": ["a", "b"], "source_video": ["a.mp4", "b.mp4"], "model": [edits] * 2})
    (shard,) = plan(manifest).shards
    (tmp_path / "a.mp4").unlink()
    lost, kept = jobs_of(shard, manifest, Catalogue(), {}, Engine())
    assert "a.mp4" in lost.conditions.lost and lost.row.id == "a"
    assert kept.conditions.lost == "" and kept.conditions.source_video == tmp_path / "b.mp4"


def test_pictures_with_a_controlnet_are_counted(build: Build, tiny_pipe: Any, tmp_path: Path):
    """They are told apart, since each costs more; rows of one ControlNet stand in shards of their
    own."""
    net = tiny_addons.controlnet_folder(tiny_pipe, tmp_path / "net")
    clips(tmp_path, "a.mp4")
    control = {"control": "pose", "controlnet": str(net), "control_video": "a.mp4"}
    manifest = build(
        {"id": list("abc"), **{k: [None, v, None] for k, v in control.items()}},
    )
    made = plan(manifest)
    assert made.work.controlled_pictures * 3 == made.work.unet_pictures
    assert made.work.native_pictures == pytest.approx(
        made.work.controlled_pictures * (2 + CONTROLNET_COST)
    )
    assert ids_of(made, manifest) == [["a", "c"], ["b"]]


def test_work_adds_up(build: Build):
    """Rows, frames, UNet calls and disk of what is to be rendered; done rows do not count."""
    manifest = build(
        {
            "id": ["a", "b"],
            "num_frames": [8, 12],
            "segment_frames": [8, 8],
            "num_inference_steps": [10, 5],
            "guidance_scale": [1.0, 3.0],
            "temporal_scale": [1, 2],
        }
    )
    work = plan(manifest).work
    assert (work.rows, work.frames, work.output_frames) == (2, 20, 8 + 23)
    assert (work.unet_calls, work.unet_pictures) == (10 + 2 * 5, 10 * 8 + 2 * 5 * 8 * 2)
    assert work.native_pictures == work.unet_pictures  # both at the model's own size
    assert work.padded_frames == 4
    assert work.latent_bytes == 20 * 4 * 16 * 16 * 4
    assert work.video_bytes > 0


def test_larger_pictures_count_by_their_area(build: Build):
    """A rate is counted in pictures of the model's own size: twice as high and wide is four of them."""
    work = plan(build({"id": ["a"], "height": [64], "width": [64], "guidance_scale": [1.0]})).work
    assert work.native_pictures == 4 * work.unet_pictures


def test_memory_and_speed_of_planning(build: Build, capsys: pytest.CaptureFixture[str]):
    """Planning holds ids and digests and nothing else of a row: at most 400 bytes a row while it
    runs, however long the prompts are. Its speed is printed."""
    rows = 20_000
    prompts = [f"a very long prompt, {i} " * 20 for i in range(rows)]  # 400 bytes and more each
    manifest = build({"id": [f"row-{i:08}" for i in range(rows)], "prompt": prompts})
    catalogue = Catalogue()
    plan(build({"id": ["warm"]}, "warm.parquet"), catalogue=catalogue)
    started = time.perf_counter()
    plan(manifest, catalogue=catalogue)
    seconds = time.perf_counter() - started
    tracemalloc.start()
    made = plan(manifest, catalogue=catalogue)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    with capsys.disabled():
        print(
            f"\nplan: {rows / seconds:,.0f} rows/s, "
            f"{held / rows:.0f} bytes a row held, {peak / rows:.0f} at the peak"
        )
    assert made.work.rows == rows
    assert held < 100 * rows
    # the peak has one batch of rows as well, which does not grow with the manifest
    assert peak < 400 * rows + 8192 * 2000
