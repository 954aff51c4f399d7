"""zs2.speed: the rules of `speed`, in numbers."""

from __future__ import annotations

import pytest

from manifests.columns import COLUMNS, FAST_SCHEDULER
from zs2.config import SCHEDULERS
from zs2.speed import SOLVER, SPEEDS, steps_of


@pytest.mark.parametrize(
    ("speed", "named", "wanted"),
    [
        ("exact", (None, None), (None, 25)),
        ("exact", ("euler", 9), ("euler", 9)),
        ("fast", (None, None), ("dpm++", 13)),
        ("fast", ("dpm++", None), ("dpm++", 13)),
        ("fast", ("euler", None), ("euler", 25)),
        ("fast", (None, 25), (None, 25)),
        ("fast", ("ddim", 9), ("ddim", 9)),
        ("fast", ("dpm++", 25), ("dpm++", 25)),
    ],
)
def test_steps(speed: str, named: tuple[str | None, int | None], wanted: tuple[str | None, int]):
    """What is named stays; half the steps, rounded up, are dpm++'s alone."""
    assert steps_of(speed, *named, own=25) == wanted


def test_steps_of_few():
    """There is one step at least, and what is resolved once is not halved again."""
    assert steps_of("fast", None, None, own=1) == ("dpm++", 1)
    assert steps_of("fast", *steps_of("fast", None, None, own=50), own=50) == ("dpm++", 25)


@pytest.mark.parametrize(
    ("speed", "calls", "copies", "wanted"),
    [
        ("exact", 25, 2, (50, 0)),
        ("exact", 7, 1, (7, 0)),
        ("fast", 7, 2, (5 * 2 + 2, 2 * 2 + 1)),
        ("fast", 7, 1, (7, 3)),  # nothing to cut off, one run of calls
        ("fast", 13, 2, (10 * 2 + 3, 5 * 2 + 1)),
        ("fast", 1, 2, (2, 0)),
        ("fast", 3, 2, (6, 2)),
    ],
)
def test_pictures(speed: str, calls: int, copies: int, wanted: tuple[int, int]):
    """Of a frame's pictures: all, and those of which only the outermost blocks are computed."""
    assert SPEEDS[speed].pictures(calls, copies) == wanted


def test_the_manifest_knows_the_same_names():
    """Columns and sampler agree on the speeds, on the default, and on the solver of few steps."""
    for name in SPEEDS:
        assert COLUMNS["speed"].kind.parse(name) == name
    assert COLUMNS["speed"].default == "exact" and len(SPEEDS) == 2
    assert FAST_SCHEDULER == SOLVER and SOLVER in SCHEDULERS
