"""Connections to PostgreSQL for services and commands: of psycopg2 alone, so that they cost next to nothing."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg2

from reprieve.models.errors import Unavailable
from reprieve.models.faults import is_unfit, sqlstate_of, unfit_database
from reprieve.stores.postgres_address import PostgresAddress
from reprieve.stores.session import Session
from reprieve.stores.statements import Executor, Transaction

T = TypeVar("T")

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
        self._idle: list[Session] = []
        self._free = threading.BoundedSemaphore(MOST)

    @property
    def schema(self) -> str | None:
        return self._address.schema

    def run(self, statement: str, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """One statement, in a transaction of its own."""
        with self._turn():
            session, rows = self._on_one(lambda session: session.run(statement, values))
            self._idle.append(session)
            return rows

    @contextmanager
    def together(self) -> Iterator[Executor]:
        with self._turn():
            session, _ = self._on_one(Session.begin)
            try:
                yield Transaction(session.run, self.schema)
                session.commit()
            except BaseException:
                session.close()
                raise
            self._idle.append(session)

    def close(self) -> None:
        """End the connections that nobody uses."""
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().close()

    def _on_one(self, work: Callable[[Session], T]) -> tuple[Session, T]:
        """Work on an idle connection, the one used last, or on a new one. Returns that, and what came of it."""
        while True:
            session, is_new = self._take()
            try:
                return session, work(session)
            except BaseException as error:
                if not session.is_lost_by(error):
                    self._idle.append(session)
                    raise
                session.close()
                self.close()  # What ended this one has ended those as well, mostly.
                if is_new or not isinstance(error, psycopg2.Error):
                    raise

    def _take(self) -> tuple[Session, bool]:
        with suppress(IndexError):
            return self._idle.pop(), False
        return Session(self._address.connect()), True

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


def _sentence(error: psycopg2.Error) -> str:
    """What PostgreSQL suffers from; where it said nothing itself, what its client says of that."""
    if sqlstate_of(error) is not None:
        return f"{unfit_database(error)}."
    return f"{unfit_database(error)}: {' '.join(str(error).split()) or type(error).__name__}."
