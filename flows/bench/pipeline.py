"""`zs2 bench pipeline`: the whole flow's rate beside that of its samplers alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.bench.machine import machine, machine_lines
from flows.bench.steps import in_own_process
from flows.console import table
from flows.errors import check_least

LEAST_RATIO = 0.95  # where stages have cores of their own
LEAST_ROWS = 8


def pipeline(rows: int, samplers: int) -> dict[str, Any]:
    """Measure both in one process, the bare samplers before and after the flow.

    Returns:
        `machine`; `bare` and `whole`, rows a second; `ratio`; `utilisation`, of the flow; `spare_cores`,
        those that no sampler has; `within`, None where there are none, since the stages share cores then.

    Raises:
        UsageError: too few rows. BenchError: it failed.
    """
    check_least("--rows", LEAST_ROWS, rows)
    check_least("--samplers", 1, samplers)
    found = machine()
    measured = in_own_process("flows.bench.pipeline_steps", str(rows), str(samplers))
    return {"machine": found, **judged(measured, found["cores"] - samplers)}


def judged(measured: Mapping[str, Any], spare_cores: int) -> dict[str, Any]:
    """The ratio, its limit, and whether it keeps to it."""
    before, after = measured["bare"]
    ratio = measured["whole"] / ((before + after) / 2)
    return {
        **measured,
        "ratio": ratio,
        "limit": LEAST_RATIO,
        "spare_cores": spare_cores,
        "within": ratio >= LEAST_RATIO if spare_cores > 1 else None,
    }


def text(report: Mapping[str, Any]) -> str:
    """The report as a table for people."""
    used = report["utilisation"]
    waited = ", ".join(f"{why} {s:.1f} s" for why, s in used["sampler_waited_seconds"].items())
    share = used["sampler_busy_share"]
    verdict = {
        None: "not judged: post-processing and driver have less than a core each beside the samplers",
        True: "ok",
        False: "MISSED",
    }[report["within"]]
    rows = [
        ("rows", f"{report['rows']} of zs2-mini, temporal ×2, spatial ×2"),
        ("samplers alone", " and ".join(f"{rate:.3f}" for rate in report["bare"]) + " rows/s"),
        ("whole flow", f"{report['whole']:.3f} rows/s"),
        ("ratio", f"{report['ratio']:.3f} (at least {report['limit']:g}: {verdict})"),
        ("samplers busy", "-" if share is None else f"{100 * share:.1f} % after warm-up"),
        ("samplers waited", waited or "never"),
    ]
    for stage, seconds in used["seconds"].items():
        told = ", ".join(f"{state} {s:.1f} s" for state, s in seconds.items())
        rows.append((f"{stage} actors", told))
    return "\n".join([*machine_lines(report["machine"]), "", table(rows)])
