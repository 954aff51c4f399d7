"""Prefect inside the command line: the user's server when one is set, else one of our own."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Generator
from typing import Any


@contextlib.contextmanager
def embedded_prefect() -> Generator[str | None]:
    """Open a context in which flows run without any set-up; yields the user's API URL, if any.

    Without one a temporary server with a database of its own is started by Prefect and is gone
    afterwards. Nothing is sent anywhere, and Prefect prints nothing: progress and errors are ours.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    from prefect.settings import (
        PREFECT_API_DATABASE_CONNECTION_URL,
        PREFECT_API_URL,
        PREFECT_LOGGING_LEVEL,
        PREFECT_LOGGING_SERVER_LEVEL,
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
        temporary_settings,
    )

    url = PREFECT_API_URL.value()
    with tempfile.TemporaryDirectory(prefix="zs2-prefect-", ignore_cleanup_errors=True) as folder:
        settings: dict[Any, Any] = {
            PREFECT_LOGGING_LEVEL: "CRITICAL",
            PREFECT_LOGGING_SERVER_LEVEL: "CRITICAL",
        }
        if not url:
            database = f"sqlite+aiosqlite:///{folder}/prefect.db"
            settings[PREFECT_SERVER_ALLOW_EPHEMERAL_MODE] = True
            settings[PREFECT_API_DATABASE_CONNECTION_URL] = database
        with temporary_settings(settings):
            logging.getLogger("prefect").setLevel(logging.CRITICAL)
            yield url
