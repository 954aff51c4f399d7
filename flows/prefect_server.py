"""Prefect's API for one `zs2` process: it serves on this machine only, and ends with that process.

Run as a script by `flows.embedded`. It prints its port at once and `ready`
when it answers. Its standard input is a pipe that nothing is written to: when that closes the
parent is gone, were it by SIGKILL, and so are the server and its folder, the one argument.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
from typing import Any


def main() -> None:
    """Serve until standard input ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    import uvicorn
    from prefect.server.api.server import create_app

    app: Any = create_app(ephemeral=True, final=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on"))
    threading.Thread(target=_tell_when_ready, args=[server], daemon=True).start()
    server.run(sockets=[listener])


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    os._exit(0)  # at once: nobody reads farewells


def _tell_when_ready(server: Any) -> None:
    waiting = threading.Event()
    while not server.started:
        waiting.wait(0.05)
    print("ready", flush=True)


if __name__ == "__main__":
    main()
