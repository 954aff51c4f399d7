"""One clip on two sampler actors is the file that one makes, whatever happens to an actor on the way."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from manifests.row import parse_row
from manifests.storage import RunFolder
from tasks import handover, stages
from tasks.catalogue import Catalogue
from tasks.cluster import Resources
from tasks.ending import Ending
from tasks.job import Engine, Job
from tasks.pipeline import Pipeline, Stage
from tasks.placement import place
from tasks.pool import ActorPool
from tasks.warm import WarmModels

TinyJob = Callable[..., Job]


@pytest.fixture
def tiny_job(tiny_model: Path) -> TinyJob:
    catalogue = Catalogue()

    def make(row_id: str, **columns: Any) -> Job:
        values = {
            "prompt": "a b",
            "num_frames": 12,
            "segment_frames": 4,
            "codec": "ffv1",
            **columns,
        }
        own = {"id": row_id, "model": str(tiny_model), "num_inference_steps": 3, **values}
        return catalogue.job(parse_row(own), own, ".", 0, Engine())

    return make


def pipeline_of(folder: RunFolder, nodes: list[Resources]) -> Pipeline:
    spawners = place(nodes, 1, samplers=2).spawners(str(folder.root))
    sizes = {"sample": 2, "post": 1}
    pools = {name: ActorPool(name, spawn, sizes[name]) for name, spawn in spawners.items()}
    return Pipeline([Stage(pools["sample"]), Stage(pools["post"])], splits=True)


def check(folder: RunFolder, models: WarmModels, ending: Ending) -> dict[str, Any]:
    """The row is ok, was split, and has the bytes of one sampler; returns its report."""
    job, report = ending.job, ending.report
    assert ending.status == "ok" and report, ending.error_message
    alone = stages.render_alone(models, job, folder.root / f"{job.row.id}.alone.mkv")
    assert report["sha256"] == alone["sha256"]
    assert report["kl_achieved"] == alone["kl_achieved"]
    assert len(report["shares"]) == 2
    return report


def test_two_actors_make_the_same_file(
    local_ray: list[Resources], tiny_job: TinyJob, tmp_path: Path
) -> None:
    """Also with frames in between, a storyboard and a scheduler that adds noise. Latents that an earlier
    attempt left are those of the whole clip, and a split row uses them as a whole one does."""
    folder = RunFolder(tmp_path / "out").create()
    pipeline = pipeline_of(folder, local_ray)
    jobs = [
        tiny_job("plain", temporal_scale=2),
        tiny_job("fine", temporal_sr="latent", temporal_scale=2, scheduler="euler_a"),
        tiny_job("board", prompt=["a", "b", "c"], chain="anchor", seed=5),
    ]
    ended: list[Ending] = []
    try:
        pipeline.render(iter(jobs), ended.append)
        again = tiny_job("again", prompt=["a", "b", "c"], chain="anchor", seed=5, codec="gif")
        pipeline.render(iter([again]), ended.append)
    finally:
        pipeline.close()
    models = WarmModels()
    reports = {ending.job.row.id: check(folder, models, ending) for ending in ended}
    assert [reports[job.row.id]["unet_calls"] for job in jobs] == [job.unet_calls for job in jobs]
    assert reports["again"]["unet_calls"] == 0
    assert reports["plain"]["shares"][0]["bytes"] > 0 == reports["plain"]["shares"][1]["bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_actor_changes_no_byte(
    local_ray: list[Resources],
    tiny_job: TinyJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    which: int,
) -> None:
    """The first or the last sampler is killed while both are at work: the row takes one attempt more."""
    held = tmp_path / "held"

    class HoldingMailbox(handover.Mailbox):
        """Keeps a message of the first attempt back for good, so that neither share can end."""

        async def take(self, share: int) -> tuple[int, list[Any]]:
            number, sent = await super().take(share)
            if number == 20 and not held.exists():
                held.touch()
                await asyncio.sleep(3600)
            return number, sent

    monkeypatch.setattr(handover, "Mailbox", HoldingMailbox)
    folder = RunFolder(tmp_path / "out").create()
    pipeline = pipeline_of(folder, local_ray)
    job = tiny_job("long", num_frames=16, num_inference_steps=60)
    ended: list[Ending] = []
    thread = threading.Thread(target=pipeline.render, args=(iter([job]), ended.append))
    try:
        thread.start()
        while not held.exists():
            assert thread.is_alive()
            time.sleep(0.1)
        ray.kill(pipeline.stages[0].pool.workers[which].actor)
        thread.join(400)
    finally:
        pipeline.close()
    assert len(ended) == 1 and ended[0].attempts == 2
    check(folder, WarmModels(), ended[0])
