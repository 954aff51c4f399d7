"""zs2 deployed: a real Prefect server with the deployments of infra/prefect.yaml, and a real worker."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.flows.prefect_api import ask, prefect_server
from tests.flows.running import TIME_LIMIT, environment, processes, wait_until

PROJECT = Path(__file__).parents[2]
TERMINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
# Commands of processes that belong to a flow run, not to its worker.
OF_A_RUN = ("ray::", "raylet", "gcs_server", "prefect.engine", "flow-run")


class Deployed:
    """A server with the deployments of infra/prefect.yaml, and a worker that runs them.

    Args:
        url: of the server's API.
        folder: the clients' home; it marks all processes of the worker.
        variables: further ones of the worker's environment, which its runs inherit.
    """

    def __init__(self, url: str, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        self.url = url
        mark = str(folder)
        self.mark = f"ZS2_TEST={mark}"
        self.environment = environment(
            PREFECT_API_URL=url,
            PREFECT_HOME=str(folder / "client"),
            PREFECT_WORKER_QUERY_SECONDS="1",
            ZS2_TEST=mark,
            PYTHONPATH=str(PROJECT),
            **(variables or {}),
        )
        self.prefect("work-pool", "create", "zs2", "--type", "process")
        self.prefect("deploy", "--prefect-file", "infra/prefect.yaml", "--all")
        self.worker = self.start_worker()

    def start_worker(self, **variables: str) -> subprocess.Popen[bytes]:
        """A process worker of the pool `zs2`, in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "zs2"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=PROJECT,
            env={**self.environment, **variables},
            start_new_session=True,
        )

    def ask_python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Python with these arguments, as a client of the server."""
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            env=self.environment,
        )

    def ask_prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command `prefect`, whatever it answers."""
        return self.ask_python("-m", "prefect", *arguments)

    def prefect(self, *arguments: str) -> str:
        """The command `prefect`, which has to succeed; what it printed."""
        done = self.ask_prefect(*arguments)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def run(self, deployment: str, *arguments: object) -> str:
        """`prefect deployment run`; the id of the flow run."""
        told = self.prefect("deployment", "run", deployment, *map(str, arguments))
        found = re.search(r"UUID:\s+([0-9a-f-]{36})", told)
        assert found, told
        return found[1]

    def start(self, deployment: str, parameters: Mapping[str, Any], **more: Any) -> str:
        """A run by the server's API, which spares the seconds of a command; the flow run's id."""
        # Asked again where the server was too busy to answer, which the key makes the same run.
        key = str(uuid4())
        body = {"parameters": dict(parameters), "idempotency_key": key, **more}
        made: list[Any] = []

        def is_made() -> bool:
            found = self.deployment(deployment)
            url = f"{self.url}/deployments/{(found or {}).get('id')}/create_flow_run"
            made.append(ask(url, body))
            return made[-1] is not None

        assert wait_until(is_made, TIME_LIMIT), "the server takes no run"
        return made[-1]["id"]

    def deployment(self, name: str) -> Any:
        return ask(f"{self.url}/deployments/name/{name}")

    def flow_run(self, run: str) -> Any:
        return ask(f"{self.url}/flow_runs/{run}")

    def state(self, run: str) -> str:
        """The type of a flow run's state; empty while the server does not answer."""
        return (self.flow_run(run) or {}).get("state_type", "")

    def await_state(self, run: str, *expected: str, seconds: float = TIME_LIMIT) -> Any:
        """The flow run once it is in one of these states; fails where it does not come to that."""
        wanted = expected or TERMINAL
        found: Any = None

        def is_there() -> bool:
            nonlocal found
            found = (
                self.flow_run(run) or found
            )  # a busy server leaves a question unanswered at times
            return (found or {}).get("state_type", "") in wanted

        assert wait_until(is_there, seconds), found
        return found

    def artifacts(self, run: str) -> dict[str, Any]:
        """A flow run's artifacts by key, the latest of each."""
        of_the_run = {"flow_runs": {"id": {"any_": [run]}}, "sort": "CREATED_DESC"}
        found = ask(f"{self.url}/artifacts/filter", of_the_run) or []
        return {artifact["key"]: artifact for artifact in reversed(found)}

    def logs(self, run: str) -> list[Any]:
        """What a flow run has logged, its first 200 lines in order."""
        wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        return ask(f"{self.url}/logs/filter", wanted) or []

    def processes_of_runs(self) -> dict[int, str]:
        """Processes of flow runs, actors and Ray included: pid → command."""
        found = processes(self.mark).items()
        return {pid: command for pid, command in found if any(w in command for w in OF_A_RUN)}

    def stop(self) -> None:
        """End the worker, and what is left of its runs."""
        self.worker.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.worker.wait(60)
        for pid in processes(self.mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.worker.wait()


@contextmanager
def deployed(folder: Path, variables: Mapping[str, str] | None = None) -> Generator[Deployed]:
    """A server of its own with the deployments and a worker; see `Deployed`."""
    with prefect_server(folder / "server") as url:
        made = Deployed(url, folder, variables)
        try:
            yield made
        finally:
            made.stop()
