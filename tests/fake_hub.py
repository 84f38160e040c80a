"""A Hugging Face Hub on the loopback interface: the few endpoints a download asks, served from memory."""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Repo:
    """One repository: its files, and what the Hub would refuse."""

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False
    status: int | None = None


@dataclass
class FakeHub:
    """A server with repositories, remembering every request as "METHOD path"."""

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    port: int = 0
    _server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "FakeHub":
        """Listen, on the same port as the last time; nothing happens where it does already."""
        hub = self
        if self._server is not None:
            return self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def add(self, name: str, folder: Path) -> None:
        """Serve the files of a local model directory as a repository."""
        self.repos[name] = Repo({path.name: path.read_bytes() for path in folder.iterdir()})

    def downloads(self) -> list[str]:
        """Names of the files fetched so far, in order."""
        return [
            line.rsplit("/", 1)[1] for line in self.requests if line.startswith("GET") and "/resolve/" in line
        ]

    def answer(self, handler: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = handler.path.split("?")[0]
        self.requests.append(f"{handler.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] != ["api", "models"] and parts[2:3] != ["resolve"]:
            return _reply(handler, 404, {})
        if parts[:2] == ["api", "models"]:
            name, revision, file = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main", None
        else:
            name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        repo = self.repos.get(name)
        if repo is None:
            return _reply(
                handler, 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such repository"}
            )
        if repo.status is not None:
            return _reply(handler, repo.status, {})
        if revision not in (*repo.revisions, COMMIT):
            return _reply(
                handler, 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no revision"}
            )
        if file is None:
            listing = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": key} for key in repo.files]}
            return _reply(handler, 200, {"Content-Type": "application/json"}, json.dumps(listing).encode())
        if repo.gated:
            return _reply(handler, 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "accept the terms"})
        data = repo.files.get(file)
        if data is None:
            return _reply(handler, 404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "no entry"})
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return _reply(handler, 200, headers, data, body=body)


def _reply(
    handler: BaseHTTPRequestHandler,
    status: int,
    headers: dict[str, str],
    data: bytes = b"",
    *,
    body: bool = True,
) -> None:
    handler.send_response(status)
    for key, value in {**headers, "Content-Length": str(len(data))}.items():
        handler.send_header(key, value)
    handler.end_headers()
    if body:
        handler.wfile.write(data)
