"""Where our tables are, so that another connection can tell whether it is in the same database.

Addresses cannot tell: one database has several (a pooler, a socket, another name), and a copy of its disk has the same
system identifier. A server has started at one microsecond, which every role may ask for.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from reprieve.models.errors import ReprieveError
from reprieve.stores.statements import Executor

#: The tables that a new run is written to; and what is read of a run that was there before.
WRITTEN = ("runs", "run_specs", "run_events")
READ = (*WRITTEN, "run_attempts")


def _listed(tables: Iterable[str]) -> str:
    return ", ".join(f"'{table}'" for table in tables)


_SERVER = "CAST(extract(epoch FROM pg_postmaster_start_time()) * 1000000 AS bigint)"
_DATABASE = "(SELECT CAST(oid AS bigint) FROM pg_database WHERE datname = current_database())"

# ours: where a connection of our own is, and the schema in which it finds our tables.
OURS = f"""
SELECT {_SERVER} AS server, {_DATABASE} AS database,
    (SELECT CAST(n.nspname AS text) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = to_regclass('runs')) AS schema
"""  # noqa: S608 - our own words

# theirs: where a caller's connection is, and whether its role may add runs to our tables there. It cannot fail, which
# would abort the caller's transaction: a catalogue is read by everybody, and what is not there is null.
THEIRS = f"""
SELECT {_SERVER} AS server, {_DATABASE} AS database, CAST(current_user AS text) AS role,
    (SELECT bool_and(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
        AND (has_table_privilege(c.oid, 'INSERT') OR c.relname NOT IN ({_listed(WRITTEN)})))
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = :schema AND c.relname IN ({_listed(READ)})) AS may_add
"""  # noqa: S608 - our own words


@dataclass(frozen=True, slots=True)
class Location:
    """A running server, by the microsecond of its start, a database of it, and the schema of our tables there."""

    server: int
    database: int
    schema: str


#: What our own way to the database has led to, for as long as somebody holds it.
_ours: "WeakKeyDictionary[Executor, Location]" = WeakKeyDictionary()


def our_location(ours: Executor, *, anew: bool = False) -> Location:
    """Where our own connections find our tables, asked once; raises `ReprieveError` where there are none."""
    if anew or ours not in _ours:
        (row,) = ours.run(OURS)
        if row.schema is None:
            raise ReprieveError("Reprieve's tables are not in its database yet; run `reprieve migrate`.")
        _ours[ours] = Location(row.server, row.database, row.schema)
    return _ours[ours]


def is_at(theirs: Executor, location: Location) -> tuple[bool, str | None]:
    """Whether a caller's connection is there; and its role, if that may not add runs."""
    (row,) = theirs.run(THEIRS, {"schema": location.schema})
    return (row.server, row.database) == (location.server, location.database), None if row.may_add else row.role
