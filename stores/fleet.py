"""The fleet at a glance: how many runs there are of each kind, and how long the quietest has been silent."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import text

from stores.database import Database

# active: what is under way, by the partial indexes of it; never the runs that have ended.
ACTIVE = text("""
SELECT status, adapter, count(*) AS runs, max(clock_timestamp() - updated_at) AS longest_silence
FROM runs WHERE status IN ('queued', 'running') GROUP BY status, adapter ORDER BY status, adapter
""")


@dataclass(frozen=True, slots=True)
class Active:
    """The runs of one adapter that are queued, or running; of those that run, the age of the oldest proof of life."""

    status: str
    adapter: str
    runs: int
    longest_silence: timedelta


class FleetStore:
    """Counts, read from the rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def active(self) -> list[Active]:
        with self._database.begin() as connection:
            return [Active(**row._mapping) for row in connection.execute(ACTIVE)]
