"""The crew of a run: the cluster joined, the actors placed, the pipeline open; begun in the background.

Ray and the actors' imports take seconds; a caller starts them while it plans.
"""

from __future__ import annotations

import logging
import signal
import time
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from threading import Event, Thread
from typing import TYPE_CHECKING, NamedTuple

from manifests.kinds import count
from tasks.job import CALL_DEADLINE
from tasks.startup import mark

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.cluster import Patience
    from tasks.job import Job
    from tasks.pipeline import Pipeline
    from tasks.placement import Placement, Spawners
    from tasks.split import SplitClips
    from tasks.telemetry import Telemetry

log = logging.getLogger("zs2.ray")

SHOW_SECONDS = 30.0  # between words to people who wait for the samplers
WATCH_SECONDS = 5.0  # between looks at whether the cluster still lives, and how busy it is
CLUSTER_WAIT = 3600.0  # seconds for nodes to come up, and for other runs to leave room
# What a crew's thread imports and its caller's with Prefect, too: of modules that import each other in a
# circle one of two threads may find a half. Ray itself, and what it imports when it starts and when it
# makes actors.
IMPORTED_BEFORE = (
    *("tasks.cluster", "tasks.pipeline", "tasks.placement", "tasks.telemetry"),
    *("opentelemetry.trace", "pydantic.v1", "starlette.datastructures"),
)
GO_ON = "the same command goes on where it stopped"


@dataclass(frozen=True)
class Cluster:
    """Where a run computes; see `tasks.cluster.connect` and `tasks.placement.place`."""

    address: str | None = None
    local_gpus: int | None = None
    local_cpus: int | None = None
    samplers: int | None = None
    threads: int = 1
    gpus_per_sampler: float = 1.0
    deadline: float = CALL_DEADLINE
    min_nodes: int = 0
    min_gpus: int = 0
    wait: float = CLUSTER_WAIT
    split_clips: SplitClips = "auto"
    metrics_port: int | None = None


class Crew:
    """Starts at once, in a thread of its own, once Ray is imported.

    Args:
        root: the run folder's address; the actors write there.
        batches: to render, of rows or of those that are sampled together; there are never more samplers,
            but where rows are split.
        shares: over how many samplers the longest row can be spread (`tasks.split`).
        rows: in the batches; default as many.
        spawners: says of a placement and the root what starts an actor of each stage; default
            `Placement.spawners`.
        first: a row that the first sampler loads the checkpoint of, before it is given any; needs samplers
            of the usual kind.
        tell: hears what the run waits for on its cluster.
        show: hears that samplers are starting, now and then until one is up: for people who watch.
    """

    def __init__(
        self,
        cluster: Cluster,
        root: str,
        batches: int,
        spawners: Spawners | None = None,
        first: Job | None = None,
        tell: Callable[[str], None] = log.info,
        show: Callable[[str], None] = lambda text: None,
        shares: int = 1,
        rows: int | None = None,
    ) -> None:
        self._cluster = cluster
        self._tell = tell
        self._show = show
        self._interrupted = Event()
        self._spawners = spawners
        self._first = first
        self._root = root
        self._batches = batches
        self._rows = rows
        self._shares = 1 if cluster.split_clips == "never" else shares
        self._opened: Future[_Opened] = Future()
        self._closing = Event()
        self._description = ""
        for name in IMPORTED_BEFORE:
            import_module(name)
        self._thread = Thread(target=self._live, name="zs2-crew", daemon=True)
        self._thread.start()

    def pipeline(self) -> Pipeline:
        """The pipeline, when it is open.

        Raises:
            ClusterError: no cluster, or no room in it. Interrupted: before there was room.
        """
        return self._opened.result().pipeline

    def placement(self) -> Placement:
        """How the actors were placed; waits as `pipeline` does."""
        return self._opened.result().placement

    def telemetry(self) -> Telemetry:
        """Who tells Prometheus of the run; waits as `pipeline` does."""
        return self._opened.result().telemetry

    @property
    def is_closed(self) -> bool:
        """Whether `close` has been called: no further run may use it."""
        return self._closing.is_set()

    def description(self) -> str:
        """The cluster found and what the run has of it; waits as `pipeline` does."""
        self._opened.result()
        return self._description

    def interrupt(self) -> None:
        """Take no further rows; those in flight end as usual. Nor wait for a cluster any longer."""
        self._interrupted.set()
        with suppress(Exception):  # a crew that could not start: the shards raise that
            self.pipeline().drain()

    def close(self) -> None:
        """Kill the actors and leave the cluster; a local one ends with that."""
        self._interrupted.set()
        self._closing.set()
        self._thread.join()

    def _live(self) -> None:
        # Ray's processes inherit this: where a whole group is told to end (`timeout`, systemd), the
        # run ends them, after what is in flight.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        from tasks.cluster import disconnect

        try:
            self._serve()
        finally:
            disconnect()

    def _serve(self) -> None:
        """Open the pipeline, watch over it, close it. Nobody waits for ever for what went wrong here:
        it is raised where the pipeline is asked for, or where its rows are awaited."""
        try:
            opened = self._start()
        except Exception as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(opened)
        pipeline = opened.pipeline
        try:
            self._watch(opened)
        except Exception as error:
            pipeline.give_up(error)
        # The thread that starts a local cluster has to outlive it: the kernel ends Ray's processes
        # with the thread that is their parent.
        self._closing.wait()
        pipeline.close()

    def _watch(self, opened: _Opened) -> None:
        """Look now and then whether the cluster still lives, and how busy it is, until it does not or
        the run closes."""
        from tasks.cluster import ClusterError, cluster_fault

        starting = count(opened.placement.samplers, "sampler")
        began = shown = time.monotonic()
        self._show(f"starting {starting} …")
        while not self._closing.wait(WATCH_SECONDS):
            now = time.monotonic()
            if now - shown >= SHOW_SECONDS and not opened.pipeline.has_begun():
                shown = now
                self._show(f"still starting {starting}: {now - began:.0f} s")
            fault = cluster_fault()
            if fault is not None:
                opened.pipeline.give_up(ClusterError(f"{fault}; {GO_ON}"))
                return
            opened.telemetry.look(opened.pipeline.loads())

    def _start(self) -> _Opened:
        from tasks import telemetry
        from tasks.cluster import Patience, await_size, connect, in_words, nodes
        from tasks.pipeline import Pipeline, Stage
        from tasks.placement import Placement, place
        from tasks.pool import START_DEADLINE, ActorPool
        from tasks.split import splits

        cluster = self._cluster
        connect(cluster.address, cluster.local_gpus, cluster.metrics_port, cluster.local_cpus)
        mark("Ray up")
        seconds = 0.0 if cluster.address is None else cluster.wait  # a local one does not grow
        patience = Patience(seconds, self._tell, self._interrupted)
        await_size(cluster.min_nodes, cluster.min_gpus, patience)
        placement = place(
            nodes(),
            self._batches,
            rows=self._rows,
            shares=self._shares,
            samplers=cluster.samplers,
            threads=cluster.threads,
            gpus_per_sampler=cluster.gpus_per_sampler,
        )
        self._description = f"{in_words(nodes())}; {placement}"
        spawners = (self._spawners or Placement.spawners)(placement, self._root)
        sizes = {"sample": placement.samplers}
        if placement.most_on(nodes(free=True)):  # there is room: a sampler is coming up
            patience = replace(patience, tell=log.debug)
        # on a shared cluster the samplers wait for room first, and then begin to start
        starts = {"sample": START_DEADLINE + patience.seconds}
        pools = {
            name: ActorPool(
                name,
                spawn,
                sizes.get(name, placement.post_actors),
                cluster.deadline,
                starts.get(name, START_DEADLINE),
            )
            for name, spawn in spawners.items()
        }
        if self._first is not None and self._spawners is None:
            pools["sample"].workers[0].actor.warm_up.remote(self._first)
        pipeline = Pipeline(
            [Stage(pools["sample"]), Stage(pools["post"])],
            splits=splits(cluster.split_clips, self._batches, placement.samplers),
        )
        mark("actors begun")
        if cluster.address is not None:
            _await_sampler(pipeline, placement, patience)
        return _Opened(pipeline, placement, telemetry.Telemetry(self._root))


class _Opened(NamedTuple):
    """What there is once the cluster is joined."""

    pipeline: Pipeline
    placement: Placement
    telemetry: Telemetry


def _await_sampler(pipeline: Pipeline, placement: Placement, patience: Patience) -> None:
    """Until one is up: then the run goes on, and others follow as other runs leave room.

    Raises:
        ClusterError: none in that time. Interrupted: stopped meanwhile. PoolError: none can live.
    """
    from tasks.cluster import ClusterError, in_words, nodes

    def free() -> str:
        return f"{in_words(nodes(free=True))} free"

    with ExitStack() as undo:
        undo.callback(pipeline.close)
        if not patience.until(pipeline.has_begun, f"room for {placement}", free):
            raise ClusterError(
                f"expected room for one of {placement} within {patience.seconds:g} s, found {free()}; "
                "other runs hold the rest: wait longer with --cluster-wait, or limit their samplers"
            )
        pipeline.check()
        undo.pop_all()
