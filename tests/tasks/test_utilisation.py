"""The record of what actors did, from a clock whose time is known."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest

from tasks.utilisation import (
    BUSY,
    FIRST_SPAN,
    MOST_SPANS,
    NO_ROW,
    POST_BEHIND,
    STARTING,
    Utilisation,
    note_pools,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def told(made: Utilisation, clock: Clock, *states: tuple[str, float]) -> None:
    """One sampler's states, each for so many seconds."""
    for state, seconds in states:
        made.note("sample", 0, state)
        clock.now += seconds


def test_warm_up_and_the_end_of_a_run_are_no_gaps():
    """The share counts from the first row's end to the last row's: 16 s busy and 4 s of waiting, each
    with its cause; the start, the first row and the time after the last row count in the totals."""
    clock = Clock()
    made = Utilisation(clock)
    told(made, clock, (STARTING, 10), (BUSY, 5))
    made.note_answer("sample", 0)
    told(made, clock, (BUSY, 7), (POST_BEHIND, 3), (BUSY, 8), (NO_ROW, 1), (BUSY, 1), (NO_ROW, 50))
    record = made.record()
    assert record["sampler_busy_share"] == pytest.approx(16 / 20)
    assert record["sampler_waited_seconds"] == {NO_ROW: 1.0, POST_BEHIND: 3.0}
    assert record["seconds"] == {
        "sample": {BUSY: 21.0, NO_ROW: 51.0, POST_BEHIND: 3.0, STARTING: 10.0}
    }


def test_nothing_is_said_of_a_share_before_a_row_has_ended():
    clock = Clock()
    made = Utilisation(clock)
    told(made, clock, (STARTING, 10), (BUSY, 5))
    assert made.record()["sampler_busy_share"] is None


@pytest.mark.parametrize("seconds", [3, 29, 1000, 86_400])
def test_the_timeline_stays_small_and_adds_up(seconds: float):
    """However long the run: never more than MOST_SPANS figures an actor, all of its busy time in them,
    where it was."""
    clock = Clock()
    made = Utilisation(clock)
    told(made, clock, (BUSY, seconds / 4), (NO_ROW, seconds / 2), (BUSY, seconds / 4))
    record = made.record()
    (actor,) = record["actors"]
    spans = actor["busy_percent"]
    assert len(spans) <= MOST_SPANS and (record["span_seconds"] / FIRST_SPAN).is_integer()
    total = sum(spans) / 100 * record["span_seconds"]
    assert total == pytest.approx(seconds / 2, rel=0.05)
    assert spans[0] == 100 and spans[len(spans) // 2] == 0


@dataclass
class Pooled:
    ready: bool = True
    calls: deque[Any] = field(default_factory=deque[Any])


def test_why_an_actor_has_no_row():
    """Samplers wait for later stages while these are full, else for rows; later stages for rows."""
    clock = Clock()
    made = Utilisation(clock)
    pools = [("sample", [Pooled(), Pooled(calls=deque([1])), Pooled(False)]), ("post", [Pooled()])]
    note_pools(made, pools, paused=True)
    clock.now += 2
    note_pools(made, pools, paused=False)
    clock.now += 1
    assert made.record()["seconds"] == {
        "sample": {POST_BEHIND: 2.0, NO_ROW: 1.0, BUSY: 3.0, STARTING: 3.0},
        "post": {NO_ROW: 3.0},
    }
    names = [(actor["stage"], actor["actor"]) for actor in made.record()["actors"]]
    assert names == [("sample", 0), ("sample", 1), ("sample", 2), ("post", 0)]
