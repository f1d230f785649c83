"""A real Flower, and its API."""

import json
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reprieve.stores.embedded.address import choose_port
from tests.support.forking import REPRIEVE
from tests.support.processes import Process, spawn
from tests.support.waiting import eventually

COMMAND = [REPRIEVE, "flower"]
PASSWORD = "open sesame"


class Flower:
    def __init__(self, process: Process, url: str) -> None:
        self.process = process
        self.url = url

    def status(self, path: str, user: str | None = None, method: str = "GET") -> int:
        """The status that a page is answered with, 0 for no answer."""
        try:
            with urllib.request.urlopen(self._request(path, user, method), timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code
        except OSError:
            return 0

    def page(self, path: str, method: str = "GET") -> str:
        """A page for who knows the password."""
        with urllib.request.urlopen(self._request(path, f"reprieve:{PASSWORD}", method), timeout=20) as answer:
            text: str = answer.read().decode()
        return text

    def task(self, task_id: object) -> dict[str, Any]:
        """A task as Flower knows it by now; empty while it does not."""
        tasks = json.loads(self.page("/api/tasks"))
        found: dict[str, Any] = tasks.get(str(task_id), {})
        return found

    def _request(self, path: str, user: str | None, method: str) -> urllib.request.Request:
        request = urllib.request.Request(self.url + path, method=method, data=b"{}" if method == "POST" else None)
        if user is not None:
            request.add_header("Authorization", "Basic " + b64encode(user.encode()).decode())
        return request


@contextmanager
def running_flower(
    environment: Mapping[str, str], folder: Path, *, forked: bool = True, **extra: str
) -> Iterator[Flower]:
    port = choose_port()
    given = {"REPRIEVE_FLOWER_PASSWORD": PASSWORD, "FLOWER_PORT": str(port), **extra}
    process = spawn("flower", COMMAND, {**environment, **given}, folder, forked=forked)
    flower = Flower(process, f"http://127.0.0.1:{port}")
    try:
        eventually(lambda: flower.status("/healthcheck") == 200, timeout=60, what="Flower")
        yield flower
    finally:
        process.stop()
