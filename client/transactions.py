"""Our statements in a transaction of somebody else's, by the library that it belongs to."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Self
from weakref import WeakKeyDictionary
from zoneinfo import ZoneInfo

from reprieve.client.commits import after_commit_of, off_the_loop
from reprieve.models.errors import InvalidRequest
from reprieve.stores.statements import for_psycopg, for_sqlalchemy, row_of

#: Before it, a Connection committed each statement by itself that it took for a writing one.
LEAST_SQLALCHEMY = 2


class Joined(ABC):
    """Somebody's transaction; an `Executor`, once it is known in which schema our tables are there."""

    schema: str | None = None
    known: dict[Any, Any]
    """What is kept with the driver's connection, for as long as that is open."""

    @abstractmethod
    def run(self, statement: str, values: Mapping[str, Any] | None = None) -> Sequence[Any]: ...

    @abstractmethod
    @contextmanager
    def together(self) -> Iterator[Self]:
        """A savepoint: what fails in it leaves the transaction as it was."""

    @abstractmethod
    def after_commit(self, callback: Callable[[], object]) -> None: ...


class OfSqlAlchemy(Joined):
    """The transaction that a Connection of SQLAlchemy has, or begins by itself; none if it is on autocommit."""

    def __init__(self, connection: Any) -> None:
        version = sys.modules["sqlalchemy"].__version__
        if int(version.partition(".")[0]) < LEAST_SQLALCHEMY:
            raise InvalidRequest(f"within is of SQLAlchemy {version}; it has to be {LEAST_SQLALCHEMY}.0 or later.")
        _refuse_unless_postgresql(connection.dialect.name)
        self._connection = connection
        self.known = connection.info

    def run(self, statement: str, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        result = self._connection.execute(sys.modules["sqlalchemy"].text(for_sqlalchemy(statement)), values)
        rows: Sequence[Any] = result.all() if result.returns_rows else ()
        return rows

    @contextmanager
    def together(self) -> Iterator[Self]:
        if not self._commits_by_itself():
            with self._connection.begin_nested():
                yield self
            return
        self.run("BEGIN")
        try:
            yield self
        except BaseException:
            self.run("ROLLBACK")
            raise
        self.run("COMMIT")

    def after_commit(self, callback: Callable[[], object]) -> None:
        if self._commits_by_itself():
            off_the_loop(callback)
        else:
            after_commit_of(self._connection).add(callback)

    def _commits_by_itself(self) -> bool:
        return bool(getattr(self._connection.connection.dbapi_connection, "autocommit", False))


#: What is kept with each of the connections that Django has of its driver.
_known: "WeakKeyDictionary[Any, dict[Any, Any]]" = WeakKeyDictionary()


class OfDjango(Joined):
    """The `atomic` block that a connection of Django is in; outside of any, each statement is committed at once."""

    def __init__(self, connection: Any) -> None:
        _refuse_unless_postgresql(connection.vendor)
        connection.ensure_connection()
        self._connection = connection
        self.known = _known.setdefault(connection.connection, {})

    def run(self, statement: str, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(for_psycopg(statement), values or {})
            if cursor.description is None:
                return ()
            row = row_of(tuple(column[0] for column in cursor.description))
            return [row._make(map(self._aware, values)) for values in cursor.fetchall()]

    def _aware(self, value: Any) -> Any:
        """With USE_TZ=False, Django has its driver drop the zone, which is the session's."""
        if isinstance(value, datetime) and value.tzinfo is None:
            return value.replace(tzinfo=ZoneInfo(self._connection.timezone_name))
        return value

    @contextmanager
    def together(self) -> Iterator[Self]:
        with sys.modules["django.db.transaction"].atomic(using=self._connection.alias):
            yield self

    def after_commit(self, callback: Callable[[], object]) -> None:
        if self._connection.in_atomic_block or self._connection.get_autocommit():
            self._connection.on_commit(callback)


def _refuse_unless_postgresql(name: str) -> None:
    if name != "postgresql":
        raise InvalidRequest(
            f"within is a transaction of {name}: a run can be committed only with what is in Reprieve's own database, "
            "which is PostgreSQL. Enqueue after the commit."
        )
