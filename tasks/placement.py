"""How many actors of each stage a run gets, and what each takes of the cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from tasks.actors import PostActor, SamplerActor
from tasks.cluster import ClusterError, Resources, in_words
from tasks.pool import beside_samplers

POST_PER_SAMPLER = 4  # most post-processing actors a sampler that have cores of their own
SHARED_POST = 5  # samplers for which there is one that has none
# Of a placement and the run's root: what starts an actor of each stage.
Spawners = Callable[["Placement", str], dict[str, Callable[[], Any]]]


@dataclass(frozen=True)
class Placement:
    """How many actors there are of each stage and what each takes.

    Post-processing actors take no logical CPU: they mostly wait for the samplers. So samplers are all
    that runs on one cluster compete for, and one is enough to go on: no run waits for what another
    holds while that one waits for it. Those that find no room come up when others leave.

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

    def most_on(self, found: Sequence[Resources]) -> int:
        """How many such samplers fit on these nodes."""
        return sum(self._most_on_one(node) for node in found)

    def _most_on_one(self, node: Resources) -> int:
        by_cpu = int(node.get("CPU", 0) / self.sampler_cpus)
        if not self.sampler_gpus:
            return by_cpu
        # Parts of different GPUs do not make a whole one.
        have, asked = node.get("GPU", 0), self.sampler_gpus
        by_gpu = int(have / asked) if asked >= 1 else int(have) * int(1 / asked)
        return min(by_cpu, by_gpu)

    def spawners(self, root: str) -> dict[str, Callable[[], Any]]:
        """For each stage a function that starts one actor. The first sampler starts before all others:
        a run begins with it."""
        waits = iter([True])
        sampler = {
            "num_cpus": self.sampler_cpus,
            "num_gpus": self.sampler_gpus,
            "max_restarts": 0,
        }
        return {
            "sample": lambda: (
                ray.remote(SamplerActor)
                .options(**sampler)
                .remote(root, self.threads, next(waits, False))
            ),
            "post": lambda: ray.remote(PostActor).options(**beside_samplers()).remote(root),
        }


def place(
    found: Sequence[Resources],
    batches: int,
    *,
    rows: int | None = None,
    shares: int = 1,
    samplers: int | None = None,
    threads: int = 1,
    gpus_per_sampler: float = 1.0,
) -> Placement:
    """Fit the samplers to a cluster: one a GPU, or one a CPU core where there are no GPUs.

    Args:
        found: what each node has: a sampler lives on one.
        batches: to render, see `tasks.work.Work`; there are never more samplers, unless one row can be
            spread over more.
        rows: in them, of which there are never less than post-processing actors; default as many.
        shares: over how many samplers a row can be spread; 1 where rows are not split.
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
    one = Placement(1, cpus, gpus, threads, 1)
    most = one.most_on(found)
    count = max(1, min(most, max(batches, shares))) if samplers is None else samplers
    # Cores that no sampler takes are post-processing's; where there are none it shares theirs.
    left = int(sum(node.get("CPU", 0) for node in found) - count * cpus)
    beside = min(left, count * POST_PER_SAMPLER, batches if rows is None else rows)
    placement = replace(one, samplers=count, post_actors=max(1, beside, count // SHARED_POST))
    if count > most:
        raise ClusterError(
            f"expected room for {placement}, found it for {most} on {in_words(found)}; "
            "ask for fewer samplers or threads, or add nodes"
        )
    return placement
