"""Bounded pools of equal Ray actors: who takes a row, what came of it, who is replaced.

Two slots an actor, nothing unbounded. Which rows there are, and what becomes of a row whose actor
died, is `tasks.pipeline`'s to say.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tasks.actors import Report, StageFailure
from tasks.flight import Flight
from tasks.handover import Attempt
from tasks.job import CALL_DEADLINE

SLOTS = 2  # one at work, one waiting, so that an actor never idles between rows
START_DEADLINE = 900.0  # seconds for an actor to come up: its node may have to be found and filled
GATHER_SECONDS = 60.0  # for which a row that is to be split waits for actors that come up


class PoolError(RuntimeError):
    """The run cannot go on: its actors do not live."""


@dataclass(eq=False)
class Call:
    """A row at an actor."""

    flight: Flight
    answers: Any  # references, those of chunks and last that of the report, as they are made
    ended: Any  # reference: there once the last answer is
    share: int = 0
    attempt: Attempt | None = None  # of a row that is split, at whose share this is
    head_since: float | None = None
    party: object = None  # the same for rows that are sampled together

    @property
    def is_void(self) -> bool:
        """It is a share of a row that was given up since."""
        return self.attempt is not None and self.attempt.is_over


@dataclass(frozen=True)
class Broken:
    """A call without an answer.

    Attributes:
        lost: the actor; the frames it was given, with the node that held them; or the row alone,
            which could not be handed over to an actor that lives.
    """

    lost: Literal["actor", "frames", "row"]
    error_type: str
    reason: str


@dataclass(eq=False)
class Worker:
    """An actor and what it holds.

    Attributes:
        coming: rows that were sampled with the last of its `calls` and have not been asked for yet.
    """

    actor: Any
    born: Any  # object reference: there once the actor's constructor is done
    started_at: float
    ready: bool = False  # it came up; until then it is given no row, which could not be to blame
    calls: deque[Call] = field(default_factory=deque[Call])
    coming: deque[Flight] = field(default_factory=deque[Flight])
    alone: bool = False  # a row that already killed an actor is in: nobody beside it
    signature: Any = None

    @property
    def has_room(self) -> bool:
        """For a row that is sampled with those at work: its clip waits in the actor as latents."""
        return bool(self.coming) and len(self.calls) < SLOTS

    @property
    def party(self) -> list[Flight]:
        """The row at work and those that were sampled with it and have not ended."""
        head = self.calls[0].party
        found = [call.flight for call in self.calls if call.party is head]
        return [*found, *self.coming] if self.calls[-1].party is head else found


class ActorPool:
    """Equal actors of one stage.

    Args:
        name: the stage.
        spawn: starts one actor that has `run(job, chunks)`.
        size: how many.
        deadline: seconds a call may take before its actor is killed.
        start_deadline: seconds for the first actor to come up, or the pool is given up.
    """

    def __init__(
        self,
        name: str,
        spawn: Callable[[], Any],
        size: int,
        deadline: float = CALL_DEADLINE,
        start_deadline: float = START_DEADLINE,
    ) -> None:
        self.name = name
        self.spawn = spawn
        self.deadline = deadline
        self.start_deadline = start_deadline
        self.crashes_in_a_row = 0
        self.has_worked = False
        self.workers = [Worker(*self._start()) for _ in range(size)]

    def _start(self) -> tuple[Any, Any, float]:
        actor = self.spawn()
        return actor, actor.__ray_ready__.remote(), time.monotonic()

    def note_answer(self) -> None:
        """An actor has done a row, or told why it cannot be done: the pool lives."""
        self.crashes_in_a_row = 0
        self.has_worked = True

    def find(self, flight: Flight) -> Worker | None:
        """The worker that should take this row: free, least loaded, its model already warm."""
        wanted = flight.job.signature
        return min(
            self._free(1 if flight.crashes > 0 else SLOTS),
            key=lambda w: (len(w.calls), w.signature not in (None, wanted)),
            default=None,
        )

    def idlest(self) -> Worker | None:
        """The worker that should be given a row next, whichever it is; None where all are full."""
        return min(self._free(SLOTS), key=lambda w: len(w.calls), default=None)

    def _free(self, slots: int) -> list[Worker]:
        return [
            w
            for w in self.workers
            if w.ready and not w.alone and not w.coming and len(w.calls) < slots
        ]

    def gather(self, flight: Flight, most: int) -> list[Worker]:
        """The workers that should take a row's shares, at most so many; none while they are busy, or
        while others may still come up.

        All shares go to their actors at once, and an actor takes its rows in turn: so no two rows can
        wait for each other.
        """
        now = time.monotonic()
        up = [worker for worker in self.workers if worker.ready]
        if len(up) < most and any(
            not worker.ready and now - worker.started_at < GATHER_SECONDS for worker in self.workers
        ):
            return []
        wanted = flight.job.signature
        free = self._free(1 if flight.crashes > 0 else SLOTS)
        free.sort(key=lambda w: (len(w.calls), w.signature not in (None, wanted)))
        count = min(most, len(up))
        return free[:count] if len(free) >= count else []

    def accept(self, flight: Flight, most: int = 1) -> bool:
        """Give a row to an actor, or its shares to at most so many; whether there was room."""
        most = min(most, len(self.workers))
        found = self.find(flight) if most == 1 else None
        workers = self.gather(flight, most) if most > 1 else [found] if found else []
        if len(workers) == 1:
            self.submit(workers[0], flight)
        elif workers:
            flight.attempt = Attempt(len(workers), beside_samplers())
            for share, worker in enumerate(workers):
                self.submit(worker, flight, share)
        return bool(workers)

    def submit(
        self,
        worker: Worker,
        flight: Flight,
        share: int | None = None,
        others: Sequence[Flight] = (),
        party: object = None,
    ) -> None:
        """Give a row to an actor, or a share of it; the `others` of its `party` come next, to be sampled
        with it."""
        attempt = None if share is None else flight.attempt
        more = () if share is None else (flight.attempt.line(share),)
        if others:
            more = (None, [other.job for other in others])
        answers = worker.actor.run.remote(flight.job, flight.chunks, *more)
        call = Call(flight, answers, answers.completed(), share or 0, attempt)
        call.party = party or call
        worker.calls.append(call)
        worker.alone = flight.crashes > 0
        worker.signature = flight.job.signature
        _start_clock(worker)

    def submit_together(self, worker: Worker, flights: Sequence[Flight]) -> None:
        """Give rows to an actor that are sampled together: the first now, the others by `submit_coming`."""
        first, *others = flights
        worker.coming.extend(others)
        self.submit(worker, first, others=others)

    def submit_coming(self, worker: Worker) -> None:
        """Ask an actor that has room for the next of the rows that were sampled together."""
        party = worker.calls[-1].party if worker.calls else None
        flight = worker.coming.popleft()
        self.submit(worker, flight, others=list(worker.coming), party=party)

    def take(self, worker: Worker, call: Call) -> None:
        """The call has ended; the next one's time begins."""
        worker.calls.remove(call)
        worker.alone = False
        _start_clock(worker)

    def replace(self, worker: Worker) -> list[Flight]:
        """Kill and respawn; returns the rows that were lost with the actor, oldest first."""
        ray.kill(worker.actor)
        lost = [call.flight for call in worker.calls if not call.is_void] + [*worker.coming]
        worker.calls.clear()
        worker.coming.clear()
        worker.ready, worker.alone, worker.signature = False, False, None
        worker.actor, worker.born, worker.started_at = self._start()
        return lost

    def kill(self) -> None:
        for worker in self.workers:
            ray.kill(worker.actor)
        self.workers = []


def _start_clock(worker: Worker) -> None:
    if worker.calls and worker.calls[0].head_since is None:
        worker.calls[0].head_since = time.monotonic()


def beside_samplers() -> dict[str, Any]:
    """Options of an actor that mostly waits, without a logical CPU: on a node that computes, which a
    cluster's head may not."""
    able = [
        node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")
    ]
    options: dict[str, Any] = {"num_cpus": 0, "num_gpus": 0, "max_restarts": 0}
    if able:  # should it die meanwhile, the pool starts another, elsewhere; "soft" may be anywhere
        node = random.choice(able)
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
    return options


def wait(references: Sequence[Any]) -> list[Any]:
    """References whose calls have ended, after at most a quarter of a second."""
    ready, _ = ray.wait(list(references), num_returns=1, timeout=0.25)
    if ready:  # and all others that have ended meanwhile
        ready, _ = ray.wait(list(references), num_returns=len(references), timeout=0)
    return ready


def why_not_born(worker: Worker) -> str | None:
    """Why an actor did not come up; None when it did."""
    try:
        ray.get(worker.born)
    except RayError as error:
        return _reason(error)
    return None


@dataclass(frozen=True)
class Answer:
    """What an actor made of a row: references to chunks of frames, and what it says of its work."""

    said: Report | StageFailure
    chunks: Sequence[Any]


def answer(call: Call) -> Answer | Broken:
    """What came of a call that has ended."""
    try:
        *chunks, last = call.answers
        return Answer(ray.get(last, timeout=10), chunks)
    except RayError as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        kind = type(cause).__name__
        if isinstance(cause, ObjectLostError | GetTimeoutError):
            return Broken("frames", kind, f"its frames were lost: {_reason(cause)}")
        if isinstance(error, RayTaskError):
            return Broken("row", kind, str(cause))
        return Broken("actor", kind, f"its actor died: {_reason(error)}")


def _reason(error: BaseException) -> str:
    """An error in one line; of one that Ray passes on with its traceback, the last, which says it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if getattr(error, "actor_init_failed", False) else lines[0]
