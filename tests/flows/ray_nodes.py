"""A Ray cluster of several nodes on this machine: a head that computes nothing, and workers."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from infra.chaos.processes import descendants, kill

STORE_BYTES = 2**27


class RayNodes:
    """A context manager. Each node has processes and a staging folder of its own.

    Args:
        folder: for the staging folders.
        cpus: of each worker.
    """

    def __init__(self, folder: Path, *cpus: int) -> None:
        from ray.cluster_utils import Cluster

        self._folder = folder
        self._cluster: Any = Cluster()
        self._workers: list[Any] = []
        self._cluster.add_node(num_cpus=0, include_dashboard=False, object_store_memory=STORE_BYTES)
        for count in cpus:
            self.add(count)

    def __enter__(self) -> RayNodes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._cluster.shutdown()

    @property
    def address(self) -> str:
        """For --ray-address."""
        return self._cluster.address

    def add(self, cpus: int) -> None:
        """One more worker."""
        staging = self._folder / f"node-{len(self._workers)}"
        node = self._cluster.add_node(
            num_cpus=cpus,
            object_store_memory=STORE_BYTES,
            env_vars={"ZS2_STAGING": str(staging)},
        )
        self._workers.append(node)

    def lose(self) -> None:
        """SIGKILL to every process of the newest worker."""
        node = self._workers.pop()
        raylet = node.all_processes["raylet"][0].process.pid
        for pid in [raylet, *descendants(raylet)]:
            kill(pid)
        self._cluster.remove_node(node, allow_graceful=False)
