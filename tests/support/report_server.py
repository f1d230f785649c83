"""The HTTP API behind a proxy that can be away, lose its replies, and pass everything on twice."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fastapi.testclient import TestClient

from reprieve.api.app import create_app
from reprieve.workers.bootstrap import Services


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
        self._api = TestClient(create_app(services), base_url="http://127.0.0.1", raise_server_exceptions=False)
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}"

    def bodies(self, operation: str) -> list[dict[str, Any]]:
        return [body for name, body, _ in self.seen if name == operation]

    def answer(self, path: str, headers: Mapping[str, str], body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        passed_on = {name: value for name, value in headers.items() if name in ("Authorization", "Content-Type")}
        for _ in range(2 if self.twice else 1):
            reply = self._api.post(path, json=body, headers=passed_on)
        answer: dict[str, Any] = reply.json()
        self.seen.append((path.rsplit("/", 1)[-1], body, answer if reply.is_success else None))
        return reply.status_code, answer

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
                status, reply = server.answer(self.path, self.headers, body)
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
