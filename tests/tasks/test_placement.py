"""How many actors a run gets, and the room that is kept for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.cluster import ClusterError, Resources
from tasks.placement import Placement, place


def cpus(*counts: float) -> list[Resources]:
    """Nodes without GPUs."""
    return [{"CPU": count} for count in counts]


def gpus(*pairs: tuple[float, float]) -> list[Resources]:
    """Nodes of so many CPUs and GPUs each."""
    return [{"CPU": cpu, "GPU": gpu} for cpu, gpu in pairs]


@pytest.mark.parametrize(
    ("nodes", "rows", "options", "expected"),
    [
        # a sampler a core, on whichever node
        (cpus(2), 100, {}, Placement(2, 1, 0, 1, 1)),
        (cpus(8, 0, 4.5), 100, {}, Placement(12, 1, 0, 1, 2)),
        (cpus(32), 100, {}, Placement(32, 1, 0, 1, 6)),
        # never more than rows
        (cpus(9), 3, {}, Placement(3, 1, 0, 1, 3)),
        (cpus(2), 1, {}, Placement(1, 1, 0, 1, 1)),
        # threads are cores of one node
        (cpus(9), 100, {"threads": 4}, Placement(2, 4, 0, 4, 1)),
        (cpus(6, 6), 100, {"threads": 4}, Placement(2, 4, 0, 4, 4)),
        # a sampler a GPU, or several on one, or one on several
        (gpus((9, 2)), 100, {}, Placement(2, 1, 1, 1, 7)),
        (gpus((9, 2)), 100, {"gpus_per_sampler": 0.5}, Placement(4, 1, 0.5, 1, 5)),
        (gpus((9, 2)), 100, {"gpus_per_sampler": 0.4}, Placement(4, 1, 0.4, 1, 5)),
        (gpus((9, 4)), 100, {"gpus_per_sampler": 2}, Placement(2, 1, 2, 1, 7)),
        (gpus((9, 3), (9, 3)), 100, {"gpus_per_sampler": 2}, Placement(2, 1, 2, 1, 8)),
        # nodes without GPUs get none, where there are others
        ([*cpus(16), *gpus((8, 1))], 100, {}, Placement(1, 1, 1, 1, 4)),
        # as many as the CPUs feed
        (gpus((3, 8)), 100, {}, Placement(3, 1, 1, 1, 1)),
        # the CPU although there are GPUs
        (gpus((3, 2)), 100, {"gpus_per_sampler": 0}, Placement(3, 1, 0, 1, 1)),
        # exactly so many
        (cpus(9), 100, {"samplers": 3}, Placement(3, 1, 0, 1, 6)),
        # post-processing has the cores that are left: four a sampler, and no more than rows
        (gpus((32, 4), (32, 4)), 100, {}, Placement(8, 1, 1, 1, 32)),
        (gpus((32, 4), (32, 4)), 9, {}, Placement(8, 1, 1, 1, 9)),
        # rows that are sampled together come to it one by one
        (gpus((16, 1)), 1, {"rows": 8}, Placement(1, 1, 1, 1, 4)),
    ],
)
def test_place(
    nodes: list[Resources], rows: int, options: dict[str, Any], expected: Placement
) -> None:
    """The actors that a cluster gets: each has room on a node of its own."""
    assert place(nodes, rows, **options) == expected


@pytest.mark.parametrize(
    ("nodes", "options", "told"),
    [
        (cpus(2), {"samplers": 3}, "room for 3 sampler.*found it for 2 on 1 node"),
        (cpus(0.5), {}, "with 0.5 CPUs"),
        ([], {}, "0 node.*with 0 CPUs"),
        (cpus(3), {"threads": 4}, "of 4 CPUs"),
        (cpus(3, 3, 3), {"threads": 4}, "found it for 0 on 3 node.*9 CPUs"),
        (gpus((9, 1)), {"samplers": 2}, "of 1 CPUs and 1 GPUs.*with 9 CPUs and 1 GPUs"),
        (gpus((9, 1)), {"gpus_per_sampler": 2}, "2 GPUs"),
        (gpus((9, 1), (9, 1)), {"gpus_per_sampler": 2}, "found it for 0 on 2 node"),
        (gpus((9, 4)), {"gpus_per_sampler": 1.5}, "whole GPUs a sampler, found 1.5"),
    ],
)
def test_what_does_not_fit_is_refused(
    nodes: list[Resources], options: dict[str, Any], told: str
) -> None:
    """Actors that no node has room for would wait for ever: ClusterError says what was asked and
    what is there."""
    with pytest.raises(ClusterError, match=told):
        place(nodes, 100, **options)


PLACED = """
import sys
sys.path.insert(0, {root!r})
import ray
from tasks.cluster import connect
from tasks.placement import place

placement = place(connect(local_gpus=2), 100)
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
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    line = next((x for x in done.stdout.splitlines() if x.startswith("SEEN")), None)
    assert line, done.stderr
    seen: list[Any] = eval(line.removeprefix("SEEN"))
    samplers = [found for name, found in seen if name == "sample"]
    assert sorted((gpus, visible) for gpus, visible, _ in samplers) == [([0], "0"), ([1], "1")]
    assert all((held["CPU"], held["GPU"]) == (1.0, 1.0) for _, _, held in samplers)
    others = {name: found for name, found in seen if name != "sample"}
    assert set(others) == {"post"}
    assert all(found == ([], "", {}) for found in others.values()), others


SHARED = """
import sys
sys.path.insert(0, {root!r})
from threading import Event
import ray
from ray.cluster_utils import Cluster
from tasks import pool
from tasks.cluster import ClusterError, Patience, await_size, connect, nodes
from tasks.crew import Cluster as Where
from tasks.crew import Crew
from tasks.pipeline import Interrupted
from tasks.placement import place

def patience(seconds, tell=print):
    return Patience(seconds, tell, Event())

cluster = Cluster()
cluster.add_node(num_cpus=0, include_dashboard=False)
cluster.add_node(num_cpus=2)
connect(cluster.address)
placement = place(nodes(), 100)
node = lambda self: ray.get_runtime_context().get_node_id()
start = placement.spawners({folder!r})["post"]
seen = {{ray.get(actor.__ray_call__.remote(node)) for actor in [start() for _ in range(4)]}}
print("BESIDE", seen == {{n["NodeID"] for n in ray.nodes() if n["Resources"].get("CPU")}})

stopped = Event()
try:
    await_size(4, 0, Patience(60, lambda said: stopped.set(), stopped))
except Interrupted as error:
    print("STOPPED", error)
try:
    await_size(0, 1, patience(2))
except ClusterError as error:
    print("SMALL", error)
grow = lambda said: len(nodes()) < 3 and cluster.add_node(num_cpus=2, num_gpus=1)
await_size(3, 1, patience(120, grow))
print("GROWN", len(nodes()))
ray.shutdown()

@ray.remote
class Holder:
    pass

ray.init(cluster.address, log_to_driver=False, namespace="others")
held = [Holder.options(num_cpus=2, lifetime="detached", name=str(i)).remote() for i in range(2)]
ray.get([actor.__ray_ready__.remote() for actor in held])
ray.shutdown()
told = []
crew = Crew(Where(cluster.address, gpus_per_sampler=0, wait=3), {folder!r}, 100, tell=told.append)
try:
    crew.pipeline()
except ClusterError as error:
    print("REFUSED", error)
crew.close()
print("TOLD", *told)
pool.START_DEADLINE = 15.0  # less than the wait for room, which it follows and does not cut short
crew = Crew(Where(cluster.address, gpus_per_sampler=0, wait=18), {folder!r}, 100)
try:
    crew.pipeline()
except ClusterError as error:
    print("WAITED", error)
crew.close()
left = Event()
crew = Crew(Where(cluster.address, gpus_per_sampler=0), {folder!r}, 100, tell=lambda s: left.set())
assert left.wait(60)
crew.interrupt()
try:
    crew.pipeline()
except Interrupted as error:
    print("GONE", error)
crew.close()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_cluster_that_is_too_small_or_held_by_others(tmp_path: Path) -> None:
    """Post-processing actors are where samplers can be, never on a head that computes nothing. Who
    waits for nodes or GPUs gives up in time, can be stopped, and goes on when they are there. So
    does who waits for other runs to leave: it says what is free."""
    script = SHARED.format(root=str(Path(__file__).parents[2]), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=400
    )
    said = dict(line.partition(" ")[::2] for line in done.stdout.splitlines() if line[:1].isupper())
    assert "GONE" in said, done.stderr + done.stdout
    assert said["BESIDE"] == "True"
    assert said["STOPPED"] == "stopped while it waited for 4 node(s) and 0 GPU(s)"
    assert "found 2 node(s) with 2 CPUs and 0 GPUs" in said["SMALL"]
    assert "expected room for one of 4 sampler actor(s) of 1 CPUs within 18 s" in said["WAITED"]
    assert said["GROWN"] == "3"
    assert "room for one of 4 sampler actor(s)" in said["REFUSED"]
    assert "3 node(s) with 0 CPUs and 1 GPUs free" in said["REFUSED"]
    assert said["TOLD"].startswith("waiting for room for 4 sampler actor(s) of 1 CPUs; there is")
    assert "waited for room" in said["GONE"]
