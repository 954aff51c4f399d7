"""The actors themselves on a real Ray, with the tiny model."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from manifests.row import parse_row
from manifests.storage import RunFolder
from tasks import stages
from tasks.assemble import decode
from tasks.catalogue import Catalogue
from tasks.cluster import Resources
from tasks.ending import Ending, result_row
from tasks.job import Engine, Job
from tasks.pipeline import Pipeline, Stage
from tasks.placement import place
from tasks.pool import ActorPool
from tasks.startup import SAMPLER_NICENESS
from tasks.warm import WarmModels
from tests import tiny_models

TinyJob = Callable[..., Job]


@pytest.fixture
def tiny_job(tiny_model: Path) -> TinyJob:
    catalogue = Catalogue()

    def make(row_id: str, model: Path = tiny_model, **columns: Any) -> Job:
        values = {"prompt": "a b", "num_frames": 4, "num_inference_steps": 2, **columns}
        own = {"id": row_id, "model": str(model), **values}
        return catalogue.job(parse_row(own), own, ".", 0, Engine())

    return make


def test_a_sampler_is_warm_before_its_first_row(
    local_ray: list[Resources], tiny_job: TinyJob, tiny_model: Path, tmp_path: Path
):
    """Told of a job, it has that checkpoint; of one whose weights do not load, it lives on and keeps
    what is wrong for the row. The first sampler starts before the others: of the same niceness later."""
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", tiny_model, broken], check=True)
    bad, good = tiny_job("bad", broken), tiny_job("good")
    for weights in (broken / "unet").glob("*.safetensors"):
        weights.write_bytes(b"not weights")
    spawn = place(local_ray, 2).spawners(str(RunFolder(tmp_path / "out").create().root))["sample"]
    first, second = spawn(), spawn()
    ray.get([first.warm_up.remote(bad), first.warm_up.remote(good)])

    def look(self: Any) -> tuple[bool, int]:
        return self.models._sampler is not None, os.nice(0)

    looks = [ray.get(actor.__ray_call__.remote(look)) for actor in (first, second)]
    for actor in (first, second):
        ray.kill(actor)
    assert [warm for warm, _ in looks] == [True, False]
    assert {niceness for _, niceness in looks} == {max(SAMPLER_NICENESS, os.nice(0))}


def test_rows_end_to_end(
    local_ray: list[Resources], tiny_job: TinyJob, tiny_model: Path, tmp_path: Path
):
    """Rows go through both actors as a run starts them: frames, size and rate as asked, every
    figure of the ledger there, and the frames of `render_alone` to the last bit (lossless codec).
    A model whose weights do not load fails its own row, in `sample`; a second run of a row whose
    latents are there makes no UNet call; a truncated prompt is noted."""
    broken, upscaler = tmp_path / "broken", tmp_path / "x4"
    tiny_models.upscaler_x4(tmp_path).save_pretrained(upscaler)
    diffused = {"spatial_sr": f"diffusers:{upscaler}", "spatial_scale": 4, "temporal_scale": 2}
    subprocess.run(["cp", "-r", tiny_model, broken], check=True)
    jobs = [
        tiny_job("plain", codec="ffv1"),
        tiny_job("large", codec="ffv1", temporal_scale=2, spatial_scale=2),
        tiny_job("diffused", codec="ffv1", **diffused),
        tiny_job("broken", broken),
        tiny_job("long", prompt="a " * 40, codec="gif"),
        tiny_job("png", codec="png", seed=5),
    ]
    for weights in (broken / "unet").glob("*.safetensors"):
        weights.write_bytes(b"not weights")
    folder = RunFolder(tmp_path / "out").create()
    placement = place(local_ray, len(jobs), samplers=1)
    spawners = placement.spawners(str(folder.root))
    pools = {name: ActorPool(name, spawn, 1) for name, spawn in spawners.items()}
    pipeline = Pipeline([Stage(pools["sample"]), Stage(pools["post"])])
    ended: dict[str, Ending] = {}
    try:
        pipeline.render(iter(jobs), lambda ending: ended.update({ending.job.row.id: ending}))
        again: list[Ending] = []
        pipeline.render(iter([tiny_job("again", codec="ffv1", seed=5)]), again.append)
    finally:
        pipeline.close()

    rows = {row_id: result_row(ending) for row_id, ending in ended.items()}
    assert {i: row.status for i, row in rows.items()} == {
        **dict.fromkeys(("plain", "large", "diffused", "long", "png"), "ok"),
        "broken": "failed",
    }, [(row.id, row.error_message) for row in rows.values()]
    assert (rows["broken"].stage, rows["broken"].error_type) == ("sample", "ModelError")
    assert (rows["long"].error_type, rows["long"].stage) == ("note", None)
    assert "prompt truncated: 42 tokens, the model reads 16" in str(rows["long"].error_message)

    diffused = rows["diffused"]  # at the sampler, whose report has the seconds of these stages
    assert (diffused.num_frames, diffused.height, diffused.width) == (7, 128, 128)
    assert diffused.seconds_temporal and diffused.seconds_spatial and diffused.seconds_sample
    large = rows["large"]
    assert (large.num_frames, large.height, large.width, large.fps) == (7, 64, 64, 16.0)
    assert large.kl_achieved and len(large.kl_achieved) == 3
    assert large.device == "cpu" and large.node == socket.gethostname()
    assert all(
        getattr(large, f"seconds_{stage}") > 0
        for stage in ("sample", "temporal", "spatial", "assemble")
    )
    assert rows["plain"].seconds_temporal is None
    assert large.file_name == f"videos/{large.digest[:2]}/large.mkv"
    assert (folder.root / large.file_name).stat().st_size == large.bytes

    models = WarmModels()
    for job in jobs[:3]:
        report = stages.render_alone(models, job, tmp_path / f"{job.row.id}.mkv")
        assert report["sha256"] == rows[job.row.id].sha256

    assert [ending.report["unet_calls"] for ending in ended.values() if ending.report] == [2] * 5
    assert again[0].report and again[0].report["unet_calls"] == 0  # the latents of `png`
    same, _ = decode(folder.root / str(again[0].report["file_name"]))
    png, _ = decode(folder.root / str(rows["png"].file_name))
    assert (same == png).all()
