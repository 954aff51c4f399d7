"""Debian's PostgreSQL in a folder of its own, on a socket in that folder: no port, no password."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.flows.running import wait_until

USER = "postgres"  # who the server runs as where the tests are root: it refuses to be root


def binaries() -> Path | None:
    """The folder of initdb and postgres, the newest; None where Debian's postgresql is missing."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    return found[-1].parent if found else None


def _version(path: Path) -> float:
    return float(path.parts[-3])


@dataclass(frozen=True)
class Postgres:
    """A running server.

    Attributes:
        folder: of its socket.
    """

    folder: Path
    bin: Path

    @property
    def url(self) -> str:
        """Of the database `prefect`, as Prefect takes it."""
        return f"postgresql+asyncpg://{USER}@/prefect?host={self.folder}"

    def ask(self, query: str) -> list[list[str]]:
        """The rows of a query, all as text."""
        done = subprocess.run(
            [*(self.bin / "psql", "--host", self.folder, "--username", USER), *_PLAIN, query],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return [line.split("\t") for line in done.stdout.splitlines()]


_PLAIN = ("--dbname=prefect", "--tuples-only", "--no-align", "--field-separator=\t", "--command")


@contextmanager
def postgres() -> Generator[Postgres]:
    """A server with an empty database `prefect`, gone with all it wrote in the end."""
    found = binaries()
    assert found, "apt-get install postgresql"
    # Not below pytest's own folder: that is the tests' user's alone, and a socket's path is short.
    folder = Path(tempfile.mkdtemp(prefix="zs2-pg-"))
    own = os.getuid() != 0
    if not own:
        shutil.chown(folder, USER)
    as_user = [] if own else ["setpriv", f"--reuid={USER}", f"--regid={_group()}", "--clear-groups"]
    data = folder / "data"
    initdb = (
        found / "initdb",
        "--pgdata",
        data,
        "--username",
        USER,
        "--auth",
        "trust",
        "--no-sync",
    )
    subprocess.run([*as_user, *initdb], check=True, timeout=120, stdout=subprocess.DEVNULL, cwd="/")
    server = subprocess.Popen(
        [*as_user, found / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    made = Postgres(folder, found)
    try:
        create = [found / "createdb", "--host", folder, "--username", USER, "prefect"]
        assert wait_until(lambda: subprocess.run(create, capture_output=True).returncode == 0, 60)
        yield made
    finally:
        server.send_signal(signal.SIGINT)  # "fast": sessions are ended
        try:
            server.wait(60)
        finally:
            server.kill()
            server.wait()
            shutil.rmtree(folder, ignore_errors=True)


def _group() -> int:
    return pwd.getpwnam(USER).pw_gid
