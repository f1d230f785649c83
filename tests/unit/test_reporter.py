"""The producer's side: what it sends until it is taken, when it says that it lives, when it has the work stopped."""

import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from reprieve.adapters.reporter import BATCH_CHUNKS, Away, HttpTransport, Refused, Reporter
from reprieve.adapters.spool import Spool
from reprieve.models.chunks import MAX_CHUNK_BYTES
from reprieve.models.errors import InvalidRequest
from reprieve.models.saying import MOST_NAMES, Report, report_of
from reprieve.models.work import Outcome
from tests.support.waiting import eventually

RUN = UUID(int=7)
DONE = Outcome(detail={"exit_status": 0})


class Server:
    """Keeps the protocol in memory; `before` may raise or answer instead of it."""

    def __init__(self) -> None:
        self.stored: list[bytes] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.stop = False
        self.before: Callable[[str, dict[str, Any]], dict[str, Any] | None] = lambda operation, body: None

    def post(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        self.calls.append((operation, body))
        instead = self.before(operation, body)
        if instead is not None:
            return instead
        if operation == "finish":
            return {"taken": True}
        if operation == "output":
            self.take(body)
        return {"next_seq": len(self.stored) + 1, "stop": self.stop}

    def take(self, body: dict[str, Any]) -> None:
        data = [b64decode(chunk["data"]) for chunk in body["chunks"]]
        if body["first_seq"] <= len(self.stored) + 1:
            self.stored += data[len(self.stored) + 1 - body["first_seq"] :]

    def count(self, operation: str) -> int:
        return sum(name == operation for name, _ in self.calls)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool.create(tmp_path, limit=1024 * 1024)
    yield spool
    spool.close()


@pytest.fixture
def server() -> Server:
    return Server()


def test_everything_is_sent_in_order_then_the_result_with_the_last_number(server: Server, spool: Spool) -> None:
    reporter = Reporter(server, spool, RUN)
    reporter.start()
    data = [b"%d" % number for number in range(3 * BATCH_CHUNKS)]
    for one in data:
        reporter.add("stdout", one)
    assert reporter.send_result(DONE) is None
    assert server.stored == data
    assert server.calls[-1] == ("finish", {"outcome": {"exit_status": 0}, "last_seq": len(data)})
    assert max(len(body["chunks"]) for name, body in server.calls if name == "output") == BATCH_CHUNKS
    assert spool.numbers == []


def test_a_large_piece_of_output_is_cut_into_chunks(server: Server, spool: Spool) -> None:
    reporter = Reporter(server, spool, RUN)
    reporter.start()
    reporter.add("stdout", b"x" * (MAX_CHUNK_BYTES + 1))
    assert reporter.send_result(DONE) is None
    assert [len(one) for one in server.stored] == [MAX_CHUNK_BYTES, 1]


def test_what_the_server_took_only_a_part_of_is_sent_on_from_there(server: Server, spool: Spool) -> None:
    def take_one(operation: str, body: dict[str, Any]) -> dict[str, Any] | None:
        if operation != "output":
            return None
        server.take(body | {"chunks": body["chunks"][:1]})
        return {"next_seq": len(server.stored) + 1, "stop": False}

    server.before = take_one
    reporter = Reporter(server, spool, RUN)
    for one in (b"a", b"b", b"c"):
        reporter.add("stdout", one)
    reporter.start()
    assert reporter.send_result(DONE) is None
    assert server.stored == [b"a", b"b", b"c"]


def test_a_silent_command_is_said_to_be_alive_over_and_over(server: Server, spool: Spool) -> None:
    reporter = Reporter(server, spool, RUN, heartbeat_interval=0.02)
    reporter.start()
    eventually(lambda: server.count("heartbeat") >= 3)
    assert server.stored == []
    assert reporter.send_result(DONE) is None


def test_heartbeats_are_given_while_output_is_not_taken(server: Server, spool: Spool) -> None:
    back = threading.Event()

    def hang(operation: str, body: dict[str, Any]) -> None:
        if operation == "output" and body["chunks"] and not back.wait(30):
            raise Away("It never came back.")

    server.before = hang
    reporter = Reporter(server, spool, RUN, heartbeat_interval=0.02)
    reporter.add("stdout", b"a")
    reporter.start()
    eventually(lambda: server.count("output") >= 2)
    before = server.count("heartbeat")
    eventually(lambda: server.count("heartbeat") >= before + 3)
    back.set()
    assert reporter.send_result(DONE) is None
    assert server.stored == [b"a"]


def taking_reports(server: Server) -> list[Report]:
    """Has the server take what is said as the real one does, which refuses what one report may not say."""
    taken: list[Report] = []

    def take(operation: str, body: dict[str, Any]) -> dict[str, Any] | None:
        if operation != "report":
            return None
        said = {name: value for name, value in body.items() if name != "number"}
        if said:
            try:
                taken.append(report_of(said))
            except InvalidRequest as problem:
                raise Refused(str(problem)) from None
        return {"number": len(taken), "stop": False}

    server.before = take
    return taken


@pytest.mark.parametrize(("each", "reports"), [(5e14, 1), (6e14, 2)])
def test_what_was_said_at_once_is_sent_in_reports_that_the_server_takes(
    server: Server, spool: Spool, each: float, reports: int
) -> None:
    reporter, taken = Reporter(server, spool, uuid4()), taking_reports(server)
    for _ in range(2):
        reporter.say(report_of({"usage": {"ns": each}}))
    reporter.start()
    assert reporter.send_result(DONE) is None
    assert len(taken) == reports
    assert sum(report.usage["ns"] for report in taken) == 2 * each


def test_a_name_too_many_is_refused_where_it_is_said_and_holds_up_nothing_that_is_said_later(
    server: Server, spool: Spool
) -> None:
    reporter, taken = Reporter(server, spool, uuid4()), taking_reports(server)
    reporter.say(report_of({"usage": {f"n{number}": 1 for number in range(MOST_NAMES)}}))
    reporter.start()
    eventually(lambda: taken)
    with pytest.raises(InvalidRequest, match="more than 50 names"):
        reporter.say(report_of({"usage": {"another": 1}}))
    reporter.say(report_of({"progress": 1, "usage": {"n0": 1}}))
    assert reporter.send_result(DONE) is None
    assert [report.progress for report in taken] == [None, 1]


def test_the_work_is_told_to_stop_once_even_if_it_is_silent(server: Server, spool: Spool) -> None:
    told: list[bool] = []
    reporter = Reporter(server, spool, RUN, on_stop=lambda: told.append(True), heartbeat_interval=0.02)
    server.stop = True
    reporter.start()
    eventually(lambda: server.count("heartbeat") >= 3)
    assert (told, reporter.stopped) == ([True], True)
    assert reporter.send_result(DONE) is None


def test_a_refusal_while_the_command_runs_is_waited_out(server: Server, spool: Spool) -> None:
    refusing = threading.Event()
    refusing.set()

    def refuse(operation: str, body: dict[str, Any]) -> None:
        if refusing.is_set():
            raise Refused("HTTP status 403")

    server.before = refuse
    reporter = Reporter(server, spool, RUN)
    reporter.add("stdout", b"a")
    reporter.start()
    eventually(lambda: server.count("output") >= 3)
    refusing.clear()
    eventually(lambda: server.stored == [b"a"])
    assert reporter.send_result(DONE) is None


def test_a_refusal_after_the_command_has_ended_is_final_and_told(server: Server, spool: Spool) -> None:
    def refuse(operation: str, body: dict[str, Any]) -> None:
        raise Refused("HTTP status 401: no such token")

    server.before = refuse
    reporter = Reporter(server, spool, RUN)
    reporter.add("stdout", b"a")
    reporter.start()
    assert reporter.send_result(DONE) == "HTTP status 401: no such token"
    assert spool.numbers == [1]


@pytest.mark.parametrize("answer", [{}, {"next_seq": "2"}, {"next_seq": True}, {"next_seq": 0}])
def test_an_answer_that_makes_no_sense_is_none(server: Server, spool: Spool, answer: dict[str, Any]) -> None:
    asked: list[str] = []

    def nonsense(operation: str, body: dict[str, Any]) -> dict[str, Any] | None:
        asked.append(operation)
        return answer if len(asked) < 3 else None

    server.before = nonsense
    reporter = Reporter(server, spool, RUN)
    reporter.add("stdout", b"a")
    reporter.start()
    assert reporter.send_result(DONE) is None
    assert server.stored == [b"a"]


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Outcome.of_exit(3), {"exit_status": 3}),
        (Outcome.of_exit(-9), {"signal": 9}),
        (Outcome.failed("It could not begin."), {"error": "It could not begin."}),
    ],
)
def test_a_result_says_how_the_command_ended(
    server: Server, spool: Spool, outcome: Outcome, said: dict[str, Any]
) -> None:
    reporter = Reporter(server, spool, RUN)
    reporter.start()
    assert reporter.send_result(outcome) is None
    assert server.calls[-1] == ("finish", {"outcome": said, "last_seq": 0})


def test_a_server_that_is_away_when_the_work_is_to_begin_holds_nothing_up(server: Server, spool: Spool) -> None:
    def away(operation: str, body: dict[str, Any]) -> None:
        raise Away("nobody there")

    server.before = away
    reporter = Reporter(server, spool, RUN)
    reporter.greet()
    assert (server.count("output"), reporter.stopped) == (1, False)


@pytest.mark.parametrize(
    "address", ["", "reprieve.example.com", "ftp://host", "file:///etc/passwd", "https://", "https://h?a=b"]
)
def test_what_is_no_address_of_a_server_is_refused(address: str) -> None:
    with pytest.raises(InvalidRequest, match="--server is no address; give one like https://"):
        HttpTransport(address, RUN, "token")


@pytest.mark.parametrize("token", ["to\nken", "to ken", "tökén"])
def test_what_no_header_could_hold_is_no_token(token: str) -> None:
    with pytest.raises(InvalidRequest, match="holds characters that no token has") as refused:
        HttpTransport("https://host", RUN, token)
    assert token not in str(refused.value)


def test_nobody_listening_is_away() -> None:
    with pytest.raises(Away, match="URLError"):
        HttpTransport("http://127.0.0.1:1", RUN, "token").post("heartbeat", {})
