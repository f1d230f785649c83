"""The fleet's events in the order of their ids, as far as nobody can still write one in between.

An event gets its id when it is written, and is seen when its transaction commits: one that commits late has a lower id
than others that were seen before. A reader that goes on by id would never see it. So events are read up to an id below
which all transactions that may have taken one are over. A transaction holds a lock on the table from before it takes an
id until it is visible to all, or has been rolled back; so it is either among the holders of that lock, or over. Others,
which write no event, are not waited for, however long they last.
"""

from sqlalchemy import text

from reprieve.models.records import FleetEvent
from reprieve.stores.database import Database

NEWEST = text("SELECT coalesce(max(id), 0) FROM run_events")

# writers: transactions that may have taken an id, and are not over. A prepared transaction is one of them.
WRITERS = text("""
SELECT DISTINCT virtualtransaction FROM pg_locks
WHERE locktype = 'relation' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND relation = CAST('run_events' AS regclass) AND mode = 'RowExclusiveLock' AND granted
""")

PAGE = text("""
SELECT id, run_id, at, attempt, kind, detail FROM run_events WHERE id > :after AND id <= :up_to ORDER BY id LIMIT :limit
""")


class Settled:
    """Up to which id events are complete. Not thread-safe: one asks, again and again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._next: int | None = None
        self._waited_for: set[str] = set()
        self._up_to: int | None = None

    def look(self) -> int | None:
        """The id up to which each event is visible by now, or will never be there; None while that is not known."""
        with self._database.at_once() as connection:  # Each statement sees what was committed before it.
            newest = int(connection.execute(NEWEST).scalar_one()) if self._next is None else None
            writers = set(connection.execute(WRITERS).scalars())
        if newest is not None:
            self._next, self._waited_for = newest, writers
        else:
            self._waited_for &= writers
        if not self._waited_for and self._next is not None:
            self._up_to, self._next = max(self._up_to or 0, self._next), None
        return self._up_to


def events_between(database: Database, after: int, up_to: int, limit: int) -> list[FleetEvent]:
    """Events of all runs with an id above `after`, and up to another one, in order."""
    rows = database.run(PAGE, {"after": after, "up_to": up_to, "limit": limit})
    return [FleetEvent.model_validate(row) for row in rows]
