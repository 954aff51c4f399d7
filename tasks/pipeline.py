"""The pipeline that takes rows through the stages and loses none.

The rules (DESIGN.md): the manifest is never read ahead; what an actor held when it died is run again,
a row that was at work by itself, and rows that were sampled together together once more and then by
halves, so that the neighbours of a poison row survive; a row that kills its actor three times is failed;
a full disk ends the run; every call has a deadline; actors are killed when the run ends, however it ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from manifests.object_store import UnreachableError
from tasks.actors import StageFailure
from tasks.disk import DiskFullError
from tasks.ending import Ending
from tasks.flight import Flight, Source
from tasks.job import Job
from tasks.order import by_preference
from tasks.out_of_memory import OutOfMemory
from tasks.pool import (
    SLOTS,
    ActorPool,
    Broken,
    Call,
    PoolError,
    Worker,
    answer,
    wait,
    why_not_born,
)
from tasks.split import most_shares
from tasks.startup import mark
from tasks.telemetry import Load
from tasks.utilisation import Utilisation, note_pools

log = logging.getLogger("zs2.pipeline")

MAX_ROW_CRASHES = 3
# Actors of a pool that die in a row: before it has done any row they cannot work here. Afterwards it
# is the rows, which may lie together in the manifest, until it is so many that the machine must have
# broken. Strictly above the row's cap, or one poison row could end a run.
MAX_POOL_CRASHES = 20
MAX_POOL_CRASHES_AT_WORK = 40 * MAX_ROW_CRASHES
assert MAX_ROW_CRASHES < MAX_POOL_CRASHES


class Interrupted(RuntimeError):  # noqa: N818  not an error: the user asked for it
    """The pipeline was asked to stop before all rows had ended."""


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline: its pool, and which rows need it."""

    pool: ActorPool
    needed: Callable[[Job], bool] = lambda job: True


class Pipeline:
    """Takes the rows of several shards at once through the stages, in one scheduling thread.

    Args:
        stages: the first samples; rows enter it only while the later stages keep up.
        splits: rows that can be are split over the samplers (`tasks.split`).
    """

    def __init__(self, stages: list[Stage], *, splits: bool = False) -> None:
        self.stages = stages
        self.splits = splits
        self._waiting: list[deque[Flight]] = [deque() for _ in stages]
        # Sampled rows that later stages may hold before sampling pauses.
        self._backlog = SLOTS * sum(len(stage.pool.workers) for stage in stages[1:]) + SLOTS
        self._sources: deque[Source] = deque()
        self._wake = threading.Condition()
        self._draining = False
        self._closing = False
        self._error: Exception | None = None
        self.utilisation = Utilisation()
        self._thread = threading.Thread(target=self._run, name="zs2-pipeline", daemon=True)
        self._thread.start()

    def render(
        self, jobs: Iterator[Job], on_end: Callable[[Ending], None], signature: Any = None
    ) -> None:
        """Render a shard's rows; returns when all have ended. Several threads may call at once.

        Args:
            jobs: pulled one at a time, when an actor can take the row.
            on_end: called once per row, in the pipeline's thread.
            signature: of all the rows; actors keep to their own while there are rows of it.

        Raises:
            Interrupted: `drain` was called before the end.
            PoolError: the actors do not live. Also what `jobs` or `on_end` raised.
        """
        source = Source(iter(jobs), on_end, signature)
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

    def has_begun(self) -> bool:
        """Whether a sampler is up, or will never be."""
        return self._error is not None or self.samplers_up() > 0

    def check(self) -> None:
        """Raise what ended the pipeline, if anything did."""
        if self._error is not None:
            raise self._error

    def samplers_up(self) -> int:
        """How many samplers are up by now."""
        return sum(worker.ready for worker in self.stages[0].pool.workers)

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

    def give_up(self, error: Exception) -> None:
        """End the run for a reason that the scheduling thread cannot see; it may wait for ever."""
        with self._wake:
            self._error = self._error or error
            self._closing = True
            self._wake.notify_all()
        self._tell_sources()

    def loads(self) -> dict[str, Load]:
        """How busy each stage is, as seen from another thread in passing."""
        found: dict[str, Load] = {}
        for stage, waiting in zip(self.stages, self._waiting, strict=True):
            held = [len(w.calls) + len(w.coming) for w in stage.pool.workers if w.ready]
            busy = sum(count > 0 for count in held)
            found[stage.pool.name] = Load(len(held), busy, len(waiting) + sum(held) - busy)
        return found

    # The scheduling thread.

    def _run(self) -> None:
        try:
            while not self._closing:
                self._step()
        except Exception as error:  # whatever it is, the shards that wait must hear of it
            log.debug("the pipeline stopped", exc_info=True)
            self._error = self._error or error
        self._tell_sources()

    def _tell_sources(self) -> None:
        """The shards that wait hear that their rows will not end."""
        with self._wake:
            for source in self._sources:
                source.error = source.error or self._error or Interrupted("the run was stopped")
                source.finished.set()
            self._sources.clear()

    def _step(self) -> None:
        self._start_calls()
        pools = [(stage.pool.name, stage.pool.workers) for stage in self.stages]
        note_pools(self.utilisation, pools, paused=self._downstream() >= self._backlog)
        self._finish_sources()
        calls = {
            call.ended: (stage, worker, call)
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
        ready = wait(awaited)
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
            queue = self._waiting[index]
            # a suspect waits for an actor of its own, and others behind it
            while queue:
                flights = _together(queue) if index == 0 else [queue[0]]
                if not self._submit(self.stages[index].pool, flights):
                    break
                for _ in flights:
                    queue.popleft()
        first = self.stages[0].pool
        for worker in first.workers:
            while worker.has_room and self._downstream() < self._backlog:
                first.submit_coming(worker)
        while not self._waiting[0] and self._downstream() < self._backlog:
            worker = first.idlest()
            flights = self._next_rows(worker) if worker is not None else []
            if worker is None or not flights:
                return
            if len(flights) > 1 or self._most_shares(flights[0]) == 1:
                first.submit_together(worker, flights)
            elif not self._submit(first, flights):  # it waits for all its actors
                self._waiting[0] += flights

    def _submit(self, pool: ActorPool, flights: Sequence[Flight]) -> bool:
        """Give a row to an actor, or to several, or rows that go together; whether there was room."""
        if len(flights) == 1:
            return pool.accept(flights[0], self._most_shares(flights[0]))
        worker = pool.find(flights[0])
        if worker is not None:
            pool.submit_together(worker, flights)
        return worker is not None

    def _most_shares(self, flight: Flight) -> int:
        is_split = self.splits and flight.stage == 0 and not flight.is_whole
        return most_shares(flight.job) if is_split else 1

    def _downstream(self) -> int:
        running = sum(len(w.calls) for stage in self.stages[1:] for w in stage.pool.workers)
        return running + sum(len(queue) for queue in self._waiting[1:])

    def _next_rows(self, worker: Worker) -> list[Flight]:
        """A row for this worker, of the shard that suits it best, and those that go with it."""
        if self._draining:
            return []
        unread = [source for source in list(self._sources) if not source.exhausted]
        held = [w.signature for w in self.stages[0].pool.workers if w is not worker]
        for source in by_preference(unread, worker.signature, held):
            first = source.next_flight()
            if first is None:
                continue
            flights = [first]
            while len(flights) < first.job.clips_per_call:
                other = source.next_beside(first)
                if other is None:
                    break
                flights.append(other)
            for older in unread[: unread.index(source)]:
                older.overtaken += len(flights)
            return flights
        return []

    def _finish_sources(self) -> None:
        for source in list(self._sources):
            if source.in_flight or not (source.exhausted or self._draining):
                continue
            if not source.exhausted and source.error is None:
                source.error = Interrupted("the run was interrupted")
            with self._wake:
                self._sources.remove(source)
            source.finished.set()

    def _greet(self, stage: Stage, worker: Worker) -> None:
        reason = why_not_born(worker)
        if reason is None:
            worker.ready = True
            mark(f"{stage.pool.name} actor up")
        else:
            self._lose_actor(stage, worker, reason, blame=False)

    def _end_call(self, stage: Stage, worker: Worker, call: Call) -> None:
        flight = call.flight
        answered = answer(call)
        if isinstance(answered, Broken):
            self._end_broken_call(stage, worker, call, answered)
            return
        said, chunks = answered.said, answered.chunks
        stage.pool.take(worker, call)
        if isinstance(said, StageFailure):
            self._end_failed_call(stage, worker, call, said)
            return
        stage.pool.note_answer()
        mark(f"first row: {stage.pool.name}")
        self.utilisation.note_answer(stage.pool.name, stage.pool.workers.index(worker))
        if call.is_void:
            return
        if call.attempt is not None:
            together = call.attempt.add(call.share, said, chunks)
            if together is None:
                return
            said, chunks = together
            flight.attempt = None
        for warned in said.pop("warned", ()):
            log.warning("row %s: %s: %s", flight.job.row.id, stage.pool.name, warned)
        notes = [each for each in (flight.report.get("note"), said.get("note")) if each]
        flight.report |= said
        if notes:  # each stage may have its own
            flight.report["note"] = "; ".join(notes)
        flight.chunks = chunks
        self._advance(flight)

    def _end_failed_call(
        self, stage: Stage, worker: Worker, call: Call, said: StageFailure
    ) -> None:
        flight = call.flight
        if said.ends_run:
            is_disk = said.error_type == DiskFullError.__name__
            raise (DiskFullError if is_disk else UnreachableError)(said.message)
        if not call.is_void:
            log.info("row %s failed\n%s", flight.job.row.id, said.details)
        if said.fatal:
            self._lose_actor(stage, worker, said.message, blame=False)
        else:
            stage.pool.note_answer()
        if call.is_void:
            return
        if call.attempt is not None and said.error_type == OutOfMemory.__name__:
            # one sampler by itself can try again with less, which it cannot while others wait
            flight.is_whole = True
            self._put_back(flight)
            return
        # A row that broke its actor may have found it broken: only another attempt can tell.
        if said.fatal or said.again:
            self._lose_row(flight, stage, said.message, said)
        else:
            self._fail(flight, said.stage, said.error_type, said.message)

    def _end_broken_call(self, stage: Stage, worker: Worker, call: Call, said: Broken) -> None:
        if said.lost == "actor":
            self._lose_actor(stage, worker, said.reason)
            return
        stage.pool.take(worker, call)
        flight = call.flight
        if call.is_void:
            return
        if said.lost == "frames":  # begin again: sampled latents are on disk
            flight.stage, flight.chunks, flight.report = 0, (), {}
            self._lose_row(flight, stage, said.reason)
        else:
            self._fail(flight, stage.pool.name, said.error_type, said.reason)

    def _advance(self, flight: Flight) -> None:
        flight.stage += 1
        while flight.stage < len(self.stages):
            if self.stages[flight.stage].needed(flight.job):
                self._waiting[flight.stage].append(flight)
                return
            flight.stage += 1
        note = flight.report.pop("note", None)
        self._end(flight, error_type="note" if note else None, error_message=note)

    def _lose_actor(self, stage: Stage, worker: Worker, reason: str, *, blame: bool = True) -> None:
        """Replace an actor. The row at work carries the blame, the one that waited does not. A death
        within milliseconds of a row's end can take that row's answer along: it is done again then."""
        pool = stage.pool
        culprit = worker.calls[0] if blame else None
        party = worker.party if culprit is not None else []
        if len(party) < 2:  # of several it is some row that is to blame, more likely than the pool
            pool.crashes_in_a_row += 1
        lost = pool.replace(worker)
        most = MAX_POOL_CRASHES_AT_WORK if pool.has_worked else MAX_POOL_CRASHES
        if pool.crashes_in_a_row >= most:
            raise PoolError(
                f"{most} {pool.name} actors died in a row without a row done "
                f"({reason}); run `zs2 doctor`, and look into the logs of Ray"
            )
        blamed = None if culprit is None or culprit.is_void else culprit.flight
        if len(party) > 1:
            blamed = None
            _part(party, reason)
        for flight in reversed(lost):
            if flight is not blamed:
                self._put_back(flight)
        if blamed is not None:
            self._lose_row(blamed, stage, reason)

    def _put_back(self, flight: Flight) -> None:
        """The row is done again, without blame."""
        flight.end_attempt()
        self._waiting[flight.stage].appendleft(flight)

    def _lose_row(
        self, flight: Flight, stage: Stage, reason: str, said: StageFailure | None = None
    ) -> None:
        flight.end_attempt()
        flight.crashes += 1
        log.warning("row %s: attempt %d: %s", flight.job.row.id, flight.crashes, reason)
        if flight.crashes >= MAX_ROW_CRASHES:
            where, what = (said.stage, said.error_type) if said else (stage.pool.name, "ActorDied")
            self._fail(flight, where, what, f"{reason} ({flight.crashes} times)")
            return
        self._waiting[flight.stage].appendleft(flight)

    def _fail(self, flight: Flight, stage: str, error_type: str, message: str) -> None:
        self._end(flight, stage=stage, error_type=error_type, error_message=message)

    def _end(
        self,
        flight: Flight,
        *,
        stage: str | None = None,
        error_type: str | None = None,
        error_message: str | None = None,
    ) -> None:
        flight.end_attempt()
        flight.chunks = ()
        flight.source.in_flight -= 1
        flight.source.on_end(
            Ending(
                flight.job,
                "failed" if stage else "ok",
                flight.started_at,
                datetime.now(UTC),
                attempts=min(flight.crashes + 1, MAX_ROW_CRASHES),
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
                clips = head.flight.job.clips_per_call if head and stage is self.stages[0] else 1
                deadline = pool.deadline * clips
                if head and head.head_since and now - head.head_since > deadline:
                    reason = f"it ran past its deadline of {deadline:g} s (--row-deadline)"
                    self._lose_actor(stage, worker, reason)
                elif (
                    now - worker.started_at > pool.start_deadline
                    and not worker.ready
                    and not any(each.ready for each in pool.workers)  # a node may be lost for good
                ):
                    raise PoolError(
                        f"no {pool.name} actor came up within {pool.start_deadline:g} s; "
                        "does the cluster still have room? `ray status` tells"
                    )


def _together(queue: Sequence[Flight]) -> list[Flight]:
    """The first row that waits, and those behind it that can go with it; one that killed goes alone."""
    first = queue[0]
    found = [first]
    most = 1 if first.crashes else first.most_together or first.job.clips_per_call
    for other in islice(queue, 1, None):
        if len(found) == most or other.crashes or other.most_together != first.most_together:
            break
        if not first.job.shares_calls_with(other.job):
            break
        found.append(other)
    return found


def _part(party: Sequence[Flight], reason: str) -> None:
    """Rows that were sampled together when their actor died go together once more, as most deaths are
    the machine's and none of theirs, and from then on by halves: a row that kills is soon by itself."""
    rows, before = len(party), party[0].most_together
    most = rows if before is None else (rows + 1) // 2
    log.warning(
        "row %s and %d more that were sampled with it: %s; they are sampled again, %d at a time",
        *(party[0].job.row.id, rows - 1, reason, most),
    )
    for flight in party:
        flight.most_together = most
