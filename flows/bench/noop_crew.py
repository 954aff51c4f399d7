"""A crew whose actors do nothing, or sleep: what is left of a run is the driver's own work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import ray

from tasks.crew import Cluster, Crew
from tasks.job import Job
from tasks.placement import Placement
from tasks.startup import POST_NICENESS, SAMPLER_NICENESS, make_way


class NoopActor:
    """Answers as an actor of its stage would that had nothing to do; writes no file.

    Args:
        stage: sample, or another.
        seconds: that it sleeps over each row first.
    """

    def __init__(self, stage: str, seconds: float = 0.0) -> None:
        make_way(SAMPLER_NICENESS if stage == "sample" else POST_NICENESS)
        self.stage = stage
        self.seconds = seconds

    @ray.method(num_returns="streaming")
    def run(self, job: Job, chunks: Any) -> Generator[dict[str, Any]]:
        """See `tasks.actors`."""
        row, began = job.row, time.perf_counter()
        if self.seconds:
            time.sleep(self.seconds)
        if self.stage == "sample":
            kl, seconds = [row.kl_target] * (row.num_frames - 1), time.perf_counter() - began
            node = f"actor-{os.getpid()}"  # a benchmark tells them apart by it
            yield {"kl_achieved": kl, "device": "none", "node": node, "seconds_sample": seconds}
            return
        yield {
            "file_name": f"videos/{job.digest[:2]}/{row.id}.mp4",
            "sha256": job.digest * 2,
            "bytes": 0,
            "num_frames": job.output_frames,
            "height": row.height,
            "width": row.width,
            "fps": row.fps,
            "seconds_assemble": 0.0,
        }


def noop_crew(cluster: Cluster, root: str, rows: int, seconds: float = 0.0) -> Crew:
    """Begin a crew of the usual pools, pipeline and placement, and of actors that do nothing.

    Args:
        seconds: that samplers sleep over each row.
    """
    return Crew(cluster, root, rows, spawners=partial(_spawners, seconds=seconds))


def start_noop(stage: str, seconds: float = 0.0) -> Any:
    """Start one such actor."""
    options = {"num_cpus": 0, "num_gpus": 0, "max_restarts": 0}
    return ray.remote(NoopActor).options(**options).remote(stage, seconds)


def _spawners(placement: Placement, root: str, *, seconds: float) -> dict[str, Callable[[], Any]]:
    return {
        stage: partial(start_noop, stage, seconds if stage == "sample" else 0.0)
        for stage in placement.spawners(root)
    }
