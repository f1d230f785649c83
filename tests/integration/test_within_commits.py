"""A run of the caller's transaction is announced when that has committed, whatever commits it and however."""

import asyncio
import threading
import time

import pytest
from django.db import connection as of_django
from django.db import transaction as django_transaction
from redis import Redis
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from reprieve import IdempotencyConflict, InvalidRequest, aio, enqueue_run, enqueue_runs
from reprieve.client.sending import Hints
from reprieve.workers.bootstrap import Services
from tests.conftest import Servers
from tests.support.callers import Caller, seen

TRUE = {"command": ["true"]}
#: Whether somebody waits for what another transaction holds.
BLOCKED = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


def test_on_autocommit_a_run_is_there_at_once(servers: Servers, services: Services, redis: Redis) -> None:
    for driver in ("psycopg2", "psycopg", "pg8000"):
        url = servers.postgres.url.replace("+psycopg2", f"+{driver}")
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            known = len(seen(services))
            enqueue_run("process", TRUE, within=connection)
            assert len(seen(services)) == redis.llen("runs") == known + 1
            key = {"idempotency_key": driver}
            conflicting = [
                {"adapter": "process", "config": TRUE, **key},
                {"adapter": "process", "config": {"command": ["false"]}, **key},
            ]
            with pytest.raises((IdempotencyConflict, InvalidRequest)):
                enqueue_runs(conflicting, within=connection)
            assert len(seen(services)) == known + 1
        engine.dispose()


def test_in_django_without_a_transaction_a_run_is_there_at_once(
    django: Caller, services: Services, redis: Redis
) -> None:
    run = enqueue_run("process", TRUE, within=of_django)
    assert seen(services) == {run.id}
    assert redis.llen("runs") == 1


def test_in_djangos_manual_transactions_the_message_is_left_to_the_sweep(
    django: Caller, services: Services, redis: Redis
) -> None:
    django_transaction.set_autocommit(False)
    try:
        run = enqueue_run("process", TRUE, within=of_django)
        assert seen(services) == set()
        django_transaction.commit()
    finally:
        django_transaction.set_autocommit(True)
    assert seen(services) == {run.id}
    assert redis.llen("runs") == 0


def test_a_session_in_a_transaction_of_somebody_else_announces_nothing_before_that_commits(
    servers: Servers, services: Services, redis: Redis
) -> None:
    """As test suites do it, which roll back what the tested code has committed."""
    engine = create_engine(servers.postgres.url)
    for commits in (False, True):
        with engine.connect() as connection:
            outer = connection.begin()
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                enqueue_run("process", TRUE, within=session)
                session.commit()
            assert (seen(services), redis.llen("runs")) == (set(), 0)
            outer.commit() if commits else outer.rollback()
    assert len(seen(services)) == redis.llen("runs") == 1
    engine.dispose()


def test_a_commit_that_fails_announces_nothing(session: Caller, services: Services, redis: Redis) -> None:
    """A deferred constraint speaks up as late as that."""
    with session.transaction():
        session.execute("CREATE TABLE late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    engine = session.within.get_bind()
    try:
        with engine.connect() as connection:
            enqueue_run("process", TRUE, within=connection)
            connection.execute(text("INSERT INTO late VALUES (1), (1)"))
            with pytest.raises(IntegrityError):
                connection.commit()
            connection.rollback()
            run = enqueue_run("process", TRUE, within=connection)
            connection.commit()
            assert seen(services) == {run.id}
            assert redis.llen("runs") == 1
    finally:
        with session.transaction():
            session.execute("DROP TABLE late")


def test_a_connection_that_nobody_closes_goes_back_to_its_pool(session: Caller, services: Services) -> None:
    with session.transaction():
        session.enqueue("process", TRUE)
    engine = session.within.get_bind()

    def leave_open() -> None:
        connection = engine.connect()
        enqueue_run("process", TRUE, within=connection)
        connection.commit()

    returned: list[object] = []
    event.listen(engine, "checkin", lambda connection, record: returned.append(connection))
    leave_open()
    assert len(returned) == 1


def test_the_loop_turns_while_another_transaction_has_the_key_and_while_a_broker_hangs(
    servers: Servers, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing goes on here unless it does: it is the loop that lets go of the key, and of the broker."""
    hangs, answers = threading.Event(), threading.Event()

    def hang(hints: Hints, run_ids: object) -> None:
        hangs.set()
        assert answers.wait(30)

    async def main() -> None:
        engine = create_async_engine(servers.postgres.url.replace("+psycopg2", "+asyncpg"))
        async with AsyncSession(engine) as first, AsyncSession(engine) as second:
            await aio.enqueue_run("process", TRUE, idempotency_key="key", within=first)
            waiting = asyncio.create_task(aio.enqueue_run("process", TRUE, idempotency_key="key", within=second))
            while not services.database.run(BLOCKED)[0][0]:
                await asyncio.sleep(0.01)
            began = time.monotonic()
            await first.commit()
            await waiting
        assert await asyncio.to_thread(hangs.wait, 30)
        assert time.monotonic() - began < 30
        answers.set()
        await engine.dispose()

    monkeypatch.setattr(Hints, "announce", hang)
    asyncio.run(main())


def test_an_async_scoped_session_is_taken(servers: Servers, services: Services) -> None:
    async def main() -> None:
        engine = create_async_engine(servers.postgres.url.replace("+psycopg2", "+asyncpg"))
        session = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
        await aio.enqueue_run("process", TRUE, within=session)
        await session.commit()
        await session.remove()
        await engine.dispose()

    asyncio.run(main())
    assert len(seen(services)) == 1
