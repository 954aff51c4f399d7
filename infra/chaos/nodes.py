"""Where a storm computes: two Ray nodes of which one can be lost, or the Ray that each run starts itself."""

from __future__ import annotations

import os
from typing import Any

from infra.chaos.processes import children, command, descendants, kill, marked

STORE_BYTES = 2**28


class Nodes:
    """The cluster: a context manager. Its head stays; the other node is there to be killed."""

    def __init__(self) -> None:
        # Ray's own, 15, starves where other work goes on.
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
        from ray.cluster_utils import Cluster

        self._cluster: Any = Cluster()
        self._head: Any = self._cluster.add_node(
            num_cpus=2, include_dashboard=False, object_store_memory=STORE_BYTES
        )
        self._other: Any = None
        self.add()

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()

    @property
    def address(self) -> str:
        """Where drivers join, host:port."""
        return self._cluster.address

    def add(self) -> None:
        """The second node, anew."""
        self._other = self._cluster.add_node(num_cpus=2, object_store_memory=STORE_BYTES)

    def kill_node(self) -> int:
        """SIGKILL to the second node's every process; returns the raylet's pid."""
        raylet = _raylet(self._other)
        for pid in [raylet, *descendants(raylet)]:
            kill(pid)
        self._cluster.remove_node(self._other, allow_graceful=False)
        return raylet

    def raylets(self) -> list[int]:
        """Pids of the parents of all actors; the second node may just be gone."""
        nodes = [node for node in (self._head, self._other) if node.all_processes.get("raylet")]
        return [_raylet(node) for node in nodes]


class OwnRay:
    """No cluster: each run starts a Ray of its own, which a killed one leaves behind for a while.

    Args:
        mark: NAME=value in the environment of the runs.
    """

    address = None

    def __init__(self, mark: str) -> None:
        self._mark = mark

    def raylets(self) -> list[int]:
        """Pids of the parents of all actors, orphans among them."""
        found = marked(self._mark)
        return [pid for pid, said in found.items() if "raylet/raylet " in said]


def actors(place: Nodes | OwnRay, *kinds: str, busy: bool = False) -> list[int]:
    """Pids of the actors of these classes; only those in a call where `busy`."""
    titles = tuple(f"ray::{kind}" + (".run" if busy else "") for kind in kinds)
    return [pid for pid in children(*place.raylets()) if command(pid).startswith(titles)]


def _raylet(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid
