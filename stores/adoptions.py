"""Adoptions: another worker follows what its own has left.

An *orphan* is out-of-process work whose worker has no fresh heartbeat, or has left it. That it is to be adopted is a
fact on its attempt (`run_attempts.adoption`), decided by the row alone, so that the writer need not know the adapter.
There is no message: every worker of runs looks again and again for what it can adopt. The epoch that it raises fences
off the follower before.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from reprieve.models.errors import Superseded
from reprieve.models.nodes import Node
from reprieve.models.saying import NOTHING_SAID, Said
from reprieve.models.work import Fence, Work
from reprieve.stores.arrays import fence_arrays
from reprieve.stores.database import Database
from reprieve.stores.logs import PostgresLogStore, Resumed
from reprieve.stores.runs.claims import work_of
from reprieve.stores.runs.conditions import FOR_THIS_NODE, ORPHANABLE
from reprieve.stores.runs.reports import said_of

# orphan: out-of-process work whose worker has had no heartbeat for a while goes up for adoption. Rows that another
# transaction holds are skipped, so that they do not keep the others waiting.
ORPHAN = text(f"""
WITH orphans AS (
    SELECT a.run_id, a.attempt FROM workers w JOIN run_attempts a ON a.worker_id = w.id
    JOIN runs r ON r.id = a.run_id AND r.attempt = a.attempt
    WHERE w.seen_at < clock_timestamp() - :gone_after AND {ORPHANABLE}
    FOR NO KEY UPDATE OF a SKIP LOCKED
)
UPDATE run_attempts a SET adoption = 'owed', adoption_owed_at = clock_timestamp()
FROM orphans o WHERE a.run_id = o.run_id AND a.attempt = o.attempt
RETURNING a.run_id
""")  # noqa: S608 - our own text

# forget: workers that are gone, once nothing of theirs is left to be handed over. They are few. One whose row is held
# is forgotten later: it was stopped, or cut off, in the middle of a heartbeat, and what it followed is not to wait.
FORGET_GONE = text(f"""
DELETE FROM workers USING (
    SELECT w.id FROM workers w
    WHERE w.seen_at < clock_timestamp() - :gone_after AND NOT EXISTS (
        SELECT FROM run_attempts a JOIN runs r ON r.id = a.run_id AND r.attempt = a.attempt
        WHERE a.worker_id = w.id AND {ORPHANABLE})
    FOR UPDATE SKIP LOCKED
) gone
WHERE workers.id = gone.id
""")  # noqa: S608 - our own text

# hand over: the same, by a follower that leaves, or by a sweep that found the work alive without a follower.
HAND_OVER = text(f"""
UPDATE run_attempts a SET adoption = 'owed', adoption_owed_at = clock_timestamp()
FROM unnest(CAST(:ids AS uuid[]), CAST(:epochs AS bigint[])) AS t (id, epoch) JOIN runs r ON r.id = t.id
WHERE a.run_id = t.id AND a.epoch = t.epoch AND {ORPHANABLE}
RETURNING a.run_id, a.epoch
""")  # noqa: S608 - our own text

TO_ADOPT = text(f"""
SELECT a.run_id, a.attempt, a.epoch FROM run_attempts a JOIN runs r ON r.id = a.run_id AND r.attempt = a.attempt
LEFT JOIN setbacks s ON s.duty = 'adoption' AND s.run_id = a.run_id AND s.attempt = a.attempt
WHERE a.adoption = 'owed' AND {FOR_THIS_NODE}
  AND r.adapter = ANY(:adapters) AND (s.next_try_at <= clock_timestamp()) IS NOT FALSE
ORDER BY s.next_try_at NULLS FIRST, a.run_id LIMIT :limit
""")  # noqa: S608 - our own text

# left to others: what workers of this host with these adapters may not adopt.
LEFT_TO_OTHERS = text("""
SELECT a.run_id, a.attempt, r.adapter FROM run_attempts a JOIN runs r ON r.id = a.run_id AND r.attempt = a.attempt
WHERE a.adoption = 'owed' AND (a.host IS NULL OR a.host = :host) AND NOT r.adapter = ANY(:adapters)
ORDER BY a.run_id LIMIT :limit
""")

# adopt: one worker of all that look raises the epoch. The work has given no proof of life by being followed:
# `updated_at` stays as it is.
ADOPT = text("""
WITH adopted AS (
    UPDATE runs SET epoch = epoch + 1
    WHERE id = :run_id AND epoch = :epoch AND attempt = :attempt AND status = 'running'
    RETURNING id, attempt, max_attempts, epoch, adapter, lane,
              started_at + max_runtime - clock_timestamp() AS runtime_left
), followed AS (
    UPDATE run_attempts a SET epoch = d.epoch, adoption = NULL, adoption_owed_at = NULL,
                              worker_node = :worker_node, worker_id = :worker_id
    FROM adopted d WHERE a.run_id = d.id AND a.attempt = d.attempt
    RETURNING a.handle, a.host
), said AS (
    -- From here on, who followed it before says nothing of it any more.
    UPDATE run_reports p SET epoch = d.epoch FROM adopted d WHERE p.run_id = d.id AND p.attempt = d.attempt
    RETURNING p.number, p.progress, p.sentence, p.usage
), told AS (
    INSERT INTO run_events (run_id, attempt, kind, detail)
    SELECT id, attempt, 'attached', jsonb_build_object('worker_node', CAST(:worker_node AS text), 'after_seq',
                                                       CAST(:after_seq AS bigint)) FROM adopted
)
SELECT d.*, s.config, s.labels, s.trace_parent, s.retry_on, s.retry_delay, s.max_memory, f.handle, f.host,
       said.number, said.progress, said.sentence, said.usage
FROM adopted d CROSS JOIN followed f JOIN run_specs s ON s.run_id = d.id LEFT JOIN said ON true
""")


@dataclass(frozen=True, slots=True)
class Adoption:
    """Work that was adopted: what to follow, from where its log goes on, and what it has said of itself."""

    work: Work
    handle: dict[str, Any]
    resumed: Resumed
    host: str | None = None
    said: Said = NOTHING_SAID


class AdoptionStore:
    """Adoptions in PostgreSQL."""

    def __init__(self, database: Database, logs: PostgresLogStore) -> None:
        self._database = database
        self._logs = logs

    def orphan(self, gone_after: timedelta) -> int:
        """Put the work of workers without a heartbeat up for adoption; returns how many runs that are."""
        with self._database.begin() as connection:
            orphaned = len(connection.execute(ORPHAN, {"gone_after": gone_after}).all())
            connection.execute(FORGET_GONE, {"gone_after": gone_after})
            return orphaned

    def hand_over(self, fences: Iterable[Fence]) -> set[Fence]:
        """Put the work under these fences up for adoption; returns those to which it applied."""
        values = fence_arrays(fences)
        if not values["ids"]:
            return set()
        return {Fence(row.run_id, row.epoch) for row in self._database.run(HAND_OVER, values)}

    def to_adopt(self, node: Node, adapters: Sequence[str], limit: int) -> list[tuple[UUID, int, int]]:
        """Run, attempt and epoch of work that a worker of `node` with these adapters may adopt, now.

        What failed lately waits, and comes after what never did.
        """
        values = {"host": node.name, "slot": node.slot, "adapters": list(adapters), "limit": limit}
        return [(row.run_id, row.attempt, row.epoch) for row in self._database.run(TO_ADOPT, values)]

    def left_to_others(self, host: str, adapters: Sequence[str], limit: int) -> list[tuple[UUID, int, str]]:
        """Run, attempt and adapter of work of `host`, or of any, that only workers with other adapters may adopt."""
        values = {"host": host, "adapters": list(adapters), "limit": limit}
        return [(row.run_id, row.attempt, row.adapter) for row in self._database.run(LEFT_TO_OTHERS, values)]

    def adopt(self, run_id: UUID, attempt: int, epoch: int, node: str, worker_id: UUID) -> Adoption | None:
        """Take work over; None when another worker did, or the run has ended.

        The same transaction cuts its log to where it can be read on from, and refuses its earlier writer from then on.
        """
        place = {"run_id": run_id, "attempt": attempt, "epoch": epoch}
        with suppress(Superseded), self._database.begin() as connection:
            # First the log, then the run: the order in which ingest takes them.
            resumed = self._logs.resume(connection, run_id, attempt, epoch + 1)
            mine = {"worker_node": node, "worker_id": worker_id, "after_seq": resumed.after_seq}
            row = connection.execute(ADOPT, place | mine).one_or_none()
            if row is None:
                raise Superseded(f"Run {run_id} is no longer to be adopted under epoch {epoch}.")
            said = NOTHING_SAID if row.number is None else said_of(row)
            return Adoption(work_of(row, row.runtime_left), row.handle, resumed, row.host, said)
        return None
