"""Output and results that arrive after their attempt was reaped: a sign that it may have been alive.

Functions here are part of the caller's transaction.
"""

import json
from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from reprieve.models.work import End
from reprieve.stores.arrays import key_arrays

# printing: whose output is its proof of life, and whose is late.
PRINTING = text("""
SELECT id, out_of_process_liveness, CASE WHEN status = 'running' THEN attempt ELSE attempt + 1 END AS live_from
FROM runs WHERE id = ANY(CAST(:ids AS uuid[]))
""")

# late output: the first that arrives after an attempt was reaped, reported once.
LATE_OUTPUT = text("""
WITH late AS (
    UPDATE run_attempts a SET late_output_at = clock_timestamp()
    FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (run_id, attempt)
    WHERE a.run_id = k.run_id AND a.attempt = k.attempt AND a.reaped_at IS NOT NULL AND a.late_output_at IS NULL
    RETURNING a.run_id, a.attempt
), told AS (
    INSERT INTO run_events (run_id, attempt, kind) SELECT run_id, attempt, 'late_output' FROM late
)
SELECT r.adapter FROM late l JOIN runs r ON r.id = l.run_id
""")

# late result: what the follower of a reaped attempt reported afterwards.
LATE_RESULT = text("""
WITH late AS (
    UPDATE run_attempts a SET late_result_at = clock_timestamp(), last_seq = coalesce(a.last_seq, :last_seq)
    WHERE a.run_id = :run_id AND a.epoch = :epoch AND a.reaped_at IS NOT NULL AND a.late_result_at IS NULL
    RETURNING a.run_id, a.attempt
), told AS (
    INSERT INTO run_events (run_id, attempt, kind, detail)
    SELECT run_id, attempt, 'late_result', CAST(:detail AS jsonb) FROM late
)
SELECT r.adapter FROM late l JOIN runs r ON r.id = l.run_id
""")


class Printing(NamedTuple):
    """What a run's output means: whether it is its proof of life, and from which attempt on it is not late."""

    out_of_process_liveness: bool
    live_from: int


def printing_of(connection: Connection, run_ids: Iterable[UUID]) -> dict[UUID, Printing]:
    """For each of these runs that exists, what its output means."""
    rows = connection.execute(PRINTING, {"ids": [str(run_id) for run_id in run_ids]})
    return {row.id: Printing(row.out_of_process_liveness, row.live_from) for row in rows}


def note_late_output(connection: Connection, keys: Iterable[tuple[UUID, int]]) -> list[str]:
    """Flag the attempts among these that were reaped before this output came; returns the adapters of new ones."""
    values = key_arrays(keys)
    return list(connection.execute(LATE_OUTPUT, values).scalars()) if values["ids"] else []


def note_late_result(connection: Connection, end: End) -> str | None:
    """Flag an attempt that was reaped before this result came; returns its adapter, None when it was not reaped."""
    values = end.fence._asdict() | {"last_seq": end.last_seq, "detail": json.dumps(end.detail)}
    adapter: str | None = connection.execute(LATE_RESULT, values).scalar()
    return adapter
