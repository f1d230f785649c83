"""Ended runs as rows say, each as one value: for whoever wants to keep elsewhere what a retention is to remove."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from reprieve.stores.database import Database
from reprieve.stores.partitions import least_id

#: Runs that are read in one statement.
PAGE = 100

# page: runs that ended before a time, after an id, with all that belongs to them. Columns come as they are called.
PAGE_OF_RUNS = text("""
SELECT r.id, jsonb_build_object(
    'run', to_jsonb(r),
    'spec', (SELECT to_jsonb(s) - 'run_id' FROM run_specs s WHERE s.run_id = r.id),
    'attempts', coalesce((
        SELECT jsonb_agg(to_jsonb(a) - 'run_id' ORDER BY a.attempt) FROM run_attempts a WHERE a.run_id = r.id), '[]'),
    'events', coalesce((
        SELECT jsonb_agg(to_jsonb(e) - 'run_id' ORDER BY e.id) FROM run_events e WHERE e.run_id = r.id), '[]'),
    'sparings', coalesce((
        SELECT jsonb_agg(to_jsonb(p) - 'run_id' ORDER BY p.first_at) FROM sparings p WHERE p.run_id = r.id), '[]'),
    'reports', coalesce((
        SELECT jsonb_agg(to_jsonb(q) - 'run_id' ORDER BY q.attempt) FROM run_reports q WHERE q.run_id = r.id), '[]'),
    'logs', coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'attempt', l.attempt, 'stored', l.stored, 'object', v.object_key, 'bytes', v.size, 'sha256', v.sha256,
            'gaps', v.gaps, 'removed_at', v.removed_at) ORDER BY l.attempt)
        FROM attempt_logs l LEFT JOIN log_archives v USING (run_id, attempt) WHERE l.run_id = r.id), '[]')
) AS everything
FROM (SELECT * FROM runs WHERE id > :after AND id < :upto ORDER BY id LIMIT :limit) r
ORDER BY r.id
""")


class Export:
    """Everything that the rows have of ended runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def runs(self, before: datetime) -> Iterator[dict[str, Any]]:
        """The runs that ended before a time, the oldest first, a page at a time. What goes meanwhile is left out."""
        after = UUID(int=0)
        while True:
            values = {"after": after, "upto": least_id(before), "limit": PAGE}
            rows = self._database.run(PAGE_OF_RUNS, values)
            for row in rows:
                ended = row.everything["run"]["finished_at"]
                if ended and datetime.fromisoformat(ended) < before:
                    yield row.everything
            if len(rows) < PAGE:
                return
            after = rows[-1].id
