"""Where our statements are run: over SQLAlchemy in a worker, over psycopg2 alone in a service and in a command.

A statement is written once, with `:name` for each value, and without a colon for anything else but in a quoted name (so
`CAST`, never `::`).
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, NamedTuple, Protocol
from uuid import UUID

#: A value; or a quoted name, in which a colon is one of its characters.
_VALUE = re.compile(r':([a-z_]+)|"[^"]*"')


#: Runs a statement with its values, and returns its rows.
RunStatement = Callable[[str, Mapping[str, Any] | None], Sequence[Any]]


class Executor(Protocol):
    """Something that runs our statements on one database."""

    @property
    def schema(self) -> str | None:
        """The schema that the tables are in, where one is named: each is called by it."""
        ...

    def run(self, statement: str, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """Run one statement; returns its rows, which have its columns as attributes."""
        ...

    def together(self) -> AbstractContextManager["Executor"]:
        """What is run there takes effect as a whole, or, after an exception, not at all."""
        ...


class Transaction:
    """What runs together on one connection, by what runs a statement there; an `Executor`."""

    def __init__(self, run: RunStatement, schema: str | None) -> None:
        self._run = run
        self.schema = schema

    def run(self, statement: str, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        return self._run(statement, values)

    @contextmanager
    def together(self) -> Iterator[Executor]:
        yield self


def names_of(statement: str) -> list[str]:
    """The values that a statement names, each once."""
    return list(dict.fromkeys(filter(None, _VALUE.findall(statement))))


def numbered(statement: str) -> str:
    """The statement with `$1` for the first of those, as PostgreSQL prepares it."""
    numbers = {name: f"${number}" for number, name in enumerate(names_of(statement), 1)}
    return _VALUE.sub(lambda found: numbers[found[1]] if found[1] else found[0], statement)


@cache
def for_psycopg(statement: str) -> str:
    """The statement with its values as psycopg writes them."""
    return _VALUE.sub(lambda found: f"%({found[1]})s" if found[1] else found[0], statement.replace("%", "%%"))


@cache
def for_sqlalchemy(statement: str) -> str:
    """The statement as SQLAlchemy's `text` takes it."""
    return _VALUE.sub(lambda found: found[0] if found[1] else found[0].replace(":", "\\:"), statement)


def quoted(name: str) -> str:
    """A name as SQL has it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def qualified(schema: str | None, table: str) -> str:
    """A table's name as a statement has it."""
    return table if schema is None else f"{quoted(schema)}.{table}"


@cache
def row_of(columns: tuple[str, ...]) -> Any:
    """The type of a row with these columns; what `EXPLAIN` gives has a name that is none."""
    return NamedTuple("Row", [(name.replace(" ", "_"), Any) for name in columns])


def uuid_of(value: Any) -> UUID:
    """A column's UUID, of which some drivers give the text."""
    return value if isinstance(value, UUID) else UUID(value)


def json_of(value: Any) -> Any:
    """A column's JSON, likewise."""
    return json.loads(value) if isinstance(value, str) else value
