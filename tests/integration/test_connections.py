"""The connections of services and commands: replaced when they are lost, planned for once, and never too many."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import pytest
from sqlalchemy import text

from reprieve.models.errors import Unavailable
from reprieve.stores import connections as stores_connections
from reprieve.stores.connections import MOST, Connections
from reprieve.workers.bootstrap import Services
from tests.conftest import Servers
from tests.support.waiting import eventually

PID = "SELECT pg_backend_pid() AS pid"


@pytest.fixture
def connections(services: Services, servers: Servers) -> Iterator[Connections]:
    made = Connections(f"{servers.postgres.url}?application_name=under-test")
    yield made
    made.close()


def end_all(services: Services) -> int:
    """End every session of the connections under test, as a restart does; how many there were."""
    ends = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'under-test'"
    with services.database.begin() as connection:
        return len(connection.execute(text(ends)).all())


def prepared(connections: Connections) -> list[str]:
    return [row.name for row in connections.run("SELECT name FROM pg_prepared_statements")]


def test_one_after_the_other_shares_a_connection(connections: Connections) -> None:
    assert len({connections.run(PID)[0].pid for _ in range(5)}) == 1


def test_what_was_ended_while_nobody_used_it_is_replaced_and_the_statement_runs(
    connections: Connections, services: Services
) -> None:
    with ThreadPoolExecutor(4) as pool:
        barrier = threading.Barrier(4)
        list(pool.map(lambda _: (barrier.wait(), connections.run("SELECT pg_sleep(0.2)")), range(4)))
    assert end_all(services) == 4
    assert connections.run("SELECT 1 AS one")[0].one == 1
    assert end_all(services) == 1


def test_a_transaction_begins_on_a_connection_that_lives(connections: Connections, services: Services) -> None:
    connections.run(PID)
    assert end_all(services) == 1
    for _ in range(3):
        with connections.together() as transaction:
            assert transaction.run("SELECT 1 AS one")[0].one == 1


def test_what_is_run_together_takes_effect_as_a_whole_or_not_at_all(
    connections: Connections, services: Services
) -> None:
    def told() -> int:
        with services.database.begin() as connection:
            return int(connection.execute(text("SELECT count(*) FROM said_in_a_test")).scalar_one())

    connections.run("CREATE TABLE IF NOT EXISTS said_in_a_test (name text)")
    insert = "INSERT INTO said_in_a_test (name) VALUES (:name)"
    with pytest.raises(ZeroDivisionError), connections.together() as transaction:
        transaction.run(insert, {"name": "a"})
        raise ZeroDivisionError
    assert told() == 0
    with connections.together() as transaction:
        transaction.run(insert, {"name": "a"})
        transaction.run(insert, {"name": "b"})
        assert told() == 0
    assert told() == 2
    connections.run("DROP TABLE said_in_a_test")


def test_an_error_in_a_statement_costs_no_connection_and_is_raised_as_it_is(connections: Connections) -> None:
    before = connections.run(PID)[0].pid
    with pytest.raises(psycopg2.errors.DivisionByZero):
        connections.run("SELECT 1 / 0")
    assert connections.run(PID)[0].pid == before


def test_a_database_that_is_away_is_unavailable_and_says_why(servers: Servers) -> None:
    with pytest.raises(Unavailable, match=r"^The database does not answer: .*Connection refused.*\.$"):
        Connections("postgresql+psycopg2://me:secret@127.0.0.1:1/nowhere").run(PID)


def test_so_many_are_open_at_once_and_no_more_and_who_waits_in_vain_is_told(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores_connections, "PATIENCE", 0.2)
    go_on = threading.Event()

    def hold(_: int) -> Any:
        with connections.together() as transaction:
            go_on.wait(30)
            return transaction.run(PID)[0].pid

    with ThreadPoolExecutor(MOST) as pool:
        holding = [pool.submit(hold, number) for number in range(MOST)]
        eventually(lambda: not connections._free._value)
        with pytest.raises(Unavailable, match=f"All {MOST} connections to the database are in use"):
            connections.run(PID)
        go_on.set()
        assert len({one.result() for one in holding}) == MOST
    assert connections.run(PID)


# -- planned once


def test_a_statement_is_prepared_when_it_comes_again_and_gives_the_same(connections: Connections) -> None:
    statement = "SELECT CAST(:b AS text) || CAST(:a AS text) || CAST(:b AS text) AS said, 100 % 7 AS rest"
    said = [connections.run(statement, {"a": "a%s", "b": "b:c"}) for _ in range(4)]
    assert {(row.said, row.rest) for (row,) in said} == {("b:ca%sb:c", 2)}
    assert len(prepared(connections)) == 1


def test_behind_a_pooler_that_gives_each_transaction_another_session_all_goes_on_without(
    connections: Connections,
) -> None:
    statement = "SELECT CAST(:a AS text) AS said"
    for number in range(6):
        # Of a pooler in transaction mode: what was prepared is in another session, or was prepared there already.
        if number in (2, 4):
            connections.run("DEALLOCATE ALL")
        assert connections.run(statement, {"a": "x"})[0].said == "x"


def test_what_another_client_of_the_pooler_has_prepared_is_used(connections: Connections, servers: Servers) -> None:
    statement = "SELECT CAST(:a AS text) AS said"
    for _ in range(2):
        connections.run(statement, {"a": "x"})
    (name,) = prepared(connections)
    other = Connections(servers.postgres.url)
    other.run(f"PREPARE {name} AS SELECT CAST($1 AS text) AS said")
    assert [other.run(statement, {"a": "y"})[0].said for _ in range(3)] == ["y"] * 3
    other.close()


def test_a_statement_that_was_planned_before_a_migration_is_planned_anew(
    connections: Connections, services: Services
) -> None:
    connections.run("CREATE TABLE planned (number int)")
    assert [list(connections.run("SELECT number FROM planned")) for _ in range(3)] == [[]] * 3
    with services.database.begin() as connection:
        connection.execute(text("ALTER TABLE planned ALTER number TYPE bigint"))
    assert [list(connections.run("SELECT number FROM planned")) for _ in range(3)] == [[]] * 3
    connections.run("DROP TABLE planned")


def test_in_a_transaction_no_statement_is_run_by_name_so_that_none_can_abort_it(connections: Connections) -> None:
    statement = "SELECT CAST(:a AS text) AS said"
    for _ in range(3):
        connections.run(statement, {"a": "x"})
    with connections.together() as transaction:
        transaction.run("DEALLOCATE ALL")
        assert transaction.run(statement, {"a": "x"})[0].said == "x"
