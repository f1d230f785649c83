"""Deadlines of runs that wait: by when they must have begun."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text

from reprieve.models.work import Fence
from reprieve.stores.database import Database

# late to start: what waits still, and was to have begun by now. No worker takes it any more (`CLAIMABLE`).
LATE_TO_START = text("""
SELECT id, epoch, start_by FROM runs
WHERE status = 'queued' AND start_by IS NOT NULL AND start_by < clock_timestamp() AND attempt = 0
ORDER BY start_by LIMIT :limit
""")


class LateToStart(NamedTuple):
    """A run that has not begun by the time by which it was to."""

    fence: Fence
    start_by: datetime


class DeadlineStore:
    """Deadlines in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def late_to_start(self, limit: int) -> list[LateToStart]:
        """The runs that wait and were to have begun, the longest late first."""
        rows = self._database.run(LATE_TO_START, {"limit": limit})
        return [LateToStart(Fence(row.id, row.epoch), row.start_by) for row in rows]
