"""When each actor of a run had a row, and why it had none: the driver's own record of its pools.

Kept as seconds in a few dozen spans of time, which grow wider as the run goes on: its size depends on
the number of actors alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from typing import Any, Protocol

Seconds = dict[str, float]  # by state

MOST_SPANS = 60
FIRST_SPAN = 0.5  # seconds; doubled whenever MOST_SPANS of them are full

BUSY = "busy"
# Why an actor has no row.
STARTING = "starting"  # it is not up yet, or again
POST_BEHIND = "post behind"  # rows wait for the later stages, and sampling waits for them
NO_ROW = "no row ready"  # of the open shards, or from the stage before


@dataclass
class _Actor:
    """What one actor did.

    Attributes:
        seconds: busy, by span.
        warm: seconds by state since the actor's first row had ended, up to the last one that it was
            given: what came later is the run's end, not a gap.
        gaps: seconds by state since its last row had ended.
    """

    state: str
    since: float
    seconds: list[float] = field(default_factory=lambda: [0.0] * MOST_SPANS)
    total: Seconds = field(default_factory=dict[str, float])
    warm: Seconds = field(default_factory=dict[str, float])
    gaps: Seconds = field(default_factory=dict[str, float])
    is_warm: bool = False


class Utilisation:
    """Told by the pipeline, in its thread, what every actor does; asked by others in passing.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self.begin = datetime.now(UTC)
        self._span = FIRST_SPAN
        self._actors: dict[tuple[str, int], _Actor] = {}
        self._lock = Lock()

    def note(self, stage: str, number: int, state: str) -> None:
        """An actor is in this state now, whatever it was in before."""
        actor = self._actors.get((stage, number))
        if actor is not None and actor.state == state:
            return
        with self._lock:
            now = self._clock()
            if actor is None:
                self._actors[stage, number] = _Actor(state, now)
            else:
                self._close(actor, now)
                actor.state = state

    def note_answer(self, stage: str, number: int) -> None:
        """An actor has ended a row: it is warm."""
        actor = self._actors.get((stage, number))
        if actor is not None and not actor.is_warm:
            with self._lock:
                self._close(actor, self._clock())
                actor.is_warm = True

    def record(self) -> dict[str, Any]:
        """For summary.json: the share of time that samplers had a row, warm-up left out; seconds of
        each stage by state; and for each actor the percentage of each span that it had a row."""
        with self._lock:
            now = self._clock()
            for actor in self._actors.values():
                self._close(actor, now)
            return self._record(int((now - self._began) / self._span) + 1)

    def _record(self, spans: int) -> dict[str, Any]:
        seconds: dict[str, Seconds] = {}
        for (stage, _), actor in self._actors.items():
            _add(seconds.setdefault(stage, {}), actor.total)
        warm = self._warm("sample")
        total = sum(warm.values())
        return {
            "begin": self.begin.isoformat(),
            "span_seconds": self._span,
            "sampler_busy_share": round(warm.get(BUSY, 0.0) / total, 4) if total else None,
            "sampler_waited_seconds": _rounded({s: warm[s] for s in warm if s != BUSY}),
            "seconds": {stage: _rounded(found) for stage, found in seconds.items()},
            "actors": [
                {
                    "stage": stage,
                    "actor": number,
                    "busy_percent": [round(100 * s / self._span) for s in actor.seconds[:spans]],
                }
                for (stage, number), actor in sorted(self._actors.items(), key=_samplers_first)
            ],
        }

    def _warm(self, stage: str) -> Seconds:
        found: Seconds = {}
        for (name, _), actor in self._actors.items():
            if name == stage:
                _add(found, actor.warm)
        return found

    def _close(self, actor: _Actor, now: float) -> None:
        """Put down the time that the actor has been in its state."""
        begin, seconds = actor.since, now - actor.since
        actor.since = now
        here = {actor.state: seconds}
        _add(actor.total, here)
        if actor.is_warm and actor.state == BUSY:
            _add(actor.warm, actor.gaps)
            actor.gaps.clear()
            _add(actor.warm, here)
        elif actor.is_warm:
            _add(actor.gaps, here)
        if actor.state == BUSY:
            self._spread(actor.seconds, begin, now)

    def _spread(self, spans: list[float], begin: float, end: float) -> None:
        while end - self._began > MOST_SPANS * self._span:
            self._widen()
        at = int((begin - self._began) / self._span)
        while begin < end and at < MOST_SPANS:
            until = min(end, self._began + (at + 1) * self._span)
            spans[at] += max(0.0, until - begin)
            begin, at = until, at + 1

    def _widen(self) -> None:
        self._span *= 2
        half = MOST_SPANS // 2
        for actor in self._actors.values():
            old = actor.seconds
            actor.seconds[:] = [old[2 * i] + old[2 * i + 1] for i in range(half)] + [0.0] * half


class Worker(Protocol):
    """An actor as its pool knows it."""

    ready: bool

    @property
    def calls(self) -> Any: ...


def note_pools(
    made: Utilisation, pools: Iterable[tuple[str, Iterable[Worker]]], *, paused: bool
) -> None:
    """Note what every actor does now.

    Args:
        pools: name and actors of each stage, the samplers first.
        paused: sampling waits for the later stages.
    """
    for index, (name, workers) in enumerate(pools):
        why_idle = POST_BEHIND if paused and index == 0 else NO_ROW
        for number, worker in enumerate(workers):
            state = BUSY if worker.calls else why_idle if worker.ready else STARTING
            made.note(name, number, state)


def _add(into: Seconds, more: Mapping[str, float]) -> None:
    for state, seconds in more.items():
        into[state] = into.get(state, 0.0) + seconds


def _rounded(found: Mapping[str, float]) -> dict[str, float]:
    return {state: round(seconds, 3) for state, seconds in sorted(found.items())}


def _samplers_first(item: tuple[tuple[str, int], _Actor]) -> tuple[bool, str, int]:
    (stage, number), _ = item
    return stage != "sample", stage, number
