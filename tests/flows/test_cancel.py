"""A deployed flow that is cancelled: a real Prefect server, a real process worker, a real Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.flows.deployed import Deployed, deployed
from tests.flows.running import TIME_LIMIT, wait_until, write_rows, zs2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROWS = 20


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Deployed]:
    with deployed(tmp_path) as made:
        yield made


def test_a_cancelled_flow_run_ends_its_actors_and_can_go_on(
    service: Deployed, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`prefect flow-run cancel` in mid-run: the flow run is Cancelled, its Ray actors and every
    other process of it are gone (the seconds are printed; 30 are promised), run.json says
    interrupted, and the same manifest into the same folder renders what is missing, each row
    once."""
    row = {"prompt": "a", "model": str(tiny_model), "num_inference_steps": 20, "num_frames": 16}
    manifest = write_rows(tmp_path / "m.parquet", [{"id": f"r{i}", **row} for i in range(ROWS)])
    out = tmp_path / "out"
    run = service.run(
        "render-manifest/bulk", "--param", f"manifest={manifest}", "--param", f"out={out}"
    )
    assert wait_until(lambda: len(list(out.glob("videos/*/*.mp4"))) >= 2, TIME_LIMIT)

    def of_the_run() -> list[str]:
        return list(service.processes_of_runs().values())

    assert any("ray::" in command for command in of_the_run())
    service.prefect("flow-run", "cancel", run)
    cancelled = time.monotonic()
    assert wait_until(lambda: not of_the_run(), TIME_LIMIT), of_the_run()
    with capsys.disabled():
        print(f"\ncancelled: all of its processes gone after {time.monotonic() - cancelled:.1f} s")
    assert wait_until(lambda: service.state(run) == "CANCELLED", 60)
    assert json.loads((out / "run.json").read_text())["state"] == "interrupted"

    done = zs2("render", manifest, "-o", out, "--json", time_limit=600)
    assert done.code == 0, done.err
    assert 0 < json.loads(done.out)["rendered"]["ok"] < ROWS
    rows = pq.read_table(out / "results").to_pylist()
    assert sorted(row["id"] for row in rows) == sorted(f"r{i}" for i in range(ROWS))
