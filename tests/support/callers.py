"""Services that ask for runs in their own transactions, each by a library and a driver of its own."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

import django
from django.conf import settings
from django.db import connections
from django.db import transaction as of_django
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from reprieve import aio, enqueue_run, enqueue_runs
from reprieve.models.records import Run
from reprieve.workers.bootstrap import Services


class Undone(Exception):
    """Raised by a test to have a transaction, or a savepoint, rolled back."""


class Caller(ABC):
    """A service. `within` is what it hands over while its transaction is open."""

    within: Any

    @abstractmethod
    @contextmanager
    def transaction(self) -> Iterator[None]: ...

    @abstractmethod
    @contextmanager
    def savepoint(self) -> Iterator[None]: ...

    @abstractmethod
    def execute(self, statement: str) -> Any:
        """The first value that a statement of the service's own gives."""

    def enqueue(self, *given: Any, **named: Any) -> Run:
        return enqueue_run(*given, **named, within=self.within)

    def enqueue_many(self, requests: Any) -> list[Run]:
        return enqueue_runs(requests, within=self.within)

    @abstractmethod
    def close(self) -> None: ...


class OfConnection(Caller):
    """SQLAlchemy's Core."""

    def __init__(self, url: str, driver: str) -> None:
        self._engine = create_engine(make_url(url).set(drivername=f"postgresql+{driver}"))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._engine.begin() as self.within:
            yield

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        with self.within.begin_nested():
            yield

    def execute(self, statement: str) -> Any:
        return _first(self.within.exec_driver_sql(statement))

    def close(self) -> None:
        self._engine.dispose()


class OfSession(OfConnection):
    """SQLAlchemy's ORM."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with Session(self._engine) as self.within, self.within.begin():
            yield

    def execute(self, statement: str) -> Any:
        return _first(self.within.connection().exec_driver_sql(statement))


class OfScopedSession(OfSession):
    """As Flask-SQLAlchemy has it."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.within = scoped_session(sessionmaker(self._engine))
        try:
            yield
            self.within.commit()
        finally:
            self.within.remove()


class OfAsyncConnection(Caller):
    """SQLAlchemy's Core under asyncio; each step is a turn of the service's own loop."""

    def __init__(self, url: str, driver: str) -> None:
        self._loop = asyncio.Runner()
        self._engine = create_async_engine(make_url(url).set(drivername=f"postgresql+{driver}"))

    @contextmanager
    def _entered(self, entering: Any) -> Iterator[Any]:
        entered = self._loop.run(_awaited(entering.__aenter__()))
        try:
            yield entered
        except BaseException as error:
            self._loop.run(_awaited(entering.__aexit__(type(error), error, None)))
            raise
        self._loop.run(_awaited(entering.__aexit__(None, None, None)))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._entered(self._engine.begin()) as self.within:
            yield

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        with self._entered(self.within.begin_nested()):
            yield

    def enqueue(self, *given: Any, **named: Any) -> Run:
        return self._loop.run(_awaited(aio.enqueue_run(*given, **named, within=self.within)))

    def enqueue_many(self, requests: Any) -> list[Run]:
        return self._loop.run(_awaited(aio.enqueue_runs(requests, within=self.within)))

    def execute(self, statement: str) -> Any:
        return _first(self._loop.run(_awaited(self.within.exec_driver_sql(statement))))

    def close(self) -> None:
        self._loop.run(_awaited(self._engine.dispose()))
        self._loop.close()


class OfAsyncSession(OfAsyncConnection):
    """SQLAlchemy's ORM under asyncio."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._entered(AsyncSession(self._engine)) as self.within, self._entered(self.within.begin()):
            yield

    def execute(self, statement: str) -> Any:
        async def executed() -> Any:
            return _first(await (await self.within.connection()).exec_driver_sql(statement))

        return self._loop.run(executed())


def _first(result: Any) -> Any:
    return result.scalar() if result.returns_rows else None


async def _awaited(awaitable: Any) -> Any:
    """A coroutine, which a runner asks for, of whatever can be awaited."""
    return await awaitable


class OfDjango(Caller):
    """Django, with psycopg 3, which it prefers."""

    def __init__(self, url: str, driver: str) -> None:
        set_up_django(url)
        self.within = connections["default"]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with of_django.atomic():
            yield

    savepoint = transaction

    def execute(self, statement: str) -> Any:
        with self.within.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone()[0] if cursor.description else None

    def close(self) -> None:
        connections.close_all()


def set_up_django(url: str) -> None:
    """Django as a service sets it up, with a PostgreSQL for `default`, once in a process."""
    if settings.configured:
        return
    read = make_url(url)
    default = {"ENGINE": "django.db.backends.postgresql", "NAME": read.database, "HOST": read.host, "PORT": read.port}
    databases = {
        "default": {**default, "USER": read.username, "PASSWORD": read.password},
        "small": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
    }
    settings.configure(DATABASES=databases, ALLOWED_HOSTS=["testserver"], USE_TZ=False, TIME_ZONE="Asia/Kathmandu")
    django.setup()


CALLERS: dict[str, Callable[[str], Caller]] = {
    "Connection, psycopg2": lambda url: OfConnection(url, "psycopg2"),
    "Session, psycopg": lambda url: OfSession(url, "psycopg"),
    "Session, pg8000": lambda url: OfSession(url, "pg8000"),
    "scoped_session, psycopg2": lambda url: OfScopedSession(url, "psycopg2"),
    "AsyncConnection, psycopg": lambda url: OfAsyncConnection(url, "psycopg"),
    "AsyncSession, asyncpg": lambda url: OfAsyncSession(url, "asyncpg"),
    "Django, psycopg": lambda url: OfDjango(url, "psycopg"),
}


@contextmanager
def undone() -> Iterator[None]:
    """Leave by an exception, as a service does whose transaction is rolled back."""
    with suppress(Undone):
        yield


def seen(services: Services) -> set[UUID]:
    """The runs that everybody sees."""
    return {run.id for run in services.records.newest(limit=100)}
