"""PgBouncer in transaction mode before PostgreSQL: no transaction can count on the connection of the one before."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from reprieve.stores.connections import Connections
from reprieve.stores.database import Database
from reprieve.stores.embedded import EmbeddedPostgres, EmbeddedRedis
from reprieve.stores.postgres_address import SERVER_OPTIONS
from tests.servers.conftest import Pooler
from tests.servers.fleet import keeps_its_promises, prints_once, running_fleet, wrong

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


def set_on_the_role(postgres: EmbeddedPostgres) -> None:
    """What a connection asks for as it begins, and a pooler does not hand on."""
    database = Database(postgres.url)
    with database.begin() as connection:
        for name, value in SERVER_OPTIONS.items():
            connection.execute(text(f"ALTER ROLE CURRENT_USER SET {name} = '{value}'"))
    database.dispose()


def test_reprieve_keeps_its_promises_behind_pgbouncer_in_transaction_mode_which_may_be_killed(
    postgres: EmbeddedPostgres, pooler: Pooler, redis: EmbeddedRedis, tmp_path: Path
) -> None:
    with running_fleet(tmp_path, pooler.url, redis.url) as fleet:
        assert ["ALTER ROLE" in line for line in wrong(fleet) if "timeouts" in line] == [True]
        set_on_the_role(postgres)
        keeps_its_promises(fleet)
        pooler.kill()
        pooler.start()
        prints_once(fleet)
        assert wrong(fleet) == []


def test_a_service_asks_behind_it_whatever_session_each_of_its_transactions_gets(pooler: Pooler) -> None:
    """What one session has prepared is not there in another, or was prepared there by another client."""
    statement = "SELECT CAST(:asked AS text) AS said, pg_backend_pid() AS session"
    services = [Connections(pooler.url) for _ in range(3)]

    def ask(number: int) -> int:
        (row,) = services[number % 3].run(statement, {"asked": f"{number}"})
        assert row.said == f"{number}"
        return int(row.session)

    with ThreadPoolExecutor(9) as pool:
        sessions = set(pool.map(ask, range(600)))
    assert len(sessions) > 1
    for one in services:
        one.close()
