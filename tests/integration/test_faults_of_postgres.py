"""What a real PostgreSQL and its driver raise, and what `models.faults` makes of it."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, OperationalError

from reprieve.models.faults import Fault, fault_of, is_unfit, sqlstate_of
from reprieve.stores.database import Database
from reprieve.stores.embedded import EmbeddedPostgres
from reprieve.stores.embedded.address import choose_port
from reprieve.workers.bootstrap import Services
from tests.support.rows import running


def raised(services: Services, statement: str, **values: Any) -> Exception:
    try:
        with services.database.begin() as connection:
            connection.execute(text(statement), values)
    except Exception as error:
        return error
    raise AssertionError(f"{statement} went through")


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("SELECT CAST(:value AS text)", "a NUL \0"),
        ("SELECT CAST(:value AS text)", "half a pair \ud800"),
        ("SELECT CAST(:value AS jsonb)", '"\\ud800"'),
        ("SELECT CAST(:value AS jsonb)", '"\\u0000"'),
        ("SELECT CAST(:value AS jsonb)", "NaN"),
        ("SELECT CAST(:value AS bigint)", 2**63),
        ("SELECT CAST(:value AS uuid)", "no uuid"),
        ("SELECT CAST(:value AS timestamptz)", "the year dot"),
    ],
)
def test_content_that_cannot_be_taken_is_content_whoever_refuses_it(
    services: Services, statement: str, value: object
) -> None:
    assert fault_of(raised(services, statement, value=value)) is Fault.CONTENT


@pytest.mark.parametrize(
    "statement", ["SELEC", "SELECT * FROM nowhere", "SELECT nothing FROM runs", "SELECT 1 + :value"]
)
def test_a_statement_that_makes_no_sense_is_ours(services: Services, statement: str) -> None:
    assert fault_of(raised(services, statement, value=object())) is Fault.OURS


def test_a_lock_that_was_not_to_be_had_and_a_statement_that_took_too_long_are_environment(services: Services) -> None:
    work = running(services)
    with services.database.begin() as holder:
        holder.execute(text("SELECT FROM runs WHERE id = :id FOR UPDATE"), {"id": work.run_id})
        lock = "SET LOCAL lock_timeout = 50; UPDATE runs SET status = status"
        assert (sqlstate_of(error := raised(services, lock)), is_unfit(error)) == ("55P03", True)
    slow = "SET LOCAL statement_timeout = 50; SELECT pg_sleep(5)"
    assert (sqlstate_of(error := raised(services, slow)), is_unfit(error)) == ("57014", True)


def test_a_deadlock_is_environment(services: Services) -> None:
    one, other = running(services), running(services)
    meet, errors = threading.Barrier(2), []

    def lock(connection: Connection, first: Any, second: Any) -> None:
        query = text("SELECT FROM runs WHERE id = :id FOR UPDATE")
        connection.execute(query, {"id": first})
        meet.wait(10)
        connection.execute(query, {"id": second})

    def take(first: Any, second: Any) -> None:
        try:
            with services.database.begin() as connection:
                lock(connection, first, second)
        except DBAPIError as error:
            errors.append(error)

    pairs = [(one.run_id, other.run_id), (other.run_id, one.run_id)]
    threads = [threading.Thread(target=take, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(sqlstate_of(error), is_unfit(error)) for error in errors] == [("40P01", True)]


def test_a_session_that_was_idle_in_its_transaction_for_too_long_is_environment_and_dropped(services: Services) -> None:
    with pytest.raises(DBAPIError) as error, services.database.begin() as connection:
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 50"))
        threading.Event().wait(0.5)
        connection.execute(text("SELECT 1"))
    assert is_unfit(error.value)
    assert error.value.connection_invalidated
    services.database.now()


def test_a_server_that_is_not_there_is_environment(services: Services) -> None:
    nowhere = Database(f"postgresql+psycopg2://u:p@127.0.0.1:{choose_port()}/d")
    with pytest.raises(OperationalError) as error:
        nowhere.now()
    assert (sqlstate_of(error.value), is_unfit(error.value)) == (None, True)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server whose connections can all be taken."""
    server = EmbeddedPostgres(tmp_path / "full")
    server.start()
    yield server
    server.remove()


def test_a_server_without_a_connection_left_is_environment(full: EmbeddedPostgres) -> None:
    one = Database(full.url, pool_size=300)
    held = []
    with pytest.raises(OperationalError) as error:
        for _ in range(300):
            held.append(one.engine.connect())
    for connection in held:
        connection.close()
    one.dispose()
    assert "connection slots" in str(error.value) or "too many clients" in str(error.value)
    assert is_unfit(error.value)
