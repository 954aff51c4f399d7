"""What the samplers of one clip hand on to one another: a small mailbox actor for each attempt at a row.

A share puts what it leaves into the object store and a reference to it into the mailbox; the share behind
it takes that out again, in the same order. There is room for a few messages only, so that a share which
is ahead waits. Nobody waits for the dead: the mailbox is killed as soon as a share is lost, which ends
every wait at it, and it ends with the run's driver.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

ROOM = 2  # messages that wait for one share


class HandoverError(RuntimeError):
    """The sampler of another share of the clip is gone, or the row was given up."""


class Mailbox:
    """An actor: for each share a line of numbered references, from the share before it."""

    def __init__(self, count: int) -> None:
        self._lines: list[asyncio.Queue[tuple[int, list[Any]]]] = [
            asyncio.Queue(ROOM) for _ in range(count)
        ]

    async def put(self, share: int, number: int, sent: list[Any]) -> None:
        """Returns once there is room; `sent` holds a reference, which an argument by itself would not."""
        await self._lines[share].put((number, sent))

    async def take(self, share: int) -> tuple[int, list[Any]]:
        """The next message for a share; waits for it."""
        return await self._lines[share].get()


def open_mailbox(count: int, options: Mapping[str, Any]) -> Any:
    """Start a mailbox for so many shares; it takes no logical CPU."""
    return ray.remote(Mailbox).options(**options).remote(count)


@dataclass
class Line:
    """A share's own end of the mailbox, in its sampler.

    Attributes:
        index, count: which share of how many.
        bytes: handed on so far.
        seconds: spent in handing on and in fetching what was there; `waited` spent in waiting for it.
    """

    index: int
    count: int
    mailbox: Any
    bytes: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    _last: Any = field(default=None, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether nobody hands anything on to this share."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether this share hands nothing on."""
        return self.index == self.count - 1

    def send(self, number: int, value: Any, arrays: Iterable[Any] = ()) -> None:
        """Hand a message on to the next share; waits while it has not taken the ones before.

        Args:
            arrays: those in `value`, whose bytes are counted.

        Raises:
            HandoverError: nobody will take it.
        """
        self.settle()
        began = time.monotonic()
        sent = ray.put(value)
        self._last = self.mailbox.put.remote(self.index + 1, number, [sent])
        self.seconds += time.monotonic() - began
        self.bytes += sum(array.nbytes for array in arrays)

    def receive(self, number: int) -> Any:
        """The message of that number from the share before; waits for it.

        Raises:
            HandoverError: it will not come.
        """
        found, [sent] = self._await(self.mailbox.take.remote(self.index))
        if found != number:
            raise HandoverError(f"expected message {number} of the share before, found {found}")
        began = time.monotonic()
        try:
            return ray.get(sent)
        except RayError as error:
            raise HandoverError(f"what the share before sent is lost: {error}") from error
        finally:
            self.seconds += time.monotonic() - began

    def settle(self) -> None:
        """Wait until the last message is in the mailbox.

        Raises:
            HandoverError: nobody will take it.
        """
        last, self._last = self._last, None
        if last is not None:
            self._await(last)

    def _await(self, reference: Any) -> Any:
        began = time.monotonic()
        try:
            return ray.get(reference)
        except RayError as error:
            raise HandoverError(
                f"share {self.index + 1} of {self.count} was given up: {type(error).__name__}"
            ) from error
        finally:
            self.waited += time.monotonic() - began

    def report(self) -> dict[str, Any]:
        """What handing over has cost."""
        return {"bytes": self.bytes, "seconds": self.seconds, "waited": self.waited}


class Attempt:
    """One attempt at a split row, as the driver sees it.

    Attributes:
        is_over: all shares have answered, or it was given up; an answer that comes later counts nothing.
    """

    def __init__(self, count: int, options: Mapping[str, Any]) -> None:
        self.count = count
        self.is_over = False
        self._mailbox = open_mailbox(count, options)
        self._answers: dict[int, tuple[Mapping[str, Any], Sequence[Any]]] = {}

    def line(self, index: int) -> Line:
        """What a share's sampler is given."""
        return Line(index, self.count, self._mailbox)

    def add(
        self, index: int, report: Mapping[str, Any], chunks: Sequence[Any]
    ) -> tuple[dict[str, Any], list[Any]] | None:
        """A share is done. Returns the clip's report and its chunks in order, once all are."""
        self._answers[index] = (report, chunks)
        if len(self._answers) < self.count:
            return None
        self.end()
        in_order = [self._answers[i] for i in range(self.count)]
        whole = merged([told for told, _ in in_order])
        return whole, [chunk for _, own in in_order for chunk in own]

    def end(self) -> None:
        """Give the others up, too; those that wait for one another hear of it."""
        if not self.is_over:
            self.is_over = True
            ray.kill(self._mailbox)


def merged(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The report of a clip of those of its shares: seconds of all together, each note once. What is the
    whole clip's each share tells, λ reached and UNet calls."""
    whole = dict(reports[0])
    whole["seconds_sample"] = sum(report["seconds_sample"] for report in reports)
    for key, between in (("device", ", "), ("node", ", "), ("note", "; ")):
        if told := dict.fromkeys(str(report[key]) for report in reports if report.get(key)):
            whole[key] = between.join(told)
    if warned := dict.fromkeys(text for report in reports for text in report.get("warned", ())):
        whole["warned"] = list(warned)
    whole["shares"] = [report["share"] for report in reports]
    del whole["share"]
    return whole
