"""A row on its way through the stages, and the shard it came from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tasks.ending import Ending
from tasks.job import Job


@dataclass(eq=False)
class Flight:
    """One row on its way through the stages.

    Attributes:
        attempt: while its shares are sampled by several actors, a `tasks.handover.Attempt`.
        is_whole: it is not to be split, whatever the run does.
        most_together: with how many rows, itself among them, it is sampled at most; None where no actor
            died of such rows.
    """

    job: Job
    source: Source
    started_at: datetime
    stage: int = 0
    chunks: Sequence[Any] = ()  # object references; the driver never holds pixels
    report: dict[str, Any] = field(default_factory=dict[str, Any])
    crashes: int = 0
    attempt: Any = None
    is_whole: bool = False
    most_together: int | None = None

    def end_attempt(self) -> None:
        """Its shares are given up, if it has any; what they answer from now on counts nothing."""
        if self.attempt is not None:
            self.attempt.end()
            self.attempt = None


@dataclass(eq=False)
class Source:
    """The rows of one shard, pulled one by one.

    Attributes:
        signature: what its rows need an actor to have loaded; None where that is not known.
        overtaken: rows of younger shards that began since this one was opened.
        exhausted: no row is left; `error`: why, where a damaged manifest ended it.
    """

    jobs: Iterator[Job]
    on_end: Callable[[Ending], None]
    signature: Any = None
    overtaken: int = 0
    in_flight: int = 0
    exhausted: bool = False
    error: Exception | None = None
    finished: threading.Event = field(default_factory=threading.Event)
    _returned: Job | None = None

    def next_flight(self) -> Flight | None:
        """The next row begins; None where there is none."""
        job = self._next_job()
        return None if job is None else self._begin(job)

    def next_beside(self, first: Flight) -> Flight | None:
        """The next row begins, if it may share its UNet calls with the first; else it stays the next."""
        job = self._next_job()
        if job is None:
            return None
        if not first.job.shares_calls_with(job):
            self._returned = job
            return None
        return self._begin(job)

    def _begin(self, job: Job) -> Flight:
        self.in_flight += 1
        return Flight(job, self, datetime.now(UTC))

    def _next_job(self) -> Job | None:
        job, self._returned = self._returned, None
        try:
            return next(self.jobs) if job is None else job
        except StopIteration:
            self.exhausted = True
        except Exception as error:  # a damaged manifest: this shard ends, others go on
            self.exhausted, self.error = True, error
        return None
