"""A small Hugging Face hub on loopback: enough of its HTTP API to describe and download models."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repo:
    """A repository: commits (hash → path → content), and branches and tags (name → hash).

    Attributes:
        token: what one must show to see it; None for a public one.
        gated: it is seen but not given.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False

    def commit(self, files: dict[str, bytes], *refs: str) -> str:
        """Add a commit and point the refs (default `main`) to it; its hash."""
        content = b"".join(name.encode() + files[name] for name in sorted(files))
        sha = sha1(content).hexdigest()
        self.commits[sha] = files
        self.refs |= dict.fromkeys(refs or ("main",), sha)
        return sha

    def resolve(self, revision: str) -> str | None:
        sha = self.refs.get(revision, revision)
        return sha if sha in self.commits else None


class HubServer:
    """Serves `repos` (id → Repo) at `url`; `log` has every request as (method, path).

    Attributes:
        tokens: those that are somebody's; any other is refused, as the hub does.
        foreign: it is another kind of server and answers everything with a web page.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.tokens: set[str] = set()
        self.foreign = False
        self.log: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, repo_id: str, files: Path | dict[str, bytes], **options: Any) -> Repo:
        """A repository with one commit on `main`: a folder's files, or the given ones."""
        self.repos[repo_id] = Repo(**options)
        self.repos[repo_id].commit(contents(files) if isinstance(files, Path) else files)
        return self.repos[repo_id]

    def downloads(self) -> list[str]:
        """The files that were sent, in the order of their names; the log begins anew."""
        sent = [path.split("/", 5)[5] for method, path in self.log if _is_download(method, path)]
        self.log.clear()
        return sorted(sent)


def contents(folder: Path) -> dict[str, bytes]:
    """A folder as a commit's files."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _is_download(method: str, path: str) -> bool:
    return method == "GET" and "/resolve/" in path


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.log.append((self.command, path))
            status, headers, body = _answer(hub, path, self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


Answer = tuple[int, dict[str, str], bytes]


def _error(status: int, code: str, message: str = "") -> Answer:
    return status, {"X-Error-Code": code, "X-Error-Message": message or code}, b""


def _answer(hub: HubServer, path: str, authorization: str | None) -> Answer:
    if hub.foreign:
        return 200, {"Content-Type": "text/html"}, b"<h1>Welcome</h1>"
    token = (authorization or "").removeprefix("Bearer ")
    if token and token not in hub.tokens:
        return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""
    words = path.strip("/").split("/")
    is_api = words[:2] == ["api", "models"]
    repo_id = "/".join(words[2:4] if is_api else words[:2])
    repo = hub.repos.get(repo_id)
    if repo is None or repo.token not in (None, token):
        return _error(404 if token else 401, "RepoNotFound")
    if not is_api:
        return _file(repo, words[3], "/".join(words[4:]))
    kind, revision = words[4] if len(words) > 4 else "revision", "/".join(words[5:]) or "main"
    sha = repo.resolve(revision)
    if sha is None:
        return _error(404, "RevisionNotFound")
    files = repo.commits[sha]
    if kind == "tree":
        listed = [
            {"type": "file", "path": name, "size": len(data), "oid": sha1(data).hexdigest()}
            for name, data in files.items()
        ]
        return 200, {"Content-Type": "application/json"}, json.dumps(listed).encode()
    siblings = [{"rfilename": name} for name in files]
    about = {"id": repo_id, "modelId": repo_id, "sha": sha, "siblings": siblings}
    return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()


def _file(repo: Repo, revision: str, name: str) -> Answer:
    sha = repo.resolve(revision)
    if sha is None:
        return _error(404, "RevisionNotFound")
    if repo.gated:
        return _error(403, "GatedRepo", "Access to this model is restricted")
    if name not in repo.commits[sha]:
        return _error(404, "EntryNotFound")
    data = repo.commits[sha][name]
    return 200, {"ETag": f'"{sha1(data).hexdigest()}"', "X-Repo-Commit": sha}, data
