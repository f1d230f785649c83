"""Who follows what: workers and when they were seen, work that another worker is to follow, questions to a host.

That work is to be adopted is a fact on its attempt (`run_attempts.adoption`), decided by the row alone: it lives out
of process, and it has a handle. No message tells of it, and whoever writes it need not know the adapter. Every worker
of runs looks again and again for what it can adopt itself; the epoch that it raises fences whoever followed before.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from reprieve.models.errors import Superseded
from reprieve.models.nodes import Node
from reprieve.models.status import Probe
from reprieve.models.work import Fence, Work
from reprieve.stores.arrays import fence_arrays, key_arrays
from reprieve.stores.database import Database
from reprieve.stores.logs import PostgresLogStore, Resumed
from reprieve.stores.runs import work_of

# seen: this worker is there, and its node with it.
SEEN = text("""
WITH node AS (
    INSERT INTO nodes (slot, name, namespace) VALUES (:slot, :host, :namespace)
    ON CONFLICT (slot) DO UPDATE SET name = :host, namespace = :namespace, seen_at = clock_timestamp()
)
INSERT INTO workers (id, node, host, slot, namespace) VALUES (:id, :node, :host, :slot, :namespace)
ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp()
""")

# leave: a worker that ends counts as gone at once; the next sweep finds what it may not have handed over.
LEAVE = text("UPDATE workers SET seen_at = '-infinity' WHERE id = :id")

HOSTS = text("SELECT DISTINCT host FROM workers WHERE seen_at > clock_timestamp() - :gone_after")

# orphan: out-of-process work whose worker has not been seen for a while is to be followed by another one, whoever has
# its adapter; but for what another transaction holds, which must not keep the others waiting.
ORPHAN = text("""
WITH orphans AS (
    SELECT a.run_id, a.attempt FROM workers w JOIN run_attempts a ON a.worker_id = w.id
    JOIN runs r ON r.id = a.run_id AND r.attempt = a.attempt
    WHERE w.seen_at < clock_timestamp() - :gone_after
      AND a.finished_at IS NULL AND a.handle IS NOT NULL AND a.adoption IS NULL
      AND r.status = 'running' AND r.out_of_process_liveness
    FOR NO KEY UPDATE OF a SKIP LOCKED
)
UPDATE run_attempts a SET adoption = 'owed', adoption_owed_at = clock_timestamp()
FROM orphans o WHERE a.run_id = o.run_id AND a.attempt = o.attempt
RETURNING a.run_id
""")

# forget: workers that are gone, once nothing of theirs is left to be handed over. They are few.
FORGET_GONE = text("""
DELETE FROM workers w
WHERE w.seen_at < clock_timestamp() - :gone_after AND NOT EXISTS (
    SELECT FROM run_attempts a JOIN runs r ON r.id = a.run_id AND r.attempt = a.attempt
    WHERE a.worker_id = w.id AND a.finished_at IS NULL AND a.handle IS NOT NULL AND a.adoption IS NULL
      AND r.status = 'running' AND r.out_of_process_liveness)
""")

# hand over: the same, by a follower that leaves or a sweep that found the work alive and nobody speaking for it.
HAND_OVER = text("""
UPDATE run_attempts a SET adoption = 'owed', adoption_owed_at = clock_timestamp()
FROM unnest(CAST(:ids AS uuid[]), CAST(:epochs AS bigint[])) AS t (id, epoch) JOIN runs r ON r.id = t.id
WHERE a.run_id = t.id AND a.epoch = t.epoch AND a.finished_at IS NULL AND a.handle IS NOT NULL AND a.adoption IS NULL
  AND r.out_of_process_liveness
RETURNING a.run_id, a.epoch
""")

TO_ADOPT = text("""
SELECT a.run_id, a.attempt, a.epoch FROM run_attempts a JOIN runs r ON r.id = a.run_id AND r.attempt = a.attempt
LEFT JOIN setbacks s ON s.duty = 'adoption' AND s.run_id = a.run_id AND s.attempt = a.attempt
WHERE a.adoption = 'owed' AND (a.host IS NULL OR a.host = :host AND (a.slot IS NULL OR a.slot = :slot))
  AND r.adapter = ANY(:adapters) AND (s.next_try_at <= clock_timestamp()) IS NOT FALSE
ORDER BY s.next_try_at NULLS FIRST, a.run_id LIMIT :limit
""")

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
    RETURNING id, attempt, max_attempts, epoch, adapter, started_at + max_runtime - clock_timestamp() AS runtime_left
), followed AS (
    UPDATE run_attempts a SET epoch = d.epoch, adoption = NULL, adoption_owed_at = NULL,
                              worker_node = :worker_node, worker_id = :worker_id
    FROM adopted d WHERE a.run_id = d.id AND a.attempt = d.attempt
    RETURNING a.handle, a.host
), told AS (
    INSERT INTO run_events (run_id, attempt, kind, detail)
    SELECT id, attempt, 'attached', jsonb_build_object('worker_node', CAST(:worker_node AS text), 'after_seq',
                                                       CAST(:after_seq AS bigint)) FROM adopted
)
SELECT d.*, s.config, s.labels, s.trace_parent, f.handle, f.host
FROM adopted d CROSS JOIN followed f JOIN run_specs s ON s.run_id = d.id
""")

# ask: what a sweep wants to know of work that only the workers of its host can look at.
ASK = text("""
INSERT INTO questions (run_id, attempt, host, adapter, handle)
SELECT * FROM jsonb_to_recordset(CAST(:questions AS jsonb))
    AS q (run_id uuid, attempt int, host text, adapter text, handle jsonb)
ON CONFLICT (run_id, attempt) DO UPDATE SET asked_at = clock_timestamp(), answer = NULL
""")

OPEN_QUESTIONS = text("""
SELECT q.run_id, q.attempt, q.adapter, q.handle, a.slot
FROM questions q JOIN run_attempts a ON a.run_id = q.run_id AND a.attempt = q.attempt
WHERE q.answer IS NULL AND q.host = :host AND (a.slot IS NULL OR a.slot = :slot)
""")

ANSWER = text("""
UPDATE questions q SET answer = k.answer
FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:answers AS text[])) AS k (run_id, attempt, answer)
WHERE q.run_id = k.run_id AND q.attempt = k.attempt
""")

ANSWERS = text("SELECT run_id, answer FROM questions WHERE answer IS NOT NULL")

FORGET_QUESTIONS = text("DELETE FROM questions")

# handles: what the platform is asked about, for the runs among these that have one.
HANDLES = text("""
SELECT a.run_id, a.attempt, r.adapter, a.host, a.handle, a.slot
FROM unnest(CAST(:ids AS uuid[]), CAST(:epochs AS bigint[])) AS t (id, epoch)
JOIN runs r ON r.id = t.id AND r.epoch = t.epoch
JOIN run_attempts a ON a.run_id = r.id AND a.attempt = r.attempt
WHERE a.handle IS NOT NULL
""")


@dataclass(frozen=True, slots=True)
class Handle:
    """Work of an attempt as its platform knows it; `host` is the only one that can act on it, None for any."""

    run_id: UUID
    attempt: int
    adapter: str
    host: str | None
    handle: dict[str, Any]
    slot: str | None = None

    def is_for(self, node: Node | None) -> bool:
        """Whether this node can act on it: any can, or this very one."""
        if self.host is None:
            return True
        return node is not None and self.host == node.name and self.slot in (None, node.slot)


@dataclass(frozen=True, slots=True)
class Adoption:
    """Work that was adopted: what to follow, and from where its log goes on."""

    work: Work
    handle: dict[str, Any]
    resumed: Resumed
    host: str | None = None


class FollowerStore:
    """Workers, adoptions and questions in PostgreSQL."""

    def __init__(self, database: Database, logs: PostgresLogStore) -> None:
        self._database = database
        self._logs = logs

    # -- workers

    def seen(self, worker_id: UUID, worker_node: str, node: Node) -> None:
        """This worker is there, of this node; `worker_node` is what Celery calls it."""
        values = {"id": worker_id, "node": worker_node, "host": node.name}
        with self._database.begin() as connection:
            connection.execute(SEEN, values | {"slot": node.slot, "namespace": node.namespace})

    def leave(self, worker_id: UUID) -> None:
        """This worker has ended, and follows nothing any more."""
        with self._database.begin() as connection:
            connection.execute(LEAVE, {"id": worker_id})

    def hosts(self, gone_after: timedelta) -> set[str]:
        """The hosts of the workers that were seen lately."""
        with self._database.begin() as connection:
            return set(connection.execute(HOSTS, {"gone_after": gone_after}).scalars())

    # -- adoption

    def orphan(self, gone_after: timedelta) -> int:
        """Have the work of workers that are gone adopted; returns how many runs are newly owed that."""
        with self._database.begin() as connection:
            orphaned = len(connection.execute(ORPHAN, {"gone_after": gone_after}).all())
            connection.execute(FORGET_GONE, {"gone_after": gone_after})
            return orphaned

    def hand_over(self, fences: Iterable[Fence]) -> set[Fence]:
        """Have the work under these fences adopted; returns those to which it applied."""
        values = fence_arrays(fences)
        if not values["ids"]:
            return set()
        with self._database.begin() as connection:
            return {Fence(row.run_id, row.epoch) for row in connection.execute(HAND_OVER, values)}

    def to_adopt(self, node: Node, adapters: Sequence[str], limit: int) -> list[tuple[UUID, int, int]]:
        """Run, attempt and epoch of work that a worker of `node` with these adapters may adopt, now.

        What failed lately waits, and comes after what never did.
        """
        values = {"host": node.name, "slot": node.slot, "adapters": list(adapters), "limit": limit}
        with self._database.begin() as connection:
            rows = connection.execute(TO_ADOPT, values)
            return [(row.run_id, row.attempt, row.epoch) for row in rows]

    def left_to_others(self, host: str, adapters: Sequence[str], limit: int) -> list[tuple[UUID, int, str]]:
        """Run, attempt and adapter of work of `host`, or of any, that only workers with other adapters may adopt."""
        values = {"host": host, "adapters": list(adapters), "limit": limit}
        with self._database.begin() as connection:
            rows = connection.execute(LEFT_TO_OTHERS, values)
            return [(row.run_id, row.attempt, row.adapter) for row in rows]

    def adopt(self, run_id: UUID, attempt: int, epoch: int, node: str, worker_id: UUID) -> Adoption | None:
        """Take work over, or None when another did, or the run has ended.

        In the same transaction its log is cut to what can be read on from, and whoever wrote it before is refused.
        """
        place = {"run_id": run_id, "attempt": attempt, "epoch": epoch}
        with suppress(Superseded), self._database.begin() as connection:
            # First the log, then the run: the order in which ingest takes them.
            resumed = self._logs.resume(connection, run_id, attempt, epoch + 1)
            mine = {"worker_node": node, "worker_id": worker_id, "after_seq": resumed.after_seq}
            row = connection.execute(ADOPT, place | mine).one_or_none()
            if row is None:
                raise Superseded(f"Run {run_id} is no longer to be adopted under epoch {epoch}.")
            return Adoption(work_of(row, row.runtime_left), row.handle, resumed, row.host)
        return None

    # -- questions

    def handles(self, fences: Iterable[Fence]) -> list[Handle]:
        """The work under these fences that has a handle."""
        values = fence_arrays(fences)
        if not values["ids"]:
            return []
        with self._database.begin() as connection:
            return [Handle(**row._mapping) for row in connection.execute(HANDLES, values)]

    def ask(self, handles: Sequence[Handle]) -> None:
        """Ask the workers of the handles' hosts; questions of an earlier sweep are forgotten."""
        questions = [
            {
                "run_id": str(one.run_id),
                "attempt": one.attempt,
                "host": one.host,
                "adapter": one.adapter,
                "handle": one.handle,
            }
            for one in handles
        ]
        with self._database.begin() as connection:
            connection.execute(FORGET_QUESTIONS)
            if questions:
                connection.execute(ASK, {"questions": json.dumps(questions)})

    def open_questions(self, node: Node) -> list[Handle]:
        with self._database.begin() as connection:
            rows = connection.execute(OPEN_QUESTIONS, {"host": node.name, "slot": node.slot})
            return [Handle(row.run_id, row.attempt, row.adapter, node.name, row.handle, row.slot) for row in rows]

    def answer(self, answers: Mapping[tuple[UUID, int], Probe]) -> None:
        if not answers:
            return
        values = key_arrays(answers) | {"answers": [answers[key].value for key in sorted(answers)]}
        with self._database.begin() as connection:
            connection.execute(ANSWER, values)

    def answers(self) -> dict[UUID, Probe]:
        """What the hosts have said so far."""
        with self._database.begin() as connection:
            return {row.run_id: Probe(row.answer) for row in connection.execute(ANSWERS)}
