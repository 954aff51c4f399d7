"""A deployed flow that is cancelled: a real Prefect server, a real process worker, a real Ray."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.flows.prefect_api import ask, prefect_server
from tests.flows.running import TIME_LIMIT, environment, processes, wait_until, write_rows, zs2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PROJECT = Path(__file__).parents[2]
ROWS = 20


class Deployed:
    """A server with the deployments of infra/prefect.yaml, and a worker that runs them."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.mark = f"ZS2_TEST={folder.name}"
        self.environment = environment(
            PREFECT_API_URL=url,
            PREFECT_HOME=str(folder / "client"),
            ZS2_TEST=folder.name,
            PYTHONPATH=str(PROJECT),
        )
        self.prefect("work-pool", "create", "zs2", "--type", "process")
        self.prefect("deploy", "--prefect-file", "infra/prefect.yaml", "--all")
        self.worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "zs2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**self.environment, "PREFECT_WORKER_QUERY_SECONDS": "1"},
        )

    def run_python(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            env=self.environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def prefect(self, *arguments: str) -> str:
        return self.run_python("-m", "prefect", *arguments)

    def state(self, run: str) -> str:
        found: Any = ask(f"{self.url}/flow_runs/{run}")
        return found["state_type"]


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployed]:
    with prefect_server(tmp_path / "server") as url:
        made = Deployed(url, tmp_path)
        yield made
        made.worker.terminate()
        made.worker.wait(60)


def test_a_cancelled_flow_run_ends_its_actors_and_can_go_on(
    deployed: Deployed, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`prefect flow-run cancel` in mid-run: the flow run is Cancelled, its Ray actors and every
    other process of it are gone (the seconds are printed; 30 are promised), run.json says
    interrupted, and the same manifest into the same folder renders what is missing, each row
    once."""
    row = {"prompt": "a", "model": str(tiny_model), "num_inference_steps": 20, "num_frames": 16}
    manifest = write_rows(tmp_path / "m.parquet", [{"id": f"r{i}", **row} for i in range(ROWS)])
    out = tmp_path / "out"
    deployed.prefect(
        *("deployment", "run", "render-manifest/bulk"),
        *("--param", f"manifest={manifest}", "--param", f"out={out}"),
    )
    assert wait_until(lambda: len(list(out.glob("videos/*/*.mp4"))) >= 2, TIME_LIMIT)
    (run,) = ask(f"{deployed.url}/flow_runs/filter", {})

    def of_the_run() -> list[str]:
        own = ("ray::", "raylet", "gcs_server", "prefect.engine", "flow-run")
        return [c for c in processes(deployed.mark).values() if any(word in c for word in own)]

    assert any("ray::" in command for command in of_the_run())
    deployed.prefect("flow-run", "cancel", run["id"])
    cancelled = time.monotonic()
    assert wait_until(lambda: not of_the_run(), TIME_LIMIT), of_the_run()
    with capsys.disabled():
        print(f"\ncancelled: all of its processes gone after {time.monotonic() - cancelled:.1f} s")
    assert wait_until(lambda: deployed.state(run["id"]) == "CANCELLED", 60)
    assert json.loads((out / "run.json").read_text())["state"] == "interrupted"

    done = zs2("render", manifest, "-o", out, "--json", time_limit=600)
    assert done.code == 0, done.err
    assert 0 < json.loads(done.out)["rendered"]["ok"] < ROWS
    rows = pq.read_table(out / "results").to_pylist()
    assert sorted(row["id"] for row in rows) == sorted(f"r{i}" for i in range(ROWS))
