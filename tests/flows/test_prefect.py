"""The flow under a Prefect that others run: a real server, and a caller in Python."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.throughput import data_uri
from tests.flows.prefect_api import ask, prefect_server
from tests.flows.running import environment, processes, wait_until, write_rows, zs2

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with prefect_server(tmp_path / "prefect") as url:
        yield url


def test_a_run_shows_up_on_the_users_server(server: str, tiny_model: Path, tmp_path: Path) -> None:
    """With PREFECT_API_URL set, the run is a completed flow run there, with the task runs plan,
    shard-0, shard-1 and publish, and an artifact that holds the summary and the picture of its
    throughput; no server of zs2's own is started."""
    row = {"prompt": "a", "model": str(tiny_model), "num_inference_steps": 1, "num_frames": 2}
    manifest = write_rows(tmp_path / "m.parquet", [{"id": f"r{i}", **row} for i in range(2)])
    answer = zs2(
        *("render", manifest, "-o", tmp_path / "out", "--shard-rows", 1),
        PREFECT_API_URL=server,
        PREFECT_HOME=str(tmp_path / "client"),
        ZS2_TEST="server",
    )
    assert answer.code == 0, answer.err
    assert all("rows" in line or "…" in line for line in answer.err.splitlines()[:-1]), answer.err
    assert processes("ZS2_TEST=server") == {}
    (flow,) = ask(f"{server}/flows/filter", {})
    assert flow["name"] == "render-manifest"
    (run,) = ask(f"{server}/flow_runs/filter", {})
    assert (run["state_type"], run["name"]) == ("COMPLETED", f"render {manifest}")

    def tasks() -> dict[str, str]:
        found = ask(f"{server}/task_runs/filter", {}) or []
        return {task["name"].removesuffix(task["name"][-4:])
                if task["name"].startswith(("plan-", "publish-"))
                else task["name"]: task["state_type"] for task in found}  # fmt: skip

    expected = dict.fromkeys(("plan", "shard-0", "shard-1", "publish"), "COMPLETED")
    assert wait_until(lambda: tasks() == expected, 30), tasks()
    found = {each["key"]: each for each in ask(f"{server}/artifacts/filter", {})}
    assert set(found) == {"render-progress", "render-shards", "render-summary"}
    assert {each["flow_run_id"] for each in found.values()} == {run["id"]}
    artifact = found["render-summary"]
    assert artifact["type"] == "markdown"
    assert "| rows | 2 | 0 | 0 |" in artifact["data"]
    svg = (tmp_path / "out" / "throughput.svg").read_text("utf-8")
    assert f"![throughput]({data_uri(svg)})" in artifact["data"]


FROM_PYTHON = """
import json, os, signal, sys
from flows.settings import RenderSettings
from prefect.testing.utilities import prefect_test_harness
from flows.render_manifest import render_manifest
from tasks.render import InvalidManifestError

manifest, bad, many, out = sys.argv[1:]
with prefect_test_harness(server_startup_timeout=120):
    try:
        render_manifest(bad, out + "-bad")
    except InvalidManifestError as error:
        print(json.dumps(str(error)))
    import ray
    assert not ray.is_initialized()
    summary = render_manifest(manifest, out, RenderSettings(defaults={"codec": "gif"}, samplers=1))
    print(json.dumps(summary))
    assert not ray.is_initialized()

    from flows.render_manifest import Caller, caller
    from flows.verdict import result_of
    from prefect.client.orchestration import get_client
    rows = []
    def interrupt(row):
        rows.append(row)
        if len(rows) == 1:  # a second signal would stop it at once
            os.kill(os.getpid(), signal.SIGINT)
    caller.set(Caller(on_row=interrupt))
    print(json.dumps(result_of(render_manifest, many, out + "-cut", RenderSettings(samplers=1))))
    with get_client(sync_client=True) as client:
        runs = {run.parameters["out"]: run.state for run in client.read_flow_runs()}
    print(json.dumps([runs[out].type, runs[out + "-cut"].type, runs[out + "-cut"].message]))
"""


def test_the_flow_from_python(tiny_model: Path, tmp_path: Path) -> None:
    """`render_manifest` is a flow that Python calls: it returns the summary, starts Ray and ends it,
    takes settings as an object, and raises InvalidManifestError with all faults before Ray starts. One
    that is interrupted is Cancelled, and says how many rows are left."""
    row = {"prompt": "a", "model": str(tiny_model), "num_inference_steps": 1, "num_frames": 2}
    manifest = write_rows(tmp_path / "m.parquet", [{"id": "r", **row}])
    bad = write_rows(tmp_path / "bad.parquet", [{"id": "r", **row, "height": 37, "fps": -1.0}])
    many = write_rows(tmp_path / "many.parquet", [{"id": f"{i}", **row} for i in range(16)])
    done = subprocess.run(
        [sys.executable, "-c", FROM_PYTHON, *map(str, (manifest, bad, many, tmp_path / "out"))],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment(PREFECT_HOME=str(tmp_path / "prefect"), ZS2_TEST="python"),
    )
    assert done.returncode == 0, done.stderr
    refusal, summary, cut, states = map(json.loads, done.stdout.splitlines())
    assert cut["state"] == "interrupted" and 0 < cut["left"] < 16
    told = f"interrupted, {cut['left']} rows are left; the same run goes on"
    assert states == ["COMPLETED", "CANCELLED", told]
    assert "height" in refusal and "fps" in refusal
    assert summary["rendered"] == {"ok": 1, "failed": 0, "invalid": 0}
    assert summary["state"] == "finished"
    assert [path.suffix for path in (tmp_path / "out" / "videos").glob("*/*")] == [".gif"]
    assert not list((tmp_path / "out-bad" / "videos").iterdir())
    assert wait_until(lambda: processes("ZS2_TEST=python") == {})


def test_a_server_that_does_not_answer(tiny_model: Path, tmp_path: Path) -> None:
    """PREFECT_API_URL leads nowhere: exit code 1 and one line that names it and what to do."""
    row = {"prompt": "a", "model": str(tiny_model), "num_inference_steps": 1, "num_frames": 2}
    manifest = write_rows(tmp_path / "m.parquet", [{"id": "r", **row}])
    url = "http://127.0.0.1:1/api"
    answer = zs2("render", manifest, "-o", tmp_path / "out", PREFECT_API_URL=url)
    assert answer.code == 1
    assert url in answer.err and "unset PREFECT_API_URL" in answer.err
    assert "Traceback" not in answer.err
