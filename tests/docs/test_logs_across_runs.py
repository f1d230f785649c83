"""The program of docs/logs_across_runs.md, as it stands there, and a receiver of lines like VictoriaLogs."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from reprieve import cancel_run
from reprieve.models.access import Scope
from reprieve.models.work import End, Outcome
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from tests.support.rows import chunk, ingest, new_run, running
from tests.support.served import Served
from tests.support.waiting import eventually

PAGE = (Path(__file__).parents[2] / "docs" / "logs_across_runs.md").read_text()


@pytest.fixture
def taken() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def receiver(taken: list[dict[str, Any]]) -> Iterator[str]:
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            taken.extend(map(json.loads, body.decode().split("\n")))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def served(services: Services) -> Iterator[Served]:
    made = Served(services)
    made.start()
    yield made
    made.stop()


def test_the_log_of_each_run_that_has_ended_is_sent_whole_and_from_the_kept_place_on(
    services: Services,
    served: Served,
    receiver: str,
    taken: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = re.search(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRIEVE_URL", served.url)
    monkeypatch.setenv("REPRIEVE_TOKEN", services.tokens.create("shipper", Scope.READ))
    monkeypatch.setenv("VICTORIALOGS_URL", receiver)
    program: dict[str, Any] = {"__name__": "ship"}
    exec(compile(found[1], "logs_across_runs.md", "exec"), program)
    (tmp_path / "shipped.place").write_text("0")
    works = [running(services, labels={"team": "data"}) for _ in range(2)]
    for number, work in enumerate(works):
        ingest(services, [chunk(work, 1, f"run {number}\n".encode()), chunk(work, 2, b"oh no\n", stream="stderr")])
        finish(services, [End.by_result(work.fence, Outcome(), 2)])
    cancel_run(new_run(services).id)
    last = services.database.run("SELECT max(id) AS id FROM run_events")[0].id
    # Until its stream is cut off, as one day it is: whatever that raises, it is started again.
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    shipping = threading.Thread(target=program["ship"], daemon=True)
    shipping.start()
    eventually(lambda: (tmp_path / "shipped.place").read_text() == str(last))
    served.stop()
    shipping.join(30)
    assert not shipping.is_alive()
    assert [(line["run"], line["stream"], line["_msg"], line["team"]) for line in taken] == [
        (str(work.run_id), stream, text, "data")
        for number, work in enumerate(works)
        for stream, text in (("stdout", f"run {number}"), ("stderr", "oh no"))
    ]
