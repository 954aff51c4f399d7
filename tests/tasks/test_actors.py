"""The actors themselves on a real Ray, with the tiny model; and where they are placed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manifests.row import parse_row
from manifests.storage import RunFolder
from tasks import stages
from tasks.actors import ClusterError, Placement, connect, place
from tasks.assemble import decode
from tasks.catalogue import Catalogue
from tasks.job import Ending, Engine, Job, resolve, result_row
from tasks.pipeline import Pipeline, Stage
from tasks.pool import ActorPool
from tasks.warm import WarmModels

TinyJob = Callable[..., Job]


@pytest.fixture
def tiny_job(tiny_model: Path) -> TinyJob:
    catalogue = Catalogue()

    def make(row_id: str, model: Path = tiny_model, **columns: Any) -> Job:
        values = {"prompt": "a b", "num_frames": 4, "num_inference_steps": 2, **columns}
        row = parse_row({"id": row_id, "model": str(model), **values})
        return resolve(row, 0, *catalogue.find(row.model), Engine())

    return make


def test_rows_end_to_end(
    local_ray: dict[str, float], tiny_job: TinyJob, tiny_model: Path, tmp_path: Path
):
    """Rows go through all four actors as a run starts them: frames, size and rate as asked, every
    figure of the ledger there, and the frames of `render_alone` to the last bit (lossless codec).
    A model whose weights do not load fails its own row, in `sample`; a second run of a row whose
    latents are there makes no UNet call; a truncated prompt is noted."""
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", tiny_model, broken], check=True)
    jobs = [
        tiny_job("plain", codec="ffv1"),
        tiny_job("large", codec="ffv1", temporal_scale=2, spatial_scale=2),
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
    pipeline = Pipeline(
        [
            Stage(pools["sample"]),
            Stage(pools["temporal"], lambda job: job.row.temporal_scale > 1),
            Stage(pools["spatial"], lambda job: job.row.spatial_scale > 1),
            Stage(pools["assemble"]),
        ]
    )
    ended: dict[str, Ending] = {}
    try:
        pipeline.render(iter(jobs), lambda ending: ended.update({ending.job.row.id: ending}))
        again: list[Ending] = []
        pipeline.render(iter([tiny_job("again", codec="ffv1", seed=5)]), again.append)
    finally:
        pipeline.close()

    rows = {row_id: result_row(ending) for row_id, ending in ended.items()}
    assert {i: row.status for i, row in rows.items()} == {
        **dict.fromkeys(("plain", "large", "long", "png"), "ok"),
        "broken": "failed",
    }, [(row.id, row.error_message) for row in rows.values()]
    assert (rows["broken"].stage, rows["broken"].error_type) == ("sample", "ModelError")
    assert (rows["long"].error_type, rows["long"].stage) == ("note", None)
    assert "prompt truncated: 42 tokens, the model reads 16" in str(rows["long"].error_message)

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
    for job in (jobs[0], jobs[1]):
        report = stages.render_alone(models, job, tmp_path / f"{job.row.id}.mkv")
        assert report["sha256"] == rows[job.row.id].sha256

    assert [ending.report["unet_calls"] for ending in ended.values() if ending.report] == [2] * 4
    assert again[0].report and again[0].report["unet_calls"] == 0  # the latents of `png`
    same, _ = decode(folder.root / str(again[0].report["file_name"]))
    png, _ = decode(folder.root / str(rows["png"].file_name))
    assert (same == png).all()


@pytest.mark.parametrize(
    ("resources", "rows", "options", "expected"),
    [
        # a sampler a core, less what the post-processing actors take
        ({"CPU": 3}, 100, {}, Placement(2, 1, 0, 1, 1)),
        ({"CPU": 9}, 100, {}, Placement(8, 1, 0, 1, 1)),
        ({"CPU": 33}, 100, {}, Placement(32, 1, 0, 1, 1)),
        # never more than rows
        ({"CPU": 9}, 3, {}, Placement(3, 1, 0, 1, 1)),
        ({"CPU": 2}, 1, {}, Placement(1, 1, 0, 1, 1)),
        # threads are cores
        ({"CPU": 9}, 100, {"threads": 4}, Placement(2, 4, 0, 4, 1)),
        # a sampler a GPU, or several on one, or one on several
        ({"CPU": 9, "GPU": 2}, 100, {}, Placement(2, 1, 1, 1, 1)),
        ({"CPU": 9, "GPU": 2}, 100, {"gpus_per_sampler": 0.5}, Placement(4, 1, 0.5, 1, 1)),
        ({"CPU": 9, "GPU": 4}, 100, {"gpus_per_sampler": 2}, Placement(2, 1, 2, 1, 1)),
        # as many as the CPUs feed
        ({"CPU": 3, "GPU": 8}, 100, {}, Placement(2, 1, 1, 1, 1)),
        # the CPU although there are GPUs
        ({"CPU": 3, "GPU": 2}, 100, {"gpus_per_sampler": 0}, Placement(2, 1, 0, 1, 1)),
        # exactly so many
        ({"CPU": 9}, 100, {"samplers": 3}, Placement(3, 1, 0, 1, 1)),
        # one set of post-processing actors for every four samplers, where there is room
        ({"CPU": 64, "GPU": 8}, 100, {}, Placement(8, 1, 1, 1, 2)),
    ],
)
def test_place(
    resources: dict[str, float], rows: int, options: dict[str, Any], expected: Placement
):
    """The actors that a cluster gets; together they never ask for more than it has."""
    found = place(resources, rows, **options)
    assert found == expected
    cpus = found.samplers * found.sampler_cpus + 3 * found.post_actors * found.post_cpus
    assert cpus <= resources["CPU"]
    assert found.samplers * found.sampler_gpus <= resources.get("GPU", 0)


@pytest.mark.parametrize(
    ("resources", "options", "told"),
    [
        ({"CPU": 3}, {"samplers": 3}, "room for 3 sampler"),
        ({"CPU": 1}, {}, "found 1 CPUs"),
        ({}, {}, "found 0 CPUs"),
        ({"CPU": 3}, {"threads": 4}, "of 4 CPUs"),
        ({"CPU": 9, "GPU": 1}, {"samplers": 2}, "1 CPUs and 1 GPUs"),
        ({"CPU": 9, "GPU": 1}, {"gpus_per_sampler": 2}, "2 GPUs"),
        ({"CPU": 9, "GPU": 4}, {"gpus_per_sampler": 1.5}, "whole GPUs a sampler, found 1.5"),
    ],
)
def test_what_does_not_fit_is_refused(
    resources: dict[str, float], options: dict[str, Any], told: str
):
    """Actors that the cluster has no room for would wait for ever: ClusterError says what was asked
    and what is there."""
    with pytest.raises(ClusterError, match=told):
        place(resources, 100, **options)


PLACED = """
import sys
sys.path.insert(0, {root!r})
import ray
from tasks import actors

resources = actors.connect(local_gpus=2)
placement = actors.place(resources, 100)
assert placement.samplers == 2 and placement.sampler_gpus == 1, placement

def look(self):
    import os
    import ray
    gpus = [int(i) for i in ray.get_gpu_ids()]
    return gpus, os.environ.get("CUDA_VISIBLE_DEVICES"), ray.get_runtime_context().get_assigned_resources()

started = [
    (name, spawn())
    for name, spawn in placement.spawners({folder!r}).items()
    for _ in range(2 if name == "sample" else 1)
]
seen = [(name, ray.get(actor.__ray_call__.remote(look))) for name, actor in started]
print("SEEN", seen)
ray.shutdown()
"""


def test_gpus_belong_to_the_samplers(tmp_path: Path):
    """On a cluster with two (declared) GPUs each of two samplers sees one of its own; the
    post-processing actors see none, not even through CUDA; every actor holds the resources that the
    placement states."""
    script = PLACED.format(root=str(Path(__file__).parents[2]), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    line = next((x for x in done.stdout.splitlines() if x.startswith("SEEN")), None)
    assert line, done.stderr
    seen: list[Any] = eval(line.removeprefix("SEEN"))
    samplers = [found for name, found in seen if name == "sample"]
    assert sorted((gpus, visible) for gpus, visible, _ in samplers) == [([0], "0"), ([1], "1")]
    assert all((held["CPU"], held["GPU"]) == (1.0, 1.0) for _, _, held in samplers)
    others = {name: found for name, found in seen if name != "sample"}
    assert set(others) == {"temporal", "spatial", "assemble"}
    assert all(found == ([], "", {"CPU": 0.25}) for found in others.values()), others


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_dead_address_fails_at_once(form: str):
    """Where no cluster answers, ClusterError names the address and the remedy within seconds; Ray
    by itself would try for minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(
        ClusterError, match=rf"no Ray cluster answers at .*{port}.*ray start --head"
    ):
        connect(form.format(port))
    assert time.monotonic() - started < 5


def test_a_local_ray_has_room_for_a_sampler_a_core(local_ray: dict[str, float]):
    """One logical CPU more than cores, so that the post-processing actors cost no sampler; and it
    sends nothing anywhere."""
    cores = len(os.sched_getaffinity(0))
    assert local_ray["CPU"] == cores + 1
    assert place(local_ray, 100, gpus_per_sampler=0).samplers == cores
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
