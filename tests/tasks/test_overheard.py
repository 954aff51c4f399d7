"""What actors hear while they work on a row, and pass on with its report."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from tasks.overheard import MOST, overheard

log = logging.getLogger("zs2.test_overheard")


@pytest.mark.filterwarnings("always")
def test_logged_and_raised_warnings_go_into_the_report() -> None:
    """Warnings of `logging` and of `warnings`, in one line and once each; not what is told below that
    level, and nothing of the row before."""

    @overheard
    def run(job: str, frames: Any) -> Iterator[Any]:
        """Its words."""
        log.info("working on %s", job)
        for _ in range(2):
            log.warning("%s:\nout of memory", job)
        warnings.warn("a lens is cracked", UserWarning, stacklevel=1)
        yield frames
        yield {"seconds": 1}

    for row in ("one", "two"):
        frames, report = run(row, 7)
        first, second = report["warned"]
        assert first == f"{row}: out of memory" and "UserWarning: a lens is cracked" in second
        assert frames == 7 and report["seconds"] == 1
    assert run.__doc__ == "Its words."


def test_quiet_rows_failures_and_floods() -> None:
    """Nothing heard, nothing added; a failure is passed on as it is; a flood is cut off."""
    assert list(overheard(lambda: iter([{"a": 1}]))()) == [{"a": 1}]
    failure = object()

    def fail() -> Iterator[object]:
        log.warning("before it failed")
        yield failure

    assert list(overheard(fail)()) == [failure]

    def flood() -> Iterator[dict[str, Any]]:
        for number in range(100):
            log.warning("number %d %s", number, "x" * 10_000)
        yield {}

    heard = next(overheard(flood)())["warned"]
    assert len(heard) == MOST and all(len(text) <= 500 for text in heard)


def test_a_row_that_raises_leaves_no_ear_behind() -> None:
    """An exception passes, and the next row's warnings are its own."""
    before = list(logging.getLogger().handlers)

    def broken() -> Iterator[object]:
        yield 1
        raise KeyError("no")

    with pytest.raises(KeyError):
        list(overheard(broken)())
    assert logging.getLogger().handlers == before
