"""The receiver of docs/notices.md, as it stands there, and a worker that sends to it."""

import re
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from reprieve import enqueue_run
from reprieve.models.notices import NoticeState
from reprieve.workers.bootstrap import Services
from tests.conftest import StartWorker
from tests.support.receiver import SECRET
from tests.support.rows import make_due
from tests.support.waiting import eventually

PAGE = (Path(__file__).parents[2] / "docs" / "notices.md").read_text()


@pytest.fixture
def code() -> dict[str, Any]:
    found = re.search(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert found is not None
    defined: dict[str, Any] = {}
    exec(compile(found[1], "notices.md", "exec"), defined)
    return defined


@pytest.fixture
def told() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def server(code: dict[str, Any], told: list[dict[str, Any]]) -> Iterator[ThreadingHTTPServer]:
    failures = iter([True])

    def act(notice: dict[str, Any]) -> None:
        if next(failures, False):
            raise OSError("the first time, it is not well")
        told.append(notice)

    class Handler(code["receiver"](SECRET, act)):  # type: ignore[misc]
        def log_message(self, *_: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None: ...

    made = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(10)


def test_the_receiver_of_the_page_takes_what_is_ours_once_and_nothing_else(
    services: Services, start_worker: StartWorker, server: ThreadingHTTPServer, told: list[dict[str, Any]]
) -> None:
    url = f"http://127.0.0.1:{server.server_port}/"
    start_worker(extra={"REPRIEVE_NOTICE_SECRET": SECRET, "REPRIEVE_NOTICE_ALLOWED": "127.0.0.1"})
    run = enqueue_run("process", {"command": ["sh", "-c", "echo the last words; exit 3"]}, notify=[url])

    def sent() -> bool:
        make_due(services)
        return bool(services.notices.in_state(NoticeState.SENT))

    eventually(sent, timeout=60)
    (notice,) = told
    assert notice["type"] == "run.failed"
    assert notice["data"]["run"]["id"] == str(run.id)
    assert notice["data"]["lines"] == ["the last words"]
    # The same again, and a forgery.
    (taken,) = services.notices.in_state(NoticeState.SENT)
    assert taken.tries >= 2
    services.notices.again(taken.id)
    eventually(lambda: services.notices.find(taken.id).state == NoticeState.SENT, timeout=30)
    assert told == [notice]
    headers = {"webhook-id": "x", "webhook-timestamp": "1", "webhook-signature": "v1,x"}
    assert httpx2.post(url, content=b"{}", headers=headers).status_code == 401
