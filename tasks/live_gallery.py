"""The gallery of a run that goes on, rewritten as rows end by a process of its own.

Not by the driver: reading the journal of 100,000 rows takes seconds of Python, in which its pipeline
would stand still. The process is the last that the system serves (nice 19), spends at most SHARE of
one core, and ends with the driver, however that ends: then its standard input is at its end.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from manifests.ledger import iter_results
from manifests.storage import RunFolder

log = logging.getLogger("zs2.gallery")

FIRST = 4.0  # seconds of a run before its first page: a short run has only the last one
EVERY = 4.0  # seconds between pages, at least
SHARE = 0.05  # of one core
PATIENCE = 10.0  # seconds for a page that is being written when the run ends
_PROGRAM = "import os; os.nice(19); from tasks.live_gallery import main; main()"


@contextmanager
def live_gallery(folder: RunFolder, title: str, total: int) -> Generator[None]:
    """While this is open, index.html follows the ledger; of a store it is written at the end alone.

    Args:
        title: of the page. total: rows of the manifest.
    """
    if folder.remote is not None:
        yield
        return
    watch = _Watch(str(folder.root.absolute()), title, total)
    timer = threading.Timer(FIRST, watch.begin)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        watch.end()


class _Watch:
    """The process that writes, from when the run is old enough."""

    def __init__(self, root: str, title: str, total: int) -> None:
        self._words = [root, title, str(total), datetime.now(UTC).isoformat()]
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        house = str(Path(__file__).resolve().parents[1])
        known = os.environ.get("PYTHONPATH")
        paths = os.pathsep.join([house, known] if known else [house])
        with self._lock:
            if self._is_over:
                return
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _PROGRAM, json.dumps(self._words)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": paths},
                    start_new_session=True,  # Ctrl-C is the driver's
                )
            except OSError as error:  # the run itself needs no such process
                log.warning("index.html is written at the end only: %s", error)

    def end(self) -> None:
        with self._lock:
            self._is_over = True
        if self._process is None:
            return
        try:
            _, said = self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, said = self._process.communicate()
        if said:
            log.warning("index.html was not kept up to date: %s", said.decode(errors="replace"))


def main() -> None:
    """Write pages until standard input ends: what the process does."""
    root, title, total, since = json.loads(sys.argv[1])
    folder, begun = RunFolder(root), datetime.fromisoformat(since)
    every = EVERY
    while True:
        used = time.process_time()
        write_page(folder, title, int(total), begun, every)
        every = max(EVERY, (time.process_time() - used) / SHARE)
        if select.select([sys.stdin], [], [], every)[0]:
            return


def write_page(folder: RunFolder, title: str, total: int, begun: datetime, every: float) -> None:
    """Write the gallery of a run that goes on.

    Args:
        begun: when it began: rows that ended since are its own. every: seconds to the next page.
    """
    from tasks.gallery import choose, scores_of, write_gallery

    choice = choose(iter_results(folder.root), since=begun)
    now = datetime.now(UTC)
    seconds = (now - begun).total_seconds()
    news: dict[str, Any] = {"total": total, "written": round(now.timestamp()), "every": every}
    if choice.ended and seconds > 0:
        news["clips_per_second"] = round(choice.ended / seconds, 4)
    scores = scores_of(folder, choice)
    write_gallery(
        *(folder, choice), title=title, summary={}, state="running", news=news, scores=scores
    )
