"""Ended runs go when they are old, with all that belongs to them; nothing that is owed anything does."""

import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import inspect, text
from uuid_utils.compat import uuid7

from reprieve.client.enqueue import again_each
from reprieve.models.errors import RunNotFound
from reprieve.models.extents import HOLDER_BELIEVED_FOR
from reprieve.models.owed import TOLD_AFTER, Duty
from reprieve.models.requests import NewRun
from reprieve.models.retention import RunRetention
from reprieve.models.work import End, Outcome, Work
from reprieve.stores import retention as store
from reprieve.stores.partitions import least_id
from reprieve.stores.runs.insertion import insert
from reprieve.workers import retention
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_owed
from reprieve.workers.explaining import explain
from reprieve.workers.finish import finish
from reprieve.workers.health import setbacks
from reprieve.workers.retention import GOES_ON, expire_runs
from tests.conftest import StartWorker
from tests.support.http import calling
from tests.support.processes import Process
from tests.support.rows import chunk, claim, ingest
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("E10")

#: Days by which the runs of these tests are old.
OLD = 40


@pytest.fixture
def wired(services: Services) -> Services:
    return kept_for(services, "30,short=7,long=90")


def kept_for(services: Services, days: str | None) -> Services:
    settings = services.settings.model_copy(update={"run_retention_days": days and RunRetention.parse(days)})
    return replace(services, settings=settings)


def old_id(services: Services, days: float) -> uuid.UUID:
    """As made so many days ago."""
    return uuid.UUID(int=least_id(services.database.now() - timedelta(days=days)).int | uuid7().int & (1 << 80) - 1)


def begun(services: Services, days: float = OLD, **changes: Any) -> Work:
    """A run that was asked for so many days ago, and goes on."""
    values: dict[str, Any] = {"adapter": "detached", "out_of_process_liveness": True, "config": {"command": ["true"]}}
    ((run, _),) = insert(services.database, [NewRun(old_id(services, days), **values | changes)])
    work = claim(services, run.id, "worker@test")
    assert work is not None
    return work


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    """A caller of the API that may do everything."""
    with calling(services, raising=False) as made:
        yield made


def ended(services: Services, days: float = OLD, lines: int = 2, **changes: Any) -> uuid.UUID:
    """A run that ended so many days ago, whose log is closed."""
    work = begun(services, days, **changes)
    ingest(services, [chunk(work, seq) for seq in range(1, lines + 1)])
    finish(services, [End.by_result(work.fence, Outcome(), lines)])
    for table, column in (("runs", "id"), ("run_attempts", "run_id")):
        services.database.run(
            text(f"UPDATE {table} SET finished_at = finished_at - :days WHERE {column} = :id"),
            {"days": timedelta(days=days), "id": work.run_id},
        )
    close_owed(services)
    return work.run_id


def rows_of(services: Services, run_id: uuid.UUID) -> dict[str, int]:
    """In how many rows of which tables a run is."""
    found = {}
    there = inspect(services.database.engine)
    for table in there.get_table_names():
        for column in there.get_columns(table):
            if column["name"] == "run_id" or (table, column["name"]) == ("runs", "id"):
                query = text(f"SELECT count(*) FROM {table} WHERE {column['name']} = :id")
                found[table] = services.database.run(query, {"id": run_id})[0][0]
    return {table: count for table, count in found.items() if count}


def is_there(services: Services, run_id: uuid.UUID) -> bool:
    return bool(rows_of(services, run_id))


def put(services: Services, statement: str, run_id: uuid.UUID) -> None:
    services.database.run(text(statement), {"id": run_id})


def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, each log is large: it becomes an object of the archive."""
    monkeypatch.setattr("reprieve.models.closing.SMALL_BYTES", 0)


# -- what goes, and what stays


def test_a_run_that_ended_long_ago_goes_from_every_table_and_no_other_does(wired: Services) -> None:
    old, young, going_on = ended(wired, 31), ended(wired, 29), begun(wired).run_id
    extra = (
        "INSERT INTO sparings (run_id, attempt, silent_since, judgement, detail) VALUES (:id, 1, now(), 'x', '{}')",
        "INSERT INTO log_quarantine (run_id, attempt, first_seq, last_seq, reason, payload)"
        " VALUES (:id, 1, 9, 9, 'x', '')",
        "INSERT INTO setbacks (duty, run_id, attempt, tries, reason, next_try_at)"
        " VALUES ('closing', :id, 1, 1, 'x', now())",
        "INSERT INTO questions (run_id, attempt, host, adapter, handle) VALUES (:id, 1, 'h', 'x', '{}')",
        "INSERT INTO run_tokens (run_id, hash) VALUES (:id, '')",
        "INSERT INTO spooled (run_id, attempt, holder, from_seq, to_seq, seen_at)"
        " VALUES (:id, 1, gen_random_uuid(), 1, 1, now() - interval '1 day')",
        "INSERT INTO log_archives (run_id, attempt, size, frames, held, gaps, removed_at)"
        " VALUES (:id, 1, 0, '[]', '{}', '{}', now())",
    )
    for run_id in (old, young, going_on):
        for statement in extra:
            put(wired, statement, run_id)
    before = rows_of(wired, young), rows_of(wired, going_on)
    assert len(rows_of(wired, old)) >= 13
    assert expire_runs(wired) == {"removed": 1}
    assert rows_of(wired, old) == {}
    assert (rows_of(wired, young), rows_of(wired, going_on)) == before
    with pytest.raises(RunNotFound):
        wired.runs.get(old)


def test_each_lane_has_its_own_days(wired: Services) -> None:
    gone = [ended(wired, 8, lane="short"), ended(wired, 31), ended(wired, 91, lane="long")]
    stay = [ended(wired, 6, lane="short"), ended(wired, 8), ended(wired, 31, lane="long")]
    assert expire_runs(wired) == {"removed": 3}
    assert [is_there(wired, run_id) for run_id in (*gone, *stay)] == [False] * 3 + [True] * 3


def test_without_a_retention_nothing_goes_and_what_was_said_of_one_is_over(services: Services) -> None:
    run_id = ended(services, 3000)
    assert expire_runs(services) == {}
    wired = kept_for(services, "36500")
    wired.retention.failed("30", "DiskFull")
    put(wired, "UPDATE retention SET failing_since = now() - interval '1 day' WHERE :id IS NOT NULL", run_id)
    assert setbacks(wired)
    assert expire_runs(services) == {}
    assert setbacks(services) == []
    assert is_there(services, run_id)


def test_a_pass_that_was_turned_off_in_the_middle_begins_anew(
    wired: Services, monkeypatch: pytest.MonkeyPatch, services: Services
) -> None:
    runs = [ended(wired) for _ in range(3)]
    monkeypatch.setattr(retention, "PAGE", 1)
    monkeypatch.setattr(retention, "TURN", 0.0)
    assert expire_runs(wired)[GOES_ON]
    assert expire_runs(services) == {}
    monkeypatch.undo()
    assert expire_runs(wired) == {"removed": 2}
    state = wired.retention.state()
    assert state is not None
    assert state.last_removed == 2
    assert not any(is_there(wired, run_id) for run_id in runs)


@pytest.mark.parametrize(
    ("owing", "paid"),
    [
        (
            "UPDATE run_attempts SET termination = 'owed' WHERE run_id = :id",
            "UPDATE run_attempts SET termination = 'done' WHERE run_id = :id",
        ),
        (
            "UPDATE run_attempts SET adoption = 'owed' WHERE run_id = :id",
            "UPDATE run_attempts SET adoption = NULL WHERE run_id = :id",
        ),
        (
            "UPDATE run_attempts SET log_closed_at = NULL WHERE run_id = :id",
            "UPDATE run_attempts SET log_closed_at = now() WHERE run_id = :id",
        ),
        (
            "INSERT INTO spooled (run_id, attempt, holder, from_seq, to_seq) VALUES (:id, 1, gen_random_uuid(), 3, 3)",
            f"UPDATE spooled SET seen_at = now() - interval '{HOLDER_BELIEVED_FOR.seconds + 1} s' WHERE run_id = :id",
        ),
        (
            "INSERT INTO notices (run_id, kind, url) VALUES (:id, 'failed', 'https://here.example/')",
            "UPDATE notices SET state = 'undeliverable', settled_at = now() WHERE run_id = :id",
        ),
    ],
    ids=["termination", "adoption", "its log", "what a spool holds", "a notice"],
)
def test_a_run_that_is_owed_something_stays_until_it_is_done_and_is_told_of(
    wired: Services, owing: str, paid: str
) -> None:
    run_id, other = ended(wired), ended(wired)
    put(wired, owing, run_id)
    before = rows_of(wired, run_id)
    assert expire_runs(wired) == {"removed": 1}
    assert not is_there(wired, other)
    assert rows_of(wired, run_id) == before
    state = wired.retention.state()
    assert state is not None
    assert state.last_kept == 1
    assert state.behind(wired.database.now()) > timedelta(days=OLD - 30 - 1)
    assert any("1 ended runs" in reason for reason in setbacks(wired))
    put(wired, paid, run_id)
    assert expire_runs(wired) == {"removed": 1}
    assert not is_there(wired, run_id)
    assert setbacks(wired) == []


def test_work_whose_host_is_lost_keeps_no_run(wired: Services) -> None:
    run_id = ended(wired)
    put(wired, "UPDATE run_attempts SET termination = 'waived' WHERE run_id = :id", run_id)
    assert expire_runs(wired) == {"removed": 1}


# -- the archive


def objects(services: Services, run_id: uuid.UUID) -> list[str]:
    return list(services.archives.objects.below(f"runs/{run_id}"))


def test_the_object_of_a_log_goes_before_its_run_and_one_that_cannot_go_keeps_it(
    wired: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    large(monkeypatch)
    stuck, free = ended(wired), ended(wired)
    assert objects(wired, stuck)
    assert objects(wired, free)
    remove = wired.archives.remove

    def refuse(run_id: uuid.UUID, attempt: int) -> None:
        if run_id == stuck:
            raise ZeroDivisionError
        remove(run_id, attempt)

    with monkeypatch.context() as refusing:
        refusing.setattr(type(wired.archives), "remove", lambda _, *log: refuse(*log))
        assert expire_runs(wired) == {"removed": 1}
    assert (is_there(wired, free), objects(wired, free)) == (False, [])
    assert is_there(wired, stuck)
    assert objects(wired, stuck)
    assert "ZeroDivisionError" in explain(wired, stuck).text
    put(wired, "UPDATE setbacks SET next_try_at = now() WHERE run_id = :id", stuck)
    assert expire_runs(wired) == {"removed": 1}
    assert (is_there(wired, stuck), objects(wired, stuck)) == (False, [])


# -- what fails


def refuse_to_delete(services: Services, run_id: uuid.UUID) -> Callable[[], None]:
    """Have the database refuse to delete a run; returns what makes it possible again."""
    services.database.run(
        text(
            "CREATE FUNCTION refuse_it() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN IF OLD.id = '{run_id}' THEN RAISE 'not this one'; END IF; RETURN OLD; END $$"
        )
    )
    services.database.run(
        text("CREATE TRIGGER refuse_it BEFORE DELETE ON runs FOR EACH ROW EXECUTE FUNCTION refuse_it()")
    )
    return lambda: services.database.run(text("DROP FUNCTION IF EXISTS refuse_it CASCADE")) and None


@pytest.fixture
def poison(wired: Services) -> Iterator[uuid.UUID]:
    run_id = ended(wired)
    allow = refuse_to_delete(wired, run_id)
    yield run_id
    allow()


def test_a_run_that_cannot_be_deleted_keeps_no_other_and_is_told_of(
    wired: Services, poison: uuid.UUID, client: TestClient
) -> None:
    others = [ended(wired) for _ in range(3)]
    assert expire_runs(wired) == {"removed": 3}
    assert not any(is_there(wired, run_id) for run_id in others)
    assert "not this one" in explain(wired, poison).text
    assert 'reprieve_owed_failing{what="retention"} 1.0' in client.get("/metrics").text
    seconds = TOLD_AFTER.total_seconds() + 1
    put(wired, f"UPDATE setbacks SET since = since - interval '{seconds} s' WHERE run_id = :id", poison)
    assert any("ended runs that could not be removed" in reason for reason in setbacks(wired))
    assert wired.setbacks.begin(Duty.RETENTION, [(poison, 0)]) == set(), "it is not tried again at once"
    wired.setbacks.tidy()
    assert wired.setbacks.of_run(poison), "and stays a setback for as long as the run is there"
    wired.database.run(text("DROP FUNCTION refuse_it CASCADE"))
    put(wired, "UPDATE setbacks SET next_try_at = now() WHERE run_id = :id", poison)
    assert expire_runs(wired) == {"removed": 1}
    assert setbacks(wired) == []


def test_a_retention_that_fails_is_logged_told_of_and_goes_on_where_it_was(
    wired: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, client: TestClient
) -> None:
    run_id = ended(wired)
    for _ in range(2):
        with monkeypatch.context() as failing:
            failing.setattr(store, "PAGE", text("SELECT 1/0"))
            with pytest.raises(Exception, match="division by zero"):
                expire_runs(wired)
    assert "Ended runs could not be removed" in caplog.text
    wired.database.run(text("UPDATE retention SET failing_since = failing_since - interval '3 h'"))
    assert any("failing for 3 h" in reason and "division by zero" in reason for reason in setbacks(wired))
    assert "reprieve_retention_failing_seconds 108" in client.get("/metrics").text
    assert expire_runs(wired) == {"removed": 1}
    assert setbacks(wired) == []
    assert "reprieve_retention_failing_seconds 0.0" in client.get("/metrics").text
    assert not is_there(wired, run_id)


# -- pages


def test_what_dies_in_between_leaves_nothing_behind(wired: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each step: the next turn does the rest, of a page that was not recorded as done too."""
    steps = ["remove_what_is_left", "record", "complete"]
    for step in steps:
        runs = [ended(wired) for _ in range(3)]
        monkeypatch.setattr(retention, "PAGE", 2)

        class KilledError(BaseException):
            """As after `kill -9`, nothing that follows is done."""

        def killed(*_: Any) -> None:
            raise KilledError

        with monkeypatch.context() as deadly:
            deadly.setattr(type(wired.retention), step, killed)
            with pytest.raises(KilledError):
                expire_runs(wired)
        expire_runs(wired)
        expire_runs(wired)
        assert [rows_of(wired, run_id) for run_id in runs] == [{}] * 3, step


def test_a_turn_that_is_over_goes_on_in_the_next_with_the_page_after_its_own(
    wired: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [ended(wired) for _ in range(5)]
    monkeypatch.setattr(retention, "PAGE", 2)
    monkeypatch.setattr(retention, "TURN", 0.0)
    sent: list[str] = []
    monkeypatch.setattr(app, "send_task", sent.append)
    assert expire_runs(wired) == {"removed": 2, GOES_ON: 1}
    assert [is_there(wired, run_id) for run_id in runs] == [False] * 2 + [True] * 3
    state = wired.retention.state()
    assert state is not None
    assert state.pass_began_at is not None
    assert state.removed == 2
    assert expire_runs(wired) == {"removed": 2, GOES_ON: 1}
    assert expire_runs(wired) == {"removed": 1}
    state = wired.retention.state()
    assert state is not None
    assert state.pass_began_at is None
    assert state.last_removed == 5


@pytest.mark.parametrize("many", [1, 2, 3])
def test_after_a_pass_that_removed_many_the_next_begins_at_the_first_run_that_stays(
    wired: Services, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    [ended(wired, 45), ended(wired, 44)]
    kept = ended(wired, 43)
    put(wired, "UPDATE run_attempts SET termination = 'owed' WHERE run_id = :id", kept)
    monkeypatch.setattr(store, "MANY_REMOVED", many)
    monkeypatch.setattr(retention, "PAGE", 1)
    assert expire_runs(wired) == {"removed": 2}
    began_at = wired.retention.begin("30")
    assert began_at == (uuid.UUID(int=kept.int - 1) if many < 2 else uuid.UUID(int=0))
    put(wired, "UPDATE run_attempts SET termination = 'done' WHERE run_id = :id", kept)
    assert expire_runs(wired) == {"removed": 1}


def test_two_at_once_remove_each_run_once(wired: Services) -> None:
    runs = [ended(wired) for _ in range(20)]
    with wired.leases.hold("retention of runs", timedelta(minutes=1)):
        assert expire_runs(wired) == {}
    removed: list[set[uuid.UUID]] = []
    together = threading.Barrier(2)

    def remove() -> None:
        together.wait()
        removed.append(wired.retention.remove(runs))

    threads = [threading.Thread(target=remove) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not removed[0] & removed[1]
    expire_runs(wired)
    assert not any(is_there(wired, run_id) for run_id in runs)


# -- what others have of a run that is gone


def test_however_long_a_page_takes_nobody_else_begins_it_meanwhile(
    wired: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        ended(wired)
    monkeypatch.setattr(retention, "REMOVE_AT_ONCE", 1)
    remove, others = type(wired.retention).remove, []

    def remove_slowly(*given: Any) -> set[uuid.UUID]:
        with wired.leases.hold("retention of runs", retention.LEASE) as lease:
            others.append(lease)
        removed = remove(*given)
        wired.database.run(text("UPDATE leases SET until = now() - interval '1 s'"))
        return removed

    monkeypatch.setattr(type(wired.retention), "remove", remove_slowly)
    assert expire_runs(wired) == {"removed": 3}
    assert others == [None, None, None]


def test_a_key_whose_run_is_gone_asks_for_a_new_run(wired: Services) -> None:
    old = ended(wired, idempotency_key="once")
    ((again, is_new),) = insert(
        wired.database, [NewRun(uuid7(), "detached", True, {"command": ["true"]}, idempotency_key="once")]
    )
    assert (again.id, is_new) == (old, False)
    expire_runs(wired)
    ((again, is_new),) = insert(
        wired.database, [NewRun(uuid7(), "detached", True, {"command": ["true"]}, idempotency_key="once")]
    )
    assert again.id != old
    assert is_new


@pytest.mark.parametrize("statement", [2, 3])
def test_a_key_whose_run_goes_while_it_is_asked_for_asks_for_a_new_run(wired: Services, statement: int) -> None:
    """Between the statement that finds the key taken, and the one that looks by whom, or which run that is."""
    old, asked = ended(wired, idempotency_key="once"), 0

    class Between:
        schema = wired.database.schema

        def run(self, *statement_and_values: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked == statement:
                wired.retention.remove([old])
            return wired.database.run(*statement_and_values)

        together = wired.database.together

    new = NewRun(uuid7(), "detached", True, {"command": ["true"]}, idempotency_key="once")
    ((run, is_new),) = insert(Between(), [new])
    assert run.id == uuid.UUID(str(new.id))
    assert is_new


def test_a_run_that_goes_while_it_is_done_again_is_done_again(wired: Services) -> None:
    run_id, made = ended(wired), list[tuple[Any, bool]]()
    with wired.database.begin() as connection:
        connection.execute(text("DELETE FROM runs WHERE id = :id"), {"id": run_id})
        thread = threading.Thread(target=lambda: made.extend(again_each({run_id: "key"}, wired.database)))
        thread.start()
        waits = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        eventually(lambda: wired.database.run(waits)[0][0] > 0, what="it to be done again")
    thread.join()
    ((run, is_new),) = made
    assert (run.again_of, is_new, is_there(wired, run.id)) == (run_id, True, True)


def test_hosts_forget_what_they_keep_of_a_run_that_is_gone_and_nothing_that_was_never_known(wired: Services) -> None:
    gone, later = ended(wired), old_id(wired, 0)
    expire_runs(wired)
    never_known = [(later, 1)]
    assert wired.closings.forgettable([(gone, 1), *never_known]) == [(gone, 1)]


def test_a_reader_in_the_middle_of_a_log_is_told_that_its_run_is_gone(wired: Services, client: TestClient) -> None:
    run_id = ended(wired, lines=5)
    page = client.get(f"/v1/runs/{run_id}/log", params={"limit": 2})
    assert page.status_code == 200
    expire_runs(wired)
    for path in ("", "/log", "/events", "/explain"):
        answer = client.get(f"/v1/runs/{run_id}{path}")
        assert answer.status_code == 404, path
    reader = wired.log_of(run_id)
    with pytest.raises(RunNotFound):
        list(reader.follow(after_seq=2))


def test_output_that_comes_when_its_run_is_gone_is_set_aside_and_goes_with_the_next_pass(wired: Services) -> None:
    work = begun(wired)
    finish(wired, [End.by_result(work.fence, Outcome(), 0)])
    wired.database.run(text("UPDATE runs SET finished_at = finished_at - interval '40 days'"))
    wired.database.run(text("UPDATE run_attempts SET log_closed_at = now()"))
    assert expire_runs(wired) == {"removed": 1}
    ingest(wired, [chunk(work, 1)])
    assert rows_of(wired, work.run_id) == {"log_quarantine": 1}
    expire_runs(wired)
    assert rows_of(wired, work.run_id) == {}


# -- by whom


def test_a_worker_of_the_archive_removes_what_beat_has_it_remove(
    services: Services, start_worker: StartWorker, start_beat: Callable[[], Process]
) -> None:
    run_id, young = ended(services), ended(services, 29)
    start_worker("archive", extra={"REPRIEVE_RUN_RETENTION_DAYS": "30"})
    start_beat()
    eventually(lambda: not is_there(services, run_id))
    assert is_there(services, young)
