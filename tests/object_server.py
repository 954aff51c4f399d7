"""An S3 on loopback for tests: moto's server in a process of its own, and a proxy that does it harm.

The proxy counts requests, breaks those it is told to break, and puts conditional writes one after the
other, as a store does: moto checks a condition and then writes, with a gap between.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

MOTO_STARTS = 60.0  # seconds at most; it imports for three

Kind = Literal["403", "412", "500", "503", "silence", "cut-request", "cut-answer"]


@dataclass
class Fault:
    """What happens to the first `times` requests that match.

    A number is answered; `silence` answers nothing for `seconds` (the store never hears of the
    request); `cut-request` closes the connection in the middle of the body; `cut-answer` lets the
    store do it, and then closes the connection without an answer.
    """

    kind: Kind
    times: int = 1
    method: str = ""
    path: str = ""  # a part of it
    seconds: float = 0.0

    def matches(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method in ("", method) and self.path in path


@dataclass
class Store:
    """The store as clients see it, at `url`.

    Attributes:
        log: every request as (method, path with query, status; 0 for none).
        is_dead: every connection is closed at once.
    """

    moto_port: int
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    log: list[tuple[str, str, int]] = field(default_factory=list)
    is_dead: bool = False
    _conditional: threading.Lock = field(default_factory=threading.Lock)
    _choosing: threading.Lock = field(default_factory=threading.Lock)

    def bucket(self, name: str) -> str:
        """Make a bucket; its URL. Straight to moto: no fault hits it, and no count has it."""
        status, _ = ask(self.moto_port, "PUT", f"/{name}")
        assert status == 200, status
        return f"s3://{name}"

    def environment(self) -> dict[str, str]:
        """What a client is to have in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing-key",
            "AWS_SECRET_ACCESS_KEY": "testing-secret",
            "AWS_REGION": "us-east-1",
        }

    def count(self, method: str = "", part: str = "") -> int:
        """How many requests there were."""
        return sum(method in ("", m) and part in path for m, path, _ in self.log)

    def _fault(self, method: str, path: str) -> Fault | None:
        with self._choosing:
            for fault in self.faults:
                if fault.matches(method, path):
                    fault.times -= 1
                    return fault
        return None


AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=testing-key/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
)


def ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """One request to moto itself."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, {"Authorization": AUTHORIZATION})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@contextmanager
def moto() -> Generator[int]:
    """A moto server; its port."""
    for _ in range(5):  # another process may take the port before moto does
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            if _comes_up(port, process):
                yield port
                return
        finally:
            process.terminate()
            process.wait()
    raise RuntimeError("moto's server did not start")


def _comes_up(port: int, process: subprocess.Popen[bytes]) -> bool:
    end = time.monotonic() + MOTO_STARTS
    while time.monotonic() < end and process.poll() is None:
        try:
            status, _ = ask(port, "GET", "/moto-api/data.json")
            return status == 200 and process.poll() is None
        except OSError:
            time.sleep(0.1)
    return False


@contextmanager
def proxied(moto_port: int) -> Generator[Store]:
    """A proxy in front of moto, in threads of this process."""
    store = Store(moto_port)
    server = _Server(("127.0.0.1", 0), _handler(store))
    store.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what these tests are about."""


def _handler(store: Store) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            if store.is_dead:
                store.log.append((self.command, self.path, 0))
                self._hang_up()
                return
            length = int(self.headers.get("Content-Length") or 0)
            fault = store._fault(self.command, self.path)
            if fault is not None and fault.kind == "cut-request":
                self.rfile.read(length // 2)
                store.log.append((self.command, self.path, 0))
                self._hang_up()
                return
            body = self.rfile.read(length)
            if fault is None or fault.kind == "cut-answer":
                status, headers, content = self._forward(body)
                if fault is not None:
                    store.log.append((self.command, self.path, 0))
                    self._hang_up()
                    return
            elif fault.kind == "silence":
                store.log.append((self.command, self.path, 0))
                time.sleep(fault.seconds)
                self._hang_up()
                return
            else:
                status, headers, content = int(fault.kind), {}, b"<Error><Code>Slow</Code></Error>"
            store.log.append((self.command, self.path, status))
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "content-length" not in {name.lower() for name in headers}:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
            is_conditional = self.command == "PUT" and (
                "If-Match" in self.headers or "If-None-Match" in self.headers
            )
            if is_conditional:
                with store._conditional:
                    return self._send(body, headers)
            return self._send(body, headers)

        def _send(self, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", store.moto_port, timeout=60)
            try:
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                kept = {
                    name: value
                    for name, value in answer.getheaders()
                    if name.lower() not in ("connection", "transfer-encoding", "server", "date")
                }
                return answer.status, kept, content
            finally:
                connection.close()

        def _hang_up(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
