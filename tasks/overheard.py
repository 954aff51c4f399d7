"""What was warned of while an actor worked on a row: it goes with the row's report to the driver.

An actor's own output ends in a file of Ray's on its node, where nobody looks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import Any

MOST = 5  # warnings of one row
LONGEST = 500  # characters of one


class _Ear(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())[:LONGEST]
        if len(self._heard) < MOST and text not in self._heard:
            self._heard.append(text)


@contextmanager
def _listening() -> Generator[list[str]]:
    heard: list[str] = []
    ear, root = _Ear(heard), logging.getLogger()
    root.addHandler(ear)
    logging.captureWarnings(True)
    try:
        yield heard
    finally:
        logging.captureWarnings(False)
        root.removeHandler(ear)


def overheard(run: Any) -> Callable[..., Generator[Any]]:
    """An actor's `run` with what any library logged or warned of put into its report, as `warned`:
    warnings and errors, each once. A failure says by itself what was wrong."""

    @wraps(run)
    def listening(*args: Any) -> Generator[Any]:
        with _listening() as heard:
            for made in run(*args):
                if heard and isinstance(made, dict):
                    made["warned"] = heard
                yield made

    return listening
