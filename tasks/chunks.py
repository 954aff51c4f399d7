"""A clip as chunks, arrays of a few frames each, so that a long one goes through a stage in little memory.

A chunk is uint8 RGB (frame ≥ 1, height, width, 3); a clip is an iterable of them.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from queue import Full, Queue
from threading import Event, Thread
from typing import Any

import numpy as np

Frames = np.ndarray[Any, Any]

CHUNK_BYTES = 32 * 2**20  # what a chunk should not exceed, where one frame does not
_AHEAD = 4  # chunks; those that stages make are of one frame, or of those between two
_LOOK = 0.2  # seconds between looks at whether the reader has gone


class StageError(Exception):
    """Frames could not be made; `__cause__` is what was raised.

    Attributes:
        stage: that should have made them; None where it was no stage, but what the first one reads.
    """

    def __init__(self, stage: str | None) -> None:
        super().__init__(stage)
        self.stage = stage


def frames_a_chunk(height: int, width: int) -> int:
    """How many frames of this size make a chunk, at least one."""
    return max(1, CHUNK_BYTES // (height * width * 3))


class Timed:
    """Chunks as they come, and the seconds that they took to come, those of earlier stages included.

    Args:
        stage: whose work it is, if it is a stage's; what goes wrong is raised as its `StageError`, unless
            an earlier stage's is.
    """

    def __init__(self, chunks: Iterable[Frames], stage: str | None = None) -> None:
        self.seconds = 0.0
        self.stage = stage
        self._chunks = iter(chunks)

    def __iter__(self) -> Iterator[Frames]:
        return self

    def __next__(self) -> Frames:
        started = time.monotonic()
        try:
            return next(self._chunks)
        except (StopIteration, StageError):
            raise
        except Exception as error:
            raise StageError(self.stage) from error
        finally:
            self.seconds += time.monotonic() - started


@contextmanager
def ahead(chunks: Iterable[Frames]) -> Generator[Iterator[Frames]]:
    """The same chunks, made in a thread of their own, a few ahead of the reader.

    What the maker raises is raised where its chunk would have come. Leaving before the end ends the
    thread after the chunk it is at.
    """
    made: Queue[Frames | None] = Queue(_AHEAD)
    left = Event()
    raised: list[BaseException] = []

    def put(item: Frames | None) -> None:
        while not left.is_set():
            try:
                made.put(item, timeout=_LOOK)
            except Full:
                continue
            return

    def make() -> None:
        try:
            for chunk in chunks:
                put(chunk)
                if left.is_set():
                    return
        except BaseException as error:
            raised.append(error)
        put(None)

    def read() -> Iterator[Frames]:
        while (chunk := made.get()) is not None:
            yield chunk
        if raised:
            raise raised[0]

    maker = Thread(target=make, name="zs2-ahead", daemon=True)
    maker.start()
    try:
        yield read()
    finally:
        left.set()
        maker.join()
