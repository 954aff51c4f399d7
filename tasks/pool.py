"""Bounded pools of actors, and the pipeline that takes rows through them and loses none.

The rules (DESIGN.md): two slots an actor, nothing unbounded, the manifest is never read ahead; what
an actor held when it died is run again one row at a time, so that the neighbours of a poison row
survive; a row that kills its actor three times is failed; every call has a deadline; actors are
killed when the run ends, however it ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayError, RayTaskError

from tasks.actors import StageFailure
from tasks.crew import CALL_DEADLINE
from tasks.job import Ending, Job

log = logging.getLogger("zs2.pool")

SLOTS = 2  # one at work, one waiting, so that an actor never idles between rows
MAX_ROW_CRASHES = 3
# Actors that die without any row done between: the actors cannot work here, not the rows. Strictly
# above the row's cap, or one poison row could end a run.
MAX_POOL_CRASHES = 20
START_DEADLINE = 900.0  # seconds for an actor to come up: its node may have to be found and filled
assert MAX_ROW_CRASHES < MAX_POOL_CRASHES


class PoolError(RuntimeError):
    """The run cannot go on: its actors do not live."""


class Interrupted(RuntimeError):  # noqa: N818  not an error: the user asked for it
    """The pipeline was asked to stop before all rows had ended."""


@dataclass(eq=False)
class _Flight:
    """One row on its way through the stages."""

    job: Job
    source: _Source
    started_at: datetime
    stage: int = 0
    frames: Any = None  # object reference; the driver never holds pixels
    report: dict[str, Any] = field(default_factory=dict[str, Any])
    crashes: int = 0


@dataclass(eq=False)
class _Call:
    flight: _Flight
    report: Any  # object references of the two returns
    frames: Any
    head_since: float | None = None


@dataclass(eq=False)
class _Source:
    """The rows of one shard, pulled one by one."""

    jobs: Iterator[Job]
    on_end: Callable[[Ending], None]
    in_flight: int = 0
    exhausted: bool = False
    error: Exception | None = None
    finished: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class _Worker:
    actor: Any
    born: Any  # object reference: there once the actor's constructor is done
    started_at: float
    ready: bool = False  # it came up; until then it is given no row, which could not be to blame
    calls: deque[_Call] = field(default_factory=deque[_Call])
    alone: bool = False  # a row that already killed an actor is in: nobody beside it
    signature: Any = None


class ActorPool:
    """Equal actors of one stage.

    Args:
        name: the stage.
        spawn: starts one actor that has `run(job, frames)`.
        size: how many.
        deadline: seconds a call may take before its actor is killed.
    """

    def __init__(
        self, name: str, spawn: Callable[[], Any], size: int, deadline: float = CALL_DEADLINE
    ) -> None:
        self.name = name
        self.spawn = spawn
        self.deadline = deadline
        self.crashes_in_a_row = 0
        self.workers = [_Worker(*self._start()) for _ in range(size)]

    def _start(self) -> tuple[Any, Any, float]:
        actor = self.spawn()
        return actor, actor.__ray_ready__.remote(), time.monotonic()

    def find(self, flight: _Flight) -> _Worker | None:
        """The worker that should take this row: free, least loaded, its model already warm."""
        suspect = flight.crashes > 0
        free = [
            worker
            for worker in self.workers
            if worker.ready and not worker.alone and len(worker.calls) < (1 if suspect else SLOTS)
        ]
        if not free:
            return None
        wanted = flight.job.signature
        return min(free, key=lambda w: (len(w.calls), w.signature not in (None, wanted)))

    def has_slot(self) -> bool:
        return any(w.ready and not w.alone and len(w.calls) < SLOTS for w in self.workers)

    def submit(self, worker: _Worker, flight: _Flight) -> None:
        report, frames = worker.actor.run.remote(flight.job, flight.frames)
        call = _Call(flight, report, frames)
        worker.calls.append(call)
        worker.alone = flight.crashes > 0
        worker.signature = flight.job.signature
        _start_clock(worker)

    def take(self, worker: _Worker, call: _Call) -> None:
        """The call has ended; the next one's time begins."""
        worker.calls.remove(call)
        worker.alone = False
        _start_clock(worker)

    def replace(self, worker: _Worker) -> list[_Call]:
        """Kill and respawn; returns the calls that were lost with the actor, oldest first."""
        ray.kill(worker.actor)
        lost = list(worker.calls)
        worker.calls.clear()
        worker.ready, worker.alone, worker.signature = False, False, None
        worker.actor, worker.born, worker.started_at = self._start()
        return lost

    def kill(self) -> None:
        for worker in self.workers:
            ray.kill(worker.actor)
        self.workers = []


def _start_clock(worker: _Worker) -> None:
    if worker.calls and worker.calls[0].head_since is None:
        worker.calls[0].head_since = time.monotonic()


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline: its pool, and which rows need it."""

    pool: ActorPool
    needed: Callable[[Job], bool] = lambda job: True


class Pipeline:
    """Takes the rows of several shards at once through the stages, in one scheduling thread.

    Args:
        stages: the first samples; rows enter it only while the later stages keep up.
    """

    def __init__(self, stages: list[Stage]) -> None:
        self.stages = stages
        self._waiting: list[deque[_Flight]] = [deque() for _ in stages]
        # Sampled rows that later stages may hold before sampling pauses.
        self._backlog = SLOTS * sum(len(stage.pool.workers) for stage in stages[1:]) + SLOTS
        self._sources: deque[_Source] = deque()
        self._wake = threading.Condition()
        self._draining = False
        self._closing = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="zs2-pipeline", daemon=True)
        self._thread.start()

    def render(self, jobs: Iterator[Job], on_end: Callable[[Ending], None]) -> None:
        """Render a shard's rows; returns when all have ended. Several threads may call at once.

        Args:
            jobs: pulled one at a time, when an actor can take the row.
            on_end: called once per row, in the pipeline's thread.

        Raises:
            Interrupted: `drain` was called before the end.
            PoolError: the actors do not live. Also what `jobs` or `on_end` raised.
        """
        source = _Source(iter(jobs), on_end)
        with self._wake:
            if self._error is not None:
                raise self._error
            if self._closing:
                raise Interrupted("the run was stopped")
            self._sources.append(source)
            self._wake.notify_all()
        source.finished.wait()
        if source.error is not None:
            raise source.error

    def drain(self) -> None:
        """Take no further rows; those in flight end as usual."""
        with self._wake:
            self._draining = True
            self._wake.notify_all()

    def close(self) -> None:
        """Kill all actors; rows in flight are left as they are, for a later run."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(timeout=30)
        for stage in self.stages:
            stage.pool.kill()

    # The scheduling thread.

    def _run(self) -> None:
        try:
            while not self._closing:
                self._step()
        except Exception as error:  # whatever it is, the shards that wait must hear of it
            log.debug("the pipeline stopped", exc_info=True)
            self._error = error
        with self._wake:
            for source in self._sources:
                source.error = source.error or self._error or Interrupted("the run was stopped")
                source.finished.set()
            self._sources.clear()

    def _step(self) -> None:
        self._start_calls()
        self._finish_sources()
        calls = {
            call.report: (stage, worker, call)
            for stage in self.stages
            for worker in stage.pool.workers
            for call in worker.calls
        }
        births = {
            worker.born: (stage, worker)
            for stage in self.stages
            for worker in stage.pool.workers
            if not worker.ready
        }
        awaited = [*births, *calls]
        if not awaited:
            with self._wake:
                if not self._closing and not self._has_work():
                    self._wake.wait(timeout=1.0)
            return
        ready, _ = ray.wait(awaited, num_returns=1, timeout=0.25)
        if ready:  # and all others that have ended meanwhile
            ready, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0)
        for reference in ready:
            if reference in births:
                self._greet(*births[reference])
                continue
            stage, worker, call = calls[reference]
            if call in worker.calls:  # not yet dealt with as a fellow of a crash
                self._end_call(stage, worker, call)
        self._enforce_deadlines()

    def _has_work(self) -> bool:
        return any(not s.exhausted for s in self._sources) and not self._draining

    def _start_calls(self) -> None:
        # From the last stage backwards: finishing rows frees memory, beginning them takes it.
        for index in range(len(self.stages) - 1, -1, -1):
            pool = self.stages[index].pool
            queue = self._waiting[index]
            while queue:
                worker = pool.find(queue[0])
                if worker is None:  # a suspect waits for an actor of its own, and others behind it
                    break
                pool.submit(worker, queue.popleft())
        first = self.stages[0].pool
        while first.has_slot() and not self._waiting[0] and self._downstream() < self._backlog:
            flight = self._next_row()
            if flight is None:
                return
            worker = first.find(flight)
            assert worker is not None, "has_slot() promised one"
            first.submit(worker, flight)

    def _downstream(self) -> int:
        running = sum(len(w.calls) for stage in self.stages[1:] for w in stage.pool.workers)
        return running + sum(len(queue) for queue in self._waiting[1:])

    def _next_row(self) -> _Flight | None:
        if self._draining:
            return None
        for source in list(self._sources):
            if source.exhausted:
                continue
            try:
                job = next(source.jobs)
            except StopIteration:
                source.exhausted = True
                continue
            except Exception as error:  # a damaged manifest: this shard ends, others go on
                source.exhausted, source.error = True, error
                continue
            source.in_flight += 1
            return _Flight(job, source, datetime.now(UTC))
        return None

    def _finish_sources(self) -> None:
        for source in list(self._sources):
            if source.in_flight or not (source.exhausted or self._draining):
                continue
            if not source.exhausted and source.error is None:
                source.error = Interrupted("the run was interrupted")
            with self._wake:
                self._sources.remove(source)
            source.finished.set()

    def _greet(self, stage: Stage, worker: _Worker) -> None:
        try:
            ray.get(worker.born)
        except RayError as error:
            self._lose_actor(stage, worker, _reason(error), blame=False)
        else:
            worker.ready = True

    def _end_call(self, stage: Stage, worker: _Worker, call: _Call) -> None:
        flight = call.flight
        try:
            report = ray.get(call.report, timeout=10)
        except RayError as error:
            self._end_broken_call(stage, worker, call, error)
            return
        stage.pool.take(worker, call)
        stage.pool.crashes_in_a_row = 0
        if isinstance(report, StageFailure):
            log.info("row %s failed\n%s", flight.job.row.id, report.details)
            if report.fatal:
                self._lose_actor(stage, worker, report.message, blame=False)
            self._fail(flight, report.stage, report.error_type, report.message)
            return
        flight.report |= report
        flight.frames = call.frames
        self._advance(flight)

    def _end_broken_call(self, stage: Stage, worker: _Worker, call: _Call, error: RayError) -> None:
        flight = call.flight
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, ObjectLostError | GetTimeoutError):  # with the node that held them
            stage.pool.take(worker, call)
            flight.stage, flight.frames = 0, None
            self._lose_row(flight, stage, f"its frames were lost: {_reason(cause)}")
        elif isinstance(error, RayTaskError):  # the actor lives; the row could not be handed over
            stage.pool.take(worker, call)
            self._fail(flight, stage.pool.name, type(cause).__name__, str(cause))
        else:
            self._lose_actor(stage, worker, f"its actor died: {_reason(error)}")

    def _advance(self, flight: _Flight) -> None:
        flight.stage += 1
        while flight.stage < len(self.stages):
            if self.stages[flight.stage].needed(flight.job):
                self._waiting[flight.stage].append(flight)
                return
            flight.stage += 1
        note = flight.report.pop("note", None)
        self._end(flight, error_type="note" if note else None, error_message=note)

    def _lose_actor(
        self, stage: Stage, worker: _Worker, reason: str, *, blame: bool = True
    ) -> None:
        """Replace an actor. The row at work carries the blame, the one that waited does not."""
        pool = stage.pool
        pool.crashes_in_a_row += 1
        culprit = worker.calls[0] if blame else None
        lost = pool.replace(worker)
        if pool.crashes_in_a_row >= MAX_POOL_CRASHES:
            raise PoolError(
                f"{MAX_POOL_CRASHES} {pool.name} actors died in a row without a row done "
                f"({reason}); run `zs2 doctor`, and look into the logs of Ray"
            )
        for call in lost:
            if call is not culprit:
                self._waiting[call.flight.stage].appendleft(call.flight)
        if culprit is not None:
            self._lose_row(culprit.flight, stage, reason)

    def _lose_row(self, flight: _Flight, stage: Stage, reason: str) -> None:
        flight.crashes += 1
        log.warning("row %s: attempt %d: %s", flight.job.row.id, flight.crashes, reason)
        if flight.crashes >= MAX_ROW_CRASHES:
            self._fail(flight, stage.pool.name, "ActorDied", f"{reason} ({flight.crashes} times)")
            return
        self._waiting[flight.stage].appendleft(flight)

    def _fail(self, flight: _Flight, stage: str, error_type: str, message: str) -> None:
        self._end(flight, stage=stage, error_type=error_type, error_message=message)

    def _end(
        self,
        flight: _Flight,
        *,
        stage: str | None = None,
        error_type: str | None = None,
        error_message: str | None = None,
    ) -> None:
        flight.frames = None
        flight.source.in_flight -= 1
        flight.source.on_end(
            Ending(
                flight.job,
                "failed" if stage else "ok",
                flight.started_at,
                datetime.now(UTC),
                attempts=flight.crashes + (0 if error_type == "ActorDied" else 1),
                stage=stage,
                error_type=error_type,
                error_message=error_message,
                report=flight.report,
            )
        )

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        for stage in self.stages:
            pool = stage.pool
            for worker in pool.workers:
                head = worker.calls[0] if worker.calls else None
                if head and head.head_since and now - head.head_since > pool.deadline:
                    reason = f"it ran past its deadline of {pool.deadline:g} s"
                    self._lose_actor(stage, worker, reason)
                elif not worker.ready and now - worker.started_at > START_DEADLINE:
                    raise PoolError(
                        f"no {pool.name} actor came up within {START_DEADLINE:g} s; "
                        "does the cluster still have room? `ray status` tells"
                    )


def _reason(error: BaseException) -> str:
    """An error in one line; of one that Ray passes on with its traceback, the last, which says it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if getattr(error, "actor_init_failed", False) else lines[0]
