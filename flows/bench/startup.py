"""`zs2 bench startup`: from the command to the first sampled row, step by step, in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from flows.bench.machine import machine, machine_lines
from flows.bench.scale_steps import write_rows
from flows.bench.steps import BenchError
from flows.console import table
from flows.errors import check_least

MOST_SECONDS = 20.0  # from the command to the first row sampled, on two cores
SAMPLED = "first row: sample"
ROWS = 4


def startup(runs: int) -> dict[str, Any]:
    """Render a few rows of zs2-mini in so many fresh processes, one after the other.

    Returns:
        `machine`; `steps`: seconds from the start of the process to each step, by run and as their
        median; `limit`, and whether the first row was sampled `within` it.

    Raises:
        UsageError: no run. BenchError: one failed.
    """
    check_least("--runs", 1, runs)
    found = machine()
    with tempfile.TemporaryDirectory(prefix="zs2-bench-") as folder:
        manifest = write_rows(Path(folder, "m.parquet"), ROWS)
        marks = [_run(manifest, Path(folder, str(number))) for number in range(runs)]
    return {"machine": found, **judged(marks)}


def judged(marks: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Steps of several runs, with their medians, in the order of these."""
    steps: dict[str, Any] = {}
    for name in {name: None for run in marks for name in run}:
        seconds = [run[name] for run in marks if name in run]
        steps[name] = {"median": median(seconds), "runs": seconds}
    ordered = dict(sorted(steps.items(), key=lambda step: step[1]["median"]))
    within = ordered[SAMPLED]["median"] <= MOST_SECONDS
    return {"steps": ordered, "limit": MOST_SECONDS, "within": within}


def _run(manifest: Path, out: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "flows.cli", "render", str(manifest), "-o", str(out)]
    done = subprocess.run([*command, "--quiet"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"the run failed\n{done.stderr.strip()[-2000:]}")
    return json.loads((out / "summary.json").read_text("utf-8"))["startup_seconds"]


def text(report: Mapping[str, Any]) -> str:
    """The report as a table for people."""
    cells = [
        (name, f"{step['median']:.1f}", ", ".join(f"{each:.1f}" for each in step["runs"]))
        for name, step in report["steps"].items()
    ]
    header = ("reached", "seconds", "runs")
    verdict = "ok" if report["within"] else "MISSED"
    return "\n".join(
        [
            *machine_lines(report["machine"]),
            "",
            table(cells, header),
            f"{SAMPLED} at most {report['limit']:g} s: {verdict}",
        ]
    )
