"""A row on its way through the stages, and the shard it came from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tasks.job import Ending, Job


@dataclass(eq=False)
class Flight:
    """One row on its way through the stages.

    Attributes:
        attempt: while its shares are sampled by several actors, a `tasks.handover.Attempt`.
        is_whole: it is not to be split, whatever the run does.
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
    """

    jobs: Iterator[Job]
    on_end: Callable[[Ending], None]
    signature: Any = None
    overtaken: int = 0
    in_flight: int = 0
    exhausted: bool = False
    error: Exception | None = None
    finished: threading.Event = field(default_factory=threading.Event)
