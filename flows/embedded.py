"""Prefect inside the command line: the user's server when one is set, else one of our own."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tasks.startup import mark

KNOCK_SECONDS = 10.0
SERVER = Path(__file__).with_name("prefect_server.py")


class PrefectServerError(RuntimeError):
    """The embedded Prefect server did not start; the message says what it said."""


@contextlib.contextmanager
def embedded_prefect() -> Generator[str | None]:
    """Open a context in which flows run without any set-up; yields the user's API URL, if any.

    Without one a temporary server with a database of its own runs meanwhile, and is gone
    afterwards, also when this process is killed. Nothing is sent anywhere, and Prefect prints
    nothing: progress and errors are ours.

    Raises:
        PrefectServerError: that server did not start, or the user's does not answer.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_LEVEL, temporary_settings

    url = PREFECT_API_URL.value()
    settings: dict[Any, Any] = {PREFECT_LOGGING_LEVEL: "CRITICAL"}
    with contextlib.ExitStack() as stack:
        if url:
            _knock(url)
        else:
            settings |= stack.enter_context(_temporary_server())
        stack.enter_context(temporary_settings(settings))
        mark("Prefect up")
        logging.getLogger("prefect").setLevel(logging.CRITICAL)
        yield url


def _knock(url: str) -> None:
    """Fail at once where the user's server does not answer: Prefect's own end is a traceback.

    Raises:
        PrefectServerError: no connection.
    """
    place = urlsplit(url)
    port = place.port or (443 if place.scheme == "https" else 80)
    try:
        socket.create_connection((place.hostname or "", port), KNOCK_SECONDS).close()
    except OSError as error:
        raise PrefectServerError(
            f"no Prefect server answers at {url} ({error.strerror or error}); "
            "start that server, or do with an embedded one: `unset PREFECT_API_URL`, or where it is in "
            "Prefect's profile `prefect config unset PREFECT_API_URL`"
        ) from error


@contextlib.contextmanager
def _temporary_server() -> Generator[dict[Any, Any]]:
    """A server of our own; yields the settings that lead to it."""
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED

    with tempfile.TemporaryDirectory(prefix="zs2-prefect-", ignore_cleanup_errors=True) as folder:
        complaints = Path(folder, "stderr")
        with complaints.open("wb") as stderr:
            # In a session of its own: Ctrl-C at the terminal is for the run, which then still
            # tells the server how it ended.
            server = subprocess.Popen(
                [sys.executable, "-P", str(SERVER), folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                env={
                    **os.environ,
                    "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder}/prefect.db",
                    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",  # takes seconds; none is used
                    "PREFECT_UI_ENABLED": "false",
                    "PREFECT_LOGGING_LEVEL": "CRITICAL",
                    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
                },
            )
        assert server.stdin is not None and server.stdout is not None
        try:
            port = server.stdout.readline().decode().strip()
            import prefect.flow_engine  # pyright: ignore[reportUnusedImport]  # noqa: F401  takes as long as the server

            if server.stdout.readline() != b"ready\n":
                raise PrefectServerError(
                    "the embedded Prefect server did not start: "
                    f"{complaints.read_text('utf-8', 'replace').strip()[-2000:]}\n"
                    "run `zs2 doctor`; `make setup` installs the versions that belong together"
                )
            try:
                yield {
                    PREFECT_API_URL: f"http://127.0.0.1:{port}/api",
                    PREFECT_LOGGING_TO_API_ENABLED: False,
                }
            finally:
                _drain_events()
        finally:
            server.stdin.close()
            server.wait()
            server.stdout.close()


def _drain_events() -> None:
    """Let Prefect's background threads finish while there is still a server to talk to."""
    from prefect.events.worker import EventsWorker

    EventsWorker.drain_all(timeout=10, at_exit=False)
