"""Ends: the one statement by which a run leaves an active status, for good or for a retry."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from reprieve.models.status import Status
from reprieve.models.used import used_columns
from reprieve.models.work import End

# finish: the one statement by which runs leave an active status. What must follow is in the same transaction: the
# attempt's end, the event with its evidence, and the termination that is owed where work may still be running.
FINISH = text("""
WITH ends AS (
    SELECT DISTINCT ON (run_id, epoch) * FROM jsonb_to_recordset(CAST(:ends AS jsonb)) AS e (
        run_id uuid, epoch bigint, from_status text, silent_before timestamptz, status text, error_code text,
        error_message text, kind text, detail jsonb, outcome jsonb, last_seq bigint, work_ended boolean,
        retry_after float, quiet_before timestamptz, cpu_seconds float, peak_memory bigint, memory_limit bigint)
), ended AS (
    UPDATE runs r
    SET status = e.status, error_code = e.error_code, error_message = e.error_message, sends = 0,
        finished_at = CASE WHEN e.status <> 'queued' THEN clock_timestamp() END,
        updated_at = CASE WHEN e.status = 'queued' THEN clock_timestamp() ELSE r.updated_at END,
        not_before = CASE WHEN e.status = 'queued' THEN clock_timestamp() + e.retry_after * interval '1 s' END,
        -- The last silence is that up to the end.
        longest_silence = CASE WHEN r.status = 'running'
            THEN greatest(r.longest_silence, clock_timestamp() - r.updated_at) END
    FROM ends e
    WHERE r.id = e.run_id AND r.epoch = e.epoch AND r.status = e.from_status
      AND (e.silent_before IS NULL OR r.updated_at < e.silent_before)
      AND (e.quiet_before IS NULL OR greatest(r.output_at, r.started_at) < e.quiet_before
           AND (r.snoozed_until > clock_timestamp()) IS NOT TRUE)
    RETURNING r.id, r.attempt, r.epoch, r.status, r.output_at, r.longest_silence
), closed AS (
    UPDATE run_attempts a
    SET finished_at = clock_timestamp(), outcome = e.outcome, last_seq = e.last_seq,
        -- A log without a chunk is closed by the end itself.
        log_closed_at = CASE WHEN e.last_seq = 0 AND NOT EXISTS (
            SELECT FROM attempt_logs l WHERE l.run_id = a.run_id AND l.attempt = a.attempt) THEN clock_timestamp() END,
        termination = CASE WHEN NOT e.work_ended THEN 'owed' END, adoption = NULL,
        reaped_at = CASE WHEN e.kind = 'reaped' THEN clock_timestamp() END,
        output_at = d.output_at, longest_silence = d.longest_silence,
        -- Where its follower does not say what it used, what was seen of that is known.
        cpu_seconds = coalesce(e.cpu_seconds, (SELECT s.cpu_seconds[cardinality(s.cpu_seconds)]
            FROM attempt_samples s WHERE s.run_id = a.run_id AND s.attempt = a.attempt)),
        peak_memory = coalesce(e.peak_memory, (SELECT s.peak_memory
            FROM attempt_samples s WHERE s.run_id = a.run_id AND s.attempt = a.attempt)),
        memory_limit = e.memory_limit
    FROM ended d JOIN ends e ON e.run_id = d.id AND e.epoch = d.epoch
    WHERE a.run_id = d.id AND a.attempt = d.attempt AND a.finished_at IS NULL
), told AS (
    INSERT INTO run_events (run_id, attempt, kind, detail)
    SELECT d.id, d.attempt, e.kind, e.detail
    FROM ended d JOIN ends e ON e.run_id = d.id AND e.epoch = d.epoch
)
SELECT id, attempt, epoch, status FROM ended
""")

# free: those of these runs that no other transaction is writing just now, each held with its attempt from here on.
FREE = text("""
WITH mine AS (
    SELECT id, attempt FROM runs WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
), opened AS (
    SELECT a.run_id FROM run_attempts a JOIN mine m ON m.id = a.run_id AND m.attempt = a.attempt
    FOR NO KEY UPDATE OF a SKIP LOCKED
)
SELECT m.id FROM mine m
WHERE EXISTS (SELECT FROM opened o WHERE o.run_id = m.id)
   OR NOT EXISTS (SELECT FROM run_attempts a WHERE a.run_id = m.id AND a.attempt = m.attempt)
""")


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that an `End` did apply to."""

    run_id: UUID
    attempt: int
    epoch: int
    status: Status


def write_ends(connection: Connection, ends: Sequence[End]) -> list[Ended]:
    """Apply the ends whose conditions still hold; returns those. Call it through `workers.finish.finish`."""
    rows = connection.execute(FINISH, {"ends": json.dumps([_end_record(end) for end in ends])})
    return [Ended(row.id, row.attempt, row.epoch, Status(row.status)) for row in rows]


def free_runs(connection: Connection, run_ids: Iterable[UUID]) -> set[UUID]:
    """Those of these runs that nobody else is writing just now; nobody does until this transaction ends."""
    return set(connection.execute(FREE, {"ids": [str(run_id) for run_id in run_ids]}).scalars())


def _end_record(end: End) -> dict[str, Any]:
    return {
        "run_id": str(end.fence.run_id),
        "epoch": end.fence.epoch,
        "from_status": end.from_status.value,
        "silent_before": _time(end.silent_before),
        "quiet_before": _time(end.quiet_before),
        "status": end.status.value,
        "error_code": end.error_code.value if end.error_code else None,
        "error_message": end.error_message,
        "kind": end.kind.value,
        "detail": end.detail,
        "outcome": end.outcome,
        "last_seq": end.last_seq,
        "work_ended": end.work_ended,
        "retry_after": end.retry_after.total_seconds(),
        **({} if end.used is None else used_columns(end.used)),
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
