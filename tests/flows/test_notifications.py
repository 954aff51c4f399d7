"""Runs report to a webhook how they ended: a real server, its automation, a receiver on loopback."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.flows.deployed import Deployed, deployed
from tests.flows.prefect_api import ask
from tests.flows.running import processes, wait_until, write_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


class Receiver(ThreadingHTTPServer):
    """Whom the webhook calls: keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Keep)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/reports"
        self.reports: list[dict[str, Any]] = []

    def of(self, run: str) -> list[dict[str, Any]]:
        return [report for report in self.reports if report["flow_run_id"] == run]


class _Keep(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        assert self.headers["Content-Type"] == "application/json"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.reports.append(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def service(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with deployed(tmp_path_factory.mktemp("notifications")) as made:
        made.environment["ZS2_WEBHOOK_URL"] = receiver.url
        put = made.ask_python("-m", "infra.automations", "infra/notifications.yaml")
        assert put.returncode == 0, put.stderr
        yield made


def test_finished_failed_and_crashed_runs_are_reported(
    service: Deployed, receiver: Receiver, tiny_model: Path, tmp_path: Path
) -> None:
    """A run that completes, one that fails and one whose process is killed are each reported once,
    as JSON with the names of flow and flow run, the state and its message."""
    row = {
        "prompt": 'a "star"',
        "model": str(tiny_model),
        "num_inference_steps": 2,
        "num_frames": 2,
    }
    good = write_rows(tmp_path / 'good "one".parquet', [{"id": "r0", **row}])
    long = {**row, "num_frames": 64, "num_inference_steps": 50}
    slow = write_rows(tmp_path / "slow.parquet", [{"id": f"r{i}", **long} for i in range(50)])

    def start(manifest: Path) -> str:
        out = tmp_path / f"out-{manifest.stem[:4]}"
        parameters = json.dumps({"manifest": str(manifest), "out": str(out)})
        return service.run("render-manifest/bulk", "--params", parameters)

    completed, failed, killed = start(good), start(tmp_path / "none.parquet"), start(slow)
    service.await_state(killed, "RUNNING")
    for pid in processes(f"PREFECT__FLOW_RUN_ID={killed}"):
        os.kill(pid, signal.SIGKILL)
    for run in (completed, failed, killed):
        service.await_state(run)
    expected = {completed: "Completed", failed: "Failed", killed: "Crashed"}
    assert wait_until(lambda: all(receiver.of(run) for run in expected), 120), receiver.reports

    for run, state in expected.items():
        (report,) = receiver.of(run)
        found = service.flow_run(run)
        assert report["state"] == state
        assert report["flow"] == "render-manifest"
        assert report["deployment"] == "bulk"
        assert report["flow_run"] == found["name"]
        assert report["message"] == (found["state"]["message"] or "")
        assert report["text"].startswith(f"render-manifest/{found['name']}: {state}")
        assert report["url"] == ""  # this server has no pages
    assert "none.parquet does not exist" in receiver.of(failed)[0]["message"]


def test_putting_automations_again_replaces_them(service: Deployed, receiver: Receiver) -> None:
    """The program run again makes no second automation, nor a second block; without a webhook it
    is refused and says what to set."""
    again = service.ask_python("-m", "infra.automations", "infra/notifications.yaml")
    assert again.stdout == "updated: zs2 notifications\n", again.stderr
    assert len(ask(f"{service.url}/automations/filter", {})) == 1
    del service.environment["ZS2_WEBHOOK_URL"]
    refused = service.ask_python("-m", "infra.automations", "infra/notifications.yaml")
    assert refused.returncode == 2
    assert "ZS2_WEBHOOK_URL" in refused.stderr


def test_the_webhook_is_kept_as_a_secret(service: Deployed, receiver: Receiver) -> None:
    """The server hands the block out with its URL hidden: it may hold a token."""
    (block,) = ask(f"{service.url}/block_documents/filter", {"include_secrets": False})
    assert block["name"] == "zs2"
    assert receiver.url not in json.dumps(block)
