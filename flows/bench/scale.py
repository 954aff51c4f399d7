"""`zs2 bench scale`: how busy one driver keeps many actors, and what a second real sampler adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from flows.bench.machine import machine, machine_lines
from flows.bench.steps import in_own_process
from flows.console import table
from flows.errors import UsageError, check_least

LEAST_BUSY = 0.98  # of the actors' time
MOST_DRIVER = 0.30  # of a core
LEAST_EFFICIENCY = 0.9  # of two samplers against one
LEAST_BATCHES = 6  # the first two and the last two of each actor do not count


def scale(
    actors: int, batches: int, seconds: float, *, real: bool = False, rows: int = 6, pairs: int = 3
) -> dict[str, Any]:
    """Measure dispatch to actors that sleep; with `real`, one and two actors that sample.

    Args:
        batches: rows an actor. seconds: that each takes.
        rows: for each real sampler in a round; `pairs`: rounds of one and of two.

    Returns:
        `machine`, `sleeping` and, if asked for, `real`, each with its `limits` and `within`.

    Raises:
        UsageError: too few batches. BenchError: a step failed.
    """
    check_least("--actors", 1, actors)
    check_least("--batches", LEAST_BATCHES, batches)
    check_least("--rows", 2, rows)
    check_least("--pairs", 1, pairs)
    if seconds <= 0:
        raise UsageError(f"--seconds: expected more than 0, found {seconds:g}")
    steps = "flows.bench.scale_steps"
    report = {
        "machine": machine(),
        "sleeping": judged_sleeping(
            {"actors": actors, "batches": batches, "batch_seconds": seconds}
            | in_own_process(steps, "sleeping", str(actors), str(batches), str(seconds))
        ),
    }
    if real:
        report["real"] = judged_real(in_own_process(steps, "real", str(rows), str(pairs)))
    return report


def judged_sleeping(found: Mapping[str, Any]) -> dict[str, Any]:
    """With its limits, and whether it keeps to them."""
    within = found["busy"] >= LEAST_BUSY and found["driver"] <= MOST_DRIVER
    return {**found, "limits": {"busy": LEAST_BUSY, "driver": MOST_DRIVER}, "within": within}


def judged_real(found: Mapping[str, Any]) -> dict[str, Any]:
    """The median of the pairs' efficiency, its limit, and whether it keeps to it."""
    middle = median(found["efficiency"])
    return {
        **found,
        "median_efficiency": middle,
        "limits": {"median_efficiency": LEAST_EFFICIENCY},
        "within": middle >= LEAST_EFFICIENCY,
    }


def text(report: Mapping[str, Any]) -> str:
    """The report as a table for people."""
    return "\n".join([*machine_lines(report["machine"]), "", table(_rows(report))])


def _rows(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    found = report["sleeping"]
    yield (
        "actors",
        f"{found['actors']}, {found['batches']} batches each of {found['batch_seconds']:g} s of sleep; "
        f"{found['seconds']:.1f} s measured after warm-up",
    )
    yield "busy", f"{100 * found['busy']:.2f} % (at least {100 * LEAST_BUSY:g} %)"
    yield "driver", f"{100 * found['driver']:.1f} % of a core (at most {100 * MOST_DRIVER:g} %)"
    yield "rows/s", f"{found['rows_per_second']:.2f} of {found['ideal']:.2f}"
    if real := report.get("real"):
        for name in ("one", "two"):
            rates = ", ".join(f"{each:.3f}" for each in real[name])
            yield f"{name} sampling", f"{median(real[name]):.3f} clips/s (rounds: {rates})"
        efficiency = ", ".join(f"{each:.3f}" for each in real["efficiency"])
        yield (
            "efficiency",
            f"{real['median_efficiency']:.3f} (at least {LEAST_EFFICIENCY:g}; pairs: {efficiency})",
        )
    missed = [
        name for name in ("sleeping", "real") if name in report and not report[name]["within"]
    ]
    yield "", f"MISSED: {', '.join(missed)}" if missed else "all within limits"
