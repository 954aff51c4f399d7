"""`zs2 bench scale`: what it measures is the real thing, and its limits decide."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from flows.bench import scale as bench
from flows.bench.scale_steps import Mark, busy_share
from flows.errors import UsageError


def test_limits_are_kept_or_missed():
    """Each limit by itself decides; of the pairs it is the median."""
    good: dict[str, Any] = {"busy": 0.985, "driver": 0.2}
    assert bench.judged_sleeping(good)["within"]
    assert not bench.judged_sleeping(good | {"busy": 0.97})["within"]
    assert not bench.judged_sleeping(good | {"driver": 0.31})["within"]
    assert bench.judged_real({"efficiency": [0.5, 0.91, 0.95]})["within"]
    assert not bench.judged_real({"efficiency": [0.5, 0.89, 0.95]})["within"]


def test_busy_is_what_each_actor_slept_between_its_rows():
    """Warm-up and end are left out, of each actor: 2 s of sleep in 2.5 s, and in 2 s."""
    ends = {"slow": [3.0, 10.0, 12.5, 15.0, 15.1], "quick": [4.0, 6.0, 8.0, 10.0, 90.0]}
    marks = [Mark(at, 0.0, 2.0, actor) for actor, own in ends.items() for at in own]
    assert busy_share(marks) == pytest.approx(8 / (5 + 4))


@pytest.mark.parametrize(
    ("numbers", "option"),
    [((0, 16, 2.0), "actors"), ((1, 5, 2.0), "batches"), ((1, 16, 0.0), "seconds")],
)
def test_too_little_work_is_refused(numbers: tuple[int, int, float], option: str):
    """Before anything is begun."""
    with pytest.raises(UsageError, match=f"^--{option}: expected (at least|more than) .*, found"):
        bench.scale(*numbers)


@pytest.mark.slow
def test_the_command_measures_sleepers_and_samplers():
    """With Prefect and Ray: the sleep is the actors' own, not more than all of their time, but for what
    the driver hears late (tens of ms in 2 s)."""
    command = [sys.executable, "-m", "flows.cli", "bench", "scale", "--actors", "2"]
    command += ["--batches", "8", "--seconds", "0.5", "--real", "--rows", "2", "--pairs", "1"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    sleeping, real = report["sleeping"], report["real"]
    assert 0.3 < sleeping["busy"] <= 1.1 and 0 < sleeping["driver"] < 2
    assert sleeping["rows"] == 16 and sleeping["rows_per_second"] < 1.5 * sleeping["ideal"]
    assert len(real["one"]) == len(real["two"]) == 1 and 0.1 < real["median_efficiency"] < 2
    told = bench.text(report)
    assert "busy" in told and "efficiency" in told
