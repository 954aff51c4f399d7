"""zs2 as a service: a real Prefect server, its deployments, a process worker, and what becomes of runs.

One server and one worker for all tests here. The worker asks for one retry of every flow and task that
fails, as Prefect's settings can: what that must not do, render a finished row again, is tested with it.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from manifests.ledger import iter_results
from tests.flows.damaged import damaged_copy
from tests.flows.deployed import PROJECT, Deployed, deployed
from tests.flows.prefect_api import ask, post
from tests.flows.running import TIME_LIMIT, processes, wait_until, write_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BULK = "render-manifest/bulk"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    variables = {"PREFECT_FLOWS_DEFAULT_RETRIES": "1", "PREFECT_TASKS_DEFAULT_RETRIES": "1"}
    with deployed(tmp_path_factory.mktemp("service"), variables) as made:
        yield made


def rows_of(model: Path, count: int, *, frames: int = 2, steps: int = 1) -> list[dict[str, Any]]:
    """Rows to render: r0, r1, …"""
    row = {"prompt": "a", "model": str(model), "num_inference_steps": steps, "num_frames": frames}
    return [{"id": f"r{i}", **row} for i in range(count)]


def videos(out: Path) -> dict[str, int]:
    """Finished videos: name → when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("videos/*/*.mp4")}


def recorded(out: Path) -> dict[str, int]:
    """The videos of rows that a killed run's journal knows of, which is at most a second behind."""
    known = {f"{row.id}.mp4" for row in iter_results(out) if row.status == "ok"}
    return {name: written for name, written in videos(out).items() if name in known}


def ledger(out: Path) -> dict[str, Any]:
    """Ledger rows by id."""
    rows = pq.read_table(out / "results").to_pylist()
    assert len(rows) == len({row["id"] for row in rows})
    return {row["id"]: row for row in rows}


def test_wrong_parameters_are_refused_before_a_run_starts(service: Deployed) -> None:
    """A setting out of its range, an unknown one, one of a wrong kind, and no manifest: the command says
    which and what is expected, and no flow run comes to be."""
    runs = len(ask(f"{service.url}/flow_runs/filter", {}))
    refused = service.ask_prefect(
        *("deployment", "run", BULK, "-p", "manifest=m.parquet", "-p", 'settings={"samplers":0}')
    )
    told = " ".join((refused.stdout + refused.stderr).split())
    assert refused.returncode != 0
    assert "samplers" in told or "0 is less than the minimum" in told or "anyOf" in told, told
    deployment = service.deployment(BULK)
    assert deployment["enforce_parameter_schema"]
    url = f"{service.url}/deployments/{deployment['id']}/create_flow_run"
    for wrong in (
        {"manifest": "m.parquet", "settings": {"no_such_setting": 1}},
        {"manifest": "m.parquet", "settings": {"fail_if": 2}},
        {"manifest": "m.parquet", "settings": {"dtype": "int3"}},
        {"manifest": 7},
        {"out": "somewhere"},
    ):
        assert ask(url, {"parameters": wrong}) is None, wrong
    assert len(ask(f"{service.url}/flow_runs/filter", {})) == runs


def test_the_form_describes_every_parameter(service: Deployed) -> None:
    """What Prefect's form is made of has a description for each parameter and each setting."""
    schema = service.deployment(BULK)["parameter_openapi_schema"]
    assert set(schema["properties"]) == {"manifest", "out", "settings"}
    assert all(each.get("description") for each in schema["properties"].values())
    settings = schema["definitions"]["RenderSettings"]
    assert settings["additionalProperties"] is False
    assert all(each["description"] for each in settings["properties"].values())


def test_a_run_by_command(service: Deployed, tiny_model: Path, tmp_path: Path) -> None:
    """`prefect deployment run`: the videos and the ledger are there, the flow run is Completed, it has
    its progress at 100 %, a table of its shards and the summary, and its log says what was planned, what
    an actor noted of a row, and how it ended."""
    rows = rows_of(tiny_model, 2)
    long = {**rows[0], "id": "long", "prompt": "a " * 200}  # longer than the text encoder reads
    manifest, out = write_rows(tmp_path / "m.parquet", [*rows, long]), tmp_path / "out"
    run = service.run(BULK, "-p", f"manifest={manifest}", "-p", f"out={out}")
    assert service.await_state(run)["state_type"] == "COMPLETED"
    assert {row_id: row["status"] for row_id, row in ledger(out).items()} == dict.fromkeys(
        ("r0", "r1", "long"), "ok"
    )
    assert set(videos(out)) == {"r0.mp4", "r1.mp4", "long.mp4"}
    found = service.artifacts(run)
    assert {key: found[key]["type"] for key in found} == {
        "render-progress": "progress",
        "render-shards": "table",
        "render-summary": "markdown",
    }
    assert found["render-progress"]["data"] == 100
    assert found["render-progress"]["description"] == "3 of 3 rows, 0 failed"
    (shard,) = json.loads(found["render-shards"]["data"])
    assert (shard["rows"], shard["ok"], shard["failed"]) == (3, 3, 0) and shard["seconds"] > 0
    assert "| rows | 3 | 0 | 0 |" in found["render-summary"]["data"]

    def told() -> list[str]:
        return [line["message"] for line in service.logs(run)]

    # The last lines reach the server as the process ends, a moment after its state does.
    assert wait_until(lambda: any(line.startswith("finished: this run") for line in told())), told()
    assert any("3 rows, 0 done, 0 invalid, 3 to render" in line for line in told()), told()
    assert any(line.startswith("row long: ok, with a note") for line in told()), told()
    assert any("/metrics" in line for line in told()), told()


def test_a_schedule_fires_and_failed_rows_fail_the_run(
    service: Deployed, tiny_model: Path, tmp_path: Path
) -> None:
    """A schedule set a moment ahead starts a run by itself. One of its rows fails: everything is
    published, then the flow run is Failed, with counts, cause and remedy in its message, a table of
    failures, and the row in its log. Prefect's retry of the flow renders that row again and no other:
    the finished ones keep their files."""
    damaged = damaged_copy(tiny_model, tmp_path / "damaged")
    rows = [*rows_of(tiny_model, 2), {**rows_of(damaged, 1)[0], "id": "bad"}]
    manifest, out = write_rows(tmp_path / "m.parquet", rows), tmp_path / "out"
    soon = datetime.now(UTC) + timedelta(seconds=20)
    schedule = {
        "schedule": {"interval": 24 * 3600, "anchor_date": soon.isoformat()},
        "active": True,
        "parameters": {"manifest": str(manifest), "out": str(out)},
    }
    deployment = service.deployment(BULK)["id"]
    assert post(f"{service.url}/deployments/{deployment}/schedules", [schedule])
    scheduled = {
        "flow_runs": {
            "deployment_id": {"any_": [deployment]},
            "tags": {"all_": ["auto-scheduled"]},
        },
        "sort": "EXPECTED_START_TIME_ASC",
    }
    assert wait_until(lambda: ask(f"{service.url}/flow_runs/filter", scheduled), TIME_LIMIT)
    run = ask(f"{service.url}/flow_runs/filter", scheduled)[0]["id"]
    ended = service.await_state(run)
    assert ended["state_type"] == "FAILED"
    assert ended["run_count"] == 2 and ended["auto_scheduled"]
    told = ended["state"]["message"]
    assert "1 failed and 0 invalid of 3 rows" in told and f"zs2 retry {out}" in told
    assert "1 × sample: ModelError" in told and "(bad)" in told

    state = json.loads((out / "run.json").read_text())
    assert state["state"] == "finished"
    second = datetime.fromisoformat(state["started_at"]).timestamp() * 1e9
    assert set(videos(out)) == {"r0.mp4", "r1.mp4"}
    assert all(written < second for written in videos(out).values())
    found = ledger(out)
    assert {row_id: row["status"] for row_id, row in found.items()} == {
        **dict.fromkeys(("r0", "r1"), "ok"),
        "bad": "failed",
    }
    assert found["bad"]["started_at"].timestamp() * 1e9 > second
    summary = json.loads((out / "summary.json").read_text())
    assert summary["rendered"] == {"ok": 0, "failed": 1, "invalid": 0}

    artifacts = service.artifacts(run)
    (cause,) = json.loads(artifacts["render-failures"]["data"])
    assert (cause["rows"], cause["stage"], cause["error"]) == (1, "sample", "ModelError")
    assert artifacts["render-progress"]["description"] == "3 of 3 rows, 1 failed"
    told = [line["message"] for line in service.logs(run)]
    assert any(line.startswith("row bad: failed at sample: ModelError: ") for line in told), told


def begun(service: Deployed, model: Path, folder: Path, count: int) -> tuple[str, Path]:
    """A run of some length, when its first two videos are there: its id and its OUT."""
    manifest = write_rows(folder / "m.parquet", rows_of(model, count, frames=16, steps=20))
    out = folder / "out"
    run = service.start(BULK, {"manifest": str(manifest), "out": str(out)})
    assert wait_until(lambda: len(videos(out)) >= 2, TIME_LIMIT), service.flow_run(run)
    return run, out


@contextmanager
def unreachable(service: Deployed, folder: Path) -> Iterator[None]:
    """The server answers nobody meanwhile: all of its processes stand still."""
    its = list(processes(f"PREFECT_HOME={folder}"))
    assert its
    for pid in its:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert ask(f"{service.url}/health") is None
        yield
    finally:
        for pid in its:
            os.kill(pid, signal.SIGCONT)


def test_a_killed_flow_process_ends_as_crashed(
    service: Deployed, tiny_model: Path, tmp_path: Path
) -> None:
    """SIGKILL to the flow's process while its worker lives: the flow run is Crashed, its actors are
    gone, and a new run into the same folder renders what is missing, and nothing else."""
    run, out = begun(service, tiny_model, tmp_path, 8)
    pids = [pid for pid, command in service.processes_of_runs().items() if is_flow(command)]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert service.await_state(run)["state_type"] == "CRASHED"
    assert wait_until(lambda: not service.processes_of_runs(), TIME_LIMIT)
    done = recorded(out)
    assert 1 <= len(done) < 8

    manifest = tmp_path / "m.parquet"
    again = service.start(BULK, {"manifest": str(manifest), "out": str(out)})
    service.await_state(again, "COMPLETED")
    assert videos(out).items() >= done.items() and len(videos(out)) == 8
    assert all(row["status"] == "ok" for row in ledger(out).values())


def is_flow(command: str) -> bool:
    """Whether a command is a flow run's own process, not Ray's."""
    return "prefect" in command and "ray" not in command.split()[0] and "worker" not in command


def test_a_run_lost_with_its_worker_is_found_and_started_again(
    service: Deployed, tiny_model: Path, tmp_path: Path
) -> None:
    """Worker and flow process are killed together, so that nobody is left to tell. By the automations of
    infra/automations.yaml, with a shorter patience, the flow run is marked as crashed once its
    heartbeats have stopped, put back into the queue, and rendered to its end by the next worker. Rows
    that were finished keep their files."""
    automations = yaml.safe_load((PROJECT / "infra" / "automations.yaml").read_text())
    automations["automations"][0]["trigger"]["within"] = (
        45  # a heartbeat comes every 30 seconds, at the most often
    )
    (tmp_path / "automations.yaml").write_text(yaml.safe_dump(automations))
    service.prefect("automation", "create", "--from-file", str(tmp_path / "automations.yaml"))
    run, out = begun(service, tiny_model, tmp_path, 10)
    assert wait_until(lambda: heartbeats(service, run), TIME_LIMIT)
    for pid in processes(service.mark):  # actors too, as when the machine dies
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    service.worker.wait(60)
    done = recorded(out)
    assert 1 <= len(done) < 10
    assert service.state(run) == "RUNNING"

    seen: list[str] = []

    def is_back() -> bool:
        name = (service.flow_run(run) or {"state": {"name": ""}})["state"]["name"]
        if name and name not in seen:
            seen.append(name)
        return name == "AwaitingRetry"

    assert wait_until(is_back, TIME_LIMIT), seen
    history = ask(f"{service.url}/flow_run_states/?flow_run_id={run}")
    names = [state["name"] for state in sorted(history, key=lambda state: state["timestamp"])]
    assert names[-3:] == ["Running", "Lost", "AwaitingRetry"], names
    service.worker = service.start_worker()
    assert service.await_state(run, "COMPLETED", "FAILED")["state_type"] == "COMPLETED"
    assert videos(out).items() >= done.items() and len(videos(out)) == 10
    assert all(row["status"] == "ok" for row in ledger(out).values())


def heartbeats(service: Deployed, run: str) -> int:
    """How many heartbeats of a flow run the server has."""
    wanted = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]},
                         "resource": {"id": [f"prefect.flow-run.{run}"]}}}  # fmt: skip
    return (ask(f"{service.url}/events/filter", wanted) or {}).get("total", 0)


def test_a_server_that_stands_still_does_not_hold_the_render(
    service: Deployed, tiny_model: Path, tmp_path: Path
) -> None:
    """The API answers nothing from the second video on: every row is rendered and published, run.json
    says finished, while it still does not. When it answers again the flow run is Completed."""
    run, out = begun(service, tiny_model, tmp_path, 12)
    home = Path(service.environment["PREFECT_HOME"]).parent / "server"
    stopped = time.time()
    with unreachable(service, home):

        def is_finished() -> bool:
            return json.loads((out / "run.json").read_text())["state"] == "finished"

        assert wait_until(is_finished, TIME_LIMIT)
        assert len(videos(out)) == 12 and len(ledger(out)) == 12
        assert (out / "index.html").stat().st_mtime > stopped
    assert service.await_state(run)["state_type"] == "COMPLETED"


def test_a_run_whose_process_is_interrupted_is_not_completed(
    service: Deployed, tiny_model: Path, tmp_path: Path
) -> None:
    """SIGINT to the flow's process, as Ctrl-C at its worker's terminal sends it: what is in flight ends
    and is published, and the flow run is Cancelled, with the number of rows that are left."""
    run, out = begun(service, tiny_model, tmp_path, 12)
    for pid in [pid for pid, command in service.processes_of_runs().items() if is_flow(command)]:
        os.kill(pid, signal.SIGINT)
    ended = service.await_state(run)
    assert ended["state_type"] == "CANCELLED"
    done = ledger(out)
    assert 2 <= len(done) < 12 and all(row["status"] == "ok" for row in done.values())
    assert f"interrupted, {12 - len(done)} rows are left" in ended["state"]["message"]
