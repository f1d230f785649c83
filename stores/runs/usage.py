"""What runs have used, added up. It reads a bounded number of runs, and says where there were more."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from reprieve.models.records import UsageGroup, UsageSummary
from reprieve.models.usage import MOST_GROUPS, MOST_LISTED, MOST_RUNS, Grouping
from reprieve.stores.database import Database
from reprieve.stores.partitions import least_id
from reprieve.stores.runs.lists import CLOCKS_DIFFER

# usage: of the newest runs since a time, by what they have in common. The time that an attempt has taken so far, and
# what it has said, count while it is under way; what was measured of it, once it has ended. The names of a group that
# most attempts have used are listed.
USAGE = """
WITH found AS MATERIALIZED (
    SELECT r.id, r.created_at, {key} AS key FROM runs r {join}
    WHERE r.id >= :first AND r.created_at >= :since ORDER BY r.id DESC LIMIT :most_runs + 1
), looked AS MATERIALIZED (
    SELECT * FROM found ORDER BY id DESC LIMIT :most_runs
), groups AS (
    SELECT l.key, count(DISTINCT l.id) AS runs, count(a.attempt) AS attempts,
           coalesce(sum(extract(epoch FROM coalesce(a.finished_at, now()) - a.started_at)), 0) AS wall_seconds,
           sum(a.cpu_seconds) AS cpu_seconds, max(a.peak_memory) AS peak_memory
    FROM looked l LEFT JOIN run_attempts a ON a.run_id = l.id GROUP BY l.key
), listed AS (
    SELECT *, count(*) OVER () AS found FROM groups ORDER BY runs DESC, key LIMIT :most_groups
), used AS (
    SELECT l.key, u.name, sum(CAST(u.number AS numeric)) AS total,
           row_number() OVER (PARTITION BY l.key ORDER BY count(*) DESC, u.name) AS place
    FROM looked l JOIN run_reports p ON p.run_id = l.id CROSS JOIN LATERAL jsonb_each_text(p.usage) AS u (name, number)
    GROUP BY l.key, u.name
), named AS (
    SELECT key, jsonb_object_agg(name, total) FILTER (WHERE place <= :most_names) AS usage, count(*) AS names
    FROM used GROUP BY key
)
SELECT g.key, g.runs, g.attempts, CAST(g.wall_seconds AS float) AS wall_seconds, g.cpu_seconds, g.peak_memory, g.found,
       n.usage, n.names,
       (SELECT count(*) FROM found) <= :most_runs AS is_whole, (SELECT min(created_at) FROM looked) AS oldest
FROM listed g LEFT JOIN named n ON n.key IS NOT DISTINCT FROM g.key ORDER BY g.runs DESC, g.key
"""


class UsageStore:
    """Sums over runs."""

    def __init__(self, database: Database, most_runs: int = MOST_RUNS) -> None:
        self._database, self._most_runs = database, most_runs

    def since(self, since: datetime, by: str) -> UsageSummary:
        """What the runs used that were asked for since then. Raises `InvalidRequest` for what they cannot be put by."""
        grouping = Grouping.of(by)
        # A column is one of three names of ours; a label's name is a value.
        key = f"r.{grouping.column}" if grouping.column else "s.labels ->> :label"
        join = "" if grouping.column else "JOIN run_specs s ON s.run_id = r.id"
        values = {
            "first": _first_id(since),
            "since": since,
            "most_runs": self._most_runs,
            "most_groups": MOST_GROUPS,
            "most_names": MOST_LISTED,
        }
        label = {} if grouping.label is None else {"label": grouping.label}
        rows = self._database.run(text(USAGE.format(key=key, join=join)), values | label)
        is_whole = not rows or rows[0].is_whole
        groups = [
            UsageGroup(
                group=row.key,
                runs=row.runs,
                attempts=row.attempts,
                wall_seconds=row.wall_seconds,
                cpu_seconds=row.cpu_seconds,
                peak_memory_bytes=row.peak_memory,
                usage=row.usage or {},
                unlisted_names=max(0, (row.names or 0) - MOST_LISTED),
            )
            for row in rows
        ]
        return UsageSummary(
            by=by,
            since=since if is_whole else rows[0].oldest,
            complete=is_whole,
            groups=groups,
            unlisted_groups=rows[0].found - len(rows) if rows else 0,
        )


def _first_id(since: datetime) -> UUID:
    """The least id of a run that was asked for since then: the clocks of those who ask may differ."""
    try:
        return least_id(since - CLOCKS_DIFFER)
    except (OverflowError, ValueError):
        return UUID(int=0)
