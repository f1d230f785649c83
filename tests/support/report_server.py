"""A small HTTP server over `workers.reporting`, which can be away, lose its replies, and take everything twice."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

from models.errors import InvalidRequest, RunNotFound, TokenRefused
from workers import reporting
from workers.bootstrap import Services

STATUSES = {TokenRefused: 401, RunNotFound: 404, InvalidRequest: 422}


class ReportServer:
    """What a test may have it do, and what it saw."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.away = threading.Event()
        self.lose_reply: Callable[[int], bool] = lambda number: False
        self.twice = False
        self.redirect_to: str | None = None
        self.seen: list[tuple[str, dict[str, Any], dict[str, Any] | None]] = []
        self.refused_while_away = 0
        self._lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def bodies(self, operation: str) -> list[dict[str, Any]]:
        return [body for name, body, _ in self.seen if name == operation]

    def answer(self, path: str, header: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        *_, run_id, operation = path.split("/")
        call = {"output": reporting.append, "heartbeat": reporting.heartbeat, "finish": reporting.finish}[operation]
        token = header.removeprefix("Bearer ") if header.startswith("Bearer ") else None
        try:
            for _ in range(2 if self.twice else 1):
                reply = call(self.services, UUID(run_id), token, **body)
        except tuple(STATUSES) as error:
            self.seen.append((operation, body, None))
            return STATUSES[type(error)], {"error": str(error)}
        self.seen.append((operation, body, reply))
        return 200, reply

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if server.away.is_set():
                    server.refused_while_away += 1
                    self.close_connection = True
                    return
                if server.redirect_to is not None:
                    self.send_response(302)
                    self.send_header("Location", server.redirect_to)
                    self.end_headers()
                    return
                status, reply = server.answer(self.path, self.headers.get("Authorization", ""), body)
                if server.lose_reply(len(server.seen)):
                    self.close_connection = True
                    return
                data = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                """Tests say what they saw themselves."""

        return Handler


@contextmanager
def report_server(services: Services) -> Iterator[ReportServer]:
    server = ReportServer(services)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
