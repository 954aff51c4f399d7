"""A Ray cluster of two nodes on this machine, of which one can be lost and comes back."""

from __future__ import annotations

import os
import random
from typing import Any

from infra.chaos.processes import children, command, descendants, kill

STORE_BYTES = 2**28


class Nodes:
    """The cluster: a context manager. Its head stays; the other node is there to be killed."""

    def __init__(self) -> None:
        os.environ["RAY_worker_niceness"] = "0"  # Ray's own 15 starves on a machine that is shared
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

    def actors(self, kind: str, *, busy: bool = False) -> list[int]:
        """Pids of the actors of a class, on both nodes; only those in a call where `busy`."""
        title = f"ray::{kind}" + (".run" if busy else "")
        raylets = [_raylet(node) for node in (self._head, self._other)]
        return [pid for pid in children(*raylets) if command(pid).startswith(title)]

    def pick(self, draw: random.Random, *kinds: str, busy: bool = False) -> int | None:
        """One of the actors of these classes; None where there is none."""
        found = [pid for kind in kinds for pid in self.actors(kind, busy=busy)]
        return draw.choice(found) if found else None


def _raylet(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid
