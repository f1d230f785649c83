"""Steps of a migration that a fleet at work does not notice, however large the table is.

PostgreSQL builds an index, and looks at every row for a new check, without keeping anybody from reading or writing, if
that is not done together with anything else. So each of these steps commits what the migration did before it, and is
committed by itself. Whatever is interrupted is simply migrated again: each step does what is still missing of it, and
so must whatever stands before one in the same migration (`add_columns`, `CREATE … IF NOT EXISTS`).

What takes a table for itself, for a moment (a column, a constraint), gives up after `LOCK_PATIENCE` and is tried again
(`stores.migrate`), since all who come later wait behind it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from alembic import op
from sqlalchemy import Column, Connection, inspect, text
from sqlalchemy.exc import PendingRollbackError

from reprieve.stores.database import Database

Say = Callable[[str], None]

#: How long a step that needs a table for itself waits for it. An autovacuum gives way after PostgreSQL's
#: `deadlock_timeout`, one second: whoever waits for less would wait for its end.
LOCK_PATIENCE = "2s"
#: Seconds after which a step says how far it is, and again and again.
TELL_EVERY = 5.0
#: Rows that one statement of `in_batches` is to write.
BATCH = 5_000

INDEX_STATE = text("""
SELECT i.indisvalid FROM pg_index i WHERE i.indexrelid = to_regclass(:name)
""")

# building: a session that builds an index on this table, and how far it is.
BUILDING = text("""
SELECT pid, phase, blocks_done, blocks_total, tuples_done, tuples_total, lockers_total - lockers_done AS lockers
FROM pg_stat_progress_create_index WHERE relid = to_regclass(:table) AND datname = current_database()
""")

ROWS = text("SELECT CAST(greatest(reltuples, 0) AS bigint) FROM pg_class WHERE oid = to_regclass(:table)")


def create_index_online(
    name: str,
    table: str,
    columns: Sequence[str],
    *,
    where: str | None = None,
    unique: bool = False,
    using: str = "",
    options: str = "",
) -> None:
    """Build an index while others read and write the table (CREATE INDEX CONCURRENTLY); nothing where it is there.

    `columns` are names or expressions of SQL, `where` is the condition of a partial index, `using` its method,
    `options` its storage parameters. What an
    interrupted build has left is dropped and built anew. It waits for every transaction of this database that is older
    than itself. Not for a partitioned table.
    """
    with _beside_others() as (connection, told):
        with told(f"index {name}", lambda beside: _building(beside, table)):
            while (state := connection.execute(INDEX_STATE, {"name": name}).scalar()) is not True:
                if state is False:
                    # Waits for another session that still builds it: its migrator was killed, and it goes on.
                    connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))
                connection.execute(
                    text(
                        f"CREATE {'UNIQUE ' if unique else ''}INDEX CONCURRENTLY IF NOT EXISTS {name} ON {table} "
                        f"{f'USING {using} ' if using else ''}({', '.join(columns)})"
                        f"{f' WITH ({options})' if options else ''}{f' WHERE {where}' if where else ''}"
                    )
                )


def drop_index_online(name: str) -> None:
    """Drop an index, if it is there, without keeping anybody from its table."""
    with _beside_others() as (connection, told), told(f"dropping index {name}", None):
        connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))


def replace_check_online(table: str, name: str, condition: str) -> None:
    """Put a check in place of the one of this name, if any: at once for what is written from now on.

    What is there already is looked at afterwards, while others read and write.
    """
    with _beside_others() as (connection, told):
        connection.execute(text(f"SET lock_timeout = '{LOCK_PATIENCE}'"))
        connection.execute(
            text(
                f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}, "
                f"ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID"
            )
        )
        connection.execute(text("SET lock_timeout = 0"))
        rows = connection.execute(ROWS, {"table": table}).scalar()
        with told(f"check {name} on {rows} rows", None):
            connection.execute(text(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}"))


def add_columns(table: str, *columns: Column[Any]) -> None:
    """Add those of these columns that are missing, in the migration's own transaction.

    No row is written for a column that may be NULL or has a constant default.
    """
    there = {column["name"] for column in inspect(op.get_bind()).get_columns(table)}
    for column in columns:
        if column.name not in there:
            op.add_column(table, column)


def in_batches(statement: str, what: str) -> int:
    """Repeat a statement until it finds nothing to do, each time in a transaction of its own; returns the rows it wrote.

    It is to write at most `:batch` rows, and to find those that it has not written yet.
    """
    done = 0
    with _beside_others() as (connection, told), told(what, lambda _: f"{done} rows done"):
        while written := connection.execute(text(statement), {"batch": BATCH}).rowcount:
            done += written
    return done


def _building(connection: Connection, table: str) -> str | None:
    row = connection.execute(BUILDING, {"table": table}).first()
    if row is None:
        return None
    for unit, done, total in (
        ("blocks", row.blocks_done, row.blocks_total),
        ("rows", row.tuples_done, row.tuples_total),
    ):
        if total:
            return f"{row.phase}, {100 * done // total} % of {total} {unit}"
    return f"{row.phase}, for {row.lockers} transactions" if row.lockers else str(row.phase)


Told = Callable[[str, Callable[[Connection], str | None] | None], Any]


@contextmanager
def _beside_others() -> Iterator[tuple[Connection, Told]]:
    """The migration's connection, on which each statement is now a transaction of its own and takes its time."""
    context = op.get_context()
    attributes = context.config.attributes if context.config else {}
    database, say = attributes["database"], attributes["say"]

    @contextmanager
    def told(what: str, progress: Callable[[Connection], str | None] | None) -> Iterator[None]:
        with _telling(database, say, what, progress):
            yield

    failure: BaseException | None = None
    try:
        with context.autocommit_block():
            connection = op.get_bind()
            try:
                try:
                    connection.execute(text("SET statement_timeout = 0"))
                    connection.execute(text("SET lock_timeout = 0"))
                    yield connection, told
                finally:
                    if not connection.invalidated:
                        connection.execute(text("RESET statement_timeout"))
                        connection.execute(text("RESET lock_timeout"))
            except BaseException as error:
                failure = error
                raise
    except PendingRollbackError:
        # Of a connection that is lost, the block says only that it cannot end as it should.
        if failure is None:
            raise
        raise failure from None


@contextmanager
def _telling(
    database: Database, say: Say, what: str, progress: Callable[[Connection], str | None] | None
) -> Iterator[None]:
    """Say how far this step is, over another connection, every few seconds for as long as it takes."""
    over = threading.Event()

    def tell() -> None:
        seconds = 0.0
        while not over.wait(TELL_EVERY):
            seconds += TELL_EVERY
            try:
                with database.at_once() as connection:
                    how_far = progress(connection) if progress else None
            except Exception as error:
                how_far = f"how far is not known ({type(error).__name__})"
            say(f"{what}: {how_far + ', ' if how_far else ''}since {seconds:.0f} s")

    teller = threading.Thread(target=tell, name="migration", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
