"""E11: whoever holds connections half-open, or does not read, keeps no report of remote work from being answered."""

import json
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from reprieve.api import connections
from reprieve.models.connections import (
    FEWEST,
    PATIENCE,
    WANTED,
    ConnectionState,
    Stage,
    first_to_go,
    most_connections,
    most_readers,
)
from reprieve.stores.embedded.address import choose_port
from reprieve.workers.bootstrap import Services
from tests.api.conftest import served
from tests.support.http import TOKEN, bearer
from tests.support.processes import Process, spawn
from tests.support.remote import lines, remote_with_token
from tests.support.served import Served
from tests.support.waiting import answers, eventually

pytestmark = pytest.mark.row("E11")

__all__ = ["served"]

FILES = 1024
HALF_SENT = 1100
#: Seconds in which a report must be answered, far below the 30 after which its producer gives up.
ANSWERED_IN = 8.0


@pytest.fixture(scope="module", autouse=True)
def _files_of_our_own() -> Iterator[None]:
    """The callers are this process, which needs a descriptor for each."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], 8192), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def api(environment: dict[str, str], tmp_path: Path) -> Iterator[tuple[int, Process]]:
    """`reprieve api` with so many descriptors and no more: its port, and the process."""
    port = choose_port()
    extra = {"REPRIEVE_API_ADDRESS": f"127.0.0.1:{port}", "REPRIEVE_API_TOKENS": f"admin={TOKEN}"}
    limited = f"ulimit -n {FILES}; exec {Path(sys.executable).parent}/reprieve api"
    process = spawn("api", ["bash", "-c", limited], environment | extra, tmp_path)
    try:
        eventually(lambda: answers(f"http://127.0.0.1:{port}/health/live"), timeout=60, what=lambda: process.output)
        yield port, process
    finally:
        process.stop()


def _half(port: int, kind: str, run_id: object) -> bytes:
    """What such a caller sends, and then nothing more."""
    return {
        "connected": b"",
        "head": b"POST /v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Never",
        "body": f"POST /v1/runs/{run_id}/output HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer any\r\n"
        f"Content-Length: 9999\r\n\r\n{{".encode(),
        "idle": b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /health/live HTT",
        "reader": f"GET /v1/runs/{run_id}/log/live HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {TOKEN}\r\n\r\n".encode(),
    }[kind]


def _holding(port: int, kinds: tuple[str, ...], run_id: object, ending: ExitStack) -> list[socket.socket]:
    held = []
    for number in range(HALF_SENT):
        one = ending.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        one.sendall(_half(port, kinds[number % len(kinds)], run_id))
        held.append(one)
    return held


def _report(port: int, path: str, token: str, body: object) -> tuple[int, float]:
    """The status of a report, and the seconds that it took."""
    began = time.monotonic()
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"} | bearer(token))
        return connection.getresponse().status, time.monotonic() - began
    finally:
        connection.close()


def test_whoever_shows_no_token_is_refused_before_the_body_is_here(
    services: Services, api: tuple[int, Process]
) -> None:
    port, _ = api
    work, _ = remote_with_token(services)
    for body in (b"Content-Length: 2000000\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 20_000):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as anybody:
            head = f"POST /v1/runs/{work.run_id}/output HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
            with suppress(ConnectionError):
                anybody.sendall(head + body)
            # Far sooner than whoever is waited for.
            assert anybody.recv(65536).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("kinds", [("head", "body", "connected", "idle"), ("reader",)], ids=["half-sent", "readers"])
def test_reports_are_answered_while_more_connections_are_held_than_there_are_descriptors(
    services: Services, api: tuple[int, Process], kinds: tuple[str, ...]
) -> None:
    port, process = api
    work, token = remote_with_token(services)
    other, _ = remote_with_token(services)
    with ExitStack() as ending:
        _holding(port, kinds, other.run_id, ending)
        for seq in range(1, 6):
            output = {"first_seq": seq, "chunks": lines(b"still here\n")}
            assert _report(port, f"/v1/runs/{work.run_id}/heartbeat", token, {})[0] == 200
            status, took = _report(port, f"/v1/runs/{work.run_id}/output", token, output)
            assert (status, took < ANSWERED_IN) == (200, True), took
        assert psutil.Process(process.pid).num_fds() < FILES - 50
        finished = {"outcome": {"exit_status": 0}, "last_seq": 5}
        assert _report(port, f"/v1/runs/{work.run_id}/finish", token, finished)[0] == 200
    assert services.runs.get(work.run_id).status == "succeeded"
    assert "out of system resource" not in process.output
    assert "Traceback" not in process.output


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, served: Served) -> Served:
    """The API with its deadlines divided by 20, in this process."""
    for stage, seconds in list(PATIENCE.items()):
        monkeypatch.setitem(PATIENCE, stage, seconds / 20)
    monkeypatch.setattr(connections, "LOOK_INTERVAL", 0.1)
    return served


@pytest.mark.parametrize("kind", ["connected", "head", "body", "idle"])
def test_a_caller_that_sends_half_of_something_is_let_go(services: Services, hasty: Served, kind: str) -> None:
    work, _ = remote_with_token(services)
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=20) as caller:
        caller.sendall(_half(hasty.port, kind, work.run_id))
        told = b""
        while piece := caller.recv(65536):  # Until it is closed; else the time-out of the socket.
            told += piece
        assert told.rpartition(b"HTTP/1.1 ")[2][:3] in (b"408", b"200", b"")


def test_a_caller_that_drips_a_head_is_let_go_too(hasty: Served) -> None:
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=20) as caller:
        began = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            for byte in b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 1000:
                caller.sendall(bytes([byte]))
                time.sleep(0.05)
        assert time.monotonic() - began < 15


def test_a_caller_that_does_not_read_its_answer_is_let_go_and_one_that_reads_slowly_is_not(
    services: Services, hasty: Served
) -> None:
    page = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with socket.socket() as deaf, socket.socket() as slow:
        for caller in (deaf, slow):
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            caller.settimeout(20)
            caller.connect(("127.0.0.1", hasty.port))
            # Together far more than the buffers of the system hold.
            threading.Thread(target=_send, args=(caller, page * 200), daemon=True).start()
        eventually(lambda: len(hasty.connections) == 2)
        patience = 2 * PATIENCE[Stage.STALLED]
        began = time.monotonic()
        while len(hasty.connections) == 2 or time.monotonic() - began < patience:
            assert slow.recv(4096)
            assert time.monotonic() - began < 20
            time.sleep(0.02)
        assert len(hasty.connections) == 1
        assert slow.recv(4096)


def _send(caller: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        caller.sendall(data)


class At:
    def __init__(self, stage: Stage, since: float, reads: bool = True) -> None:
        self.state = ConnectionState(stage, since, reads)


def test_who_waits_for_its_caller_goes_first_then_a_reader_and_a_report_never() -> None:
    report, young_reader, reader = At(Stage.ANSWER, 0, False), At(Stage.ANSWER, 2), At(Stage.ANSWER, 1)
    body, head = At(Stage.BODY, 3, False), At(Stage.HEAD, 4)
    assert first_to_go([report, young_reader, head, reader, body]) is body
    assert first_to_go([report, young_reader, head, reader]) is head
    assert first_to_go([report, young_reader, reader]) is reader
    assert first_to_go([report]) is None


@pytest.mark.parametrize("stage", list(Stage))
def test_each_wait_for_the_caller_has_an_end_and_being_answered_has_none(stage: Stage) -> None:
    state = ConnectionState(stage, 100.0, True)
    if stage is Stage.ANSWER:
        assert not state.is_overdue(1e9)
    else:
        assert not state.is_overdue(100.0 + PATIENCE[stage])
        assert state.is_overdue(100.1 + PATIENCE[stage])


@pytest.mark.parametrize(("files", "most"), [(1024, 768), (100, FEWEST), (10**6, WANTED), (WANTED + 256, WANTED)])
def test_there_are_fewer_connections_than_descriptors_and_fewer_readers_than_connections(files: int, most: int) -> None:
    assert most_connections(files) == most
    assert most_readers(most) < most
