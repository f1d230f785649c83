"""D11: an environment that is unfit is waited for; only content that can never be stored is kept aside, and named."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest
from celery.exceptions import Reject
from sqlalchemy import text

from reprieve.models.chunks import Block, blocks_of
from reprieve.models.closing import Closing
from reprieve.models.gaps import Gap
from reprieve.models.messages import encode_message
from reprieve.models.status import Status
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.reading import LogReader
from reprieve.workers import ingest as ingesting
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_log
from reprieve.workers.finish import finish
from tests.support.http import calling
from tests.support.rows import chunk, ingest, running

pytestmark = pytest.mark.row("D11")

GOOD = 10


@contextmanager
def storing_fails(services: Services, sqlstate: str, when: str, *, first: str = "") -> Iterator[None]:
    """While this lasts, a segment for which `when` holds is refused with this SQLSTATE; `turn` counts the tries.

    What is to happen `first` is a statement.
    """
    with services.database.begin() as connection:
        connection.exec_driver_sql("CREATE SEQUENCE turns")
        connection.exec_driver_sql(
            "CREATE FUNCTION unfit() RETURNS trigger LANGUAGE plpgsql AS $$ "
            "DECLARE turn bigint := nextval('turns'); BEGIN "
            f"IF {when} THEN {first} RAISE EXCEPTION 'said' USING ERRCODE = '{sqlstate}'; END IF; RETURN NEW; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER unfit BEFORE INSERT ON log_segments FOR EACH ROW EXECUTE FUNCTION unfit()"
        )
    try:
        yield
    finally:
        with services.database.begin() as connection:
            connection.exec_driver_sql("DROP FUNCTION unfit() CASCADE")
            connection.exec_driver_sql("DROP SEQUENCE turns")


def take_in(*works: Work) -> dict[str, int]:
    """What a worker of logs does with a message that has the first line of each of these."""
    report: dict[str, int] = ingesting.ingest_task(
        encode_message([block for one in works for block in first_line(one)])
    )
    return report


def first_line(work: Work) -> list[Block]:
    return blocks_of([chunk(work, 1)])


def stored(services: Services, *works: Work) -> list[int]:
    return [len(services.logs.read(work.run_id, 1)) for work in works]


def in_quarantine(services: Services) -> int:
    with services.database.begin() as connection:
        return int(connection.execute(text("SELECT count(*) FROM log_quarantine")).scalar_one())


def test_with_one_read_only_and_one_good_session_in_the_pool_every_block_is_stored(services: Services) -> None:
    works = [running(services) for _ in range(GOOD)]
    engine = services.database.engine
    with engine.connect() as bad, engine.connect():
        bad.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        bad.commit()
    for work in works:
        assert take_in(work)["refused"] == 0
    assert stored(services, *works) == [1] * GOOD
    assert in_quarantine(services) == 0


@pytest.mark.parametrize("sqlstate", ["25006", "40P01", "53100", "53200", "55P03", "57014", "57P01", "58030", "XX000"])
def test_a_server_that_is_unfit_for_a_moment_costs_no_line(services: Services, sqlstate: str) -> None:
    works = [running(services) for _ in range(3)]
    with storing_fails(services, sqlstate, "turn < 3"):
        take_in(*works)
    assert stored(services, *works) == [1] * 3
    assert in_quarantine(services) == 0


def test_too_many_connections_at_every_second_try_cost_no_line(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = [running(services) for _ in range(GOOD)]
    tries, connect = iter(range(10**6)), psycopg2.connect

    def refuse(**arguments: Any) -> Any:
        if next(tries) % 2 == 0:
            raise psycopg2.OperationalError("FATAL:  sorry, too many clients already")
        return connect(**arguments)

    monkeypatch.setattr(psycopg2, "connect", refuse)
    for work in works:
        services.database.dispose()
        take_in(work)
    assert stored(services, *works) == [1] * GOOD
    assert in_quarantine(services) == 0


def test_a_session_that_its_server_ends_in_the_middle_costs_no_line(services: Services) -> None:
    work = running(services)
    with storing_fails(services, "57P01", "turn < 3", first="PERFORM pg_terminate_backend(pg_backend_pid());"):
        take_in(work)
    assert (stored(services, work), in_quarantine(services)) == ([1], 0)


def test_what_stays_unfit_goes_back_to_the_broker_and_is_stored_later(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingesting, "TRY_FOR", 0.5)
    work = running(services)
    with storing_fails(services, "53100", "true"), pytest.raises(Reject) as rejected:
        take_in(work)
    assert rejected.value.requeue
    assert (stored(services, work), in_quarantine(services)) == ([0], 0)
    take_in(work)
    assert stored(services, work) == [1]


def test_where_we_are_at_fault_the_others_are_stored_and_the_message_goes_behind_them(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[list[Block]] = []
    monkeypatch.setattr(ingesting, "publish", sent.append)
    monkeypatch.setattr(ingesting, "OUR_FAULT_PAUSE", 0)
    works = [running(services) for _ in range(3)]
    with storing_fails(services, "P0001", f"NEW.run_id = '{works[1].run_id}'"):
        take_in(*works)
    assert stored(services, *works) == [1, 0, 1]
    assert in_quarantine(services) == 0
    assert "a fault of Reprieve's own" in caplog.text
    for message in sent:
        ingesting.ingest(services, message)
    assert stored(services, *works) == [1, 1, 1]


# -- what is in quarantine is named


def set_aside(services: Services, work: Work, first: int, last: int) -> None:
    """Have output of these numbers come that can never be decoded."""
    ingesting.ingest(services, [Block(work.run_id, 1, work.epoch, first, last, b"no block at all")])


def follower(services: Services, work: Work) -> LogReader:
    return LogReader(services.database, services.logs, services.live, work.run_id)


def shown(items: Any) -> list[tuple[int, ...]]:
    return [(one.first, one.last) if isinstance(one, Gap) else (one.seq,) for one in items]


def test_content_that_the_database_refuses_is_kept_aside_and_named_by_whoever_reads(services: Services) -> None:
    work = running(services)
    with storing_fails(services, "22021", "NEW.first_seq = 2"):
        for seq in (1, 2, 3):
            ingest(services, [chunk(work, seq)])
    assert shown(follower(services, work).stored(1)) == [(1,), (2, 2), (3,)]
    assert str(services.closings.state(work.run_id, 1).missing) == "2"


def test_a_tail_in_quarantine_is_named_also_where_no_end_named_the_last_number(services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1)])
    set_aside(services, work, 2, 4)
    assert shown(follower(services, work).stored(1)) == [(1,), (2, 4)]
    assert str(services.closings.state(work.run_id, 1).missing) == "2-4"
    with calling(services) as client:
        page = client.get(f"/v1/runs/{work.run_id}/log", params={"after": 1}).json()
        assert (page["chunks"], page["quarantined"]) == ([], [[2, 4]])
        output = client.get(f"/v1/runs/{work.run_id}/attempts/1/output/stdout")
        assert (output.content, output.headers["Reprieve-Missing-Chunks"]) == (b"line\n", "2-4")


def test_who_follows_a_living_run_is_told_of_the_gap_and_reads_on_at_once(services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1)])
    set_aside(services, work, 2, 4)
    ingest(services, [chunk(work, 5)])
    items = follower(services, work).follow()
    seen: list[tuple[int, ...]] = []
    reading = threading.Thread(target=lambda: seen.extend(shown([next(items) for _ in range(3)])), daemon=True)
    reading.start()
    reading.join(20)
    assert seen == [(1,), (2, 4), (5,)]


def test_live_output_over_http_has_an_event_for_it_and_goes_on(services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1)])
    set_aside(services, work, 2, 4)
    ingest(services, [chunk(work, 5)])
    finish(services, [End.by_result(work.fence, Outcome.of_exit(0), 5)])
    with calling(services) as client:
        told = client.get(f"/v1/runs/{work.run_id}/log/live").text
    events = [line.removeprefix("event: ") for line in told.splitlines() if line.startswith("event: ")]
    assert events == ["output", "gap", "output", "end"]
    assert '{"attempt":1,"first":2,"last":4,"why":"missing"}' in told


@pytest.mark.usefixtures("every_log_is_large")
def test_a_closing_waits_for_nothing_that_is_in_quarantine_and_records_it_as_a_gap(services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1)])
    set_aside(services, work, 2, 4)
    finish(services, [End.by_result(work.fence, Outcome.of_exit(0), 4)])
    assert close_log(services, work.run_id, 1) is Closing.DONE
    archive = services.archives.find(work.run_id, 1)
    assert archive is not None
    assert (str(archive.held), str(archive.gaps)) == ("1", "2-4")
    assert not services.closings.forgettable([(work.run_id, 1)])


def test_a_gap_that_may_still_be_filled_is_waited_for_as_before(services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1)])
    finish(services, [End.by_result(work.fence, Outcome.of_exit(0), 4)])
    assert close_log(services, work.run_id, 1) is Closing.WAIT


def test_what_was_in_quarantine_is_read_again_by_whoever_takes_over_under_numbers_of_its_own(
    services: Services,
) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1)])
    set_aside(services, work, 1, 4)
    with services.database.begin() as connection:
        resumed = services.logs.resume(connection, work.run_id, 1, work.epoch + 1)
    assert resumed.after_seq == 0
    source = (work.run_id, 1, work.epoch + 1)
    assert not services.logs.stored([source])[source]
    # The old follower's are nobody's numbers any more.
    set_aside(services, work, 2, 4)
    assert not services.logs.stored([source])[source]


# -- a result must be recorded whatever it says


@pytest.mark.parametrize("said", ["a NUL \0", "half a pair \ud800", "x" * 100_000])
def test_a_result_is_recorded_whatever_its_words_are(services: Services, said: str) -> None:
    work = running(services)
    outcome = Outcome.failed(said, said=said, number=2**80, nested={said[:5]: [float("inf")]})
    assert finish(services, [End.by_result(work.fence, outcome, 0)])
    assert services.runs.get(work.run_id).status == Status.FAILED
