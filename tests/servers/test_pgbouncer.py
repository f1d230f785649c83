"""PgBouncer in transaction mode before PostgreSQL: no transaction can count on the connection of the one before."""

from pathlib import Path

import pytest
from sqlalchemy import text

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
