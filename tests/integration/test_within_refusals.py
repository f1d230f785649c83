"""What is no transaction in our database is refused by a sentence, and the caller's own goes on."""

import asyncio
from types import SimpleNamespace

import pytest
from django.db import connections
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from reprieve import InvalidRequest, aio, enqueue_run
from reprieve.client.link import link
from reprieve.stores import location
from reprieve.stores.location import Location, our_location
from reprieve.workers.bootstrap import Services
from tests.conftest import Servers
from tests.support.callers import Caller, Undone, seen, undone

TRUE = {"command": ["true"]}


@pytest.mark.parametrize(
    ("within", "told"),
    [
        (42, "of type int; give a SQLAlchemy Session or Connection, or a connection of Django"),
        (SimpleNamespace(commit=print), "of type SimpleNamespace; give"),
        (create_engine("postgresql://"), "of type Engine; give"),
        (create_engine("sqlite://").connect(), "a transaction of sqlite: a run can be committed only with what is in"),
        (Session(create_engine("sqlite://")), "a transaction of sqlite"),
        (Session(), r"chooses its database by what is asked for.*session.connection\(bind_arguments=…\)"),
        (AsyncSession(), r"is an AsyncSession: await reprieve\.aio\.enqueue_run"),
    ],
)
def test_what_is_no_transaction_is_refused_by_a_sentence(services: Services, within: object, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        enqueue_run("process", TRUE, within=within)
    assert seen(services) == set()


def test_a_sqlalchemy_that_would_not_commit_is_refused_by_a_sentence(
    session: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqlalchemy.__version__", "1.4.54")
    with session.transaction(), pytest.raises(InvalidRequest, match=r"SQLAlchemy 1\.4\.54; it has to be 2\.0 or later"):
        session.enqueue("process", TRUE)


def test_a_sqlite_of_django_is_refused_by_a_sentence(django: Caller, services: Services) -> None:
    with pytest.raises(InvalidRequest, match="a transaction of sqlite"):
        enqueue_run("process", TRUE, within=connections["small"])


def test_asyncio_takes_no_transaction_that_would_block_its_loop(session: Caller) -> None:
    with session.transaction(), pytest.raises(InvalidRequest, match="type Session, and would block the loop: give an"):
        asyncio.run(aio.enqueue_run("process", TRUE, within=session.within))


def test_another_database_is_refused_and_the_transaction_goes_on(
    caller: Caller, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours is said to be another one here: it comes to the same, and every caller has one database only."""
    elsewhere = Location(server=1, database=2, schema="public")
    monkeypatch.setattr("reprieve.client.within.our_location", lambda ours, anew=False: elsewhere)
    with caller.transaction():
        for _ in range(2):
            with pytest.raises(InvalidRequest, match=r"another database than Reprieve's.*REPRIEVE_DATABASE_SCHEMA"):
                caller.enqueue("process", TRUE)
        monkeypatch.undo()
        run = caller.enqueue("process", TRUE)
    assert seen(services) == {run.id}


def test_a_database_beside_ours_on_the_same_server_is_another_one(services: Services, servers: Servers) -> None:
    with services.database.at_once() as connection:
        connection.execute(text("CREATE DATABASE beside"))
    try:
        engine = create_engine(servers.postgres.url.removesuffix("/reprieve") + "/beside")
        with engine.begin() as connection, pytest.raises(InvalidRequest, match="another database than Reprieve's"):
            enqueue_run("process", TRUE, within=connection)
        engine.dispose()
    finally:
        with services.database.at_once() as connection:
            # It waits for a checkpoint, which takes its time where others write.
            connection.execute(text("SET statement_timeout = 0"))
            connection.execute(text("DROP DATABASE beside"))


def test_a_server_that_was_started_again_since_is_still_ours(session: Caller, services: Services) -> None:
    ours = link().connections
    before = our_location(ours)
    location._ours[ours] = Location(before.server - 1, before.database, before.schema)
    with session.transaction():
        session.enqueue("process", TRUE)
    assert len(seen(services)) == 1
    assert our_location(ours) == before


def test_a_role_that_may_not_add_runs_is_refused_with_what_to_grant(session: Caller, services: Services) -> None:
    with undone(), session.transaction():
        session.execute("REVOKE INSERT ON run_specs FROM current_user")
        with pytest.raises(InvalidRequest, match=r'GRANT INSERT ON "public"\.runs, .* TO "reprieve"\.$'):
            session.enqueue("process", TRUE)
        assert session.execute("SELECT 1") == 1
        raise Undone
