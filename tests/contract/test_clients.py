"""What every way to ask for runs promises: directly and over HTTP, waiting and for asyncio. One stack for all."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from inspect import signature
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg2 import InterfaceError
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

import reprieve
from reprieve import (
    Gap,
    IdempotencyConflict,
    InvalidRequest,
    LogLost,
    LogRemoved,
    Output,
    ReprieveError,
    RunNotFound,
    RunRequest,
    StillRunning,
    UnknownAdapter,
    aio,
)
from reprieve.client import AsyncClient, Client
from reprieve.client import runs as client_runs
from reprieve.client.http import calls
from reprieve.models.saying import Report, Said
from reprieve.models.status import ErrorCode
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.extents import extent_of
from reprieve.stores.runs import lists
from reprieve.stores.runs.reports import News
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_log, expire_logs
from reprieve.workers.finish import finish
from tests.conftest import END_OTHERS, Servers, fresh_services
from tests.support.askers import WAYS, asking
from tests.support.http import TOKEN, with_token
from tests.support.rows import chunk, claim, ingest, new_run, running
from tests.support.served import Served
from tests.support.waiting import eventually

CONFIG = {"command": ["true"]}
#: More than a page of a list.
MANY = 203


class Stack:
    """The API over services, and what can happen to both."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.served = Served(with_token(services))

    def cut(self) -> None:
        """Restart the API, and end every session of the database."""
        self.served.stop()
        with self.services.database.begin() as connection:
            connection.execute(text(END_OTHERS))
        self.served.start()

    def write(self, work: Work, first: int, last: int) -> None:
        ingest(self.services, [chunk(work, seq, b"line %d\n" % seq) for seq in range(first, last + 1)])

    def end(self, work: Work, last_seq: int = 0, outcome: Outcome | None = None) -> None:
        assert finish(self.services, [End.by_result(work.fence, outcome or Outcome(), last_seq)])


@pytest.fixture(scope="module")
def stack(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with fresh_services(servers, tmp_path_factory.mktemp("stack")) as services:
        made = Stack(services)
        made.served.start()
        yield made
        made.served.stop()


@pytest.fixture(scope="module", params=WAYS)
def ask(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Any]:
    with asking(request.param, stack.served.url, TOKEN) as asker:
        yield asker


@pytest.fixture(scope="module")
def many(stack: Stack) -> list[UUID]:
    """More runs than a page holds, the newest first."""
    return [new_run(stack.services, labels={"of": "many"}).id for _ in range(MANY)][::-1]


class Reading:
    """A reader on a thread of its own."""

    def __init__(self, items: Iterator[Any]) -> None:
        self.items: list[Any] = []
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._read, args=[items], daemon=True)
        self._thread.start()

    def _read(self, items: Iterator[Any]) -> None:
        try:
            for item in items:
                self.items.append(item)
        except Exception as failure:
            self.failure = failure

    def has(self, count: int) -> None:
        eventually(lambda: len(self.items) >= count or self.failure, what=lambda: f"{count} items, got {self.items}")

    def wait(self) -> list[Any]:
        self._thread.join(60)
        assert not self._thread.is_alive(), self.items
        assert self.failure is None, self.failure
        return self.items


def numbers(items: Any) -> list[tuple[int, int]]:
    """Attempt and number of each piece of output; there must be nothing else."""
    items = list(items)
    assert all(isinstance(item, Output) for item in items), items
    return [(item.attempt, item.seq) for item in items]


# -- all of them are one


def test_each_way_has_the_same_functions_with_the_same_arguments() -> None:
    names = sorted(set(aio.__all__))
    assert len(names) > 6
    for name in names:
        direct = signature(getattr(reprieve, name)).parameters
        for other in (aio, Client, AsyncClient):
            found = [one for one in signature(getattr(other, name)).parameters.values() if one.name != "self"]
            # No transaction of a caller goes over HTTP.
            expected = [one for one in direct.values() if other is aio or one.name != "within"]
            assert [(one.name, one.kind, one.default) for one in found] == [
                (one.name, one.kind, one.default) for one in expected
            ], (other, name)


# -- asking for runs


def test_a_run_that_is_asked_for_is_queued_with_what_was_asked(ask: Any, stack: Stack) -> None:
    run = ask.enqueue_run("process", CONFIG, labels={"team": "data"}, max_runtime=timedelta(minutes=2), max_attempts=3)
    assert (run.status, run.adapter, run.labels, run.attempt) == ("queued", "process", {"team": "data"}, 0)
    assert (run.max_runtime_seconds, run.max_attempts, run.attempts) == (120, 3, [])
    assert stack.services.runs.get(run.id).spec.config == CONFIG
    assert ask.get_run(run) == ask.get_run(run.id) == ask.get_run(str(run.id)) == run


def test_what_a_run_says_of_itself_and_its_result_are_there_in_each_way(ask: Any, stack: Stack) -> None:
    work = running(stack.services)
    assert (ask.get_run(work.run_id).report, ask.get_result(work.run_id)) == (None, None)
    for number, result in ((1, None), (2, '{"answer":[1,"\u00e9",null]}')):
        said = Said(number, Report(0.5, "here", result, {"calls": number}))
        stack.services.reports.write([News(work.fence, work.attempt, said, 0.0)])
        report = ask.get_run(work.run_id).report
        assert (report.progress, report.sentence, report.usage) == (0.5, "here", {"calls": number})
        assert ask.get_result(str(work.run_id)) == (result and {"answer": [1, "\u00e9", None]})
    with pytest.raises(RunNotFound):
        ask.get_result(uuid4())


def test_the_same_key_gives_the_same_run_and_without_one_each_run_is_another(ask: Any) -> None:
    key = f"tuesday {uuid4()}"
    assert ask.enqueue_run("process", CONFIG, idempotency_key=key).id == (
        ask.enqueue_run("process", CONFIG, idempotency_key=key).id
    )
    assert ask.enqueue_run("process", CONFIG).id != ask.enqueue_run("process", CONFIG).id


def test_a_key_that_comes_again_with_other_work_is_a_conflict(ask: Any) -> None:
    key = f"tuesday {uuid4()}"
    ask.enqueue_run("process", CONFIG, idempotency_key=key)
    with pytest.raises(IdempotencyConflict, match="use a new key"):
        ask.enqueue_run("process", {"command": ["false"]}, idempotency_key=key)


@pytest.mark.parametrize("key", ["отчёт", "a\u2028b\x85c", "\r\nX-Evil: 1", "💥" * 255, " ", "'; DROP TABLE runs; --"])
def test_a_key_and_a_label_are_any_text_and_the_same_run_whoever_asks(ask: Any, stack: Stack, key: str) -> None:
    label = key[:128]
    run = reprieve.enqueue_run("process", CONFIG, labels={"of": label}, idempotency_key=key)
    again = ask.enqueue_run("process", CONFIG, labels={"of": label}, idempotency_key=key)
    assert (again.id, again.labels) == (run.id, {"of": label})
    assert [one.id for one in ask.list_runs(labels={"of": label})] == [run.id]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"adapter": "proces"}, UnknownAdapter, "There is no adapter 'proces'"),
        ({"config": {}}, InvalidRequest, "config.command"),
        ({"config": {"command": ["true"], "shell": True}}, InvalidRequest, "config.shell"),
        ({"config": {"command": ["\ud800"]}}, InvalidRequest, ""),
        ({"config": {"command": [float("nan")]}}, InvalidRequest, ""),
        ({"config": {"command": ["true"], "cwd": {1, 2}}}, InvalidRequest, ""),
        ({"labels": {f"name {number}": "" for number in range(17)}}, InvalidRequest, "labels: 17"),
        ({"labels": {"team": "x" * 129}}, InvalidRequest, "labels"),
        ({"labels": {"team": 1}}, InvalidRequest, "labels"),
        ({"labels": {"team": "\0"}}, InvalidRequest, "labels"),
        ({"labels": {"team": "\ud800"}}, InvalidRequest, "labels"),
        ({"labels": ["team"]}, InvalidRequest, "labels"),
        ({"labels": {1: "a", "1": "b"}}, InvalidRequest, "labels: 1"),
        ({"config": {"command": ["true"], "env": {1: "a"}}}, InvalidRequest, "config"),
        ({"max_attempts": 0}, InvalidRequest, "max_attempts is 0"),
        ({"max_attempts": 1.5}, InvalidRequest, "max_attempts"),
        ({"max_attempts": 2.0}, InvalidRequest, "max_attempts is 2.0"),
        ({"max_attempts": "3"}, InvalidRequest, "max_attempts is '3'"),
        ({"max_attempts": True}, InvalidRequest, "max_attempts is True"),
        ({"max_runtime": "60"}, InvalidRequest, "max_runtime is '60'"),
        ({"max_runtime": -1}, InvalidRequest, "max_runtime is -1"),
        ({"max_runtime": 1e300}, InvalidRequest, "max_runtime"),
        ({"max_runtime": float("inf")}, InvalidRequest, ""),
        ({"max_runtime": "soon"}, InvalidRequest, "max_runtime"),
        ({"idempotency_key": ""}, InvalidRequest, "idempotency_key"),
        ({"idempotency_key": "x" * 256}, InvalidRequest, "idempotency_key"),
        ({"idempotency_key": "\0"}, InvalidRequest, "idempotency_key"),
        ({"idempotency_key": 42}, InvalidRequest, "idempotency_key"),
    ],
)
def test_what_cannot_work_is_refused_with_a_sentence_that_names_it(
    ask: Any, stack: Stack, changes: dict[str, Any], error: type[ReprieveError], said: str
) -> None:
    before = stack.services.records.newest(limit=1)
    arguments = {"adapter": "process", "config": CONFIG} | changes
    with pytest.raises(ReprieveError) as refused:
        ask.enqueue_run(**arguments)
    assert type(refused.value) is error
    assert said in str(refused.value)
    assert str(refused.value).endswith((".", "…"))
    assert [one.id for one in stack.services.records.newest(limit=1)] == [one.id for one in before]


# -- asking for many at once


def test_many_runs_are_asked_for_at_once_in_whatever_form_and_given_in_that_order(ask: Any, stack: Stack) -> None:
    label = str(uuid4())
    wanted = [RunRequest("process", {"command": ["echo", str(number)]}, {"of": label}) for number in range(300)]
    wanted += [{"adapter": "remote", "config": {}, "max_runtime": timedelta(hours=1), "labels": {"of": label}}]
    runs = ask.enqueue_runs(iter(wanted))
    assert [stack.services.runs.get(run.id).spec.config for run in runs[:3]] == [one.config for one in wanted[:3]]
    assert (len({run.id for run in runs}), runs[-1].adapter, runs[-1].max_runtime_seconds) == (301, "remote", 3600)
    assert {run.id for run in ask.list_runs(labels={"of": label})} == {run.id for run in runs}
    assert ask.enqueue_runs([]) == []


def test_of_many_runs_each_has_its_own_key_and_those_that_were_there_are_given_again(ask: Any) -> None:
    keys = [f"{name} {uuid4()}" for name in ("понедельник", "tuesday", "tuesday")]
    before = ask.enqueue_run("process", CONFIG, idempotency_key=keys[1])
    wanted = [RunRequest("process", CONFIG, idempotency_key=key) for key in keys]
    runs = ask.enqueue_runs(wanted)
    assert runs[1].id == before.id
    assert len({run.id for run in runs}) == 3
    assert [run.id for run in ask.enqueue_runs(wanted[::-1])] == [run.id for run in runs[::-1]]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            RunRequest("process", {}, idempotency_key="tuesday"),
            r"Run 1 \(idempotency_key 'tuesday'\): .*config",
        ),
        (RunRequest("proces", CONFIG), r"Run 1( \(.*\))?: There is no adapter 'proces'"),
        (RunRequest("process", CONFIG, max_attempts=0), r"Run 1( \(.*\))?: max_attempts is 0"),
        (RunRequest("process", {"command": [b""]}), r"Run 1: "),
        ({"adapter": "process"}, r"Run 1: config is missing"),
        ({"adapter": "process", "config": CONFIG, "lables": {}}, r"Run 1: lables is not known"),
        ("process", r"Run 1: it is of type str"),
    ],
)
def test_of_many_runs_one_that_cannot_work_is_refused_by_its_place_and_nothing_is_written(
    ask: Any, stack: Stack, wrong: Any, said: str
) -> None:
    label = {"of": str(uuid4())}
    with pytest.raises(InvalidRequest, match=said):
        ask.enqueue_runs([RunRequest("process", CONFIG, label), wrong, RunRequest("process", CONFIG, label)])
    assert list(ask.list_runs(labels=label)) == []


def test_of_many_runs_one_whose_key_belongs_to_other_work_is_a_conflict_and_nothing_is_written(ask: Any) -> None:
    label, key = {"of": str(uuid4())}, str(uuid4())
    ask.enqueue_run("process", {"command": ["false"]}, idempotency_key=key)
    with pytest.raises(IdempotencyConflict, match=key):
        ask.enqueue_runs([RunRequest("process", CONFIG, label), RunRequest("process", CONFIG, idempotency_key=key)])
    assert list(ask.list_runs(labels=label)) == []


def test_more_runs_than_can_be_asked_for_at_once_are_refused_before_anything_is_sent(ask: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"More than 10,000 runs .* in parts"):
        ask.enqueue_runs(RunRequest("process", CONFIG) for _ in range(10_001))


# -- looking at them


@pytest.mark.parametrize("unknown", [UUID(int=7), str(UUID(int=7)), "nonsense", "../fleet", "", None, 7])
def test_a_run_that_is_not_there_is_not_found_by_anybody(ask: Any, unknown: Any) -> None:
    for call in (ask.get_run, ask.wait_for):
        with pytest.raises(RunNotFound):
            call(unknown)
    for call in (ask.read_log, ask.follow_log):
        with pytest.raises(RunNotFound):
            list(call(unknown))
    with pytest.raises(RunNotFound):
        ask.cancel_run(unknown)


def test_all_runs_are_listed_the_newest_first_a_page_at_a_time(ask: Any, many: list[UUID]) -> None:
    assert [run.id for run in ask.list_runs(labels={"of": "many"})] == many
    assert [run.id for run in islice(ask.list_runs(labels={"of": "many"}), 3)] == many[:3]


def test_only_the_runs_that_fit_are_listed(ask: Any, stack: Stack) -> None:
    label = {"of": str(uuid4())}
    queued = new_run(stack.services, labels=label).id
    other = new_run(stack.services, labels=label, adapter="remote").id
    claimed = running(stack.services, labels=label | {"team": "a=b&c"}).run_id
    expected = {
        (): [claimed, other, queued],
        ("statuses",): [claimed],
        ("adapter",): [other],
        ("labels",): [claimed],
    }
    wanted = {"statuses": ["running", "failed"], "adapter": "remote", "labels": label | {"team": "a=b&c"}}
    for names, found in expected.items():
        chosen = {"labels": label} | {name: wanted[name] for name in names}
        assert [run.id for run in ask.list_runs(**chosen)] == found, names
    assert list(ask.list_runs(adapter="remote", labels=label, statuses=("failed",))) == []


@pytest.mark.parametrize(
    "wanted",
    [
        {"statuses": ["runing"]},
        {"statuses": "runing"},
        {"statuses": 5},
        {"adapter": "\0"},
        {"adapter": 5},
        {"labels": {"a=b": "c"}},
        {"labels": {"": "c"}},
        {"labels": {"a": "\0"}},
        {"labels": ["a"]},
        {"error": "no such"},
        {"lane": "\0"},
        {"since": "yesterday"},
        {"text": ""},
    ],
)
def test_a_filter_that_fits_nothing_is_refused_before_anything_is_read(ask: Any, wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        next(ask.list_runs(**wanted))


def test_runs_are_chosen_by_lane_error_time_and_text(ask: Any, stack: Stack) -> None:
    label = {"of": str(uuid4())}
    before = stack.services.database.now()
    queued = new_run(stack.services, labels=label | {"part": "Ärger & Co"}, lane="night").id
    failed = running(stack.services, labels=label)
    stack.end(failed, outcome=Outcome.failed("No space left.", ErrorCode.STALLED))
    expected: list[tuple[dict[str, Any], list[UUID]]] = [
        ({"lane": "night"}, [queued]),
        ({"error": "stalled"}, [failed.run_id]),
        ({"error": ErrorCode.STALLED, "lane": "night"}, []),
        ({"since": before}, [failed.run_id, queued]),
        ({"since": before + timedelta(days=1)}, []),
        ({"text": "Ärger & co"}, [queued]),
        ({"text": "NO SPACE"}, [failed.run_id]),
    ]
    for chosen, found in expected:
        assert [run.id for run in ask.list_runs(labels=label, **chosen)] == found, chosen


def test_a_list_goes_on_over_pages_that_looked_at_many_runs_and_have_none(
    ask: Any, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOOKS_FIRST", "LOOKS_MOST", "PAGE"):
        for module in (lists, client_runs, calls):
            monkeypatch.setattr(module, name, 3, raising=False)
    label = str(uuid4())
    far = new_run(stack.services, labels={"of": label}).id
    for _ in range(10):
        new_run(stack.services)
    assert [run.id for run in ask.list_runs(text=label)] == [far]


# -- doing them again


def test_a_run_is_done_again_once_for_each_key(ask: Any, stack: Stack) -> None:
    work = running(stack.services, labels={"of": "again"}, lane="night", priority=7)
    stack.end(work)
    key = str(uuid4())
    first, same = (ask.run_again(work.run_id, idempotency_key=key) for _ in "12")
    other = ask.run_again(ask.get_run(work.run_id))
    assert first.id == same.id != other.id
    assert {first.again_of, other.again_of} == {work.run_id}
    assert (first.labels, first.lane, first.priority, first.status) == ({"of": "again"}, "night", 7, "queued")
    with pytest.raises(IdempotencyConflict):
        ask.run_again(first, idempotency_key=key)
    with pytest.raises(InvalidRequest, match="idempotency_key"):
        ask.run_again(first, idempotency_key="")
    with pytest.raises(RunNotFound):
        ask.run_again(uuid4())


# -- ending them, and waiting for their end


def test_a_run_is_cancelled_once_and_stays_so(ask: Any, stack: Stack) -> None:
    work = running(stack.services)
    for _ in range(2):
        assert ask.cancel_run(work.run_id).status == "cancelled"
    assert ask.cancel_run(ask.get_run(work.run_id)).status == "cancelled"
    for whole in (str(work.run_id).upper(), work.run_id.hex):
        assert ask.cancel_run(whole) == ask.get_run(whole) == ask.get_run(work.run_id)


def test_who_asks_directly_may_name_a_run_that_is_to_be_ended_by_the_end_of_its_id(ask: Any, stack: Stack) -> None:
    run = new_run(stack.services)
    if ask is reprieve or getattr(ask, "_target", None) is aio:
        assert ask.cancel_run(str(run.id)[-12:]).id == run.id
    else:
        with pytest.raises(RunNotFound, match="whole id"):
            ask.cancel_run(str(run.id)[-12:])


def test_one_who_waits_is_given_the_run_when_it_ends_over_whatever_is_cut_meanwhile(ask: Any, stack: Stack) -> None:
    work = running(stack.services)
    waiting = Reading(ask.wait_for(work.run_id) for _ in "1")
    stack.cut()
    stack.end(work, outcome=Outcome.of_exit(3))
    (run,) = waiting.wait()
    assert (run.status, run.error_code, run.attempts[0].outcome["exit_status"]) == ("failed", "exit_status", 3)
    assert ask.wait_for(run, timeout=0) == run


def test_one_who_waits_for_a_time_is_told_that_the_run_goes_on(ask: Any, stack: Stack) -> None:
    work = running(stack.services)
    with pytest.raises(StillRunning, match=r"running after 0\.2 s") as told:
        ask.wait_for(work.run_id, timeout=0.2)
    assert isinstance(told.value, TimeoutError)
    for wrong in (-1, float("nan"), "soon", True):
        with pytest.raises(InvalidRequest, match="timeout"):
            ask.wait_for(work.run_id, timeout=wrong)


# -- reading what they print


def test_a_log_is_read_byte_for_byte_and_a_run_that_nobody_has_taken_has_an_empty_one(ask: Any, stack: Stack) -> None:
    assert list(ask.read_log(new_run(stack.services).id)) == []
    work = running(stack.services)
    data = ["zwölf\n".encode(), b"\xff\0\r\n", "a\u2028b\x85c\x1cd".encode(), b"\xe2\x80", b"x" * 65_536]
    ingest(stack.services, [chunk(work, seq, one, stream="stderr") for seq, one in enumerate(data, 1)])
    items = list(ask.read_log(work.run_id))
    assert [(item.attempt, item.seq, item.stream, item.data) for item in items] == [
        (1, seq, "stderr", one) for seq, one in enumerate(data, 1)
    ]
    assert all(item.at.tzinfo for item in items)


def test_a_log_is_read_from_any_place_of_any_attempt(ask: Any, stack: Stack) -> None:
    run_id = two_attempts(stack).run_id
    assert numbers(ask.read_log(run_id)) == [(2, 1)]
    assert numbers(ask.read_log(run_id, attempt=1)) == [(1, 1), (1, 2)]
    assert numbers(ask.read_log(run_id, attempt=1, after=1)) == [(1, 2)]
    assert numbers(ask.read_log(run_id, attempt=1, after=99)) == []
    with pytest.raises(RunNotFound, match="has no attempt 3"):
        list(ask.read_log(run_id, attempt=3))


def two_attempts(stack: Stack) -> Work:
    """A run whose first attempt was lost, and whose second goes on."""
    first = running(stack.services, max_attempts=2)
    stack.write(first, 1, 2)
    with stack.services.database.begin() as connection:
        for statement in (
            "UPDATE runs SET status = 'queued', updated_at = clock_timestamp() WHERE id = :id",
            "UPDATE run_attempts SET finished_at = clock_timestamp(), last_seq = 2 WHERE run_id = :id",
        ):
            connection.execute(text(statement), {"id": first.run_id})
    second = claim(stack.services, first.run_id, "worker@elsewhere")
    assert second is not None
    ingest(stack.services, [chunk(second, 1, attempt=2)])
    return second


@pytest.mark.parametrize(
    "place", [{"attempt": 0}, {"attempt": True}, {"attempt": "1"}, {"after": -1}, {"after": 2**63}]
)
def test_a_place_that_no_log_has_is_refused(ask: Any, stack: Stack, place: dict[str, Any]) -> None:
    run = new_run(stack.services)
    for call in (ask.read_log, ask.follow_log):
        with pytest.raises(InvalidRequest, match=next(iter(place))):
            next(call(run.id, **place))


def test_what_cannot_be_read_is_named_in_its_place(ask: Any, stack: Stack) -> None:
    work = running(stack.services)
    for seq in (1, 2, 5):
        stack.write(work, seq, seq)
    stack.end(work, 7)
    forget_the_tail(stack, work)
    for items in (list(ask.read_log(work.run_id)), list(ask.follow_log(work.run_id))):
        assert [(item.last, isinstance(item, Gap)) for item in items] == [
            *[(1, False), (2, False), (4, True), (5, False), (7, True)]
        ]
        assert [item.why for item in items if isinstance(item, Gap)] == ["missing"] * 2


def forget_the_tail(stack: Stack, work: Work) -> None:
    """Have the time be over for which the last chunks are waited for."""
    with stack.services.database.begin() as connection:
        moved = "UPDATE run_attempts SET finished_at = finished_at - interval '2 minutes' WHERE run_id = :id"
        connection.execute(text(moved), {"id": work.run_id})


@pytest.mark.usefixtures("every_log_is_large")
@pytest.mark.parametrize(("how", "error"), [("removed", LogRemoved), ("lost", LogLost)])
def test_a_log_of_which_nothing_is_left_is_an_error_that_says_why(
    ask: Any, stack: Stack, how: str, error: type[ReprieveError]
) -> None:
    work = running(stack.services)
    stack.write(work, 1, 3)
    stack.end(work, 3)
    assert close_log(stack.services, work.run_id, 1).value == "done"
    if how == "lost":
        (found,) = (stack.services.settings.data_dir / "archive" / "runs" / str(work.run_id)).iterdir()
        found.unlink()
    else:
        with stack.services.database.begin() as connection:
            for statement in (
                "UPDATE log_archives SET written_at = written_at - interval '3 days' WHERE run_id = :id",
                "UPDATE runs SET finished_at = finished_at - interval '3 days' WHERE id = :id",
            ):
                connection.execute(text(statement), {"id": work.run_id})
        settings = stack.services.settings.model_copy(update={"log_retention_days": 1})
        assert expire_logs(replace(stack.services, settings=settings)) == 1
    stack.services.archives._unpacked.clear()
    with pytest.raises(error, match=how):
        list(ask.read_log(work.run_id))
    assert [(item.first, item.last, item.why) for item in ask.read_log(work.run_id, after=1)] == [(2, 3, how)]
    assert [(item.first, item.last, item.why) for item in ask.follow_log(work.run_id)] == [(1, 3, how)]


# -- reading it


def test_output_is_followed_as_it_comes_until_the_run_has_ended(ask: Any, stack: Stack) -> None:
    work = running(stack.services)
    reading = Reading(ask.follow_log(work.run_id))
    for seq in (1, 2, 3):
        stack.write(work, seq, seq)
        reading.has(seq)
    stack.end(work, 3)
    assert numbers(reading.wait()) == [(1, 1), (1, 2), (1, 3)]
    assert [item.data for item in reading.items] == [b"line 1\n", b"line 2\n", b"line 3\n"]


def test_a_follower_begins_at_any_place_and_goes_on_to_the_next_attempts(ask: Any, stack: Stack) -> None:
    work = two_attempts(stack)
    stack.end(work, 1)
    run_id = work.run_id
    assert numbers(ask.follow_log(run_id)) == [(1, 1), (1, 2), (2, 1)]
    assert numbers(ask.follow_log(run_id, after=1)) == [(1, 2), (2, 1)]
    assert numbers(ask.follow_log(run_id, attempt=2)) == [(2, 1)]


def test_a_follower_of_whatever_is_cut_off_is_given_each_line_once_and_in_order(ask: Any, stack: Stack) -> None:
    work = running(stack.services)
    reading = Reading(ask.follow_log(work.run_id))
    stack.write(work, 1, 300)
    reading.has(300)
    stack.cut()
    stack.write(work, 301, 500)
    stack.cut()
    stack.end(work, 500)
    assert numbers(reading.wait()) == [(1, seq) for seq in range(1, 501)]


def test_a_follower_whose_look_fails_after_it_has_read_is_given_what_it_read_by_the_next_one(
    ask: Any, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = running(stack.services)
    for seq in range(1, 5):
        stack.write(work, seq, seq)
    with stack.services.database.begin() as connection:
        connection.execute(text("DELETE FROM log_segments WHERE run_id = :id AND first_seq = 3"), {"id": work.run_id})
    stack.end(work, 4)
    forget_the_tail(stack, work)
    # Whoever finds that stored chunks are not there asks again how far the log is.
    failures = [OperationalError("SELECT", {}, InterfaceError("connection already closed"))]

    def failing(*given: Any) -> Any:
        if failures:
            raise failures.pop()
        return extent_of(*given)

    monkeypatch.setattr("reprieve.stores.reading.extent_of", failing)
    items = list(ask.follow_log(work.run_id))
    assert [(item.last, isinstance(item, Gap)) for item in items] == [(1, False), (2, False), (3, True), (4, False)]


def test_a_follower_that_leaves_early_holds_nothing(ask: Any, stack: Stack) -> None:
    work = running(stack.services)
    stack.write(work, 1, 5)
    with closing(ask.follow_log(work.run_id)) as reading:
        assert numbers(islice(reading, 2)) == [(1, 1), (1, 2)]
    eventually(lambda: stack.served.app.state.hub.readers == 0)
    eventually(lambda: stack.services.database.engine.pool.checkedout() == 0)  # type: ignore[attr-defined]
