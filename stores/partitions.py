"""The days of the hot tier: a partition of `log_segments` for the runs of each day.

A run's id begins with the time at which it was enqueued (UUID version 7), so a day is a range of ids, and what a day's
runs have printed lies together. Closing a large log, and the retention of a small one, delete segments row by row; what
that leaves behind in the table is given back to the disk when the emptied partition of a day is dropped. Rows for which
there is no partition yet are kept in the default one: correct, only not as cheap to remove.
"""

import logging
import re
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from reprieve.models.faults import sqlstate_of
from reprieve.stores.database import Database

logger = logging.getLogger(__name__)

#: Days for which partitions exist in advance: the daily task may fail for that long.
DAYS_AHEAD = 7
#: Days for which an empty partition is kept: clocks of those who enqueue may differ.
DAYS_KEPT = 2

#: SQLSTATEs of what keeps a partition from being made or dropped just now: rows of its day in the default one, a table
#: that is busy (also with a deadlock), one that another has just made or dropped, a statement that took too long.
_IN_THE_WAY = ("23514", "55P03", "40P01", "42P07", "42P17", "42P01", "57014")

_NAME = re.compile(r"log_segments_(\d{8})")


def first_id(day: date) -> UUID:
    """The least of the ids that are made on a day or later."""
    return least_id(datetime(day.year, day.month, day.day, tzinfo=UTC))


def least_id(at: datetime) -> UUID:
    """The least of the ids that are made at a time or later."""
    return UUID(int=int(at.timestamp() * 1000) << 80)


def keep_partitions(database: Database) -> dict[str, int]:
    """Make the partitions of the days to come and drop the empty ones of days long gone; returns how many."""
    today = database.now().date()
    existing = _existing(database)
    wanted = [today + timedelta(days=ahead) for ahead in range(DAYS_AHEAD + 1)]
    made = sum(_make(database, day) for day in wanted if day not in existing)
    gone = [day for day in existing if day < today - timedelta(days=DAYS_KEPT)]
    dropped = sum(_drop_if_empty(database, day) for day in gone)
    return {"partitions_made": made, "partitions_dropped": dropped}


def _existing(database: Database) -> set[date]:
    query = text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'log_segments'::regclass")
    with database.begin() as connection:
        names = connection.execute(query).scalars().all()
    return {datetime.strptime(name[1], "%Y%m%d").date() for one in names if (name := _NAME.fullmatch(one))}


def _make(database: Database, day: date) -> bool:
    bounds = f"FROM ('{first_id(day)}') TO ('{first_id(day + timedelta(days=1))}')"
    statement = f"CREATE TABLE IF NOT EXISTS log_segments_{day:%Y%m%d} PARTITION OF log_segments FOR VALUES {bounds}"
    try:
        with database.begin() as connection:
            connection.execute(text(statement))
    except DBAPIError as error:
        # The default partition has rows of that day already (its runs began before this), or is busy.
        _may_wait(error, f"No partition for {day}")
        return False
    return True


def _drop_if_empty(database: Database, day: date) -> bool:
    name = f"log_segments_{day:%Y%m%d}"
    try:
        with database.begin() as connection:
            # Nobody may write between the look and the drop.
            connection.execute(text(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE"))
            if connection.execute(text(f"SELECT EXISTS (SELECT FROM {name})")).scalar():  # noqa: S608 - our own name
                return False
            connection.execute(text(f"DROP TABLE {name}"))
    except DBAPIError as error:
        _may_wait(error, f"{name} stays for now")
        return False
    return True


def _may_wait(error: DBAPIError, message: str) -> None:
    """Pass over what the next turn does: rows that are in the way, a table that is busy. Raises any other error."""
    if sqlstate_of(error) not in _IN_THE_WAY:
        raise error
    logger.info("%s: %s", message, str(error.orig).splitlines()[0])
