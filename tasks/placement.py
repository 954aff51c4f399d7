"""How many actors of each stage a run gets, what each takes of the cluster, and room kept for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tasks.actors import AssembleActor, SamplerActor, SpatialActor, TemporalActor
from tasks.cluster import ClusterError, Patience, Resources, in_words, nodes

# Of a placement, the run's root and the room kept for it: what starts an actor of each stage.
Spawners = Callable[["Placement", str, PlacementGroup | None], dict[str, Callable[[], Any]]]

LINGER = 3.0  # seconds that Ray may take to note that a run which just ended has gone


@dataclass(frozen=True)
class Placement:
    """How many actors there are of each stage and what each takes.

    Post-processing actors take no logical CPU: they mostly wait for the samplers, and must find a
    place wherever these have one, also when a node was lost.

    Attributes:
        sampler_gpus: GPUs a sampler; 0 on the CPU.
        sampler_cpus: logical CPUs a sampler, its threads on the CPU.
    """

    samplers: int
    sampler_cpus: float
    sampler_gpus: float
    threads: int
    post_actors: int

    def __str__(self) -> str:
        gpus = f" and {self.sampler_gpus:g} GPUs" if self.sampler_gpus else ""
        return f"{self.samplers} sampler actor(s) of {self.sampler_cpus:g} CPUs{gpus}"

    def spawners(
        self, root: str, group: PlacementGroup | None = None
    ) -> dict[str, Callable[[], Any]]:
        """For each stage a function that starts one actor, in the room kept for the run if any."""
        sampler = {"num_cpus": self.sampler_cpus, "num_gpus": self.sampler_gpus, **_kept(group)}
        post = {"num_cpus": 0, "num_gpus": 0, **_kept(group)}
        return {
            "sample": lambda: (
                ray.remote(SamplerActor).options(**sampler).remote(root, self.threads)
            ),
            "temporal": lambda: ray.remote(TemporalActor).options(**post).remote(),
            "spatial": lambda: ray.remote(SpatialActor).options(**post).remote(),
            "assemble": lambda: ray.remote(AssembleActor).options(**post).remote(root),
        }


def _kept(group: PlacementGroup | None) -> dict[str, Any]:
    options: dict[str, Any] = {"max_restarts": 0}
    if group is not None:
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group)
    return options


def place(
    found: Sequence[Resources],
    rows: int,
    *,
    samplers: int | None = None,
    threads: int = 1,
    gpus_per_sampler: float = 1.0,
) -> Placement:
    """Fit the samplers to a cluster: one a GPU, or one a CPU core where there are no GPUs.

    Args:
        found: what each node has: a sampler lives on one.
        rows: to render; there are never more samplers than rows.
        samplers: exactly so many, instead.

    Raises:
        ClusterError: when what was asked does not fit.
    """
    if gpus_per_sampler > 1 and gpus_per_sampler % 1:
        raise ClusterError(
            f"expected a part of one GPU or whole GPUs a sampler, found {gpus_per_sampler:g}"
        )
    gpus = gpus_per_sampler if any(node.get("GPU", 0) > 0 for node in found) else 0.0
    cpus = 1.0 if gpus else float(threads)
    most = sum(_room(node, cpus, gpus) for node in found)
    count = max(1, min(most, rows)) if samplers is None else samplers
    served = 4 if gpus else 16  # samplers that one set of post-processing actors keeps up with
    placement = Placement(count, cpus, gpus, threads, max(1, count // served))
    if count > most:
        raise ClusterError(
            f"expected room for {placement}, found it for {most} on {in_words(found)}; "
            "ask for fewer samplers or threads, or add nodes"
        )
    return placement


def _room(node: Resources, cpus: float, gpus: float) -> int:
    """How many samplers fit on a node."""
    by_cpu = int(node.get("CPU", 0) / cpus)
    if not gpus:
        return by_cpu
    # Parts of different GPUs do not make a whole one.
    have = node.get("GPU", 0)
    by_gpu = int(have / gpus) if gpus >= 1 else int(have) * int(1 / gpus)
    return min(by_cpu, by_gpu)


def place_beside_others(rows: int, **asked: Any) -> Placement:
    """As `place` does it on the cluster joined, of which other runs may hold a part.

    Without a number asked for, a run takes what is free; where nothing is, as many as would fit on
    the whole cluster, and waits for them in `keep_room`.

    Raises:
        ClusterError: what was asked does not fit, even with nobody else there.
    """
    began = time.monotonic()
    while True:
        whole = place(nodes(), rows, **asked)
        free = sum(_room(node, whole.sampler_cpus, whole.sampler_gpus) for node in nodes(free=True))
        if asked.get("samplers") or free >= whole.samplers:
            return whole
        if time.monotonic() - began > LINGER:
            return place(nodes(), min(rows, free), **asked) if free else whole
        time.sleep(0.5)


def keep_room(placement: Placement, patience: Patience) -> PlacementGroup:
    """Take the room of all samplers at once, so that no two runs wait for each other's.

    It is the run's until the driver ends, and an actor that replaces another finds it free. The
    room of a lost node is looked for on others.

    Raises:
        ClusterError: no room in that time. Interrupted: stopped meanwhile.
    """
    bundle = {"CPU": placement.sampler_cpus, "GPU": placement.sampler_gpus}
    group = placement_group([{k: v for k, v in bundle.items() if v}] * placement.samplers)

    def free() -> str:
        return f"{in_words(nodes(free=True))} free"

    if not group.wait(LINGER) and not patience.until(
        lambda: group.wait(0.1), f"room for {placement}", free
    ):
        raise ClusterError(
            f"expected room for {placement} within {patience.seconds:g} s, found {free()}; other "
            "runs hold the rest: wait longer with --cluster-wait, or ask for fewer --samplers"
        )
    return group
