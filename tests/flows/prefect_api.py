"""A Prefect server on loopback, and questions to its API."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.flows.running import environment, wait_until

ATTEMPTS = 5  # of a question that the server fails to answer


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON answer of a server; None while it does not answer, or where it refuses."""
    return _send(url, body)


def post(url: str, body: list[Any]) -> Any:
    """The same for what takes a list."""
    return _send(url, body)


def _send(url: str, body: dict[str, Any] | list[Any] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    for attempt in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == ATTEMPTS - 1:
                return None
            time.sleep(1)  # another is writing to its SQLite
        except (urllib.error.URLError, OSError):
            return None
    return None


@contextmanager
def prefect_server(home: Path, more: Mapping[str, str] | None = None) -> Generator[str]:
    """A server with a home of its own; its API's URL.

    Args:
        more: variables of its environment, such as those of a database that is not SQLite's.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",  # it looks once a minute by default
    }
    variables |= more or {}
    process = subprocess.Popen(
        [*(sys.executable, "-m", "prefect", "server", "start", "--no-ui"), "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(**variables),
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}/api"
    try:
        assert wait_until(lambda: ask(f"{url}/health") is True, 120)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            pass  # a crowded machine; it is killed with the rest
        finally:
            with suppress(ProcessLookupError):  # the server proper is a child of its command
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
