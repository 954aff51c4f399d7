"""Sides of a comparison, measured in turn: A B A B …, so that what the machine does besides meets both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """One call: seconds that passed, and the processor's, of all its threads."""

    seconds: float
    cpu_seconds: float


def in_turn(
    sides: Mapping[str, Callable[[], object]], rounds: int, wait: Callable[[], object] | None = None
) -> dict[str, list[Timing]]:
    """Call each side once a round, in order; the caller has called each before, so that all are warm.

    Args:
        wait: returns when the device has done what it was given (`torch.cuda.synchronize`).
    """
    timings: dict[str, list[Timing]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            timings[name].append(timed(call, wait))
    return timings


def timed(call: Callable[[], object], wait: Callable[[], object] | None = None) -> Timing:
    """One call, to the end of what it gave the device to do."""
    if wait is not None:
        wait()
    started, used = time.perf_counter(), time.process_time()
    call()
    if wait is not None:
        wait()
    return Timing(time.perf_counter() - started, time.process_time() - used)


def medians(timings: Sequence[Timing]) -> dict[str, float]:
    """Of one side: `seconds` and `cpu_seconds`."""
    return {
        "seconds": statistics.median(timing.seconds for timing in timings),
        "cpu_seconds": statistics.median(timing.cpu_seconds for timing in timings),
    }


def ratios(ours: Sequence[Timing], theirs: Sequence[Timing]) -> dict[str, Any]:
    """Their seconds ÷ ours, pair by pair, as `spread` has them: above 1 ours is faster.

    `cpu` is the same of the processor's seconds, which other work on the machine disturbs less; they
    say nothing where the work is a GPU's.
    """
    pairs = list(zip(ours, theirs, strict=True))
    return {
        **spread([b.seconds / a.seconds for a, b in pairs]),
        "cpu": spread([b.cpu_seconds / a.cpu_seconds for a, b in pairs]),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """`median`, `least` and `most`."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def median_interval(values: Sequence[float]) -> dict[str, float]:
    """`median`, and `low` and `high`: a 95 % interval of it, whatever the values' distribution.

    Its ends are order statistics: so many values lie below the median as in coin tosses (normal
    approximation of the sign test). Of few values it is all of them.
    """
    ordered = sorted(values)
    beyond = max(0, int(len(ordered) / 2 - 0.98 * len(ordered) ** 0.5))
    return {
        "median": statistics.median(ordered),
        "low": ordered[beyond],
        "high": ordered[-1 - beyond],
    }


def spread_text(found: Mapping[str, float], digits: int = 3) -> str:
    """`spread` for people: the median, and from least to most."""
    low, high = (f"{found[name]:.{digits}f}" for name in ("least", "most"))
    return f"{found['median']:.{digits}f} ({low} to {high})"
