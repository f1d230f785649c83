"""The job server that docs/examples/adapter speaks to: small, and real: its jobs are processes."""

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Jobs:
    """What runs; `broken` has every request be answered with 500."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.broken = False
        self.url = ""

    def put(self, name: str, command: list[str], env: dict[str, str]) -> None:
        with self._lock:
            if name not in self.running:
                with self.output(name).open("wb") as output:
                    self.running[name] = subprocess.Popen(command, stdout=output, env={**os.environ, **env})

    def output(self, name: str) -> Path:
        return self._folder / name

    def state(self, name: str) -> dict[str, Any] | None:
        job = self.running.get(name)
        if job is None:
            return None
        status = job.poll()
        return {"state": "running"} if status is None else {"state": "ended", "exit_status": status}

    def end(self, name: str) -> None:
        with self._lock:
            if (job := self.running.pop(name, None)) is not None:
                job.kill()
                job.wait()


class Handler(BaseHTTPRequestHandler):
    jobs: Jobs

    def do_PUT(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.jobs.broken:
            self.jobs.put(self._name, asked["command"], asked["env"])
        self._answer(b"{}")

    def do_GET(self) -> None:
        state = self.jobs.state(self._name)
        if state is not None and urlsplit(self.path).path.endswith("/output"):
            begin = int(parse_qs(urlsplit(self.path).query)["from"][0])
            self._answer(self.jobs.output(self._name).read_bytes()[begin:])
        else:
            self._answer(None if state is None else json.dumps(state).encode())

    def do_DELETE(self) -> None:
        if not self.jobs.broken:
            self.jobs.end(self._name)
        self._answer(b"{}")

    @property
    def _name(self) -> str:
        return urlsplit(self.path).path.split("/")[2]

    def _answer(self, body: bytes | None) -> None:
        self.send_response(500 if self.jobs.broken else 404 if body is None else 200)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def job_server() -> Iterator[Jobs]:
    with tempfile.TemporaryDirectory() as folder:
        jobs = Jobs(Path(folder))
        with ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"jobs": jobs})) as server:
            jobs.url = f"http://127.0.0.1:{server.server_port}/"
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield jobs
            finally:
                server.shutdown()
                thread.join()
                for name in list(jobs.running):
                    jobs.end(name)
