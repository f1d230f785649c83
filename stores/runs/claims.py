"""Claims: a worker starts the next attempts of queued runs, or gives back one that began nothing."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from reprieve.models.places import Room
from reprieve.models.text import in_seconds
from reprieve.models.work import Fence, Work, retries_of
from reprieve.stores.database import Database
from reprieve.stores.runs.queue import LOCK, TO_THE_LIMIT, WITHOUT_LIMIT

# claim: start the next attempts of the runs that a statement has chosen, and locked.
CLAIM = """
WITH RECURSIVE {chosen}, claimed AS (
    UPDATE runs r
    SET status = 'running', attempt = r.attempt + 1, epoch = r.epoch + 1,
        started_at = clock_timestamp(), updated_at = clock_timestamp(), last_proof = 'claim',
        output_at = NULL, quiet_at = NULL, longest_silence = NULL
    -- As an array, which is taken for a short one. Of a subquery it is not known that it is: all runs would be read.
    WHERE r.id = ANY (ARRAY(SELECT id FROM chosen))
    RETURNING r.id, r.attempt, r.max_attempts, r.epoch, r.adapter, r.max_runtime, r.lane
), opened AS (
    INSERT INTO run_attempts (run_id, attempt, epoch, worker_node, worker_id)
    SELECT id, attempt, epoch, :worker_node, :worker_id FROM claimed
), told AS (
    INSERT INTO run_events (run_id, attempt, kind, detail)
    SELECT id, attempt, 'claimed', jsonb_build_object('worker_node', CAST(:worker_node AS text)) FROM claimed
)
SELECT c.*, s.config, s.labels, s.trace_parent, s.retry_on, s.retry_delay, s.max_memory{more}
"""
OF_CLAIMED = " FROM claimed c JOIN run_specs s ON s.run_id = c.id ORDER BY c.id"
# And what waits in lanes with a limit: a row without a run says so where none was claimed.
AND_WHAT_WAITS = """, w.* FROM (SELECT EXISTS (SELECT FROM served WHERE at_once IS NOT NULL) AS limited,
                  EXISTS ({passed_over}) AS passed_over) w
LEFT JOIN (claimed c JOIN run_specs s ON s.run_id = c.id) ON true ORDER BY c.id"""
CLAIM_WITHOUT_LIMIT = text(
    CLAIM.format(
        chosen=WITHOUT_LIMIT,
        more=AND_WHAT_WAITS.format(passed_over="SELECT FROM served WHERE at_once IS NOT NULL"),
    )
)
LOCK_LANES = text(LOCK)
CLAIM_TO_THE_LIMIT = text(
    CLAIM.format(
        chosen=TO_THE_LIMIT,
        more=AND_WHAT_WAITS.format(passed_over="SELECT WHERE CAST(:passed_over AS boolean)"),
    )
)

# due: what may be claimed from now on goes into the queue, where it is found.
DUE = text("""
UPDATE runs SET not_before = NULL WHERE id = ANY (ARRAY(
    SELECT id FROM runs WHERE status = 'queued' AND not_before <= clock_timestamp()
    ORDER BY not_before LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED))
RETURNING id
""")

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


@dataclass(frozen=True, slots=True)
class Claimed:
    """The works that were claimed.

    `limited`: runs wait in lanes that have a limit. `passed_over`: some of these lanes have room, and were left out,
    as was asked for, because another worker is claiming from them, or since there are more of them than places.
    """

    works: list[Work]
    limited: bool = False
    passed_over: bool = False


class ClaimStore:
    """Claims in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self,
        rooms: Sequence[Room],
        worker_node: str,
        worker_id: UUID | None = None,
        *,
        lanes: Sequence[str] | None = None,
        limited: bool = True,
    ) -> Claimed:
        """Start the next attempts of queued runs that there is room for, of the lanes that fit one of these patterns.

        Without `limited`, which costs less, none of the lanes that have a limit.
        """
        ours = json.dumps([asdict(room) for room in rooms])
        served = None if lanes is None else list(lanes)
        values = {"worker_node": worker_node, "worker_id": worker_id, "rooms": ours, "lanes": served}
        if not limited:
            with self._database.at_once() as connection:
                return _claimed(connection.execute(CLAIM_WITHOUT_LIMIT, values).all())
        with self._database.begin() as connection:
            lanes_now = connection.execute(LOCK_LANES, values).one()
            held = {"held": lanes_now.held, "passed_over": lanes_now.open > len(lanes_now.held)}
            return _claimed(connection.execute(CLAIM_TO_THE_LIMIT, values | held).all())

    def let_in(self, limit: int) -> int:
        """Put so many of the runs whose time has come into the queue; returns how many these are."""
        return len(self._database.run(DUE, {"limit": limit}))

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


def _claimed(rows: Sequence[Any]) -> Claimed:
    works = [work_of(row, row.max_runtime) for row in rows if row.id is not None]
    return Claimed(works, rows[0].limited, rows[0].passed_over)


def work_of(row: Any, runtime_left: timedelta | None) -> Work:
    """What an adapter gets of a row that a claim or an adoption returned."""
    return Work(
        run_id=row.id,
        attempt=row.attempt,
        epoch=row.epoch,
        adapter=row.adapter,
        config=row.config,
        labels=row.labels,
        max_runtime_seconds=in_seconds(runtime_left),
        max_attempts=row.max_attempts,
        trace_parent=row.trace_parent,
        lane=row.lane,
        retries=retries_of(row.retry_on, row.retry_delay),
        max_memory_bytes=row.max_memory,
    )
