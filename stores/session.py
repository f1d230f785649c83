"""One connection of psycopg2, and the statements that PostgreSQL has planned for it already."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

import psycopg2
from psycopg2.errors import DuplicatePreparedStatement, FeatureNotSupported, InvalidSqlStatementName
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from reprieve.models.faults import ends_session
from reprieve.stores.statements import for_psycopg, names_of, numbered, row_of


class Session:
    """A connection on which each statement is a transaction of its own, until one begins.

    To plan the statement that enqueues a run takes PostgreSQL as long as to run it. So what comes a second time on one
    connection is prepared: it is planned once. Behind a pooler, each transaction may get another session of the server,
    in which a prepared statement is not there, or was made by somebody else. Its name is made of what it says, so that
    one of that name is the same; and where one is missing, this session goes on without any.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        connection.autocommit = True
        self._seen: set[str] = set()
        #: How to run each statement that is prepared: `EXECUTE`, and the names of its values in order.
        self._prepared: dict[str, tuple[str, list[str]]] | None = {}

    def run(self, statement: str, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """Raises psycopg2's errors."""
        with self._connection.cursor() as cursor:
            self._execute(cursor, statement, values or {})
            if cursor.description is None:
                return ()
            make = row_of(tuple(column.name for column in cursor.description))._make
            return list(map(make, cursor.fetchall()))

    def begin(self) -> None:
        """From here on, what is run takes effect together, when it is committed."""
        with self._connection.cursor() as cursor:
            cursor.execute("BEGIN")

    def commit(self) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute("COMMIT")

    def is_lost_by(self, error: BaseException) -> bool:
        """Whether this error, of whatever kind, leaves a connection that nobody should go on with."""
        return not isinstance(error, psycopg2.Error) or self._connection.closed != 0 or ends_session(error)

    def close(self) -> None:
        self._connection.close()

    def _execute(self, cursor: Any, statement: str, values: Mapping[str, Any]) -> None:
        # In a transaction, one that is not there would abort it.
        if self._prepared is not None and self._connection.get_transaction_status() == TRANSACTION_STATUS_IDLE:
            try:
                if self._executed_by_name(cursor, statement, values):
                    return
            # Not there; or what it returns is of another type since a migration, and stays refused in this session.
            except (InvalidSqlStatementName, FeatureNotSupported):
                self._prepared = None
        cursor.execute(for_psycopg(statement), values)

    def _executed_by_name(self, cursor: Any, statement: str, values: Mapping[str, Any]) -> bool:
        """Whether the statement was run as a prepared one: it is, from the second time on."""
        assert self._prepared is not None  # noqa: S101 - its caller has looked
        if statement not in self._prepared:
            if statement not in self._seen:
                self._seen.add(statement)
                return False
            self._prepared[statement] = _prepare(cursor, statement)
        execute, names = self._prepared[statement]
        cursor.execute(execute, [values[name] for name in names])
        return True


def _prepare(cursor: Any, statement: str) -> tuple[str, list[str]]:
    name, names = f"reprieve_{sha256(statement.encode()).hexdigest()[:16]}", names_of(statement)
    with suppress(DuplicatePreparedStatement):
        cursor.execute(f"PREPARE {name} AS {numbered(statement)}")
    return f"EXECUTE {name}" + (f"({', '.join(['%s'] * len(names))})" if names else ""), names
