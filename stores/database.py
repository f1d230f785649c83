"""The connection to PostgreSQL, whose clock is the only one that decides anything."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from select import select
from typing import Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, set_wait_callback
from sqlalchemy import Connection, Engine, Row, TextClause, create_engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.orm import Session

from reprieve.models.faults import ends_all_sessions, ends_session
from reprieve.stores.postgres_address import PostgresAddress
from reprieve.stores.statements import Executor, Transaction, for_sqlalchemy


class Database:
    """An engine and the five ways in which this project uses one. Opens nothing until it is used.

    A session that cannot write any more (read-only after a switch-over, ended by its server) is dropped by the first
    error that says so, and with it all others of its server: a retry uses another connection.
    """

    def __init__(self, url: str, *, pool_size: int = 5, max_overflow: int = 10) -> None:
        """Raises ValueError, naming what would work, for a URL that says what cannot be heeded."""
        self._url = url
        address = PostgresAddress.parse(url)
        #: The schema that all tables are in, where the URL names one.
        self.schema = address.schema
        self.engine: Engine = create_engine(
            "postgresql+psycopg2://",
            creator=address.connect,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_pre_ping=True,
            # An error that is logged quotes no parameters: they may be a run's output, or its environment.
            hide_parameters=True,
        )
        event.listen(self.engine, "handle_error", _drop_what_is_lost)

    def beside(self, connections: int) -> "Database":
        """The same database over so many connections of its own."""
        return Database(self._url, pool_size=connections, max_overflow=0)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction: committed at the end of the block, rolled back by an exception."""
        with self.engine.begin() as connection:
            yield connection

    def run(self, statement: TextClause | str, values: Mapping[str, Any] | None = None) -> Sequence[Row[Any]]:
        """One statement in a transaction of its own; returns its rows, none for a statement that gives none.

        The server ends that transaction by itself: a process that is stopped just then leaves no row locked.
        """
        with self.at_once() as connection:
            return _run(connection, statement, values)

    @contextmanager
    def together(self) -> Iterator[Executor]:
        """What is run there takes effect as a whole; with it, this is an `Executor`."""
        with self.begin() as connection:
            yield Transaction(partial(_run, connection), self.schema)

    @contextmanager
    def at_once(self) -> Iterator[Connection]:
        """A connection on which each statement is a transaction of its own: none is ever left open."""
        with self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def session(self) -> Iterator[Session]:
        """An ORM session for reading; what it loads stays usable after the block."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    def now(self) -> datetime:
        """The database's clock."""
        with self.begin() as connection:
            return clock(connection)

    def is_read_only(self) -> bool:
        """Whether the database takes no writes. A session that is left from a time when it took none is dropped."""
        if not self._session_is_read_only():
            return False
        self.engine.dispose()
        return self._session_is_read_only()

    def _session_is_read_only(self) -> bool:
        with self.begin() as connection:
            return bool(connection.execute(text("SELECT current_setting('transaction_read_only')::bool")).scalar())

    def dispose(self) -> None:
        self.engine.dispose()

    def forget(self) -> None:
        """In a forked child: leave the connections to the parent, whose they are."""
        self.engine.dispose(close=False)


def let_interrupt() -> None:
    """Have Ctrl-C end a statement that this process waits for, there as well. For a command of a person."""
    set_wait_callback(_wait)


def _wait(connection: Any) -> None:
    """Wait for an answer, as psycopg2's `wait_select` does; and end with what interrupted it."""
    interrupted = False
    while True:
        try:
            state = connection.poll()
            if state == POLL_OK:
                break
            reads, writes = ([connection.fileno()] if state == one else [] for one in (POLL_READ, POLL_WRITE))
            select(reads, writes, [])
        except KeyboardInterrupt:
            interrupted = True
            connection.cancel()
        except psycopg2.Error:
            if not interrupted:
                raise
            break
    if interrupted:
        raise KeyboardInterrupt


def _run(connection: Connection, statement: TextClause | str, values: Mapping[str, Any] | None) -> Sequence[Row[Any]]:
    result = connection.execute(text(for_sqlalchemy(statement)) if isinstance(statement, str) else statement, values)
    return result.all() if result.returns_rows else ()


def clock(connection: Connection) -> datetime:
    """The database's clock, as seen from inside a transaction; it moves on while the transaction runs."""
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now


def _drop_what_is_lost(context: ExceptionContext) -> None:
    """Have the pool drop a session that is of no use any more, as it does by itself with one that was closed."""
    if ends_session(context.original_exception):
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = ends_all_sessions(context.original_exception)
