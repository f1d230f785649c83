"""Connections to PostgreSQL for services and commands: of psycopg2 alone, so that they cost next to nothing."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2

from reprieve.models.errors import Unavailable
from reprieve.models.faults import ends_session, is_unfit, sqlstate_of, unfit_database
from reprieve.stores.postgres_address import PostgresAddress
from reprieve.stores.statements import Executor, for_psycopg, row_of

#: Connections of one process at once. A guest of somebody's service is not to use up the database's.
MOST = 10
#: Seconds to wait for one of them.
PATIENCE = 30.0


class Connections:
    """Connections that are opened when they are needed, and kept. Thread-safe; implements `Executor`.

    One that was lost while nobody used it (a restart, a switch-over, a firewall) is replaced, and its statement run
    again, so that every statement must bear being repeated: a commit whose answer was lost is one. Each call raises
    `Unavailable` while the database cannot be reached, or does not do what was asked of it just now.
    """

    def __init__(self, url: str) -> None:
        """Raises ValueError, naming what would work, for a URL that says what cannot be heeded."""
        self._address = PostgresAddress.parse(url)
        self._idle: list[Any] = []
        self._free = threading.BoundedSemaphore(MOST)

    @property
    def schema(self) -> str | None:
        return self._address.schema

    def run(self, statement: str, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """One statement, in a transaction of its own."""
        with self._turn():
            while True:
                connection, is_new = self._take()
                try:
                    rows = _run(connection, statement, values)
                except BaseException as error:
                    if self._keep(connection, error) or is_new or not isinstance(error, psycopg2.Error):
                        raise
                else:
                    self._idle.append(connection)
                    return rows

    @contextmanager
    def together(self) -> Iterator[Executor]:
        with self._turn():
            connection, is_new = self._take()
            try:
                _run(connection, "BEGIN")
            except psycopg2.Error as error:
                self._keep(connection, error)
                if is_new:
                    raise
                connection = self._connect()
                _run(connection, "BEGIN")
            try:
                yield _Transaction(connection, self.schema)
                _run(connection, "COMMIT")
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)

    def close(self) -> None:
        """End the connections that nobody uses."""
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._free.acquire(timeout=PATIENCE):
            raise Unavailable(f"All {MOST} connections to the database are in use; none came free in {PATIENCE:.0f} s.")
        try:
            yield
        except psycopg2.Error as error:
            if not is_unfit(error):
                raise
            raise Unavailable(_sentence(error)) from error
        finally:
            self._free.release()

    def _take(self) -> tuple[Any, bool]:
        """An idle connection, the one used last, or a new one; and whether it is new."""
        with suppress(IndexError):
            return self._idle.pop(), False
        return self._connect(), True

    def _connect(self) -> Any:
        connection = self._address.connect()
        connection.autocommit = True
        return connection

    def _keep(self, connection: Any, error: BaseException) -> bool:
        """Put a connection back after an error. Returns False if it is lost, and then all that are idle with it."""
        if isinstance(error, psycopg2.Error) and not connection.closed and not ends_session(error):
            self._idle.append(connection)
            return True
        connection.close()
        self.close()
        return False


class _Transaction:
    """What runs together on one connection."""

    def __init__(self, connection: Any, schema: str | None) -> None:
        self._connection = connection
        self.schema = schema

    def run(self, statement: str, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        return _run(self._connection, statement, values)

    @contextmanager
    def together(self) -> Iterator[Executor]:
        yield self


def _sentence(error: psycopg2.Error) -> str:
    """What PostgreSQL suffers from; where it said nothing itself, what its client says of that."""
    if sqlstate_of(error) is not None:
        return f"{unfit_database(error)}."
    return f"{unfit_database(error)}: {' '.join(str(error).split()) or type(error).__name__}."


def _run(connection: Any, statement: str, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
    with connection.cursor() as cursor:
        cursor.execute(for_psycopg(statement), values or {})
        if cursor.description is None:
            return ()
        return list(map(row_of(tuple(column.name for column in cursor.description))._make, cursor.fetchall()))
