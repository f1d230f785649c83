"""A run that is asked for in the caller's transaction is there if and only if that commits, and is then announced."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Connection, event, text

from reprieve import IdempotencyConflict, enqueue_run
from reprieve.client.link import link
from reprieve.workers.bootstrap import Services
from tests.conftest import Servers
from tests.support.callers import Caller, OfSession, Undone, seen, undone
from tests.support.waiting import eventually

TRUE = {"command": ["true"]}


def announced(redis: Redis, number: int) -> bool:
    """Whether so many runs were announced; under asyncio, a thread does it after the commit."""
    eventually(lambda: redis.llen("runs") >= number, timeout=5)
    return redis.llen("runs") == number


# -- commit, rollback, savepoint


def test_a_run_is_there_and_announced_once_its_transaction_has_committed(
    caller: Caller, services: Services, redis: Redis
) -> None:
    with caller.transaction():
        run = caller.enqueue("process", TRUE, labels={"team": "däta"}, max_runtime=90)
        assert (seen(services), redis.llen("runs")) == (set(), 0)
    assert seen(services) == {run.id}
    assert announced(redis, 1)
    found = link().records.get(run.id)
    assert found == run
    assert (found.labels, found.max_runtime_seconds) == ({"team": "däta"}, 90)


def test_a_run_of_a_transaction_that_is_rolled_back_is_nowhere(
    caller: Caller, services: Services, redis: Redis
) -> None:
    with undone(), caller.transaction():
        caller.enqueue("process", TRUE)
        raise Undone
    with caller.transaction():
        run = caller.enqueue("process", TRUE)
    assert seen(services) == {run.id}
    assert announced(redis, 1)


def test_a_savepoint_that_is_rolled_back_takes_its_runs_with_it_and_no_others(
    caller: Caller, services: Services, redis: Redis
) -> None:
    kept = []
    with caller.transaction():
        kept.append(caller.enqueue("process", TRUE))
        with undone(), caller.savepoint():
            caller.enqueue("process", TRUE)
            raise Undone
        with caller.savepoint():
            kept.append(caller.enqueue("process", TRUE))
            with undone(), caller.savepoint():
                with caller.savepoint():
                    caller.enqueue("process", TRUE)
                raise Undone
        kept.append(caller.enqueue("process", TRUE))
        assert redis.llen("runs") == 0
    assert seen(services) == {run.id for run in kept}
    assert announced(redis, 3)


def test_a_savepoint_that_was_open_before_the_first_run_takes_it_too(
    caller: Caller, services: Services, redis: Redis
) -> None:
    with caller.transaction():
        with undone(), caller.savepoint():
            caller.enqueue("process", TRUE)
            raise Undone
        run = caller.enqueue("process", TRUE)
    assert seen(services) == {run.id}
    assert announced(redis, 1)


def test_many_runs_are_there_together_or_not_at_all(caller: Caller, services: Services, redis: Redis) -> None:
    requests = [{"adapter": "process", "config": TRUE, "idempotency_key": f"key {n}"} for n in range(3)]
    with caller.transaction():
        runs = caller.enqueue_many(requests)
        assert seen(services) == set()
    assert seen(services) == {run.id for run in runs}
    eventually(lambda: redis.llen("control") == 1, timeout=5)
    with undone(), caller.transaction():
        caller.enqueue_many([{"adapter": "process", "config": TRUE}] * 3)
        raise Undone
    assert len(seen(services)) == 3


# -- an idempotency key


def test_a_key_gives_the_same_run_within_a_transaction_and_outside(
    caller: Caller, services: Services, redis: Redis
) -> None:
    before = enqueue_run("process", TRUE, idempotency_key="before", labels={"a": "b"})
    with caller.transaction():
        first = caller.enqueue("process", TRUE, idempotency_key="within")
        assert caller.enqueue("process", TRUE, idempotency_key="within") == first
        assert caller.enqueue("process", TRUE, idempotency_key="before") == before
    assert enqueue_run("process", TRUE, idempotency_key="within") == first
    assert seen(services) == {before.id, first.id}
    assert announced(redis, 2)


def test_a_conflict_leaves_the_transaction_as_it_was(caller: Caller, services: Services, redis: Redis) -> None:
    enqueue_run("process", TRUE, idempotency_key="key")
    with caller.transaction():
        run = caller.enqueue("process", TRUE)
        with pytest.raises(IdempotencyConflict, match="use a new key"):
            caller.enqueue("process", {"command": ["false"]}, idempotency_key="key")
        others = [
            {"adapter": "process", "config": TRUE, "idempotency_key": "new"},
            {"adapter": "process", "config": {"command": ["false"]}, "idempotency_key": "key"},
        ]
        with pytest.raises(IdempotencyConflict, match="use a new key"):
            caller.enqueue_many(others)
    assert len(seen(services)) == 2
    assert run.id in seen(services)
    assert announced(redis, 2)


@pytest.mark.parametrize("commits", [True, False])
def test_a_key_of_another_open_transaction_is_waited_for(
    session: Caller, servers: Servers, services: Services, commits: bool
) -> None:
    """As outside: the first to commit has it."""
    other = OfSession(servers.postgres.url, "psycopg2")
    with ThreadPoolExecutor(1) as thread:
        with undone(), session.transaction():
            first = session.enqueue("process", TRUE, idempotency_key="key")

            def second() -> Any:
                with other.transaction():
                    return other.enqueue("process", TRUE, idempotency_key="key")

            asked = thread.submit(second)
            blocked = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            eventually(lambda: services.database.run(blocked)[0][0] == 1)
            if not commits:
                raise Undone
        assert (asked.result(30).id == first.id) is commits
    other.close()
    assert seen(services) == {asked.result().id}


# -- what is asked of the caller's connection


def test_a_driver_is_asked_once_where_it_is(session: Caller, services: Services) -> None:
    statements: list[str] = []
    with session.transaction():
        session.enqueue("process", TRUE)
    engine = session.within.get_bind()

    def note(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    with session.transaction():
        session.enqueue("process", TRUE)
        session.enqueue("process", TRUE)
    assert len(statements) == 2


def test_the_callers_search_path_is_its_own(caller: Caller, services: Services) -> None:
    with caller.transaction():
        caller.execute("SET LOCAL search_path = pg_catalog")
        run = caller.enqueue("process", TRUE, idempotency_key="key")
        assert caller.enqueue("process", TRUE, idempotency_key="key") == run
    assert seen(services) == {run.id}
