"""Bringing the database to the form that this version of the code expects."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.schema import CreateSchema

from reprieve.models.errors import SettingsError
from reprieve.models.rows import Row
from reprieve.stores.database import Database

#: Two migrations at once would trip over each other: the second waits for this advisory lock.
MIGRATION_LOCK = 0x5265_7072_0001


#: Seconds between two tries to be the one.
LOCK_INTERVAL = 0.5


def migrate(database: Database) -> str:
    """Apply what is missing, one migrator at a time; returns the revision the database is at.

    Each migration is a transaction of its own: one that is cut off is begun anew by the next call. Raises
    `SettingsError` where tables of somebody else's are in the way.
    """
    with _alone(database), database.engine.connect() as connection:
        # A migration may take long, and may have to wait for another that does.
        connection.execute(text("SET statement_timeout = 0; SET lock_timeout = 0"))
        try:
            _make_schema(connection, database.schema)
            _refuse_tables_of_others(connection)
            connection.commit()
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            return current_revision(connection) or "none"
        finally:
            # No other use of it is to be as patient.
            connection.invalidate()


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """No other migrator begins until the end of the block.

    The lock is held by a transaction of its own, since migrations end theirs. One who waits for it waits in no
    statement: an index that is made while the database is used waits for all statements that were there before it.
    """
    with database.engine.connect() as holder:
        while True:
            holder.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            if holder.execute(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK}).scalar():
                break
            holder.rollback()
            time.sleep(LOCK_INTERVAL)
        yield


def _make_schema(connection: Connection, name: str | None) -> None:
    """The schema that the URL names, unless it is there: to make one takes a right on the database."""
    there = text("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = :name)")
    if name is not None and not connection.execute(there, {"name": name}).scalar():
        connection.execute(CreateSchema(name))


def _refuse_tables_of_others(connection: Connection) -> None:
    """A service's own `runs`, or its own Alembic's `alembic_version`, would be taken for ours."""
    taken = _tables(connection)
    if taken and not _are_ours(taken):
        raise SettingsError(
            f"The database has {', '.join(sorted(taken))} of somebody else's where Reprieve's tables would be. Keep "
            "these in a schema of their own: set REPRIEVE_DATABASE_SCHEMA, for every process of Reprieve."
        )


def _tables(connection: Connection) -> set[str]:
    """The tables in our schema that have a name of ours."""
    named = text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename = ANY(:names)")
    return set(connection.execute(named, {"names": [*Row.metadata.tables, "alembic_version"]}).scalars())


def _are_ours(tables: set[str]) -> bool:
    """Whether a migration of ours made them. The tables tell: the revision of a newer version is not known here, and
    many count theirs as we do, from 0001."""
    return tables >= {"runs", "run_specs", "alembic_version"}


def current_revision(connection: Connection) -> str | None:
    """The revision of the database, `None` when it was never migrated."""
    return MigrationContext.configure(connection).get_current_revision()


def head_revision() -> str | None:
    """The newest revision that this code knows."""
    return _scripts().get_current_head()


def is_current(database: Database) -> bool:
    """Whether the database has the form that this version of the code expects, or a newer one.

    A revision that is not known here is a newer version's: during an upgrade, the database goes first.
    """
    with database.begin() as connection:
        current = current_revision(connection)
        is_known = current is None or current in _known_revisions()
        return (current == head_revision() or not is_known) and _are_ours(_tables(connection))


def _known_revisions() -> set[str]:
    return {script.revision for script in _scripts().walk_revisions()}


@cache
def _scripts() -> ScriptDirectory:
    """The migrations of this version, read once: health checks ask again and again."""
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    # Alembic reads its options as an INI file does, where a percent sign begins a reference.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config
