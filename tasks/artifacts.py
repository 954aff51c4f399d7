"""What people see of a run in Prefect: its progress, its shards, its failures, and the summary.

The videos are there whatever Prefect's server says: where it does not answer, that is a line in the log.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, NamedTuple

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from manifests.storage import RunFolder
from tasks.publish import Cause, failures_by_cause, summary_markdown

log = logging.getLogger("zs2.artifacts")

EVERY = 10.0  # seconds between two updates of the progress: Prefect's server keeps every event
PATIENCE = 20.0  # seconds at the end: answers that do not come must not hold what is done
MOST_FAILURES = 100  # rows of the table; `zs2 status` has all


class Progress(NamedTuple):
    """How far a run is: rows that have a result, of how many, and how many of them failed."""

    ended: int
    rows: int
    failed: int

    def percent(self) -> float:
        """Rows that have a result, in per cent; 100 of no rows."""
        return 100.0 * self.ended / self.rows if self.rows else 100.0

    def told(self) -> str:
        """The three numbers in words."""
        return f"{self.ended:,} of {self.rows:,} rows, {self.failed:,} failed"


@contextmanager
def progress_artifact(ask: Callable[[], Progress], every: float = EVERY) -> Generator[None]:
    """While this is open a progress artifact follows the run, from a thread of its own.

    Args:
        ask: how far the run is now; called in that thread.
    """
    over = threading.Event()
    thread = _beside(lambda: _follow(ask, over, every))
    try:
        yield
    finally:
        over.set()
        thread.join(PATIENCE)


def _beside(work: Callable[[], None]) -> threading.Thread:
    """Do it in a thread that nobody has to wait for, and that knows the flow run as this one does."""
    run = copy_context().run
    thread = threading.Thread(target=run, args=[work], name="zs2-artifacts", daemon=True)
    thread.start()
    return thread


def _follow(ask: Callable[[], Progress], over: threading.Event, every: float) -> None:
    artifact: Any = None
    shown: Progress | None = None
    is_over = False
    while True:
        now = ask()
        if now != shown:
            try:
                if artifact is None:
                    artifact = create_progress_artifact(
                        now.percent(), key="render-progress", description=now.told()
                    )
                else:
                    update_progress_artifact(artifact, now.percent(), description=now.told())
                shown = now
            except Exception as error:  # of any kind; the next attempt may do
                _say("progress", error)
        if is_over:
            return
        is_over = over.wait(every)  # and once more at the end


def leave_artifacts(
    folder: RunFolder, title: str, summary: Mapping[str, Any], shards: Sequence[Mapping[str, Any]]
) -> None:
    """Tables of the shards and of failures by cause, and the summary, for a run that has ended.

    Args:
        shards: of this run, one row of the table each.
    """
    svg = folder.throughput_file.read_text("utf-8") if "throughput" in summary else None
    causes = failures_by_cause(folder)
    thread = _beside(lambda: _leave_all(folder.address, title, summary, shards, causes, svg))
    thread.join(PATIENCE)
    if thread.is_alive():
        log.warning("Prefect's server is slow to take the artifacts; the run goes on")


def _leave_all(
    address: str,
    title: str,
    summary: Mapping[str, Any],
    shards: Sequence[Mapping[str, Any]],
    causes: Sequence[Cause],
    svg: str | None,
) -> None:
    if shards:
        _leave(
            "shards",
            lambda: create_table_artifact(
                [dict(each) for each in shards],
                key="render-shards",
                description=f"The shards of {title}: rows that this run rendered",
            ),
        )
    if causes:
        _leave(
            "failures",
            lambda: create_table_artifact(
                [_cells(cause) for cause in causes[:MOST_FAILURES]],
                key="render-failures",
                description=f"Why rows of {title} have no video, {len(causes)} causes; "
                f"`zs2 status {address}` has all, with the messages whole",
            ),
        )
    _leave(
        "summary",
        lambda: create_markdown_artifact(
            summary_markdown(address, title, summary, causes, svg),
            key="render-summary",
            description=f"What became of {title}",
        ),
    )


def _cells(cause: Cause) -> dict[str, Any]:
    return {
        "rows": cause.rows,
        "stage": cause.stage,
        "error": cause.error,
        "cause": cause.message,
        "e.g.": cause.example,
    }


def _leave(what: str, create: Callable[[], object]) -> None:
    try:
        create()
    except Exception as error:  # of any kind: the videos are there, whatever Prefect's server says
        _say(what, error)


def _say(what: str, error: Exception) -> None:
    log.warning("no artifact of the %s: %s: %s", what, type(error).__name__, error)
