"""`zs2 bench startup`: medians of steps, judged by the first sampled row."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from flows.bench import startup as bench
from flows.errors import UsageError


def test_steps_are_medians_in_their_order():
    """A step that a run did not reach counts where it was reached; the first sampled row decides."""
    runs = [
        {"checked": 1.0, "Ray up": 5.0, bench.SAMPLED: 19.0},
        {"checked": 3.0, bench.SAMPLED: 30.0},
        {"checked": 2.0, "Ray up": 7.0, bench.SAMPLED: 19.5},
    ]
    found = bench.judged(runs)
    assert {name: step["median"] for name, step in found["steps"].items()} == {
        "checked": 2.0,
        "Ray up": 6.0,
        bench.SAMPLED: 19.5,
    }
    assert found["within"] and not bench.judged([{bench.SAMPLED: 20.5}])["within"]


def test_no_run_is_refused():
    with pytest.raises(UsageError, match=r"^--runs: expected at least 1, found 0$"):
        bench.startup(0)


@pytest.mark.slow
def test_the_command_measures_a_run():
    """With Prefect and Ray: what depends on another step comes after it."""
    command = [sys.executable, "-m", "flows.cli", "bench", "startup", "--runs", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    order = (
        "checked",
        "Ray up",
        "actors begun",
        "sample actor up",
        bench.SAMPLED,
        "first row: post",
    )
    at = [report["steps"][name]["median"] for name in order]
    assert at == sorted(at) and at[0] > 0
    assert report["steps"]["Prefect up"]["median"] <= report["steps"]["flow begun"]["median"]
    assert bench.SAMPLED in bench.text(report)
