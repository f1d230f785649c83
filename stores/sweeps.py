"""What the reaper reads and remembers: its watch, the suspects, and the lock that makes a sweep single-flight."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import text

from models.reaping import Suspect, Watch
from stores.database import Database

# suspect ids: running runs that are silent or overdue. One pass over the running runs in whatever order is cheapest:
# in the order of an index, a million rows would be fetched one by one.
SUSPECT_IDS = text("""
SELECT r.id FROM runs r
WHERE r.status = 'running' AND (r.updated_at < :cutoff OR :now - r.started_at > r.max_runtime)
""")

# suspects: a page of them, as they are by now. Narrow on purpose: no config, handle or outcome.
SUSPECTS = text("""
SELECT r.id AS run_id, r.epoch, r.attempt, r.max_attempts, r.out_of_process_liveness,
       r.started_at, r.max_runtime, r.updated_at, r.last_proof, a.worker_node
FROM runs r LEFT JOIN run_attempts a ON a.run_id = r.id AND a.attempt = r.attempt
WHERE r.id = ANY(CAST(:ids AS uuid[])) AND r.status = 'running'
  AND (r.updated_at < :cutoff OR :now - r.started_at > r.max_runtime)
ORDER BY r.id
""")

LAST_WATCH = text("SELECT watching_since AS since, last_sweep_at, window_length AS window FROM reaper_watch")

NOTE_WATCH = text("""
INSERT INTO reaper_watch (id, watching_since, last_sweep_at, window_length)
VALUES (1, :since, :last_sweep_at, :window)
ON CONFLICT (id) DO UPDATE
SET watching_since = :since, last_sweep_at = :last_sweep_at, window_length = :window
""")

COMPLETE = text("""
UPDATE reaper_watch SET last_completed_at = clock_timestamp(), last_report = CAST(:report AS jsonb)
""")


class SweepStore:
    """The reaper's reading and memory."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def single_flight(self) -> AbstractContextManager[bool]:
        """True for one sweep at a time, on whatever server; False for every other."""
        return self._database.single_flight("reaper.sweep")

    def last_watch(self) -> Watch | None:
        with self._database.begin() as connection:
            row = connection.execute(LAST_WATCH).one_or_none()
        return Watch(**row._mapping) if row else None

    def note_watch(self, watch: Watch) -> None:
        with self._database.begin() as connection:
            connection.execute(NOTE_WATCH, asdict(watch))

    def complete(self, report_json: str) -> None:
        """Remember that a sweep came to its end, and what it did."""
        with self._database.begin() as connection:
            connection.execute(COMPLETE, {"report": report_json})

    def suspects(self, cutoff: datetime, now: datetime, page_size: int) -> Iterator[list[Suspect]]:
        """Pages of suspects in order of id; each page is read when it is asked for."""
        moment: dict[str, Any] = {"cutoff": cutoff, "now": now}
        with self._database.begin() as connection:
            ids = sorted(connection.execute(SUSPECT_IDS, moment).scalars())
        for start in range(0, len(ids), page_size):
            page = [str(run_id) for run_id in ids[start : start + page_size]]
            with self._database.begin() as connection:
                suspects = [Suspect(**row._mapping) for row in connection.execute(SUSPECTS, moment | {"ids": page})]
            yield suspects
