"""A row that another transaction holds, for minutes or for ever (one that was prepared, say), keeps back its run alone.

And a transaction that was committed though nobody was told so.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import pytest
from sqlalchemy import Connection, event, text

from reprieve.models.chunks import blocks_of
from reprieve.models.faults import is_row_held
from reprieve.models.rows import RunAttempt
from reprieve.models.samples import Sample, Series
from reprieve.models.saying import Report, Said
from reprieve.models.status import Proof
from reprieve.models.work import Work
from reprieve.stores.adoptions import Adoption
from reprieve.stores.runs.claims import Claimed
from reprieve.stores.runs.reports import News
from reprieve.workers import ingest as ingesting
from reprieve.workers.bootstrap import Services
from reprieve.workers.refresh import give_proof
from reprieve.workers.supervision.adopting import Adopting
from reprieve.workers.supervision.burying import Burying
from reprieve.workers.supervisor import Supervisor
from reprieve.workers.sweep import sweep
from tests.faults.helpers_abf import impatient_services, locked
from tests.support.nodes import a_node
from tests.support.rows import (
    age,
    chunk,
    claim,
    in_process,
    ingest,
    kinds,
    make_due,
    new_run,
    record_handle,
    running,
    status_of,
    watch_for,
)
from tests.support.shipping import direct_shipper


@contextmanager
def held(services: Services, table: str, run_id: UUID) -> Iterator[None]:
    """While this lasts, a transaction that has stalled holds the rows of this run in a table."""
    with services.database.engine.connect() as connection:
        connection.execute(text(f"SELECT FROM {table} WHERE run_id = :id FOR UPDATE"), {"id": run_id})
        yield
        connection.rollback()


def dispatched(services: Services) -> list[Work]:
    works = [running(services) for _ in range(3)]
    for work in works:
        record_handle(services, work.fence, None, {"name": "job"})
        ingest(services, [chunk(work, 1)])
    return works


def owed_adoption(services: Services) -> list[UUID]:
    return [run_id for run_id, _, _ in services.adoptions.to_adopt(services.node, ["detached"], 100)]


# -- sweeps


def test_a_dead_run_that_is_held_keeps_no_other_from_being_reaped(services: Services) -> None:
    watch_for(services, 3600)
    dead = [in_process(services) for _ in range(3)]
    for one in dead:
        age(services, one.run_id, 600)
    with impatient_services(services) as impatient:
        with locked(services, dead[0].run_id), held(services, "run_attempts", dead[1].run_id):
            assert sweep(impatient, by_hand=True)["reaped"] == 1
        assert [status_of(services, one.run_id) for one in dead] == ["running", "running", "failed"]
        assert sweep(impatient, by_hand=True)["reaped"] == 2
    assert kinds(services, dead[0].run_id).count("reaped") == 1


def test_work_whose_attempt_is_held_is_orphaned_by_the_next_sweep_and_the_others_by_this_one(
    services: Services,
) -> None:
    watch_for(services, 3600)
    worker_id, works = uuid4(), dispatched(services)
    services.workers.seen(worker_id, "runs@here", a_node("here"))
    with services.database.begin() as connection:
        connection.execute(text("UPDATE run_attempts SET worker_id = :worker"), {"worker": worker_id})
        connection.execute(text("UPDATE workers SET seen_at = clock_timestamp() - interval '100 s'"))
    with impatient_services(services) as impatient:
        with held(services, "run_attempts", works[0].run_id):
            assert sweep(impatient, by_hand=True)["orphaned"] == 2
        assert sweep(impatient, by_hand=True)["orphaned"] == 1
    assert owed_adoption(services) == [work.run_id for work in works]
    with services.database.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM workers")).scalar() == 0


def test_a_worker_that_is_held_in_the_middle_of_its_heartbeat_keeps_nobodys_work_from_being_orphaned(
    services: Services,
) -> None:
    watch_for(services, 3600)
    works = dispatched(services)
    with services.database.begin() as connection:
        for work in works:
            worker_id = uuid4()
            services.workers.seen(worker_id, "runs@here", a_node("here"))
            values = {"worker": worker_id, "id": work.run_id}
            connection.execute(text("UPDATE run_attempts SET worker_id = :worker WHERE run_id = :id"), values)
        connection.execute(text("UPDATE workers SET seen_at = clock_timestamp() - interval '100 s'"))
    with impatient_services(services) as impatient:
        with services.database.engine.connect() as stopped:
            values = {"id": services.runs.get_attempt(works[0].run_id, 1).worker_id}
            stopped.execute(text("SELECT FROM workers WHERE id = :id FOR UPDATE"), values)
            assert sweep(impatient, by_hand=True)["orphaned"] == 3
            stopped.rollback()
        assert [row.count for row in services.database.run("SELECT count(*) FROM workers")] == [1]
        sweep(impatient, by_hand=True)
    assert owed_adoption(services) == [work.run_id for work in works]
    assert services.database.run("SELECT FROM workers") == []


# -- workers


def series() -> Series:
    one = Series()
    one.add(Sample(0, 1.0, 1))
    return one


@pytest.mark.parametrize(
    ("write", "tables"),
    [
        (lambda services, _: services.workers.seen(uuid4(), "runs@here", services.node), ["workers", "nodes"]),
        (lambda services, work: give_proof(services, [work.fence], Proof.KEEPALIVE), ["runs"]),
        (
            lambda services, work: services.reports.write([News(work.fence, 1, Said(1, Report(0.5)), 0)]),
            ["run_reports", "runs"],
        ),
        (lambda services, work: services.samples.write({work.fence: series()}), ["attempt_samples", "runs"]),
    ],
    ids=["that it is there", "that its runs live", "what they say", "what they use"],
)
def test_a_worker_that_is_stopped_as_it_has_written_something_holds_no_row_that_its_successor_needs(
    services: Services, write: Callable[[Services, Work], object], tables: list[str]
) -> None:
    """The server has committed it: nobody waits for another word of a worker that may be stopped by now."""
    work, free = running(services), list[str]()

    def somebody_else_asks(connection: Connection, _: Any, statement: str, *__: Any) -> None:
        if any(word in statement for word in ("INSERT", "UPDATE ")) and not free:
            for table in tables:
                free.append(table)
                with services.database.begin() as other:
                    assert other.execute(text(f"SELECT * FROM {table} FOR UPDATE NOWAIT")).all()

    event.listen(services.database.engine, "after_cursor_execute", somebody_else_asks)
    write(services, work)
    assert free == tables


def test_work_whose_log_is_held_is_adopted_later_and_hides_nothing_that_can_be_adopted(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reprieve.workers.supervision.adopting.ADOPT_AT_ONCE", 1)
    works, begun = dispatched(services), list[UUID]()

    def begin(_: Adopting, adoption: Adoption) -> None:
        begun.append(adoption.work.run_id)

    monkeypatch.setattr(Adopting, "_begin_to_follow", begin)
    services.adoptions.hand_over([work.fence for work in works])
    with impatient_services(services) as impatient:
        supervisor = Supervisor(impatient, direct_shipper(impatient))
        with held(services, "attempt_logs", works[0].run_id):
            for _ in range(3):
                supervisor.adopt()
        assert begun == [work.run_id for work in works[1:]]
        make_due(services)
        Supervisor(impatient, direct_shipper(impatient)).adopt()
    assert begun[-1] == works[0].run_id


def test_a_log_that_is_held_keeps_no_output_of_others_that_came_with_it_from_being_stored(services: Services) -> None:
    works = dispatched(services)
    message = [block for work in works for seq in (2, 3) for block in blocks_of([chunk(work, seq)])]
    with impatient_services(services) as impatient:
        with held(services, "attempt_logs", works[0].run_id), pytest.raises(Exception) as raised:
            ingesting.ingest(impatient, message)
        assert is_row_held(raised.value)
        assert [services.logs.last_seq(work.run_id, 1) for work in works] == [1, 3, 3]
        ingesting.ingest(impatient, message)
    assert [services.logs.last_seq(work.run_id, 1) for work in works] == [3, 3, 3]


# -- committed, and not told so


def claimed_without_being_told(services: Services, monkeypatch: pytest.MonkeyPatch, supervisor: Supervisor) -> UUID:
    """A run whose claim by this worker was committed; then the connection was lost on which it would have said so."""
    run_id, claim, lost = new_run(services).id, services.claims.claim, iter([True])

    def claim_and_lose(*arguments: Any, **named: Any) -> Claimed:
        claimed = claim(*arguments, **named)
        if next(lost, False):
            raise psycopg2.OperationalError("server closed the connection unexpectedly")
        return claimed

    monkeypatch.setattr(services.claims, "claim", claim_and_lose)
    with pytest.raises(psycopg2.OperationalError):
        supervisor.take()
    assert status_of(services, run_id) == "running"
    return run_id


@pytest.mark.parametrize(("ago", "status"), [(58, "running"), (61, "queued")])
def test_a_run_whose_claim_nobody_was_told_of_goes_back_to_the_queue_and_does_not_count(
    services: Services, monkeypatch: pytest.MonkeyPatch, ago: float, status: str
) -> None:
    supervisor = Supervisor(services, direct_shipper(services))
    run_id = claimed_without_being_told(services, monkeypatch, supervisor)
    age(services, run_id, ago, "started_at")
    supervisor.supervise()
    run = services.runs.get(run_id)
    assert (run.status, run.attempt) == (status, 1 if status == "running" else 0)


def test_what_was_followed_or_is_anothers_is_not_taken_back(services: Services) -> None:
    supervisor = Supervisor(services, direct_shipper(services))
    followed, ended, anothers = (
        claim(services, new_run(services).id, "runs@here", worker_id)
        for worker_id in (supervisor.worker_id, supervisor.worker_id, uuid4())
    )
    assert followed
    assert ended
    assert anothers
    with supervisor.follow(ended):
        pass
    for work in (followed, ended, anothers):
        age(services, work.run_id, 3600, "started_at")
    with supervisor.follow(followed):
        supervisor.supervise()
    assert [status_of(services, work.run_id) for work in (followed, ended, anothers)] == ["running"] * 3


# -- what is owed


def test_terminations_that_fail_again_and_again_are_few_in_each_turn_and_what_is_owed_anew_is_in_it(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, failing = list[UUID](), [running(services).run_id for _ in range(30)]

    def end(_: Burying, attempt: RunAttempt) -> None:
        tried.append(attempt.run_id)
        if attempt.run_id in failing:
            raise ConnectionError("the platform is away")

    monkeypatch.setattr(Burying, "_end_work", end)
    with services.database.begin() as connection:
        connection.execute(text("UPDATE run_attempts SET termination = 'owed'"))
    supervisor = Supervisor(services, direct_shipper(services))
    supervisor.bury()
    assert set(tried) == set(failing)
    supervisor._burying._next_try.update(dict.fromkeys(supervisor._burying._next_try, 0.0))
    tried.clear()
    new = running(services).run_id
    with services.database.begin() as connection:
        connection.execute(text("UPDATE run_attempts SET termination = 'owed'"))
    supervisor.bury()
    assert new in tried
    assert len(tried) == 1 + 8
