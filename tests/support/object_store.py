"""An object store with an S3 API (moto's) that refuses, hangs or forgets when it is told to."""

import http.client
import subprocess
import sys
import threading
from contextlib import suppress
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from stores.embedded.address import choose_port
from tests.support.waiting import answers, eventually

BUCKET = "logs"


class Mood(Enum):
    """What it does with what it is asked for."""

    WELL = "well"
    REFUSING = "refusing"
    """Everything is answered with 403."""
    HANGING = "hanging"
    """Nothing is answered until the mood changes."""
    FORGETTING = "forgetting"
    """What is written is said to be there, and is not."""


class ObjectStore:
    """A context manager. `environment` leads a process there, `url` is the archive's address in it."""

    url = f"s3://{BUCKET}/of/reprieve"

    def __init__(self) -> None:
        self._port = choose_port()
        self._changed = threading.Condition()
        self._mood = Mood.WELL
        self._front = _Front(self)
        self._serving = threading.Thread(target=self._front.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._front.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_REGION": "us-east-1",
        }

    def __enter__(self) -> Self:
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        self._store = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._serving.start()
            eventually(lambda: answers(f"http://127.0.0.1:{self._port}"))
            assert self.ask("PUT", f"/{BUCKET}", {}, b"")[0] == 200
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.turn(Mood.WELL)
        self._front.shutdown()
        self._front.server_close()
        self._store.kill()
        self._store.wait()

    def turn(self, mood: Mood) -> None:
        with self._changed:
            self._mood = mood
            self._changed.notify_all()

    def mood(self) -> Mood:
        """What it is like, once it does not hang."""
        with self._changed:
            self._changed.wait_for(lambda: self._mood is not Mood.HANGING)
            return self._mood

    def ask(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Of the store itself, whatever its mood."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class _Front(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has waited long enough and went away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Front

    def log_message(self, *_: object) -> None:
        """Nothing is to be printed."""

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        mood = self.server.store.mood()
        if mood is Mood.REFUSING:
            self._answer(403, [("Content-Type", "application/xml")], b"<Error><Code>AccessDenied</Code></Error>")
        elif mood is Mood.FORGETTING and self.command == "PUT":
            self._answer(200, [("ETag", '"0"')], b"")
        else:
            self._answer(*self.server.store.ask(self.command, self.path, dict(self.headers.items()), body))

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        with suppress(ConnectionError):
            self.send_response_only(status)
            sized = self.command == "HEAD" and any(name.lower() == "content-length" for name, _ in headers)
            for name, value in headers:
                if name.lower() not in ("connection", "transfer-encoding") and (
                    sized or name.lower() != "content-length"
                ):
                    self.send_header(name, value)
            if not sized:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
