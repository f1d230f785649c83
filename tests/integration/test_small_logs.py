"""Small logs: closed where they lie, many at once, whole at every step, and removed when they are old."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis import Redis
from sqlalchemy import event, text

from reprieve.models.chunks import Block, Chunk, encode, pack
from reprieve.models.closing import CLOSED_EVERY, FEW_PIECES, MANY_PIECES, SMALL_BYTES, Closing
from reprieve.models.errors import RunNotFound
from reprieve.models.gaps import Gap, Why
from reprieve.models.requests import NewRun
from reprieve.models.work import End, Outcome, Work
from reprieve.stores import small_logs
from reprieve.stores.cache import connect
from reprieve.stores.hints import Request
from reprieve.stores.partitions import least_id
from reprieve.stores.reading import LogReader
from reprieve.stores.runs.insertion import insert
from reprieve.stores.small_logs import SmallLogs
from reprieve.workers import closing as module
from reprieve.workers import ingest as ingesting
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_log, close_owed, expire_logs, send_close
from reprieve.workers.explaining import explain
from reprieve.workers.finish import finish
from tests.support.rows import chunk, claim, ingest, running

#: A chunk of one byte, encoded.
A_CHUNK = encode((0, "stdout", b"x", None))


def printed(services: Services, pieces: int, *, skip: int = 0, end: bool = True) -> Work:
    """A run that has printed a line in each of so many pieces (but the line `skip`), and ended a while ago."""
    work = running(services)
    for seq in range(1, pieces + 1):
        if seq != skip:
            ingest(services, [chunk(work, seq, b"line %d\n" % seq)])
    if end:
        end_of(services, work, pieces)
    return work


def end_of(services: Services, work: Work, last_seq: int) -> None:
    finish(services, [End.by_result(work.fence, Outcome(), last_seq)])
    with services.database.begin() as connection:
        connection.execute(
            text("UPDATE run_attempts SET finished_at = finished_at - interval '70 s' WHERE run_id = :id"),
            {"id": work.run_id},
        )


def segments(services: Services, *works: Work) -> int:
    query = text("SELECT count(*) FROM log_segments WHERE run_id = ANY(CAST(:ids AS uuid[]))")
    with services.database.begin() as connection:
        return int(connection.execute(query, {"ids": [str(work.run_id) for work in works]}).scalar_one())


def is_closed(services: Services, work: Work) -> bool:
    return services.closings.find(work.run_id, work.attempt).is_closed


def read(services: Services, work: Work, after: int = 0, limit: int = 1000) -> list[Chunk]:
    return services.logs.read(work.run_id, work.attempt, after, limit)


def has_no_row_in_the_archive(services: Services, work: Work) -> bool:
    """As it is for an open log: a reader of an earlier release looks no further than the segments."""
    return services.archives.find(work.run_id, work.attempt) is None


@contextmanager
def statements(services: Services) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(*given: Any) -> None:
        seen.append(given[2])

    event.listen(services.database.engine, "after_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(services.database.engine, "after_cursor_execute", note)


# -- closed where it is


def test_a_small_log_is_closed_where_it_is_without_an_object(services: Services) -> None:
    work = printed(services, FEW_PIECES)
    before = read(services, work)
    assert close_log(services, work.run_id, 1) is Closing.DONE
    assert read(services, work) == before
    assert segments(services, work) == FEW_PIECES, "so few are left as they lie"
    assert has_no_row_in_the_archive(services, work)
    assert "is closed; 4 chunks." in explain(services, work.run_id).text
    record = services.closings.state(work.run_id, 1).record
    assert (record.closed, record.archive, record.lost, record.added) == (True, None, [], [])
    assert close_log(services, work.run_id, 1) is Closing.DONE


def test_hundreds_of_small_logs_are_closed_in_a_handful_of_statements(services: Services) -> None:
    works = [running(services) for _ in range(300)]
    ingest(services, [chunk(work, 1) for work in works])
    for work in works:
        finish(services, [End.by_result(work.fence, Outcome(), 1)])
    with services.database.begin() as connection:
        connection.execute(text("UPDATE run_attempts SET finished_at = finished_at - interval '3 s'"))
    with statements(services) as seen:
        assert close_owed(services) == {"done": 300}
    assert len(seen) < 10
    assert all(is_closed(services, work) for work in works)
    assert segments(services, *works) == 300


def test_a_log_in_many_pieces_is_put_together_and_read_the_same_from_any_place(services: Services) -> None:
    pieces = FEW_PIECES + 6
    whole, torn = printed(services, pieces), printed(services, pieces, skip=5)
    before = {
        (work.run_id, after, limit): read(services, work, after, limit)
        for work in (whole, torn)
        for after in range(pieces + 1)
        for limit in (1, 3, 1000)
    }
    assert close_owed(services) == {"done": 2}
    assert (segments(services, whole), segments(services, torn)) == (1, 2)
    for work in (whole, torn):
        for after in range(pieces + 1):
            for limit in (1, 3, 1000):
                assert read(services, work, after, limit) == before[work.run_id, after, limit]
    state = services.closings.state(torn.run_id, 1)
    assert (str(state.missing), str(state.lost), str(state.added)) == ("5", "none", "none")


def test_a_follower_sees_no_gap_and_no_repeat_when_a_log_is_put_together_under_it(services: Services) -> None:
    work = printed(services, 20)
    following = LogReader(services.database, services.logs, services.live, work.run_id).follow()
    seen = [next(following) for _ in range(7)]
    assert close_log(services, work.run_id, 1) is Closing.DONE
    seen += list(following)
    assert [one.seq for one in seen if isinstance(one, Chunk)] == list(range(1, 21))


@pytest.mark.parametrize("size", [SMALL_BYTES, SMALL_BYTES + 1])
def test_a_log_of_more_bytes_than_a_small_one_has_becomes_an_object(services: Services, size: int) -> None:
    work, noise = running(services), random.Random(1).randbytes(SMALL_BYTES)
    around = len(pack([encode((0, "stdout", noise, None))])) - len(noise)
    payload = pack([encode((0, "stdout", noise[: size - around], None))])
    with services.database.begin() as connection:
        services.logs.append(connection, [Block(work.run_id, 1, 1, 1, 1, payload)])
    end_of(services, work, 1)
    assert close_log(services, work.run_id, 1) is Closing.DONE
    assert has_no_row_in_the_archive(services, work) is (len(payload) <= SMALL_BYTES)
    assert [one.data for one in read(services, work)] == [noise[: size - around]]


def test_a_log_in_more_pieces_than_are_counted_becomes_an_object(services: Services) -> None:
    work = running(services)
    with services.database.begin() as connection:
        blocks = [Block(work.run_id, 1, 1, seq, seq, pack([A_CHUNK])) for seq in range(1, MANY_PIECES + 1)]
        services.logs.append(connection, blocks)
    end_of(services, work, MANY_PIECES)
    assert close_owed(services) == {"done": 1}
    assert not has_no_row_in_the_archive(services, work)
    assert len(read(services, work, limit=2000)) == MANY_PIECES


def test_an_attempt_that_is_not_known_has_no_log_to_close(services: Services) -> None:
    with pytest.raises(RunNotFound):
        close_log(services, uuid4(), 1)


# -- an end without output


def test_the_end_of_a_run_that_printed_nothing_closes_its_log(services: Services) -> None:
    work = running(services)
    finish(services, [End.by_result(work.fence, Outcome(), 0)])
    assert is_closed(services, work)
    assert services.closings.owed(10) == []
    assert has_no_row_in_the_archive(services, work)
    assert services.closings.forgettable([(work.run_id, 1)]) == [(work.run_id, 1)]
    assert list(services.log_of(work.run_id).follow()) == []


@pytest.mark.parametrize("last_seq", [0, 1, None])
def test_no_end_closes_a_log_that_has_or_may_have_a_chunk(services: Services, last_seq: int | None) -> None:
    """An end from outside may name no chunk, though some are stored; a reap names none at all."""
    work = running(services)
    if last_seq == 0:
        ingest(services, [chunk(work, 1)])
    finish(services, [replace(End.by_result(work.fence, Outcome(), 0), last_seq=last_seq)])
    assert not is_closed(services, work)


# -- what goes wrong


@pytest.mark.parametrize("step", ["_put_together", "insert_segments"])
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_step_leaves_a_whole_log_that_closes_later(
    services: Services, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    work = printed(services, 12)
    before = read(services, work)
    real = getattr(small_logs, step)

    def crash(*given: Any) -> None:
        if after:
            real(*given)
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(small_logs, step, crash)
        with pytest.raises(ZeroDivisionError):
            close_log(services, work.run_id, 1)
    assert (read(services, work), segments(services, work)) == (before, 12)
    assert not is_closed(services, work)
    assert close_log(services, work.run_id, 1) is Closing.DONE
    assert (read(services, work), segments(services, work)) == (before, 1)


def test_many_who_close_at_once_close_each_log_once(services: Services) -> None:
    works = [printed(services, 8) for _ in range(20)]
    counts: list[dict[str, int]] = []
    threads = [threading.Thread(target=lambda: counts.append(close_owed(services))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    close_owed(services)  # What each of them left to another.
    assert all(is_closed(services, work) for work in works)
    assert segments(services, *works) == 20
    assert all([one.seq for one in read(services, work)] == list(range(1, 9)) for work in works)
    assert sum(count.get("done", 0) for count in counts) == 20


def test_a_log_that_is_written_to_just_now_is_closed_in_the_pieces_that_it_has(services: Services) -> None:
    work = printed(services, 12)
    with services.database.begin() as connection:
        services.logs.append(connection, [Block(work.run_id, 1, 1, 13, 13, pack([A_CHUNK]))])
        assert close_log(services, work.run_id, 1) is Closing.DONE
    assert segments(services, work) == 13
    assert [one.seq for one in read(services, work)] == list(range(1, 14))


def test_what_comes_after_the_closing_is_read_with_the_rest_and_told_as_added(services: Services) -> None:
    work = printed(services, 6)
    close_log(services, work.run_id, 1)
    ingest(services, [chunk(work, 7)])
    assert [one.seq for one in read(services, work)] == list(range(1, 8))
    assert "the chunks 7 came after it was closed" in explain(services, work.run_id).text
    assert services.closings.state(work.run_id, 1).record.added == [(7, 7)]


def test_a_small_log_is_closed_while_the_archive_refuses(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the archive is not asked")

    monkeypatch.setattr(services.archives, "write", refuse)
    works = [printed(services, 1), printed(services, 9)]
    assert close_owed(services) == {"done": 2}
    assert all(is_closed(services, work) for work in works)


def test_a_segment_that_cannot_be_read_keeps_its_log_in_pieces_and_no_other_from_being_closed(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = printed(services, 7), printed(services, 8)
    with services.database.begin() as connection:
        connection.execute(
            text("UPDATE log_segments SET payload = 'nonsense' WHERE run_id = :id AND first_seq = 3"),
            {"id": bad.run_id},
        )
    assert close_owed(services) == {"done": 2}
    assert (segments(services, bad), segments(services, good)) == (7, 1)
    assert f"{bad.run_id} attempt 1: a segment of its log cannot be read" in caplog.text


def test_a_log_of_which_a_stored_chunk_is_nowhere_is_not_closed_as_if_it_were_whole(services: Services) -> None:
    work = printed(services, 3)
    with services.database.begin() as connection:
        connection.execute(text("DELETE FROM log_segments WHERE run_id = :id AND first_seq = 2"), {"id": work.run_id})
    close_owed(services)
    assert not is_closed(services, work)
    assert str(services.closings.state(work.run_id, 1).lost) == "2"


def test_one_log_that_makes_all_fail_together_is_tried_by_itself(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = [printed(services, 1) for _ in range(3)]
    real = SmallLogs.close

    def poisoned(self: SmallLogs, logs: Any) -> Any:
        if (works[1].run_id, 1) in logs:
            raise ZeroDivisionError
        return real(self, logs)

    monkeypatch.setattr(SmallLogs, "close", poisoned)
    assert close_owed(services) == {"done": 2, "failed": 1}
    assert [is_closed(services, work) for work in works] == [True, False, True]
    assert "ZeroDivisionError" in explain(services, works[1].run_id).text


def test_an_end_that_names_no_last_chunk_is_not_looked_at_while_its_tail_is_awaited(services: Services) -> None:
    """A mass reap makes thousands of these at once: they stand before no other."""
    work = printed(services, 1, end=False)
    finish(services, [replace(End.by_result(work.fence, Outcome(), 0), last_seq=None)])
    _pass(services, 59)
    assert services.closings.owed(10) == []
    assert close_log(services, work.run_id, 1) is Closing.WAIT
    _pass(services, 2)
    assert services.closings.owed(10) == [(work.run_id, 1)]
    assert close_owed(services) == {"done": 1}


def _pass(services: Services, seconds: float) -> None:
    with services.database.begin() as connection:
        connection.execute(
            text("UPDATE run_attempts SET finished_at = finished_at - :by"), {"by": timedelta(seconds=seconds)}
        )


# -- who asks


def test_many_ends_within_two_seconds_send_one_message(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, float]] = []
    monkeypatch.setattr(app, "send_task", lambda name, **options: sent.append((name, options["countdown"])))
    for _ in range(50):
        send_close(services)
    assert [name for name, _ in sent] == ["logs.close_owed"]
    assert sent[0][1] > CLOSED_EVERY + 1, "the last of these ends is over for a moment by then"


def test_who_asks_after_the_time_of_the_last_message_sends_another(redis: Redis) -> None:
    request = Request(redis, "test", 60)
    assert [request.is_first() for _ in range(3)] == [True, False, False]
    (key,) = redis.keys("asked:*")
    assert redis.pttl(key) > 0, "it ends by itself, whatever becomes of the message"
    redis.delete(key)
    assert request.is_first()


def test_without_redis_each_end_sends(services: Services) -> None:
    with connect("redis://127.0.0.1:1/0") as nowhere:
        assert Request(nowhere, "test", 60).is_first()


# -- retention


@pytest.fixture
def of_last_month(services: Services) -> Callable[[], Work]:
    """Makes runs that were enqueued 40 days ago."""
    begins = services.database.now() - timedelta(days=40)

    def make() -> Work:
        run_id = UUID(int=least_id(begins).int | uuid4().int & (1 << 80) - 1)
        insert(services.database, [NewRun(run_id, "detached", True, {"command": ["true"]})])
        work = claim(services, run_id, "worker@nowhere")
        assert work is not None
        return work

    return make


def _long_ago(services: Services, days: float, *works: Work) -> None:
    ids = {"ids": [str(work.run_id) for work in works], "by": timedelta(days=days)}
    with services.database.begin() as connection:
        for table, column, key in (
            ("runs", "finished_at", "id"),
            ("run_attempts", "log_closed_at", "run_id"),
            ("log_segments", "stored_at", "run_id"),
        ):
            connection.execute(
                text(f"UPDATE {table} SET {column} = {column} - :by WHERE {key} = ANY(CAST(:ids AS uuid[]))"), ids
            )


def _retention(services: Services, days: float) -> Services:
    return replace(services, settings=services.settings.model_copy(update={"log_retention_days": days}))


def test_the_small_logs_of_old_runs_are_removed_and_no_others(
    services: Services, of_last_month: Callable[[], Work]
) -> None:
    old, torn, recent, going_on = (of_last_month() for _ in range(4))
    young = running(services)
    for work in (old, torn, recent, young, going_on):
        ingest(services, [chunk(work, 1), chunk(work, 3)] if work is torn else [chunk(work, 1)])
        ingesting.ingest(services, [Block(work.run_id, 1, 1, 5, 6, b"no block at all")])
    for work in (old, torn, recent, young):
        end_of(services, work, 3 if work is torn else 1)
    assert close_owed(services) == {"done": 4}
    _long_ago(services, 31, old, torn)
    assert expire_logs(services) == 0
    assert expire_logs(_retention(services, 32)) == 0
    assert expire_logs(_retention(services, 30)) == 2
    assert expire_logs(_retention(services, 30)) == 0
    assert [len(read(services, work)) for work in (old, torn, recent, young, going_on)] == [0, 0, 1, 1, 1]
    assert [segments(services, work) for work in (old, torn, recent)] == [0, 0, 1]
    assert [len(services.closings.state(one.run_id, 1).quarantined) for one in (old, recent, young)] == [0, 1, 1]
    told = [item for item in services.log_of(torn.run_id).follow() if isinstance(item, Gap)]
    assert [(gap.first, gap.last, gap.why) for gap in told] == [
        (1, 1, Why.REMOVED),
        (2, 2, Why.MISSING),
        (3, 3, Why.REMOVED),
    ]
    assert "was removed at" in explain(services, old.run_id).text


def test_the_retention_of_small_logs_goes_in_bounded_steps(
    services: Services, of_last_month: Callable[[], Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    works = [of_last_month() for _ in range(3)]
    for work in works:
        ingest(services, [chunk(work, 1)])
        end_of(services, work, 1)
    close_owed(services)
    _long_ago(services, 31, *works)
    monkeypatch.setattr(module, "EXPIRE_SMALL_AT_ONCE", 2)
    monkeypatch.setattr(small_logs, "OLD_AT_ONCE", 1)
    assert [expire_logs(_retention(services, 30)) for _ in range(3)] == [2, 1, 0]


def test_what_goes_on_or_is_too_young_hides_no_old_log_from_retention(
    services: Services, of_last_month: Callable[[], Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    works = sorted((of_last_month() for _ in range(7)), key=lambda work: work.run_id)
    for work in works:
        ingest(services, [chunk(work, 1)])
        ingest(services, [chunk(work, 2)])
    for work in works[2:]:
        end_of(services, work, 2)
    close_owed(services)
    _long_ago(services, 31, *works[4:])
    monkeypatch.setattr(small_logs, "OLD_AT_ONCE", 3)
    assert expire_logs(_retention(services, 30)) == 3
    assert [len(read(services, work)) for work in works] == [2, 2, 2, 2, 0, 0, 0]


def test_segments_are_never_put_together_into_what_nobody_could_unpack(services: Services) -> None:
    """A program that prints the same line for ever compresses a thousandfold."""
    work = running(services)
    for seq in range(1, 31):
        ingest(services, [chunk(work, seq, b"y\n" * 30_000)])
    end_of(services, work, 30)
    assert close_owed(services) == {"done": 1}
    assert has_no_row_in_the_archive(services, work)
    assert segments(services, work) == 30
    assert sum(len(one.data) for one in read(services, work)) == 30 * 60_000
