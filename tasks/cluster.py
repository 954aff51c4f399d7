"""The Ray cluster of a run: joined, or started on this machine; whether it lives; left."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

from tasks import stages
from tasks.pipeline import Interrupted

log = logging.getLogger("zs2.ray")

Resources = dict[str, float]  # of a node: CPU, GPU, …

KNOCK_SECONDS = 10.0
LOOK_SECONDS = 1.0  # between looks at how large the cluster is by now


class ClusterError(RuntimeError):
    """Ray cannot be reached or lacks what was asked; the message says what to do."""


def connect(
    address: str | None = None,
    local_gpus: int | None = None,
    metrics_port: int | None = None,
    local_cpus: int | None = None,
) -> list[Resources]:
    """Join the Ray cluster at `address`, or start a local one; returns what each node has.

    Args:
        address: as `ray.init` takes it; None starts a local cluster, and never joins one by chance.
        local_gpus: GPUs of the local cluster; None lets Ray find them.
        metrics_port: where the local cluster serves its metrics; None lets Ray choose.
        local_cpus: logical CPUs of the local cluster; None is the cores that this process may use.

    Raises:
        ClusterError: no cluster there.
    """
    os.environ.update(stages.QUIET)
    # Ray prints what it hears of died workers to standard output, where `--json` has its result.
    ray._private.worker.print_to_stdstream = _log_what_ray_says  # pyright: ignore
    with _own_sigterm():
        _join(address, local_gpus, metrics_port, local_cpus)
    return nodes()


def nodes(*, free: bool = False) -> list[Resources]:
    """What each living node has, or what of that nobody holds."""
    living = {node["NodeID"]: Resources(node["Resources"]) for node in ray.nodes() if node["Alive"]}
    if not free:
        return list(living.values())
    # Ray says in public only what the nodes have free together.
    left = ray._private.state.available_resources_per_node()  # pyright: ignore
    return [Resources(left.get(name, {})) for name in living]


@dataclass(frozen=True)
class Patience:
    """How long a run waits for a cluster that is not there yet or that others hold.

    Attributes:
        seconds: at most.
        tell: hears what is waited for.
        stopped: set when the run is to end instead.
    """

    seconds: float
    tell: Callable[[str], None]
    stopped: Event

    def until(self, holds: Callable[[], bool], wanted: str, there: Callable[[], str]) -> bool:
        """Whether `holds()` came true in time; tells each change of what is there.

        Raises:
            Interrupted: the run was stopped meanwhile.
        """
        began = time.monotonic()
        told = ""
        while not holds():
            if time.monotonic() - began >= self.seconds:
                return False
            if (now := there()) != told:
                self.tell(f"waiting for {wanted}; there is {now}")
                told = now
            if self.stopped.wait(LOOK_SECONDS):
                raise Interrupted(f"stopped while it waited for {wanted}")
        return True


def await_size(min_nodes: int, min_gpus: int, patience: Patience) -> None:
    """Wait until the cluster has so many nodes and GPUs; one that autoscales is asked for the GPUs.

    Raises:
        ClusterError: it has fewer when the time is over. Interrupted: stopped meanwhile.
    """

    def large_enough() -> bool:
        there = nodes()
        return len(there) >= min_nodes and sum(n.get("GPU", 0) for n in there) >= min_gpus

    if large_enough():
        return
    wanted = f"{min_nodes} node(s) and {min_gpus} GPU(s)"
    request_resources(bundles=[{"GPU": 1.0}] * min_gpus)
    try:
        if not patience.until(large_enough, wanted, lambda: in_words(nodes())):
            raise ClusterError(
                f"expected a cluster of {wanted} within {patience.seconds:g} s, found "
                f"{in_words(nodes())}; add nodes, wait longer with --cluster-wait, or ask for less "
                "with --min-nodes and --min-gpus"
            )
    finally:
        request_resources(bundles=[])  # else it would never shrink again


def in_words(found: Sequence[Resources]) -> str:
    """As a message says it: 2 node(s) with 8 CPUs and 2 GPUs."""
    cpus, gpus = (sum(node.get(kind, 0) for node in found) for kind in ("CPU", "GPU"))
    return f"{len(found)} node(s) with {cpus:g} CPUs and {gpus:g} GPUs"


@contextmanager
def _own_sigterm() -> Generator[None]:
    """Keep SIGTERM with who has it: Ray takes it for itself, and three seconds later it aborts the
    process, in the midst of a clean end. In C, since Python sets signals in its main thread only."""
    libc = ctypes.CDLL(None)
    saved = ctypes.create_string_buffer(512)  # room for any system's struct sigaction
    libc.sigaction(signal.SIGTERM, None, saved)
    try:
        yield
    finally:
        libc.sigaction(signal.SIGTERM, saved, None)


def _start_local(options: dict[str, Any]) -> None:
    """Start a cluster on this machine; once more where Ray gave its own parts too little time."""
    options |= {"address": "local", "include_dashboard": False}
    try:
        ray.init(**options)
    except Exception as error:  # a bare one: there is only its text to tell it by
        if "timed out during startup" not in str(error):
            raise
        log.warning("Ray did not come up in time, and is started once more")
        ray.shutdown()
        ray.init(**options)


def _log_what_ray_says(data: dict[str, Any], ignore_prefix: bool) -> None:
    log.info("Ray: %s", "\n".join(data["lines"]))


def _why_not_joined(address: str, error: Exception) -> str:
    # Ray says so in its own lines on standard error; what it raises is that nobody answered.
    token = (
        ""
        if os.environ.get("RAY_AUTH_MODE") == "token"
        else ", or, if it runs and asks for a token (`ray start` sets one up by itself), run this with "
        "RAY_AUTH_MODE=token and its ~/.ray/auth_token here"
    )
    return (
        f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`{token}, "
        "or leave out --ray-address and RAY_ADDRESS to render on this machine"
    )


def _join(
    address: str | None, local_gpus: int | None, metrics_port: int | None, local_cpus: int | None
) -> None:
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is not None:
        try:
            _knock(address)
            ray.init(address=address, **common)
        except Exception as error:  # Ray raises what comes, also bare Exceptions
            raise ClusterError(_why_not_joined(address, error)) from error
    else:
        cores = len(os.sched_getaffinity(0)) if local_cpus is None else local_cpus
        try:
            # The actors say themselves for whom they make way; see `tasks.startup`.
            system = {"worker_niceness": 0}
            own = {
                "_system_config": system,
                "num_cpus": cores,
                "num_gpus": local_gpus,
                "_metrics_export_port": metrics_port,
            }
            _start_local({**own, **common})
        except Exception as error:  # Ray raises what comes, also bare Exceptions
            raise ClusterError(
                f"Ray does not start on this machine ({type(error).__name__}: {error}); it needs a "
                "HOME that can be written and a TMPDIR whose name is plain ASCII; on a crowded "
                "machine the same command may do a moment later"
            ) from error


def _knock(address: str) -> None:
    """Fail at once where nobody listens: Ray itself tries for minutes.

    Raises:
        OSError: no connection to host:port. Other forms of address (`auto`) are left to Ray.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


def cluster_fault() -> str | None:
    """What this process cannot go on without and has lost of its cluster; None while all is well.

    Ray itself tells nobody: calls to a raylet that is gone wait for ever.
    """
    node = ray._private.worker._global_node  # pyright: ignore  # Ray has no public word for it
    dead = {kind for kind, _ in node.dead_processes()} if node is not None else set[str]()
    for kind in ("raylet", "gcs_server"):
        if kind in dead:
            return f"the {kind} of this machine's Ray has died"
    own = ray.get_runtime_context().get_node_id()
    try:
        nodes = ray.nodes()
    except Exception as error:  # of any kind: who asks must go on, and end the run
        return f"the Ray cluster does not answer ({type(error).__name__}: {error})"
    if any(found["NodeID"] == own and not found["Alive"] for found in nodes):
        return "the Ray node that this command runs on is dead"
    return None


def disconnect() -> None:
    """Leave the cluster; a local one that `connect` started ends."""
    if ray.is_initialized():
        ray.shutdown()
