"""Bounded pools of equal Ray actors: who takes a row, what came of it, who is replaced.

Two slots an actor, nothing unbounded. Which rows there are, and what becomes of a row whose actor
died, is `tasks.pipeline`'s to say.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayError, RayTaskError

from tasks.actors import Report, StageFailure
from tasks.flight import Flight
from tasks.job import CALL_DEADLINE

SLOTS = 2  # one at work, one waiting, so that an actor never idles between rows
START_DEADLINE = 900.0  # seconds for an actor to come up: its node may have to be found and filled


class PoolError(RuntimeError):
    """The run cannot go on: its actors do not live."""


@dataclass(eq=False)
class Call:
    """A row at an actor."""

    flight: Flight
    answers: Any  # references, those of chunks and last that of the report, as they are made
    ended: Any  # reference: there once the last answer is
    head_since: float | None = None


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
    """An actor and what it holds."""

    actor: Any
    born: Any  # object reference: there once the actor's constructor is done
    started_at: float
    ready: bool = False  # it came up; until then it is given no row, which could not be to blame
    calls: deque[Call] = field(default_factory=deque[Call])
    alone: bool = False  # a row that already killed an actor is in: nobody beside it
    signature: Any = None


class ActorPool:
    """Equal actors of one stage.

    Args:
        name: the stage.
        spawn: starts one actor that has `run(job, chunks)`.
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
        return [w for w in self.workers if w.ready and not w.alone and len(w.calls) < slots]

    def submit(self, worker: Worker, flight: Flight) -> None:
        answers = worker.actor.run.remote(flight.job, flight.chunks)
        call = Call(flight, answers, answers.completed())
        worker.calls.append(call)
        worker.alone = flight.crashes > 0
        worker.signature = flight.job.signature
        _start_clock(worker)

    def take(self, worker: Worker, call: Call) -> None:
        """The call has ended; the next one's time begins."""
        worker.calls.remove(call)
        worker.alone = False
        _start_clock(worker)

    def replace(self, worker: Worker) -> list[Call]:
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


def _start_clock(worker: Worker) -> None:
    if worker.calls and worker.calls[0].head_since is None:
        worker.calls[0].head_since = time.monotonic()


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
