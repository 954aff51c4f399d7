"""`zs2 bench plan`: what a run costs where nothing is sampled, measured on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from flows.bench.machine import machine, machine_lines
from flows.bench.plan_steps import STEPS, WARM_ROWS
from flows.bench.steps import in_own_process
from flows.console import table
from flows.errors import check_least

MILLION = 1_000_000
MOST_MB = 1000.0
LEAST_ROWS = 10  # of the run
LEAST_RATE = 300.0  # rows a second of the run
MOST_GROWTH = 5.0  # MB of the run's driver, from its row 10,000 (or a tenth) to the last one
SECONDS = {"plan": 60.0, "resume after a kill": 30.0, "resume": 30.0}  # of a million rows
LEAST_SPEAKING = 100_000  # rows; what fewer cost says little of a million: models are hashed, too
DOES_NOT_COUNT = ("make", "record")  # they prepare what the others measure


def plan(rows: int, run_rows: int) -> dict[str, Any]:
    """Measure planning, resuming, status, publishing and a run of actors that do nothing.

    Args:
        rows: of the manifest that is planned, and whose results are read and published.
        run_rows: of the run.

    Returns:
        `machine` and `steps`: by step `rows`, `seconds`, `cpu_seconds`, `mb_loaded` and
        `mb_peak` of its own process, `limits` and `within`, whether it keeps to them.

    Raises:
        UsageError: too few rows. BenchError: a step failed.
    """
    check_least("--rows", 1, rows)
    check_least("--run-rows", LEAST_ROWS, run_rows)
    steps: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="zs2-bench-") as folder:
        for name in STEPS:
            measured = in_own_process(
                "flows.bench.plan_steps", name, folder, str(rows), str(run_rows)
            )
            if name not in DOES_NOT_COUNT:
                steps[name] = measured | judged(name, measured)
    return {"machine": machine(), "steps": steps}


def judged(name: str, measured: Mapping[str, Any]) -> dict[str, Any]:
    """The limits of a step, those of time in proportion to its rows, and whether it keeps them.

    Few rows are held to no limit of time, nor a run to its growth: they end while it warms up.
    """
    rate = measured["rows"] / measured["seconds"]
    limits: dict[str, float] = {"mb_peak": MOST_MB}
    found = {"mb_peak": measured["mb_peak"], "rows_per_second": rate}
    least = {"rows_per_second": 0.0}
    if name in SECONDS and measured["rows"] >= LEAST_SPEAKING:
        least["rows_per_second"] = MILLION / SECONDS[name]
    if name == "run":
        found["mb_growth"] = measured["mb_late"] - measured["mb_early"]
        if measured["rows"] >= 2 * WARM_ROWS:
            least["rows_per_second"] = LEAST_RATE
            limits["mb_growth"] = MOST_GROWTH
    within = all(found[key] <= most for key, most in limits.items()) and all(
        found[key] >= few for key, few in least.items()
    )
    return {**found, "limits": {"at_most": limits, "at_least": least}, "within": within}


def text(report: Mapping[str, Any]) -> str:
    """The report as a table for people."""
    header = ("step", "rows", "seconds", "CPU s", "rows/s", "least", "peak MB", "most", "")
    return "\n".join(
        [
            *machine_lines(report["machine"]),
            "",
            table((_cells(name, step) for name, step in report["steps"].items()), header),
            *_run_lines(report["steps"]["run"]),
            "least: of a million rows, planned in 60 s or resumed in 30 s; MB of the whole process",
        ]
    )


def _cells(name: str, step: Mapping[str, Any]) -> tuple[str, ...]:
    limits = step["limits"]
    least = limits["at_least"]["rows_per_second"]
    return (
        name,
        f"{step['rows']:,}",
        f"{step['seconds']:.1f}",
        f"{step['cpu_seconds']:.1f}",
        f"{step['rows_per_second']:,.0f}",
        f"{least:,.0f}" if least else "-",
        f"{step['mb_peak']:.0f}",
        f"{limits['at_most']['mb_peak']:.0f}",
        "ok" if step["within"] else "MISSED",
    )


def _run_lines(run: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"the run's driver: {run['mb_early']:.1f} MB at row {run['early_row']:,}, "
        f"{run['mb_late']:.1f} MB at row {run['rows']:,}: {run['mb_growth']:+.1f} MB "
        f"(from row {WARM_ROWS:,} on at most {MOST_GROWTH:+.0f})"
    )
