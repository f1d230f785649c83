"""How far the logs of runs are, as rows say."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import text

from reprieve.models.errors import RunNotFound
from reprieve.models.extents import HOLDER_BELIEVED_FOR, Extent, Extents
from reprieve.models.sequences import SeqRanges
from reprieve.models.status import Status
from reprieve.stores.database import Database

# extents: how far the logs of these runs are, attempt by attempt or of one attempt alone, and whether more is to come.
EXTENTS = text("""
SELECT r.id, r.status, r.attempt AS current, a.attempt, a.last_seq, a.log_closed_at IS NOT NULL AS is_closed,
       clock_timestamp() - a.finished_at AS ended_for, CAST(l.stored AS text) AS stored,
       CAST((SELECT range_agg(int8range(q.first_seq, q.last_seq, '[]')) FROM log_quarantine q
             WHERE q.run_id = r.id AND q.attempt = a.attempt) - coalesce(l.stored, '{}') AS text) AS aside,
       (SELECT CAST(int8range(min(h.from_seq), max(h.to_seq), '[]') AS text) FROM spooled h
        WHERE h.run_id = r.id AND h.attempt = a.attempt AND h.seen_at > clock_timestamp() - :believed_for
        HAVING count(*) > 0) AS held,
       CAST(v.held AS text) AS archived, v.removed_at IS NOT NULL AS is_removed
FROM runs r
LEFT JOIN run_attempts a ON a.run_id = r.id AND (CAST(:attempt AS int) IS NULL OR a.attempt = :attempt)
LEFT JOIN attempt_logs l ON l.run_id = r.id AND l.attempt = a.attempt
LEFT JOIN log_archives v ON v.run_id = r.id AND v.attempt = a.attempt
WHERE r.id = ANY(CAST(:ids AS uuid[]))
""")


def extents(database: Database, run_ids: Iterable[UUID], attempt: int | None = None) -> dict[UUID, Extents]:
    """How far the logs of these runs are, in one statement for all of them. A run that is not known is left out.

    All attempts of each, or only `attempt`.
    """
    found: dict[UUID, Extents] = {}
    logs: dict[UUID, dict[int, Extent]] = {}
    with database.begin() as connection:
        wanted = {"ids": [str(run_id) for run_id in run_ids], "attempt": attempt, "believed_for": HOLDER_BELIEVED_FOR}
        for row in connection.execute(EXTENTS, wanted):
            of_run = logs.setdefault(row.id, {})
            found[row.id] = Extents(Status(row.status), row.current, of_run)
            if row.attempt is not None:
                of_run[row.attempt] = _extent(row)
    return found


def extents_of(database: Database, run_id: UUID, attempt: int | None = None) -> Extents:
    """How far the logs of a run are, of all attempts or of one; raises `RunNotFound`."""
    found = extents(database, [run_id], attempt).get(run_id)
    if found is None:
        raise RunNotFound(f"There is no run {run_id}.")
    return found


def extent_of(database: Database, run_id: UUID, attempt: int) -> Extent:
    """How far the log of an attempt is; raises `RunNotFound`."""
    found = extents_of(database, run_id, attempt).of.get(attempt)
    if found is None:
        raise RunNotFound(f"There is no attempt {attempt} of run {run_id}.")
    return found


def _extent(row: Any) -> Extent:
    return Extent(
        ended_for=row.ended_for,
        last_seq=row.last_seq,
        stored=SeqRanges.from_multirange(row.stored),
        aside=SeqRanges.from_multirange(row.aside),
        held=next(iter(SeqRanges.from_multirange(row.held)), None),
        archived=None if row.archived is None else SeqRanges.from_multirange(row.archived),
        is_removed=row.is_removed,
        is_closed=row.is_closed,
    )
