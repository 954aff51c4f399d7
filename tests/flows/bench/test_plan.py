"""`zs2 bench plan`: what it measures is the real thing, and what it says of it is right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.bench import plan as bench
from flows.bench.plan_steps import MANIFEST, OUT, STEPS
from flows.errors import UsageError
from manifests.journal import list_journals
from manifests.ledger import iter_results, known
from manifests.read import open_manifest

ROWS = 60


def test_the_steps_do_what_they_are_named_for(tmp_path: Path):
    """A manifest of so many good rows; after `record` all are ok in a journal alone, with videos;
    both resumes find them done; `publish` leaves one ledger row each and no journal."""
    results = tmp_path / OUT / "results"
    for name, step in STEPS.items():
        if name == "run":
            continue
        assert step(tmp_path, ROWS, 10)["rows"] == ROWS, name
        if name == "record":
            assert known(tmp_path / OUT).counts()["ok"] == ROWS
            assert list_journals(results) and not list(results.glob("part-*"))
            assert len(list((tmp_path / OUT / "videos").glob("??/clip-*"))) == ROWS
    assert not list_journals(results)
    rows = list(iter_results(tmp_path / OUT))
    assert {row.id for row in rows} == {f"clip-{i:07d}" for i in range(ROWS)}
    assert open_manifest(tmp_path / MANIFEST).num_rows == ROWS


def test_a_step_that_finds_rows_missing_fails(tmp_path: Path):
    """Nothing is measured of work that was not done."""
    for name in ("make", "record"):
        STEPS[name](tmp_path, ROWS, 10)
    next((tmp_path / OUT / "videos").glob("??/clip-*")).unlink()
    with pytest.raises(AssertionError):
        STEPS["resume"](tmp_path, ROWS, 10)


def keeps(name: str, **changes: Any) -> bool:
    measured = {"rows": 100_000, "seconds": 2.0, "mb_peak": 500.0}
    if name == "run":
        measured |= {"seconds": 300.0, "mb_early": 400.0, "mb_late": 404.0}
    return bench.judged(name, measured | changes)["within"]


def test_limits_are_kept_or_missed():
    """Each limit by itself decides: seconds in proportion to a million rows, memory, growth, rate. A
    few rows have a limit of memory alone."""
    assert all(keeps(name) for name in ("plan", "resume", "status", "publish", "run"))
    assert not keeps("plan", seconds=6.1) and keeps("plan", seconds=5.9)
    assert not keeps("resume", seconds=3.1) and keeps("status", seconds=99.0)
    assert not keeps("publish", mb_peak=1001.0)
    assert not keeps("run", mb_late=406.0) and not keeps("run", seconds=350.0)
    few = {"rows": 1000, "seconds": 99.0}
    assert keeps("plan", **few) and keeps("run", **few, mb_late=499.0)
    assert not keeps("plan", **few, mb_peak=1001.0)


def test_too_few_rows_are_refused():
    """Before anything is begun."""
    with pytest.raises(UsageError, match=r"^--rows: expected at least 1, found 0$"):
        bench.plan(0, 100)
    with pytest.raises(UsageError, match=r"^--run-rows: expected at least .*, found 5$"):
        bench.plan(10, 5)


@pytest.mark.slow
def test_the_command_measures_every_step_and_the_run():
    """With Ray and Prefect: each step with its figures and limits; the table names them all."""
    command = [sys.executable, "-m", "flows.cli", "bench", "plan", "--rows", "50"]
    done = subprocess.run(
        [*command, "--run-rows", "20", "--json"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report["steps"]) == [name for name in STEPS if name not in bench.DOES_NOT_COUNT]
    for step in report["steps"].values():
        assert step["seconds"] > 0 and step["mb_peak"] > 50 and isinstance(step["within"], bool)
    assert report["steps"]["run"]["rows"] == 20
    told = bench.text(report)
    assert all(name in told for name in report["steps"])
