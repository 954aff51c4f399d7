"""The log of a flow run: what zs2 logs anywhere in the process, without a flood of like lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FIRST = 10  # records of one cause that are passed on as they come
EVERY = 60.0  # seconds between the lines that sum up the further ones


@dataclass
class _Cause:
    passed: int = 0
    held: int = 0
    last: str = ""
    level: int = logging.INFO
    since: float = 0.0


class RunLog(logging.Handler):
    """Passes records on to `say`; of each cause the first ones, then a line a minute with their number.

    A record's cause is its `zs2_cause`, which `tasks.render` gives to rows that failed, else its logger
    and its text before the values are put in: both are few, however many rows there are.

    Args:
        say: level and message; called in the thread that logs.
        clock: seconds.
    """

    def __init__(
        self, say: Callable[[int, str], Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(logging.INFO)
        self._say = say
        self._clock = clock
        self._causes: dict[object, _Cause] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on, or count it; `logging` lets one thread at a time in."""
        key = getattr(record, "zs2_cause", None) or (record.name, record.msg)
        cause = self._causes.setdefault(key, _Cause())
        if cause.passed < FIRST:
            cause.passed += 1
            cause.since = self._clock()
            self._say(record.levelno, self.format(record))
            return
        cause.held += 1
        cause.last, cause.level = record.getMessage(), record.levelno
        if self._clock() - cause.since >= EVERY:
            self._sum_up(cause)

    def close(self) -> None:
        """Say what was counted and not yet said."""
        for cause in self._causes.values():
            if cause.held:
                self._sum_up(cause)
        self._causes.clear()
        super().close()

    def _sum_up(self, cause: _Cause) -> None:
        self._say(cause.level, f"{cause.held} more like this one: {cause.last}")
        cause.held, cause.since = 0, self._clock()
