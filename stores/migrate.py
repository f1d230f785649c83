"""Bringing the database to the form that this version of the code expects."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateSchema

from reprieve.models.errors import SettingsError
from reprieve.models.faults import sqlstate_of
from reprieve.models.rows import Row
from reprieve.stores.database import Database
from reprieve.stores.migrations.online import LOCK_PATIENCE

logger = logging.getLogger(__name__)

#: Two migrations at once would trip over each other: the second waits until this advisory lock is free. It is never
#: waited for inside PostgreSQL, for an index that is built meanwhile waits for all statements that are older than it.
MIGRATION_LOCK = 0x5265_7072_0002
#: What earlier releases lock, in their one transaction: theirs is over before ours begins.
EARLIER_LOCK = 0x5265_7072_0001
#: Seconds between two looks whether that lock, or a table that others use, is free.
PAUSE = 0.5

_NOT_NOW = ("55P03", "40P01")
"""SQLSTATEs of a table that others use just now: lock_not_available, deadlock_detected."""


def migrate(database: Database, say: Callable[[str], None] | None = None) -> str:
    """Apply what is missing, one migrator at a time; returns the revision the database is at.

    Each migration is a transaction, and its steps beside others (`stores.migrations.online`) one each: what is
    interrupted is done by the next call. `say` is told how far a long one is, a line each; it is logged by default.
    Raises `SettingsError` where tables of somebody else's are in the way.
    """
    tell = say or logger.info
    with _alone(database, tell):
        with database.begin() as connection:
            connection.execute(text("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": EARLIER_LOCK})
            _make_schema(connection, database.schema)
            _refuse_tables_of_others(connection)
        while True:
            try:
                return _upgrade(database, tell)
            except DBAPIError as error:
                if sqlstate_of(error) not in _NOT_NOW:
                    raise
                # Whoever wants the table waits behind one who waits for it: so nobody waits long, and tries again.
                tell(f"Others use what is to be changed; trying again: {str(error.orig).splitlines()[0]}")
                time.sleep(PAUSE)


@contextmanager
def _alone(database: Database, tell: Callable[[str], None]) -> Iterator[None]:
    """Keep other migrators waiting, over a connection of its own, for as long as the block takes."""
    waits = False
    while True:
        with database.begin() as connection:
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            if connection.execute(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK}).scalar():
                yield
                return
        if not waits:
            tell("Another migration is under way; waiting for it.")
            waits = True
        time.sleep(PAUSE)


def _upgrade(database: Database, tell: Callable[[str], None]) -> str:
    config = _config()
    with database.engine.connect() as connection:
        event.listen(connection, "begin", _with_patience)
        config.attributes.update(connection=connection, database=database, say=tell)
        command.upgrade(config, "head")
        return current_revision(connection) or "none"


def _with_patience(connection: Connection) -> None:
    """A step of a migration may take its time. It may not keep others waiting for what it waits for itself."""
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '{LOCK_PATIENCE}'")


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
