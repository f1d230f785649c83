"""D15: what the spool of a living worker holds is late and not missing, for the closing and for every reader."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from reprieve.adapters import shipper as module
from reprieve.adapters import shipper_held, shipper_source
from reprieve.adapters.shipper import LogShipper
from reprieve.adapters.spool import Spool, SpooledLog
from reprieve.adapters.spool_records import logs_in
from reprieve.client.enqueue import enqueue_run
from reprieve.models.chunks import encode
from reprieve.models.closing import Closing
from reprieve.models.extents import HOLDER_BELIEVED_FOR
from reprieve.models.gaps import Gap, Why
from reprieve.models.status import Status
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.reading import LogReader
from reprieve.stores.runs.ends import write_ends
from reprieve.workers import ingest as ingesting
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_log, close_owed
from reprieve.workers.explaining import explain
from tests.support.processes import Process
from tests.support.rows import chunk, ingest, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("D15")

PAST_THE_LIMIT = 61


def ended(services: Services, last_seq: int | None = 3, seconds: float = PAST_THE_LIMIT) -> Work:
    """A run whose end names this last number, and was so many seconds ago."""
    work = running(services)
    end_of(services, work, last_seq, seconds)
    return work


def end_of(services: Services, work: Work, last_seq: int | None, seconds: float = PAST_THE_LIMIT) -> None:
    end = End.by_result(work.fence, Outcome(), last_seq or 0)
    with services.database.begin() as connection:
        write_ends(connection, [end])
        values = {"last": last_seq, "ago": timedelta(seconds=seconds), "id": work.run_id}
        connection.execute(
            text(
                "UPDATE run_attempts SET last_seq = :last, finished_at = finished_at - :ago, log_closed_at = NULL "
                "WHERE run_id = :id"
            ),
            values,
        )


def last_heard_of(services: Services, holder: UUID, ago: timedelta) -> None:
    with services.database.begin() as connection:
        values = {"ago": ago, "holder": holder}
        connection.execute(text("UPDATE spooled SET seen_at = clock_timestamp() - :ago WHERE holder = :holder"), values)


def gaps(services: Services, run_id: UUID) -> list[tuple[int, int, bool]]:
    follower = LogReader(services.database, services.logs, services.live, run_id)
    return [(one.first, one.last, one.why is Why.LATE) for one in follower.stored(1) if isinstance(one, Gap)]


@pytest.fixture
def held_up(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], LogShipper]]:
    """Shippers whose broker takes everything and passes it on only when told to; what they hold, they say at once."""
    for name in ("HOLD_AFTER", "HOLD_INTERVAL"):
        monkeypatch.setattr(shipper_held, name, 0.1)
    monkeypatch.setattr(module, "SHIP_AGAIN_AFTER", 0.1)
    made: list[LogShipper] = []

    def make() -> LogShipper:
        passing = lambda blocks: ingesting.ingest(services, blocks) if make.passes else None  # type: ignore[attr-defined]  # noqa: E731
        made.append(LogShipper(services.settings.spool_dir, passing, services.logs.stored, services.spooled.hold))
        return made[-1]

    make.passes = False  # type: ignore[attr-defined]
    yield make
    for shipper in made:
        shipper.close(0)


def say(shipper: LogShipper, work: Work, *lines: str) -> None:
    log = SpooledLog(work.run_id, work.attempt, work.epoch)
    for line in lines:
        shipper.add(log, [encode((0, "stdout", line.encode(), None))])


def test_a_log_whose_tail_waits_in_a_living_workers_spool_is_closed_once_and_whole(
    services: Services, start_worker: Callable[..., Process]
) -> None:
    """The log workers are stopped, the run ends, the closing limit passes; then they come."""
    start_worker("runs", name="runs")
    run = enqueue_run("process", {"command": ["sh", "-c", "for i in 1 2 3; do echo line $i; done"]})
    eventually(lambda: services.runs.get(run.id).status == Status.SUCCEEDED)
    eventually(lambda: services.closings.find(run.id, 1).held is not None, what="the worker to say what it holds")
    with services.database.begin() as connection:
        connection.execute(text("UPDATE run_attempts SET finished_at = finished_at - interval '10 minutes'"))
    assert close_owed(services) in ({}, {"wait": 1})
    assert close_log(services, run.id, 1) is Closing.WAIT
    last_seq = services.runs.get(run.id).attempts[0].last_seq
    assert gaps(services, run.id) == [(1, last_seq, True)]
    state = services.closings.state(run.id, 1)
    assert (str(state.missing), str(state.late)) == ("none", str(state.log.stored.missing(last_seq)))
    told = explain(services, run.id).text
    assert "late, and on their way" in told
    assert "nobody has them" not in told
    start_worker("logs", name="logs")
    eventually(lambda: close_log(services, run.id, 1) is Closing.DONE)
    assert gaps(services, run.id) == []
    printed = b"".join(one.data for one in services.logs.read(run.id, 1))
    assert printed == b"line 1\nline 2\nline 3\n"
    assert not services.closings.state(run.id, 1).added


@pytest.mark.parametrize(
    ("ago", "step"),
    [
        (HOLDER_BELIEVED_FOR - timedelta(seconds=10), Closing.WAIT),
        (HOLDER_BELIEVED_FOR + timedelta(seconds=1), Closing.DONE),
    ],
)
def test_a_worker_that_is_gone_holds_nothing_any_more(services: Services, ago: timedelta, step: Closing) -> None:
    work, holder = ended(services), uuid4()
    ingest(services, [chunk(work, 1)])
    services.spooled.hold(holder, {(work.run_id, 1): (2, 3)})
    last_heard_of(services, holder, ago)
    assert gaps(services, work.run_id) == [(2, 3, step is Closing.WAIT)]
    assert close_log(services, work.run_id, 1) is step


def test_of_one_log_what_is_held_is_late_and_what_nobody_has_is_missing(services: Services) -> None:
    work = ended(services, last_seq=9)
    ingest(services, [chunk(work, 1), chunk(work, 4)])
    services.spooled.hold(uuid4(), {(work.run_id, 1): (6, 7)})
    state = services.closings.state(work.run_id, 1)
    assert (str(state.missing), str(state.late)) == ("2-3, 5", "6-9")
    assert gaps(services, work.run_id) == [(2, 3, False), (5, 5, False), (6, 9, True)]


def test_a_tail_that_nobody_named_is_waited_for_as_well(services: Services) -> None:
    """A run that was reaped or cancelled: its end names no last number."""
    work = ended(services, last_seq=None)
    ingest(services, [chunk(work, 1)])
    holder = uuid4()
    services.spooled.hold(holder, {(work.run_id, 1): (2, 5)})
    assert close_log(services, work.run_id, 1) is Closing.WAIT
    assert gaps(services, work.run_id) == [(2, 5, True)]
    services.spooled.hold(holder, {})
    assert close_log(services, work.run_id, 1) is Closing.DONE
    assert gaps(services, work.run_id) == []


def test_what_is_whole_is_closed_whatever_anybody_says_that_he_holds(services: Services) -> None:
    work, other = ended(services), ended(services)
    ingest(services, [chunk(work, seq) for seq in (1, 2, 3)])
    services.spooled.hold(uuid4(), {(work.run_id, 1): (1, 3), (other.run_id, 1): (1, 3)})
    assert close_log(services, work.run_id, 1) is Closing.DONE
    assert close_log(services, other.run_id, 1) is Closing.WAIT


def test_a_shipper_says_what_it_holds_while_it_holds_it(services: Services, held_up: Callable[[], LogShipper]) -> None:
    work = running(services)
    shipper = held_up()
    say(shipper, work, "one", "two")
    eventually(lambda: services.closings.find(work.run_id, 1).held == (1, 2))
    held_up.passes = True  # type: ignore[attr-defined]
    eventually(lambda: services.closings.find(work.run_id, 1).held is None)
    assert services.closings.find(work.run_id, 1).stored.covers(1, 2)


def test_output_that_is_stored_at_once_is_told_to_nobody(
    services: Services, held_up: Callable[[], LogShipper], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(services.spooled.__class__, "hold", lambda *said: told.append(said))
    monkeypatch.setattr(shipper_held, "HOLD_AFTER", 5.0)
    held_up.passes = True  # type: ignore[attr-defined]
    shipper = held_up()
    work = running(services)
    say(shipper, work, *map(str, range(100)))
    assert shipper.close(30)
    assert told == []


def test_a_backlog_beyond_what_is_on_its_way_is_held_too(
    services: Services, held_up: Callable[[], LogShipper], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second log is written while no more may be on its way: it is only in the file."""
    monkeypatch.setattr(module, "WINDOW_BYTES", 1)
    monkeypatch.setattr(shipper_source, "READ_BYTES", 1)
    first, second = running(services), running(services)
    shipper = held_up()
    say(shipper, first, "x" * 50_000)
    eventually(lambda: services.closings.find(first.run_id, 1).held is not None)
    say(shipper, second, "waits", "on disk")
    eventually(lambda: services.closings.find(second.run_id, 1).held == (1, 2))


def test_what_a_killed_worker_left_is_held_by_whoever_takes_it_over(
    services: Services, held_up: Callable[[], LogShipper], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TAKE_OVER_INTERVAL", 0.1)
    work = running(services)
    first = held_up()
    say(first, work, "one", "two", "three")
    assert not first.close(0.5)
    with services.database.begin() as connection:
        connection.execute(text("TRUNCATE spooled"))
    end_of(services, work, 3)
    second = held_up()
    second.start()
    eventually(lambda: services.closings.find(work.run_id, 1).held == (1, 3))
    assert close_log(services, work.run_id, 1) is Closing.WAIT
    held_up.passes = True  # type: ignore[attr-defined]
    eventually(lambda: close_log(services, work.run_id, 1) is Closing.DONE)
    assert not services.closings.state(work.run_id, 1).missing


def test_a_broker_that_is_away_keeps_no_shipper_from_saying_what_it_holds(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOLD_AFTER", "HOLD_INTERVAL"):
        monkeypatch.setattr(shipper_held, name, 0.1)

    def no_broker(_: object) -> None:
        raise ConnectionError("no broker")

    shipper = LogShipper(services.settings.spool_dir, no_broker, services.logs.stored, services.spooled.hold)
    work = running(services)
    say(shipper, work, "one")
    eventually(lambda: services.closings.find(work.run_id, 1).held == (1, 1))
    shipper.close(0)


def test_the_logs_in_a_file_are_those_of_its_records(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    logs_of = {UUID(int=number): SpooledLog(UUID(int=number), 1, 2**40) for number in range(3)}
    for turn in range(300):
        for number in (0, 2) if turn % 2 else (0, 1, 2):
            spool.append(logs_of[UUID(int=number)], [encode((0, "stdout", b"\x95\xc4\x04\xf5\x9dR\xa7" * turn, None))])
    found = logs_in(spool.open(1), 0, spool.end(1))
    spool.close()
    assert found == {(UUID(int=0), 1): (1, 300), (UUID(int=1), 1): (1, 150), (UUID(int=2), 1): (1, 300)}


def test_a_reader_who_follows_waits_for_what_is_late(services: Services) -> None:
    work, holder = ended(services, last_seq=2), uuid4()
    ingest(services, [chunk(work, 1)])
    services.spooled.hold(holder, {(work.run_id, 1): (2, 2)})
    follower = LogReader(services.database, services.logs, services.live, work.run_id)
    items = follower.follow()
    assert getattr(next(items), "seq", None) == 1
    ingest(services, [chunk(work, 2, b"late")])
    services.spooled.hold(holder, {})
    rest = list(items)
    assert [getattr(one, "data", one) for one in rest] == [b"late"]
