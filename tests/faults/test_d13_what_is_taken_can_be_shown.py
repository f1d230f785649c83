"""D13: what the intake takes, every reader can show; and what fails of owed work goes behind the rest, and is told."""

import json
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from typer.testing import CliRunner

from reprieve.adapters.registry import Adapters
from reprieve.cli.main import app
from reprieve.models.archive import chunks_of, frames
from reprieve.models.chunks import MAX_CHUNK_BYTES, MAX_TIME, Block, Chunk, blocks_of, encode, pack
from reprieve.models.closing import Closing
from reprieve.models.messages import encode_message
from reprieve.models.owed import NO_ANSWER, TOLD_AFTER, Duty
from reprieve.models.sequences import MAX_SEQ
from reprieve.models.status import Status
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.runs.ends import write_ends
from reprieve.workers import closing, reporting, turns
from reprieve.workers import ingest as ingesting
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_log, close_owed, close_task, expire_logs
from reprieve.workers.explaining import explain
from reprieve.workers.supervision.adopting import ADOPT_AT_ONCE
from reprieve.workers.supervision.burying import Burying
from reprieve.workers.supervisor import Supervisor
from tests.faults.helpers_cdeg import bury
from tests.support.http import calling
from tests.support.remote import remote_with_token
from tests.support.rows import chunk, ingest, make_due, running
from tests.support.shipping import direct_shipper
from tests.support.waiting import eventually

pytestmark = [pytest.mark.row("D13"), pytest.mark.usefixtures("every_log_is_large")]

YEAR_292278994 = 9223372036854775807
HOSTILE_TIMES = [YEAR_292278994, MAX_TIME + 1, -(2**63), 2**64 - 1, -62_135_596_800_001]


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with calling(services, raising=False) as made:
        yield made


def end(services: Services, *works: Work, last_seq: int = 1, ago: float = 120) -> None:
    ends = [End.by_result(work.fence, Outcome(), last_seq) for work in works]
    with services.database.begin() as connection:
        write_ends(connection, ends)
        past = {"ids": [str(work.run_id) for work in works], "ago": timedelta(seconds=ago)}
        for table, key in (("run_attempts", "run_id"), ("runs", "id")):
            statement = f"UPDATE {table} SET finished_at = finished_at - :ago WHERE {key} = ANY(CAST(:ids AS uuid[]))"
            connection.execute(text(statement), past)


def owed(services: Services, count: int) -> list[Work]:
    works = [running(services) for _ in range(count)]
    for work in works:
        ingest(services, [chunk(work, 1)])
        end(services, work)
    return works


def store_as_an_earlier_release(services: Services, work: Work, *records: tuple[Any, ...]) -> None:
    """Have these records be stored, whatever is in them."""
    block = Block(work.run_id, 1, work.epoch, 1, len(records), pack([encode(record) for record in records]))
    with services.database.begin() as connection:
        services.logs.append(connection, [block])


def readable(client: TestClient, run_id: UUID) -> bool:
    """Whether everything that reads a run over HTTP can: a log of which nothing is there is said to be gone."""
    paths = ("", "/log", "/explain", "/attempts/1/output/stdout", "/events")
    return {client.get(f"/v1/runs/{run_id}{path}").status_code for path in paths} <= {200, 410}


# -- the door


@pytest.mark.parametrize("at", HOSTILE_TIMES)
def test_a_message_with_a_time_that_no_calendar_has_is_kept_aside_with_a_sentence_and_costs_no_other(
    services: Services, client: TestClient, at: int
) -> None:
    work, other = running(services), running(services)
    bad = Block(work.run_id, 1, work.epoch, 1, 1, pack([encode((at, "stdout", b"x", None))]))
    report = ingesting.ingest_task(encode_message([bad, *blocks_of([chunk(other, 1)])]))
    assert (report["new"], report["refused"]) == (1, 1)
    end(services, work, other)
    assert [close_log(services, one.run_id, 1) for one in (work, other)] == [Closing.DONE] * 2
    [(first, last, reason)] = services.closings.state(work.run_id, 1).quarantined
    assert (first, last) == (1, 1)
    assert "not what a chunk may have" in reason
    assert readable(client, work.run_id)


@pytest.mark.parametrize(
    "record",
    [
        (0, "std\0out", b"x", None),
        (0, "Ünïcode", b"x", None),
        (0, "", b"x", None),
        (0, "s" * 33, b"x", None),
        (0, "stdout", b"x" * (MAX_CHUNK_BYTES + 1), None),
        (0, "stdout", b"x", "a\ncursor"),
        (0, "stdout", b"x", "c" * 257),
        (0.5, "stdout", b"x", None),
        (float("nan"), "stdout", b"x", None),
        ("0", "stdout", b"x", None),
        (0, "stdout", "text", None),
        (0, "stdout", b"x"),
        (None, None, None, None),
    ],
)
def test_whatever_a_foreign_shipper_sends_that_on_log_would_not_is_kept_aside(
    services: Services, record: tuple[Any, ...]
) -> None:
    work = running(services)
    report = ingesting.ingest(services, [Block(work.run_id, 1, work.epoch, 1, 1, pack([encode(record)]))])
    assert (report["new"], report["refused"]) == (0, 1)
    assert services.logs.read(work.run_id, 1) == []


@pytest.mark.parametrize("at", [MAX_TIME, 0, -1, -62_135_596_800_000])
def test_the_first_and_the_last_time_that_is_taken_is_shown_and_archived_as_it_was(
    services: Services, client: TestClient, at: int
) -> None:
    work = running(services)
    record = encode((at, "stdout", b"x", None))
    report = ingesting.ingest(services, [Block(work.run_id, 1, work.epoch, 1, 1, pack([record]))])
    assert (report["new"], report["refused"]) == (1, 0)
    end(services, work)
    assert readable(client, work.run_id)
    assert close_log(services, work.run_id, 1) is Closing.DONE
    assert readable(client, work.run_id)
    assert [one.at for one in services.logs.read(work.run_id, 1)] == [at]


def test_a_block_that_claims_more_chunks_than_there_can_be_takes_nobodys_numbers(services: Services) -> None:
    work = running(services)
    block = Block(work.run_id, 1, work.epoch, 1, MAX_SEQ, pack([encode((0, "stdout", b"x", None))]))
    with pytest.raises(Exception, match="not of its version's form"):
        ingesting.ingest_task(encode_message([block]))
    assert ingest(services, [chunk(work, 1)])["new"] == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("at", at) for at in [*HOSTILE_TIMES, -1, 1.5, True, "now", [], {}, 10**4000]),
        *(("stream", stream) for stream in ["", "a\0b", "\ud800", "S", "s" * 33, 5, None]),
        *(("data", data) for data in ["", "a", "\0", "\ud800", "é", 5, None, b64encode(b"x" * 65_537).decode()]),
    ],
)
def test_a_report_with_a_field_out_of_its_range_is_refused_with_a_sentence(
    services: Services, client: TestClient, field: str, value: Any
) -> None:
    work, token = remote_with_token(services)
    body = {"first_seq": 1, "chunks": [{"stream": "stdout", "data": "eA==", "at": 1} | {field: value}]}
    answer = client.post(
        f"/v1/runs/{work.run_id}/output",
        content=json.dumps(body).encode("utf-8", "surrogatepass"),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    assert 400 <= answer.status_code < 500, answer.text
    assert services.logs.last_seq(work.run_id, 1) == 0


@pytest.mark.parametrize("first_seq", [True, "1", 1.0, None])
def test_a_first_number_that_is_no_whole_number_is_refused(
    services: Services, client: TestClient, first_seq: Any
) -> None:
    work, token = remote_with_token(services)
    body = {"first_seq": first_seq, "chunks": [{"stream": "stdout", "data": "eA=="}]}
    own = {"Authorization": f"Bearer {token}"}
    assert client.post(f"/v1/runs/{work.run_id}/output", json=body, headers=own).status_code == 422
    assert services.logs.last_seq(work.run_id, 1) == 0


@pytest.mark.parametrize(
    ("outcome", "last_seq"),
    [
        ({"error": "a\0b \ud800 " + "x" * 400}, MAX_SEQ),
        ({"error": "\u202e"}, 0),
        ({"exit_status": 255}, 2**53 + 1),
        ({"signal": 64}, 1),
    ],
)
def test_the_extremes_of_a_result_that_is_taken_can_be_shown_and_closed(
    services: Services, client: TestClient, outcome: dict[str, Any], last_seq: int
) -> None:
    work, token = remote_with_token(services)
    assert reporting.record_result(services, work.run_id, token, outcome, last_seq) == {"taken": True}
    assert readable(client, work.run_id)
    with services.database.begin() as connection:
        connection.execute(text("UPDATE run_attempts SET finished_at = finished_at - interval '1 hour'"))
    assert close_log(services, work.run_id, 1) is Closing.DONE
    assert readable(client, work.run_id)
    assert explain(services, work.run_id).text


@pytest.mark.parametrize(
    ("exit_status", "last_seq"),
    [
        *((status, 0) for status in [256, -1, 10**4000, 2**63, float("nan"), float("inf"), True, "0", None, []]),
        *((0, last) for last in [-1, MAX_SEQ + 1, 2**63, 10**4000, float("nan"), None, 0.5]),
    ],
)
def test_a_result_out_of_its_range_is_refused_with_a_sentence(
    services: Services, client: TestClient, exit_status: Any, last_seq: Any
) -> None:
    work, token = remote_with_token(services)
    answer = client.post(
        f"/v1/runs/{work.run_id}/finish",
        content=json.dumps({"outcome": {"exit_status": exit_status}, "last_seq": last_seq}),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    assert 400 <= answer.status_code < 500, answer.text
    assert services.runs.get(work.run_id).status == Status.RUNNING


@pytest.mark.parametrize("at", HOSTILE_TIMES)
def test_what_an_earlier_release_has_taken_is_shown_archived_and_closed(
    services: Services, client: TestClient, at: int
) -> None:
    work = running(services)
    store_as_an_earlier_release(services, work, (at, "stdout", b"one\n", None), (0, "Old Stream\0", b"two\n", None))
    end(services, work, last_seq=2)
    assert readable(client, work.run_id)
    assert close_owed(services) == {"done": 1}
    assert readable(client, work.run_id)
    assert [one.data for one in services.logs.read(work.run_id, 1)] == [b"one\n", b"two\n"]
    shown = CliRunner().invoke(app, ["logs", str(work.run_id)])
    assert (shown.exit_code, "one" in shown.stdout) == (0, True)


def test_the_archive_holds_each_time_to_the_millisecond() -> None:
    times = [0, 1, 999, 1_790_000_000_003, MAX_TIME, MAX_TIME - 1, -1]
    run_id = UUID(int=1)
    chunks = [Chunk(run_id, 1, 0, seq, "stdout", b"x", None, at) for seq, at in enumerate(times, start=1)]
    [frame] = frames(chunks)
    assert [one.at for one in chunks_of(run_id, 1, frame.data)] == times


# -- what is owed


def poison(
    services: Services, monkeypatch: pytest.MonkeyPatch, name: str, bad: set[UUID], act: Callable[[], None]
) -> None:
    """Have this method of the archive do something else with these runs."""
    real = getattr(services.archives, name)

    def poisoned(run_id: UUID, attempt: int, *rest: Any) -> Any:
        if run_id in bad:
            act()
        return real(run_id, attempt, *rest)

    monkeypatch.setattr(services.archives, name, poisoned)


def fail() -> None:
    raise ZeroDivisionError("a poison\n of two lines")


def test_one_poison_log_stands_before_no_other_goes_behind_them_and_is_told(
    services: Services, monkeypatch: pytest.MonkeyPatch, client: TestClient
) -> None:
    bad = owed(services, 4)[0]
    poison(services, monkeypatch, "write", {bad.run_id}, fail)
    monkeypatch.setattr(closing, "CLOSE_AT_ONCE", 2)  # As many as one turn looks at: the poison is one of them.
    assert close_owed(services) == {"failed": 1, "done": 1}
    assert close_owed(services) == {"done": 2}
    assert services.closings.owed(10) == [(bad.run_id, 1)]
    assert close_owed(services) == {}, "it is not tried again at once"
    told = explain(services, bad.run_id).text
    assert "could not be closed, tried once" in told
    assert "ZeroDivisionError: a poison" in told
    assert 'reprieve_owed_failing{what="closing"} 1.0' in client.get("/metrics").text
    assert not any("could not be closed" in one for one in services.setbacks.complaints())
    set_back(services, TOLD_AFTER + timedelta(seconds=1))
    [complaint] = services.setbacks.complaints()
    assert "1 logs that could not be closed" in complaint
    assert "ZeroDivisionError: a poison" in complaint
    assert complaint in CliRunner().invoke(app, ["health"]).output.replace("\n", " ")


def set_back(services: Services, by: timedelta) -> None:
    """Have what failed have failed so long ago, and be due again."""
    with services.database.begin() as connection:
        statement = "UPDATE setbacks SET since = since - :by, next_try_at = least(next_try_at, clock_timestamp())"
        connection.execute(text(statement), {"by": by})


def test_what_is_mended_is_done_at_its_next_try_and_told_no_more(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    [work] = owed(services, 1)
    with monkeypatch.context() as broken:
        poison(services, broken, "write", {work.run_id}, fail)
        for _ in range(3):
            close_owed(services)
            set_back(services, timedelta(minutes=10))
    assert services.setbacks.of_run(work.run_id)[0].tries == 3
    assert close_owed(services) == {"done": 1}
    assert services.setbacks.of_run(work.run_id) == []
    assert services.setbacks.complaints() == []


def test_each_setback_doubles_the_pause_up_to_a_limit(services: Services) -> None:
    [work] = owed(services, 1)
    item, pauses = (work.run_id, 1), []
    for _ in range(12):
        assert services.setbacks.begin(Duty.CLOSING, [item]) == {item}
        assert services.setbacks.begin(Duty.CLOSING, [item]) == set(), "two do not try it at once"
        [failing] = services.setbacks.of_run(work.run_id)
        pauses.append(round((failing.next_try_at - services.database.now()).total_seconds()))
        set_back(services, timedelta(0))
    assert pauses[:3] == [30, 60, 120]
    assert pauses[-1] == 600
    assert failing.reason == NO_ANSWER


def test_two_logs_whose_closing_hangs_hold_up_no_other(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    works, let_go = owed(services, 8), threading.Event()
    hung = {work.run_id for work in works[:5]}
    poison(services, monkeypatch, "write", hung, lambda: let_go.wait(60) and fail())
    monkeypatch.setattr(closing, "DEADLINE", 2.0)
    try:
        began = time.monotonic()
        assert close_owed(services) == {"done": 3}
        assert time.monotonic() - began < 30
        assert NO_ANSWER in explain(services, works[0].run_id).text
        assert close_owed(services) == {}
    finally:
        let_go.set()
    eventually(lambda: all(NO_ANSWER not in explain(services, run_id).text for run_id in hung))


def test_a_process_that_ends_over_a_log_leaves_it_behind_the_others(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = owed(services, 2)

    class KilledError(BaseException):
        """As after `kill -9`, nothing that follows is done."""

    with monkeypatch.context() as deadly:
        deadly.setattr(turns, "take_turns", lambda *_, **__: None)
        poison(services, deadly, "write", {bad.run_id}, lambda: (_ for _ in ()).throw(KilledError()))
        with pytest.raises(KilledError):
            closing._close_large(services, (bad.run_id, 1))
    assert [run_id for run_id, _ in services.closings.owed(10)] == [good.run_id, bad.run_id]


def test_a_message_whose_log_cannot_be_closed_says_why_as_well(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    [work] = owed(services, 1)
    poison(services, monkeypatch, "write", {work.run_id}, fail)
    assert close_task.run(str(work.run_id), 1) == {"run": str(work.run_id), "log": "failed"}
    assert "ZeroDivisionError" in explain(services, work.run_id).text


def test_one_object_that_may_not_be_deleted_stops_no_retention(
    services: Services, monkeypatch: pytest.MonkeyPatch, client: TestClient
) -> None:
    wired = replace(services, settings=services.settings.model_copy(update={"log_retention_days": 1}))
    works = owed(wired, 4)
    close_owed(wired)
    with wired.database.begin() as connection:
        connection.execute(text("UPDATE log_archives SET written_at = written_at - interval '9 days'"))
        connection.execute(text("UPDATE runs SET finished_at = finished_at - interval '9 days'"))
    poison(wired, monkeypatch, "remove", {works[0].run_id}, fail)
    monkeypatch.setattr(closing, "EXPIRE_AT_ONCE", 2)
    removed = [expire_logs(wired) for _ in range(3)]
    assert sum(removed) == 3
    assert wired.archives.expired(timedelta(days=1), 10) == [(works[0].run_id, 1)]
    told = explain(wired, works[0].run_id).text
    assert "has expired, and could not be removed" in told
    assert 'reprieve_owed_failing{what="removal"} 1.0' in client.get("/metrics").text


def test_an_end_of_work_that_fails_or_hangs_keeps_no_other_from_its_end_and_is_told(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    works, let_go = [running(services) for _ in range(12)], threading.Event()
    hung, failing = {work.run_id for work in works[:9]}, works[9].run_id

    def end_work(_: Burying, attempt: Any) -> None:
        if attempt.run_id in hung:
            let_go.wait(60)
        if attempt.run_id == failing:
            fail()
        services.terminations.settle(attempt.run_id, attempt.attempt)

    monkeypatch.setattr(Burying, "_end_work", end_work)
    monkeypatch.setattr("reprieve.workers.supervision.burying.BURY_DEADLINE", 1.5)
    with services.database.begin() as connection:
        connection.execute(text("UPDATE run_attempts SET termination = 'owed'"))
    try:
        bury(services)
        left = {run_id for run_id, _ in services.terminations.owed(services.node)}
        assert left == {*hung, failing}
        assert "could not be ended, tried once" in explain(services, failing).text
    finally:
        let_go.set()
    eventually(lambda: services.terminations.owed(services.node) == [(failing, 1)])


def test_work_that_cannot_be_adopted_is_told_until_it_is_owed_no_more(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = running(services)
    with services.database.begin() as connection:
        connection.execute(text("UPDATE run_attempts SET adoption = 'owed', handle = '{}'"))
    monkeypatch.setattr(services.adoptions.__class__, "adopt", lambda *_: fail())
    supervisor = Supervisor(services, direct_shipper(services))
    supervisor.adopt()
    assert "No worker could take over the work of attempt 1" in explain(services, work.run_id).text
    with services.database.begin() as connection:
        connection.execute(text("UPDATE run_attempts SET adoption = NULL"))
    assert "could take over" not in explain(services, work.run_id).text
    assert services.setbacks.tidy() == 1


def test_work_that_cannot_be_adopted_hides_none_that_can(services: Services) -> None:
    works = [running(services, adapter="detached") for _ in range(ADOPT_AT_ONCE + 5)]
    with services.database.begin() as connection:
        connection.execute(text("UPDATE run_attempts SET adoption = 'owed', handle = '{}'"))
    *poison, healthy = sorted((work.run_id for work in works), key=str)

    def looked_at() -> list[UUID]:
        found = services.adoptions.to_adopt(services.node, ["detached"], ADOPT_AT_ONCE)
        return [run_id for run_id, _, _ in found]

    assert healthy not in looked_at()
    services.setbacks.begin(Duty.ADOPTION, [(run_id, 1) for run_id in poison])
    assert looked_at() == [healthy]
    make_due(services)
    assert (looked_at()[0], len(looked_at())) == (healthy, ADOPT_AT_ONCE)


def test_one_thing_that_is_kept_and_cannot_be_deleted_keeps_no_other(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = owed(services, 3)
    close_owed(services)
    forgotten: list[UUID] = []

    class Keeper:
        def kept(self) -> list[tuple[UUID, int]]:
            return [(work.run_id, 1) for work in works]

        def forget(self, attempt: tuple[UUID, int]) -> None:
            if attempt[0] == works[0].run_id:
                fail()
            forgotten.append(attempt[0])

    class Broken(Keeper):
        def kept(self) -> list[tuple[UUID, int]]:
            raise ZeroDivisionError

    monkeypatch.setattr(Adapters, "keeping", lambda _: [Broken(), Keeper()])
    Supervisor(services, direct_shipper(services)).tidy()
    assert set(forgotten) == {work.run_id for work in works[1:]}
