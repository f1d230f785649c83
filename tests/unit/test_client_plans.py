"""What a client does when no answer comes, or half of one: decided without any server, and without waiting."""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprieve.client.backoff import Backoff, Waiting
from reprieve.client.http import calls, plans
from reprieve.client.http.steps import Answer, Give, Lost, Open, Pause, Plan, Receive, Send, Step, advance
from reprieve.client.http.streams import Events, Lines
from reprieve.models.errors import (
    IdempotencyConflict,
    InvalidRequest,
    LogUnavailable,
    NotAllowed,
    ReprieveError,
    RunNotFound,
    StillRunning,
    Unavailable,
    UnknownAdapter,
)
from reprieve.models.filters import RunFilter
from reprieve.models.problems import PREFIX
from reprieve.models.requests import RunRequest

RUN = UUID(int=7)
OK = Answer(200, {"content-type": "text/event-stream; charset=utf-8"})
DOWNLOAD = Answer(200, {"content-type": "application/x-ndjson"})
DOWN = Lost("ConnectError: refused")


def run_json(status: str = "queued", number: int = 7) -> dict[str, Any]:
    nulls = ("max_runtime_seconds", "error_code", "error_message", "last_proof", "started_at", "finished_at")
    at = "2026-01-01T00:00:00Z"
    return dict.fromkeys(nulls) | {
        **{"id": str(UUID(int=number)), "adapter": "process", "out_of_process_liveness": False, "status": status},
        **{"attempt": 1, "epoch": 0, "max_attempts": 1, "labels": {}, "created_at": at, "updated_at": at},
        "attempts": [],
    }


def answered(body: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, headers, json.dumps(body).encode())


def problem(status: int, name: str, detail: str = "A sentence.", **headers: str) -> Answer:
    return answered({"type": PREFIX + name, "status": status, "detail": detail}, status, **headers)


def event(name: str, data: Any, place: str) -> bytes:
    return f"id: {place}\r\nevent: {name}\r\ndata: {json.dumps(data)}\r\n\r\n".encode()


def output(*seqs: int, attempt: int = 1) -> bytes:
    chunks = [{"seq": seq, "at": "2026-01-01T00:00:00Z", "stream": "stdout", "text": f"{seq}\n"} for seq in seqs]
    return event("output", {"attempt": attempt, "chunks": chunks}, f"{attempt}:{seqs[-1]}")


END = event("end", {"status": "succeeded"}, "end")


class Played:
    """A plan that is carried out without I/O: each request is given the next reply, and pauses pass at once."""

    def __init__(self, replies: Iterable[Any]) -> None:
        self._replies = iter(replies)
        self.now = 0.0
        self.steps: list[Step] = []
        self.given: list[Any] = []

    def clock(self) -> float:
        return self.now

    def backoff(self, seconds: float = 30.0) -> Backoff:
        return Backoff(seconds, self.clock)

    def play(self, plan: Plan[Any]) -> list[Any]:
        step = advance(plan, None)
        while step is not None:
            came = None
            if isinstance(step, Give):
                self.given.append(step.item)
            else:
                self.steps.append(step)
                came = self._came_of(step)
            step = advance(plan, came)
        return self.given

    def _came_of(self, step: Step) -> Any:
        if isinstance(step, Pause):
            self.now += step.seconds
            return None
        reply = next(self._replies)
        if isinstance(reply, tuple):  # A try that took a while.
            seconds, reply = reply
            self.now += seconds
        return reply

    @property
    def sent(self) -> list[Any]:
        return [step.request for step in self.steps if isinstance(step, Send | Open)]

    @property
    def pauses(self) -> list[float]:
        return [step.seconds for step in self.steps if isinstance(step, Pause)]


def forever(reply: Any) -> Iterator[Any]:
    while True:
        yield reply


def enqueue(key: str | None = None, **config: Any) -> Any:
    return calls.enqueue_run(RunRequest("process", config, idempotency_key=key))


# -- asking again


def test_a_lost_answer_is_asked_for_again_with_the_same_key_even_if_the_caller_gave_none() -> None:
    played = Played([DOWN, Answer(502, {}), answered(run_json(), 201)])
    assert played.play(plans.run(enqueue(), played.backoff()))[0].id == RUN
    first, second, third = played.sent
    assert first == second == third
    assert json.loads(first.content)["idempotency_key"]
    assert json.loads(enqueue().content)["idempotency_key"] != json.loads(first.content)["idempotency_key"]


def test_a_key_that_the_caller_gave_is_sent_as_it_is_whatever_the_script() -> None:
    assert json.loads(enqueue("отчёт\u2028").content)["idempotency_key"] == "отчёт\u2028"
    with pytest.raises(InvalidRequest, match="idempotency_key"):
        enqueue("")


def test_a_client_comes_back_for_as_long_as_it_was_told_to_and_says_then_why_it_gave_up() -> None:
    played = Played(forever(DOWN))
    with pytest.raises(Unavailable, match=r"does not answer \(ConnectError: refused\)"):
        played.play(plans.run(calls.get_run(RUN), played.backoff(30.0)))
    assert played.now == pytest.approx(30.0)
    assert max(played.pauses) <= 2.0
    assert 15 < len(played.sent) < 60


def test_a_server_that_takes_connections_and_never_answers_has_tried_the_patience_by_the_third_try() -> None:
    played = Played(forever((10.0, Lost("ReadTimeout"))))
    with pytest.raises(Unavailable):
        played.play(plans.run(calls.get_run(RUN), played.backoff(30.0)))
    assert len(played.sent) == 3
    assert {step.seconds for step in played.steps if isinstance(step, Send)} == {10.0}


def test_a_server_that_says_when_to_come_again_is_not_asked_before_but_not_for_ever_either() -> None:
    played = Played([Answer(503, {"retry-after": "5"}), answered(run_json())])
    played.play(plans.run(calls.get_run(RUN), played.backoff()))
    assert played.pauses == [5.0]
    played = Played(forever(problem(503, "service-unavailable", "The database is down.", **{"retry-after": "86400"})))
    with pytest.raises(Unavailable, match="The database is down"):
        played.play(plans.run(calls.get_run(RUN), played.backoff(30.0)))
    assert played.pauses == [30.0]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (problem(404, "run-not-found"), RunNotFound),
        (problem(409, "idempotency-conflict"), IdempotencyConflict),
        (problem(422, "invalid-request"), InvalidRequest),
        (problem(422, "unknown-adapter"), UnknownAdapter),
        (problem(422, "unprocessable-content"), InvalidRequest),
        (problem(413, "content-too-large"), InvalidRequest),
        (problem(401, "unauthorized"), NotAllowed),
        (problem(403, "forbidden"), NotAllowed),
        (problem(500, "internal-server-error"), Unavailable),
        (problem(404, "not-found"), Unavailable),
        (Answer(404, {}, b"<h1>nginx</h1>"), Unavailable),
        (Answer(401, {}, b"<h1>nginx</h1>"), Unavailable),
        (Answer(307, {"location": "https://elsewhere/"}), Unavailable),
        (Answer(422, {}, b'{"type": {}, "detail": []}'), Unavailable),
        (Answer(418, {}, b"["), Unavailable),
    ],
)
def test_what_is_refused_is_the_error_of_a_direct_call_and_is_not_asked_again(
    answer: Answer, error: type[ReprieveError]
) -> None:
    played = Played([answer])
    with pytest.raises(ReprieveError) as raised:
        played.play(plans.run(calls.get_run(RUN), played.backoff()))
    assert type(raised.value) is error
    assert "A sentence" in str(raised.value) or answer.status < 400 or b"A sentence" not in answer.content


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b'{"id": 7}', b"\xff"])
def test_an_answer_of_another_form_is_not_taken_for_a_run(body: bytes) -> None:
    played = Played([Answer(200, {}, body)])
    with pytest.raises(Unavailable, match="is this the address"):
        played.play(plans.run(calls.get_run(RUN), played.backoff()))


def test_a_list_asks_for_each_page_with_the_place_that_the_one_before_named() -> None:
    pages = [{"runs": [run_json(number=3), run_json(number=2)], "next": str(UUID(int=2))}]
    pages += [{"runs": [run_json(number=1)], "next": None}]
    played = Played([answered(pages[0]), DOWN, answered(pages[1])])
    wanted = RunFilter.of(statuses=["running"], adapter="détaché", labels={"team": "a=b&c"})
    assert [run.id.int for run in played.play(plans.list_runs(wanted, played.backoff()))] == [3, 2, 1]
    queries = [request.query for request in played.sent]
    assert [dict(query).get("before") for query in queries] == [None, *[str(UUID(int=2))] * 2]
    assert {("status", "running"), ("label", "team=a=b&c"), ("adapter", "détaché")} <= set(queries[0])


# -- waiting


def test_one_who_waits_looks_often_at_first_and_every_two_seconds_later_until_the_run_has_ended() -> None:
    replies = [*[answered(run_json("running"))] * 20, answered(run_json("failed"))]
    played = Played(replies)
    ended = played.play(plans.wait_for(RUN, Waiting(None, played.clock), played.backoff()))
    assert [run.status for run in ended] == ["failed"]
    assert played.pauses[0] <= 0.1
    assert 1.0 <= played.pauses[-1] <= 2.0


def test_one_who_waits_for_a_time_is_told_at_its_end_that_the_run_goes_on() -> None:
    played = Played(forever(answered(run_json("running"))))
    with pytest.raises(StillRunning, match="running after 5 s"):
        played.play(plans.wait_for(RUN, Waiting(5, played.clock), played.backoff()))
    assert played.now == pytest.approx(5)


def test_one_who_waits_for_a_time_is_not_kept_longer_by_a_server_that_is_away() -> None:
    played = Played(forever((1.0, DOWN)))
    backoff = played.backoff(300.0)
    with pytest.raises(Unavailable):
        played.play(plans.wait_for(RUN, Waiting(3, played.clock), backoff))
    assert played.now < 6


def test_one_who_waits_for_no_time_looks_once() -> None:
    played = Played([answered(run_json("running"))])
    with pytest.raises(StillRunning):
        played.play(plans.wait_for(RUN, Waiting(0, played.clock), played.backoff()))


# -- following


def places(played: Played) -> list[str]:
    return [request.headers["Last-Event-ID"] for request in played.sent]


def test_a_stream_that_is_cut_off_goes_on_behind_the_last_event_that_was_whole() -> None:
    torn = output(3, 4)
    replies = [OK, output(1, 2), torn[:-1], b"", DOWN, OK, output(3, 4), Lost("ReadError"), OK, output(5) + END]
    played = Played(replies)
    items = played.play(plans.follow_log(RUN, 1, 0, played.backoff()))
    assert [item.seq for item in items] == [1, 2, 3, 4, 5]
    assert places(played) == ["1:0", "1:2", "1:2", "1:4"]
    assert max(played.pauses) <= 0.1


def test_a_reader_that_begins_elsewhere_asks_for_what_comes_after_that_and_a_gap_is_a_place_too() -> None:
    gap = event("gap", {"attempt": 2, "first": 8, "last": 9, "why": "missing"}, "2:9")
    played = Played([OK, gap, b"", OK, output(10, attempt=2) + END])
    first, second = played.play(plans.follow_log(RUN, 2, 7, played.backoff()))
    assert (first.first, first.last, first.why, second.seq, second.data) == (8, 9, "missing", 10, b"10\n")
    assert places(played) == ["2:7", "2:9"]


def test_a_reader_that_comes_back_to_a_stream_that_has_ended_is_told_so() -> None:
    played = Played([Answer(204, {})])
    assert played.play(plans.follow_log(RUN, 1, 0, played.backoff())) == []


def test_a_silent_stream_that_a_proxy_cuts_each_minute_is_followed_for_as_long_as_the_run_goes_on() -> None:
    replies = [*[OK, b": ping\r\n\r\n", (60.0, b"")] * 100, OK, output(1) + END]
    played = Played(replies)
    assert len(played.play(plans.follow_log(RUN, 1, 0, played.backoff()))) == 1


def test_a_server_that_ends_each_stream_at_once_is_not_asked_more_than_every_second_or_two() -> None:
    played = Played([*[OK, b""] * 100, OK, END])
    played.play(plans.follow_log(RUN, 1, 0, played.backoff()))
    assert played.now > 90


def test_an_archive_that_does_not_answer_is_come_back_to_when_it_was_said_and_given_up_in_the_end() -> None:
    trouble = b'event: unavailable\r\ndata: {"detail": "The archive does not answer."}\r\nretry: 5000\r\n\r\n'
    played = Played([OK, output(1), trouble, b"", OK, output(2) + END])
    assert len(played.play(plans.follow_log(RUN, 1, 0, played.backoff()))) == 2
    assert (places(played), played.pauses) == (["1:0", "1:1"], [5.0])
    played = Played([OK, trouble, b""] * 100)
    with pytest.raises(LogUnavailable, match="The archive does not answer"):
        played.play(plans.follow_log(RUN, 1, 0, played.backoff(30.0)))
    assert played.now == pytest.approx(30.0)


@pytest.mark.parametrize("data", [b"[]", b'{"attempt": 1}', b"{", b'{"attempt": 1, "chunks": [{"seq": 1}]}'])
def test_an_event_of_another_form_is_an_error_and_not_passed_over(data: bytes) -> None:
    played = Played([OK, b"event: output\nid: 1:1\ndata: " + data + b"\n\n"])
    with pytest.raises(Unavailable, match="not of the form"):
        played.play(plans.follow_log(RUN, 1, 0, played.backoff()))


def test_a_page_that_answers_to_every_path_is_not_taken_for_a_stream() -> None:
    page = Answer(200, {"content-type": "text/html"})
    for plan in (plans.follow_log, plans.read_log):
        played = Played([page])
        with pytest.raises(Unavailable, match="another type"):
            played.play(plan(RUN, 1, 0, played.backoff()))


# -- reading


def line(seq: int) -> bytes:
    return b'{"seq":%d,"at":"2026-01-01T00:00:00Z","stream":"stdout","text":"%d\xc2\x85\xe2\x80\xa8"}\n' % (seq, seq)


GAP = b'{"gap":{"first":3,"last":4,"why":"lost"}}\n'
LAST = b'{"end":{"whole":false,"chunks":2,"gaps":1}}\n'


def test_a_download_that_is_cut_off_goes_on_behind_the_last_item_and_is_whole_with_its_last_line() -> None:
    played = Played(
        [DOWNLOAD, line(1) + line(2)[:9], Lost("ReadError"), DOWNLOAD, line(2) + GAP, b"", DOWNLOAD, line(5) + LAST]
    )
    items = played.play(plans.read_log(RUN, 1, 0, played.backoff()))
    assert [item.last for item in items] == [1, 2, 4, 5]
    assert items[0].data == "1\x85\u2028".encode()
    assert [dict(request.query)["after"] for request in played.sent] == ["0", "1", "4"]


def test_a_download_that_is_cut_off_at_the_same_place_again_and_again_is_given_up() -> None:
    played = Played([DOWNLOAD, line(1), b"", *[DOWNLOAD, b""] * 1000])
    with pytest.raises(Unavailable, match="cut off behind number 1"):
        played.play(plans.read_log(RUN, 1, 0, played.backoff(30.0)))


def test_the_log_of_a_run_without_an_attempt_is_empty_and_that_of_another_is_that_of_the_last() -> None:
    played = Played([answered(run_json() | {"attempt": 0})])
    assert played.play(plans.read_log(RUN, None, 0, played.backoff())) == []
    played = Played([answered(run_json() | {"attempt": 3}), DOWNLOAD, LAST])
    assert played.play(plans.read_log(RUN, None, 0, played.backoff())) == []
    assert played.sent[-1].path.endswith("/attempts/3/log.ndjson")


# -- bytes in pieces of any size


@given(st.lists(st.text("abc:\u2028\x85\r ", max_size=5)), st.lists(st.integers(0, 60)))
def test_lines_are_the_same_in_whatever_pieces_they_come(texts: list[str], cuts: list[int]) -> None:
    data = "".join(f"{text}\n" for text in texts).encode() + b"rest"
    assert _fed(Lines().feed, data, cuts) == [text.encode().removesuffix(b"\r") for text in texts]


@given(st.lists(st.integers(0, 400)))
def test_events_are_the_same_in_whatever_pieces_they_come(cuts: list[int]) -> None:
    data = (
        b": ping\r\n\r\n"
        + output(1, 2)
        + b"data: a\ndata:b\nretry: x\nretry: "
        + b"9" * 5000
        + b"\nnonsense\n\nid: 7\n\n"
        + END
    )
    found = _fed(Events().feed, data, cuts)
    assert [(one.name, one.id) for one in found] == [("output", "1:2"), ("message", None), ("end", "end")]
    assert found[1].text == "a\nb"


def _fed(feed: Callable[[bytes], Iterator[Any]], data: bytes, cuts: list[int]) -> list[Any]:
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[first:last] for first, last in pairwise(places)]
    return [one for piece in pieces for one in feed(piece)]


def test_a_step_of_receiving_is_only_taken_while_a_stream_is_open() -> None:
    played = Played([OK, output(1), b"", OK, END])
    played.play(plans.follow_log(RUN, 1, 0, played.backoff()))
    kinds = [type(step) for step in played.steps if not isinstance(step, Pause)]
    assert kinds == [Open, Receive, Receive, Open, Receive]


@pytest.mark.parametrize("config", [{"a": float("nan")}, {"a": {1, 2}}, {"a": b"bytes"}, {"a": object()}])
def test_what_json_cannot_hold_is_refused_before_anything_is_sent(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="as JSON"):
        enqueue(**config)


def test_of_many_runs_the_one_that_cannot_be_sent_is_named_by_its_place_and_its_key() -> None:
    wanted = [RunRequest("process", {}), RunRequest("process", {"a": b""}, idempotency_key="tuesday")]
    with pytest.raises(InvalidRequest, match=r"Run 1 \(idempotency_key 'tuesday'\): It cannot be sent as JSON"):
        calls.enqueue_runs(wanted)


def test_of_many_runs_each_has_a_key_of_its_own() -> None:
    sent = json.loads(calls.enqueue_runs([RunRequest("process", {})] * 3).content or b"")["runs"]
    assert len({one["idempotency_key"] for one in sent}) == 3


def test_what_holds_itself_is_refused_and_does_not_end_the_caller() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidRequest, match="as JSON"):
        enqueue(a=deep)
