"""Claims: a worker starts the next attempts of queued runs, or gives back one that began nothing."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from reprieve.models.places import Room
from reprieve.models.work import Fence, Work
from reprieve.stores.database import Database
from reprieve.stores.runs.conditions import CLAIMABLE, DRAINED

# waiting: the queued runs that were asked for first, as many of each group of adapters as there is room for. What
# another worker is claiming just now is passed over. A worker that is drained gets none. With an equality, PostgreSQL
# would take the order for that of the ids alone, and read all runs of all adapters in it; so it reads `runs_waiting`.
WAITING = f"""
SELECT w.id FROM jsonb_to_recordset(CAST(:rooms AS jsonb)) AS g (adapters text[], runs int)
CROSS JOIN LATERAL (
    SELECT q.id FROM unnest(g.adapters) AS n (adapter)
    CROSS JOIN LATERAL (
        SELECT r.id FROM runs r
        WHERE r.adapter BETWEEN n.adapter AND n.adapter AND {CLAIMABLE} AND r.attempt < r.max_attempts
        ORDER BY r.adapter, r.id LIMIT g.runs FOR NO KEY UPDATE SKIP LOCKED) q
    ORDER BY q.id LIMIT g.runs) w
WHERE NOT EXISTS (SELECT FROM workers w WHERE w.id = :worker_id AND {DRAINED})
"""  # noqa: S608 - our own text

# claim: start the next attempts of the runs that a statement has chosen, and locked.
CLAIM = """
WITH chosen AS MATERIALIZED ({chosen}), claimed AS (
    UPDATE runs r
    SET status = 'running', attempt = r.attempt + 1, epoch = r.epoch + 1,
        started_at = clock_timestamp(), updated_at = clock_timestamp(), last_proof = 'claim',
        output_at = NULL, quiet_at = NULL, longest_silence = NULL
    -- As an array, which is taken for a short one. Of a subquery it is not known that it is: all runs would be read.
    WHERE r.id = ANY (ARRAY(SELECT id FROM chosen))
    RETURNING r.id, r.attempt, r.max_attempts, r.epoch, r.adapter, r.max_runtime
), opened AS (
    INSERT INTO run_attempts (run_id, attempt, epoch, worker_node, worker_id)
    SELECT id, attempt, epoch, :worker_node, :worker_id FROM claimed
), told AS (
    INSERT INTO run_events (run_id, attempt, kind, detail)
    SELECT id, attempt, 'claimed', jsonb_build_object('worker_node', CAST(:worker_node AS text)) FROM claimed
)
SELECT c.*, s.config, s.labels, s.trace_parent FROM claimed c JOIN run_specs s ON s.run_id = c.id ORDER BY c.id
"""
CLAIM_WAITING = text(CLAIM.format(chosen=WAITING))

# lacks: which of these queued runs wait for an adapter that this worker lacks. An event says so, once for each attempt.
LACKS = text("""
WITH lacking AS (
    SELECT id, attempt, adapter FROM runs
    WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'queued' AND adapter <> ALL(CAST(:adapters AS text[]))
), told AS (
    INSERT INTO run_events (run_id, attempt, kind, detail)
    SELECT id, attempt, 'noted', jsonb_build_object(
        'lacking', adapter, 'note', 'Waits for a worker that has the adapter ' || quote_literal(adapter) || '; worker '
        || CAST(:worker_node AS text) || ' has not.')
    FROM lacking l
    WHERE NOT EXISTS (SELECT FROM run_events e
                      WHERE e.run_id = l.id AND e.attempt = l.attempt AND e.kind = 'noted' AND e.detail ? 'lacking')
)
SELECT id, adapter FROM lacking
""")

# unfollowed: what this worker claimed some time ago and has recorded nothing of. It follows some of these; for the
# rest, the answer to its claim was lost on the way.
UNFOLLOWED = text("""
SELECT r.id, r.epoch FROM run_attempts a JOIN runs r ON r.id = a.run_id AND r.attempt = a.attempt
WHERE a.worker_id = :worker_id AND a.finished_at IS NULL AND a.handle IS NULL AND a.process_pid IS NULL
  AND r.status = 'running' AND r.epoch = a.epoch AND r.started_at < clock_timestamp() - :claimed_before
""")

# take back: an attempt that began nothing. Its number is used again, so nothing may carry it: no work that was
# recorded, and no output. Run before attempt, the order in which an end locks them. The wait doubles with each time
# that this attempt was taken back.
TAKE_BACK = text("""
WITH mine AS (
    SELECT id, attempt FROM runs
    WHERE id = :run_id AND epoch = :epoch AND status = 'running' FOR NO KEY UPDATE
), nothing AS (
    SELECT a.run_id, a.attempt FROM run_attempts a JOIN mine m ON m.id = a.run_id AND m.attempt = a.attempt
    WHERE a.epoch = :epoch AND a.finished_at IS NULL AND a.handle IS NULL AND a.process_pid IS NULL
      AND NOT EXISTS (SELECT FROM attempt_logs l WHERE l.run_id = a.run_id AND l.attempt = a.attempt)
      AND NOT EXISTS (SELECT FROM log_quarantine q WHERE q.run_id = a.run_id AND q.attempt = a.attempt)
    FOR UPDATE OF a
), waits AS (
    SELECT n.*, :wait * power(2, least(:doublings, (
        SELECT count(*) FROM run_events e
        WHERE e.run_id = n.run_id AND e.attempt = n.attempt AND e.kind = 'noted' AND e.detail ? 'taken_back'
    ))) AS seconds FROM nothing n
), taken_back AS (
    UPDATE runs r
    SET status = 'queued', attempt = r.attempt - 1, sends = 0, updated_at = clock_timestamp(),
        started_at = (SELECT p.started_at FROM run_attempts p WHERE p.run_id = r.id AND p.attempt = r.attempt - 1),
        not_before = clock_timestamp() + w.seconds * interval '1 s'
    FROM waits w WHERE r.id = w.run_id
    RETURNING r.id
), gone AS (
    DELETE FROM run_attempts a USING nothing n WHERE a.run_id = n.run_id AND a.attempt = n.attempt
), told AS (
    INSERT INTO run_events (run_id, attempt, kind, detail)
    SELECT run_id, attempt, 'noted', jsonb_build_object('taken_back', true, 'note', CAST(:note AS text)) FROM nothing
)
SELECT w.seconds FROM waits w JOIN taken_back t ON t.id = w.run_id
""")


class ClaimStore:
    """Claims in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, rooms: Sequence[Room], worker_node: str, worker_id: UUID | None = None) -> list[Work]:
        """Start the next attempts of queued runs that there is room for, those first that were asked for first."""
        ours = json.dumps([asdict(room) for room in rooms])
        values = {"worker_node": worker_node, "worker_id": worker_id, "rooms": ours}
        return [work_of(row, row.max_runtime) for row in self._database.run(CLAIM_WAITING, values)]

    def lack(self, run_ids: Iterable[UUID], worker_node: str, adapters: Sequence[str]) -> dict[UUID, str]:
        """Those of these queued runs that wait for an adapter that is not among these; an event says so once."""
        values = {"ids": list(map(str, run_ids)), "worker_node": worker_node, "adapters": list(adapters)}
        return {row.id: row.adapter for row in self._database.run(LACKS, values)}

    def claimed_for(self, worker_id: UUID, claimed_before: timedelta) -> set[Fence]:
        """What this worker claimed at least so long ago and has recorded nothing of."""
        values = {"worker_id": worker_id, "claimed_before": claimed_before}
        return {Fence(row.id, row.epoch) for row in self._database.run(UNFOLLOWED, values)}

    def take_back(self, fence: Fence, note: str, wait: float, doublings: int) -> float | None:
        """Put a run whose attempt began nothing back into the queue; returns in how many seconds it may be claimed.

        The attempt does not count. None if it recorded work, has output, or the fence no longer holds.
        """
        values = fence._asdict() | {"note": note, "wait": wait, "doublings": doublings}
        return next((row.seconds for row in self._database.run(TAKE_BACK, values)), None)


def work_of(row: Any, runtime_left: timedelta | None) -> Work:
    """What an adapter gets of a row that a claim or an adoption returned."""
    return Work(
        run_id=row.id,
        attempt=row.attempt,
        epoch=row.epoch,
        adapter=row.adapter,
        config=row.config,
        labels=row.labels,
        max_runtime_seconds=runtime_left.total_seconds() if runtime_left is not None else None,
        max_attempts=row.max_attempts,
        trace_parent=row.trace_parent,
    )
