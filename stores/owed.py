"""Setbacks: owed work that failed, and when it is tried next (`models.owed`). One place for every duty."""

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import text

from reprieve.models.chunks import LogKey
from reprieve.models.owed import MAX_REASON, NO_ANSWER, Backlog, Duty, Failing
from reprieve.models.work import storable
from reprieve.stores.arrays import key_arrays
from reprieve.stores.database import Database

# try: these items are about to be tried. It is written before the try, so that an item that hangs, or that kills its
# process, still goes behind the others, and other processes leave it alone meanwhile.
TRY = text("""
INSERT INTO setbacks AS s (duty, run_id, attempt, tries, reason, next_try_at)
SELECT :duty, k.run_id, k.attempt, 1, :reason, clock_timestamp() + :first_pause
FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt)
ORDER BY k.run_id, k.attempt
ON CONFLICT (duty, run_id, attempt) DO UPDATE
SET tries = s.tries + 1, next_try_at = clock_timestamp() + least(
        CAST(:longest_pause AS interval), CAST(:first_pause AS interval) * power(2, least(s.tries, 30)))
WHERE s.next_try_at <= clock_timestamp()
RETURNING run_id, attempt
""")

FAIL = text("""
UPDATE setbacks SET reason = :reason
WHERE duty = :duty AND run_id = :run_id AND attempt = :attempt
""")

DONE = text("""
DELETE FROM setbacks s USING unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt)
WHERE s.duty = :duty AND s.run_id = k.run_id AND s.attempt = k.attempt
""")

# A setback of work that is no longer owed means nothing: it was done elsewhere, or the run has ended.
_OWED_STILL = """CASE s.duty
    WHEN 'retention' THEN EXISTS (SELECT FROM runs r WHERE r.id = s.run_id)
    ELSE EXISTS (
        SELECT FROM run_attempts a LEFT JOIN log_archives v USING (run_id, attempt)
        WHERE a.run_id = s.run_id AND a.attempt = s.attempt AND CASE s.duty
            WHEN 'closing' THEN a.log_closed_at IS NULL
            WHEN 'removal' THEN v.run_id IS NOT NULL AND v.removed_at IS NULL
            WHEN 'termination' THEN a.termination IN ('owed', 'waived')
            ELSE a.adoption = 'owed' END) END"""

TIDY = text(f"DELETE FROM setbacks s WHERE NOT {_OWED_STILL}")  # noqa: S608 - our own text

OF_RUN = text(f"""
SELECT duty, run_id, attempt, tries, reason, since, next_try_at FROM setbacks s
WHERE run_id = :run_id AND {_OWED_STILL} ORDER BY attempt, duty
""")  # noqa: S608 - our own text

# backlogs: by duty, how much fails; the reason is that of the item that was tried last.
BACKLOGS = text(f"""
SELECT duty, count(*) AS items, clock_timestamp() - min(since) AS oldest,
       (array_agg(reason ORDER BY next_try_at DESC))[1] AS reason
FROM setbacks s WHERE {_OWED_STILL} GROUP BY duty ORDER BY duty
""")  # noqa: S608 - our own text


class Setbacks:
    """Remembers what failed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, duty: Duty, items: Iterable[LogKey]) -> set[LogKey]:
        """Those of these items that may be tried now; until they are `done`, they count as failed."""
        values = key_arrays(items)
        if not values["ids"]:
            return set()
        pauses = {"first_pause": duty.first_pause, "longest_pause": duty.longest_pause}
        rows = self._database.run(TRY, values | pauses | {"duty": duty.value, "reason": NO_ANSWER})
        return {(row.run_id, row.attempt) for row in rows}

    def failed(self, duty: Duty, item: LogKey, reason: str) -> None:
        """Record why the try that was begun has failed."""
        values = {"duty": duty.value, "run_id": item[0], "attempt": item[1], "reason": storable(reason)[:MAX_REASON]}
        self._database.run(FAIL, values)

    def done(self, duty: Duty, items: Iterable[LogKey]) -> None:
        """These are not owed any more, or only have to wait: none of them has failed."""
        values = key_arrays(items)
        if values["ids"]:
            self._database.run(DONE, values | {"duty": duty.value})

    def tidy(self) -> int:
        """Delete the setbacks of work that is no longer owed; returns how many."""
        with self._database.begin() as connection:
            return connection.execute(TIDY).rowcount

    def of_run(self, run_id: UUID) -> list[Failing]:
        """What fails of the work that is owed to a run."""
        rows = self._database.run(OF_RUN, {"run_id": run_id})
        return [Failing(**(dict(row._mapping) | {"duty": Duty(row.duty)})) for row in rows]

    def backlogs(self) -> list[Backlog]:
        """How much fails, by duty."""
        return [Backlog(**(dict(row._mapping) | {"duty": Duty(row.duty)})) for row in self._database.run(BACKLOGS)]

    def complaints(self) -> list[str]:
        """What has been failing for a while, a sentence for each duty."""
        return [backlog.sentence for backlog in self.backlogs() if backlog.is_told]
