"""A deployed render whose Prefect server keeps its state in PostgreSQL, as production should."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.flows.deployed import Deployed
from tests.flows.postgres import Postgres, binaries, postgres
from tests.flows.prefect_api import prefect_server
from tests.flows.running import TIME_LIMIT, wait_until, write_rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.postgres,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        binaries() is None, reason="needs Debian's postgresql: apt-get install postgresql"
    ),
]


@pytest.fixture
def database() -> Iterator[Postgres]:
    with postgres() as made:
        yield made


@pytest.fixture
def deployed(database: Postgres, tmp_path: Path) -> Iterator[Deployed]:
    variables = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url,
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
    }
    with prefect_server(tmp_path / "server", variables) as url:
        made = Deployed(url, tmp_path)
        yield made
        made.stop()


def test_a_deployment_renders_with_its_state_in_postgres(
    deployed: Deployed, database: Postgres, tiny_model: Path, tmp_path: Path
) -> None:
    """Work pool, deployments and worker on a Prefect server whose database is Debian's PostgreSQL:
    `prefect deployment run render-manifest/bulk` leaves every video, and the flow run, its state
    and its artifacts are rows of that database; no SQLite file was made. The server plans the runs of
    the nightly schedule ahead once it is resumed."""
    row = {"prompt": "a", "model": str(tiny_model), "num_inference_steps": 2, "num_frames": 4}
    manifest = write_rows(tmp_path / "m.parquet", [{"id": f"r{i}", **row} for i in range(3)])
    out = tmp_path / "out"

    run = deployed.run("render-manifest/bulk", "-p", f"manifest={manifest}", "-p", f"out={out}")
    found = deployed.await_state(run)
    assert found["state_type"] == "COMPLETED", found["state"]

    results = pq.read_table(out / "results").to_pylist()
    assert sorted((r["id"], r["status"]) for r in results) == [(f"r{i}", "ok") for i in range(3)]
    assert all((out / r["file_name"]).stat().st_size == r["bytes"] for r in results)

    rows = database.ask(f"select state_type, run_count from flow_run where id = '{run}'")
    assert rows == [["COMPLETED", "1"]]
    (artifacts,) = database.ask(f"select count(*) from artifact where flow_run_id = '{run}'")
    assert int(artifacts[0]) >= 1
    assert not list((tmp_path / "server").rglob("*.db"))

    deployed.prefect("deployment", "schedule", "resume", "--all")
    planned = "select count(*) from flow_run where auto_scheduled and state_type = 'SCHEDULED'"
    assert wait_until(lambda: database.ask(planned) != [["0"]], TIME_LIMIT)
