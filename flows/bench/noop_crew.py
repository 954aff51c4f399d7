"""A crew whose actors do nothing at all: what is left of a run is the driver's own work."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import ray

from tasks.crew import Cluster, Crew
from tasks.job import Job
from tasks.placement import Placement


class NoopActor:
    """Answers as an actor of its stage would that had nothing to do; writes no file.

    Args:
        stage: sample, or another.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage

    @ray.method(num_returns="streaming")
    def run(self, job: Job, chunks: Any) -> Generator[dict[str, Any]]:
        """See `tasks.actors`."""
        row = job.row
        if self.stage == "sample":
            kl = [row.kl_target] * (row.num_frames - 1)
            yield {"kl_achieved": kl, "device": "none", "seconds_sample": 0.0}
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


def noop_crew(cluster: Cluster, root: str, rows: int) -> Crew:
    """Begin a crew of the usual pools, pipeline and placement, and of actors that do nothing."""
    return Crew(cluster, root, rows, spawners=_spawners)


def _spawners(placement: Placement, root: str) -> dict[str, Callable[[], Any]]:
    def starts(stage: str) -> Callable[[], Any]:
        options = {"num_cpus": 0, "num_gpus": 0, "max_restarts": 0}
        return lambda: ray.remote(NoopActor).options(**options).remote(stage)

    return {stage: starts(stage) for stage in placement.spawners(root)}
