"""The removal of ended runs, with all that belongs to them: page after page of ids, which begin with the time.

A page is a range of ids. Its runs that are due and owe nothing are deleted; their specs, attempts, events, sparings and
tokens go with them, by their keys. Then goes what has no run in the tables that have no such key, and was left by these
runs, or by a page whose process died in between: the page is begun again until it is recorded as done.

Everything is deleted row by row. That costs what the rows cost when they were written, and leaves room that later
rows take: a table keeps the size of its retention. Daily partitions of the events would give their files back, as those
of the segments do. But with 400 of them, to write one event takes 1.6 times as long, to delete those of a run twice,
and to look at the last hour 2.7 times; and all that are there would be one partition, for years.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from reprieve.models.chunks import LogKey
from reprieve.models.extents import HOLDER_BELIEVED_FOR
from reprieve.models.retention import Ended, RetentionState
from reprieve.models.rows import (
    AttemptLog,
    LogArchive,
    LogQuarantine,
    LogSegment,
    Question,
    Row,
    Setback,
    Spooled,
)
from reprieve.stores.database import Database
from reprieve.stores.partitions import least_id

# page: the next runs, of whatever state.
PAGE = text("""
SELECT id, lane, finished_at FROM runs WHERE id > :after AND id < :before ORDER BY id LIMIT :limit
""")

# What an ended run owes, or is owed. Whoever adds a duty of runs adds it here: a run goes when nothing of this is left.
# Work whose host is lost ('waived') is waited for by nobody. The object of a log goes before the row that names it.
_OWES = """(
    EXISTS (SELECT FROM run_attempts a WHERE a.run_id = r.id AND (
        a.finished_at IS NULL OR a.log_closed_at IS NULL OR a.termination = 'owed' OR a.adoption = 'owed'))
    OR EXISTS (SELECT FROM log_archives v WHERE v.run_id = r.id AND v.object_key IS NOT NULL)
    OR EXISTS (SELECT FROM spooled h WHERE h.run_id = r.id AND h.seen_at > clock_timestamp() - :believed_for)
    OR EXISTS (SELECT FROM notices n WHERE n.run_id = r.id AND n.state = 'owed')
)"""

# objects: what these runs have in the log archive.
OBJECTS = text("""
SELECT run_id, attempt FROM log_archives WHERE run_id = ANY(CAST(:ids AS uuid[])) AND object_key IS NOT NULL
ORDER BY run_id, attempt
""")

# remove: those of these runs that have ended and owe nothing, as they are now.
REMOVE = text(f"""
WITH gone AS (
    SELECT r.id FROM runs r WHERE r.id = ANY(CAST(:ids AS uuid[])) AND r.finished_at IS NOT NULL AND NOT {_OWES}
    ORDER BY r.id FOR UPDATE OF r SKIP LOCKED
)
DELETE FROM runs r USING gone g WHERE r.id = g.id RETURNING r.id
""")  # noqa: S608 - our own text

#: The tables of runs that have no key to them.
WITHOUT_KEY: tuple[type[Row], ...] = (
    LogSegment,
    AttemptLog,
    LogArchive,
    LogQuarantine,
    Spooled,
    Setback,
    Question,
)

# left: rows of a table whose run is not there (any more), of a range of ids.
_LEFT = """
DELETE FROM {table} WHERE run_id > :after AND run_id <= :upto AND ({key}) IN (
    SELECT {key} FROM {table} t WHERE run_id > :after AND run_id <= :upto
    AND NOT EXISTS (SELECT FROM runs r WHERE r.id = t.run_id) LIMIT :limit)
"""
LEFT = [
    text(_LEFT.format(table=row.__tablename__, key=", ".join(row.__table__.primary_key.columns.keys())))  # type: ignore[attr-defined]
    for row in WITHOUT_KEY
]

# gone: those of these attempts whose run was there once: a younger one has been removed already.
GONE = text("""
SELECT k.run_id, k.attempt FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt)
JOIN retention t ON k.run_id <= t.removed_up_to
WHERE NOT EXISTS (SELECT FROM runs r WHERE r.id = k.run_id)
""")

# state: of a system that has never removed anything, too.
STATE = text("""
SELECT policy, done_until, kept_since, pass_began_at, removed, last_removed, last_kept, failing_since, failure
FROM retention
""")

# begin: a new pass, unless one is under way. Where it is turned on, nothing was due before.
BEGIN = text("""
INSERT INTO retention AS t (policy, done_until, pass_began_at) VALUES (:policy, clock_timestamp(), clock_timestamp())
ON CONFLICT (id) DO UPDATE
SET policy = EXCLUDED.policy,
    done_until = CASE WHEN t.policy IS NULL THEN clock_timestamp() ELSE t.done_until END,
    pass_began_at = coalesce(t.pass_began_at, clock_timestamp()),
    after = CASE WHEN t.pass_began_at IS NULL THEN t.begin_at ELSE t.after END
RETURNING t.after
""")

# record: a page is done.
RECORD = text("""
UPDATE retention
SET after = :upto, removed = removed + :removed, kept = kept + :kept,
    oldest_kept = least(oldest_kept, CAST(:oldest_kept AS timestamptz)),
    first_left = coalesce(first_left, CAST(:first_left AS uuid)),
    removed_up_to = greatest(removed_up_to, CAST(:removed_up_to AS uuid))
""")

LEFT_AND_AFTER = text("SELECT first_left, after FROM retention")

# complete: the pass is over. The next one begins at the first id. After one that has removed many, it begins at the
# first run that this one left: until the table is vacuumed, whoever begins before that reads all that is dead.
COMPLETE = text("""
UPDATE retention
SET done_until = pass_began_at, kept_since = oldest_kept, last_removed = removed, last_kept = kept,
    begin_at = CASE WHEN removed > :many THEN CAST(:begin_at AS uuid) ELSE CAST(:zero AS uuid) END,
    after = CAST(:zero AS uuid), pass_began_at = NULL, removed = 0, kept = 0, oldest_kept = NULL, first_left = NULL,
    failing_since = NULL, failure = NULL
""")

FAIL = text("""
INSERT INTO retention AS t (policy, done_until, failing_since, failure)
VALUES (:policy, clock_timestamp(), clock_timestamp(), :failure)
ON CONFLICT (id) DO UPDATE
SET failing_since = coalesce(t.failing_since, EXCLUDED.failing_since), failure = EXCLUDED.failure
""")

WELL = text("UPDATE retention SET failing_since = NULL, failure = NULL WHERE failing_since IS NOT NULL")

TURN_OFF = text("""
UPDATE retention
SET policy = NULL, kept_since = NULL, pass_began_at = NULL, removed = 0, kept = 0, oldest_kept = NULL,
    first_left = NULL, failing_since = NULL, failure = NULL
WHERE policy IS NOT NULL
""")

#: Rows without a run that are deleted in one statement.
LEFT_AT_ONCE = 5_000
#: Runs that a pass removed after which the next does not begin at the first id.
MANY_REMOVED = 50_000

ZERO = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Look:
    """The next runs up to an id, and the database's clock. The last look has all that may be due."""

    runs: Sequence[Ended]
    upto: UUID
    is_last: bool
    now: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """What was done with a page of runs; `upto` is the last id of it, `first_left` the first run that stays."""

    upto: UUID
    is_last: bool
    removed: Collection[UUID]
    kept: Sequence[datetime]
    """When those were due that stay since something is owed to them."""
    first_left: UUID | None


class RetentionStore:
    """Ended runs that are to go, and how far that is."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- runs

    def look(self, after: UUID, shortest: timedelta, limit: int) -> Look:
        """The next runs that may be due: a run is enqueued before it ends."""
        now = self._database.now()
        before = least_id(now - shortest)
        rows = self._database.run(PAGE, {"after": after, "before": before, "limit": limit})
        runs = [Ended(row.id, row.lane, row.finished_at) for row in rows]
        is_last = len(runs) < limit
        return Look(runs, max(after, UUID(int=before.int - 1)) if is_last else runs[-1].id, is_last, now)

    def objects(self, runs: Collection[UUID]) -> list[LogKey]:
        """The logs of these runs that have an object in the archive."""
        rows = self._database.run(OBJECTS, {"ids": list(map(str, runs))})
        return [(row.run_id, row.attempt) for row in rows]

    def remove(self, runs: Sequence[UUID]) -> set[UUID]:
        """Delete those of these runs that have ended and owe nothing, at once; returns them."""
        values = {"ids": [str(run_id) for run_id in sorted(runs)], "believed_for": HOLDER_BELIEVED_FOR}
        return {row.id for row in self._database.run(REMOVE, values)}

    def remove_what_is_left(self, after: UUID, upto: UUID, renew: Callable[[], None]) -> None:
        """Delete what has no run, of the ids after one and up to another; `renew` is called again and again."""
        for statement in LEFT:
            values = {"after": after, "upto": upto, "limit": LEFT_AT_ONCE}
            deleted = LEFT_AT_ONCE
            while deleted == LEFT_AT_ONCE:
                with self._database.begin() as connection:
                    deleted = connection.execute(statement, values).rowcount
                renew()

    # -- how far it is

    def state(self) -> RetentionState | None:
        """None of a system that has never been told to remove runs."""
        for row in self._database.run(STATE):
            return RetentionState(**row._mapping)
        return None

    def begin(self, policy: str) -> UUID:
        """Begin a pass, or go on with the one that is under way; returns the id after which it does."""
        after: UUID = self._database.run(BEGIN, {"policy": policy})[0].after
        return after

    def record(self, page: Page) -> None:
        """A page is done."""
        values: dict[str, Any] = {
            "upto": page.upto,
            "removed": len(page.removed),
            "kept": len(page.kept),
            "oldest_kept": min(page.kept, default=None),
            "first_left": page.first_left,
            "removed_up_to": max(page.removed, default=None),
        }
        self._database.run(RECORD, values)

    def complete(self) -> None:
        """All runs were looked at."""
        row = self._database.run(LEFT_AND_AFTER)[0]
        # A page begins after an id: here, the one before the first that is left.
        begin_at = UUID(int=row.first_left.int - 1) if row.first_left else row.after
        self._database.run(COMPLETE, {"many": MANY_REMOVED, "begin_at": begin_at, "zero": ZERO})

    def failed(self, policy: str, failure: str) -> None:
        """It has failed; it stays so until it does not."""
        self._database.run(FAIL, {"policy": policy, "failure": failure})

    def well(self) -> None:
        self._database.run(WELL)

    def turn_off(self) -> None:
        """No run is removed from now on."""
        self._database.run(TURN_OFF)
