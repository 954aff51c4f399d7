"""`zs2 bench pipeline`: the flow beside its samplers alone."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from flows.bench import pipeline as bench
from flows.errors import UsageError


def test_the_ratio_is_judged_where_stages_have_cores():
    """The flow's rate against the mean of what the samplers did alone before and after it."""
    measured: dict[str, Any] = {"bare": [1.0, 1.2], "whole": 1.056}
    found = bench.judged(measured, spare_cores=2)
    assert found["ratio"] == pytest.approx(0.96) and found["within"]
    assert bench.judged(measured | {"whole": 1.0}, spare_cores=2)["within"] is False
    assert bench.judged(measured, spare_cores=1)["within"] is None


def test_too_few_rows_are_refused():
    with pytest.raises(UsageError, match=r"^--rows: expected at least .*, found 7$"):
        bench.pipeline(7, 1)
    with pytest.raises(UsageError, match=r"^--samplers: expected at least 1, found 0$"):
        bench.pipeline(256, 0)


@pytest.mark.slow
def test_the_command_measures_both_sides():
    """With Prefect and Ray: both rates, and what the samplers did."""
    command = [sys.executable, "-m", "flows.cli", "bench", "pipeline", "--rows", "8", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert all(rate > 0 for rate in [*report["bare"], report["whole"]])
    assert 0 < report["utilisation"]["sampler_busy_share"] <= 1
    assert set(report["utilisation"]["seconds"]) == {"sample", "post"}
    assert "samplers busy" in bench.text(report)
