"""The rows of runs and their attempts: asked for, claimed, recorded, refreshed, ended, read.

Every statement that changes a run repeats its conditions (status, epoch) in itself, and says whether it applied:
two workers may always be doing the same thing at once, and the second does nothing.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, TextClause, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import joinedload, selectinload
from uuid_utils.compat import uuid7

from reprieve.models.errors import IdempotencyConflict, RunNotFound, Superseded
from reprieve.models.nodes import Node
from reprieve.models.process import ProcessIdentity
from reprieve.models.rows import Run, RunAttempt, RunEvent, RunSpec
from reprieve.models.status import EventKind, Proof, Status
from reprieve.models.work import End, Fence, Work
from reprieve.stores.arrays import fence_arrays, key_arrays
from reprieve.stores.database import Database

# claim: one worker of all that got the message, and that have the adapter, starts the next attempt; not before the last
# one's work is ended.
CLAIM = text("""
WITH claimed AS (
    UPDATE runs r
    SET status = 'running', attempt = r.attempt + 1, epoch = r.epoch + 1,
        started_at = clock_timestamp(), updated_at = clock_timestamp(), last_proof = 'claim'
    WHERE r.id = :run_id AND r.status = 'queued' AND r.attempt < r.max_attempts
      AND (CAST(:adapters AS text[]) IS NULL OR r.adapter = ANY(CAST(:adapters AS text[])))
      AND (r.not_before IS NULL OR r.not_before <= clock_timestamp())
      AND NOT EXISTS (SELECT FROM run_attempts a WHERE a.run_id = r.id AND a.termination = 'owed')
    RETURNING r.id, r.attempt, r.max_attempts, r.epoch, r.adapter, r.max_runtime
), opened AS (
    INSERT INTO run_attempts (run_id, attempt, epoch, worker_node, worker_id)
    SELECT id, attempt, epoch, :worker_node, :worker_id FROM claimed
), told AS (
    INSERT INTO run_events (run_id, attempt, kind, detail)
    SELECT id, attempt, 'claimed', jsonb_build_object('worker_node', CAST(:worker_node AS text)) FROM claimed
)
SELECT c.*, s.config, s.labels, s.trace_parent FROM claimed c JOIN run_specs s ON s.run_id = c.id
""")

# lacks: whether a queued run waits for an adapter that this worker has not; told once for each attempt, whoever it is.
LACKS = text("""
WITH lacking AS (
    SELECT id, attempt, adapter FROM runs
    WHERE id = :run_id AND status = 'queued' AND adapter <> ALL(CAST(:adapters AS text[]))
), told AS (
    INSERT INTO run_events (run_id, attempt, kind, detail)
    SELECT id, attempt, 'noted', jsonb_build_object(
        'lacking', adapter, 'note', 'Waits for a worker that has the adapter ' || quote_literal(adapter) || '; worker '
        || CAST(:worker_node AS text) || ' has not.')
    FROM lacking l
    WHERE NOT EXISTS (SELECT FROM run_events e
                      WHERE e.run_id = l.id AND e.attempt = l.attempt AND e.kind = 'noted' AND e.detail ? 'lacking')
)
SELECT adapter FROM lacking
""")

# awaited: the queued runs that another worker had no adapter for, and this one has.
AWAITED = text("""
SELECT r.id FROM runs r
WHERE r.status = 'queued' AND r.adapter = ANY(CAST(:adapters AS text[])) AND EXISTS (
    SELECT FROM run_events e
    WHERE e.run_id = r.id AND e.attempt = r.attempt AND e.kind = 'noted' AND e.detail ->> 'lacking' = r.adapter)
ORDER BY r.id LIMIT :limit
""")

# unfollowed: what this worker claimed some time ago, and nothing is recorded of since. It follows some of it; of the
# rest, the answer to its claim was lost on the way.
UNFOLLOWED = text("""
SELECT r.id, r.epoch FROM run_attempts a JOIN runs r ON r.id = a.run_id AND r.attempt = a.attempt
WHERE a.worker_id = :worker_id AND a.finished_at IS NULL AND a.handle IS NULL AND a.process_pid IS NULL
  AND r.status = 'running' AND r.epoch = a.epoch AND r.started_at < clock_timestamp() - :claimed_before
""")

# take back: an attempt that began nothing. Its number is used again, so nothing may be left that bears it: no work that
# was recorded, and no output. Run before attempt, the order in which an end takes them. The wait doubles with each time
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

# persist: what the attempt started, recorded before it may begin, unless the attempt was ended in the meantime. That a
# handle is recorded again, since more is known of the work, is no second beginning: no event tells of it.
PERSIST = text("""
WITH before AS (
    SELECT run_id, attempt, handle IS NULL AND process_pid IS NULL AS is_first FROM run_attempts
    WHERE run_id = :run_id AND epoch = :epoch AND finished_at IS NULL
    FOR NO KEY UPDATE
), recorded AS (
    UPDATE run_attempts a
    SET host = :host, slot = :slot, process_pid = :pid, process_group_id = :process_group_id,
        process_started_at = :started_at, process_namespace = :namespace, process_marker = :marker,
        handle = CAST(:handle AS jsonb)
    FROM before b
    WHERE a.run_id = b.run_id AND a.attempt = b.attempt AND a.epoch = :epoch AND a.finished_at IS NULL
    RETURNING a.run_id, a.attempt, b.is_first
), told AS (
    INSERT INTO run_events (run_id, attempt, kind, detail)
    SELECT run_id, attempt, :kind, CAST(:detail AS jsonb) FROM recorded WHERE is_first
)
SELECT run_id FROM recorded
""")

# printing: whose output is its proof of life, and whose comes late.
PRINTING = text("""
SELECT id, out_of_process_liveness, CASE WHEN status = 'running' THEN attempt ELSE attempt + 1 END AS live_from
FROM runs WHERE id = ANY(CAST(:ids AS uuid[]))
""")

# late output: the first that comes of an attempt after it was reaped; told once.
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

# late result: what the follower of a reaped attempt reported all the same.
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

# refresh: proof of life. A row that somebody else is writing just now is skipped: a stalled transaction on one run
# must not cost the others their proof, and two bulk refreshes cannot deadlock.
REFRESH = text("""
WITH live AS (
    SELECT r.id FROM runs r
    JOIN unnest(CAST(:ids AS uuid[]), CAST(:epochs AS bigint[])) AS t (id, epoch) ON t.id = r.id
    WHERE r.epoch = t.epoch AND r.status = 'running'
    FOR NO KEY UPDATE OF r SKIP LOCKED
)
UPDATE runs r SET updated_at = clock_timestamp(), last_proof = :proof
FROM live WHERE r.id = live.id
RETURNING r.id, r.epoch
""")

# standing: which of these fences may still write. Where another worker has attached to the same attempt, the work goes
# on and its old follower is to leave it; in every other case it is to be ended.
STANDING = text("""
SELECT t.id, t.epoch, CASE WHEN r.epoch = t.epoch THEN 'current' ELSE 'adopted' END AS standing
FROM runs r JOIN unnest(CAST(:ids AS uuid[]), CAST(:epochs AS bigint[])) AS t (id, epoch) ON t.id = r.id
WHERE r.status = 'running' AND (r.epoch = t.epoch OR r.out_of_process_liveness AND r.epoch > t.epoch)
""")

# finish: the one statement by which runs leave an active status. What must follow is in the same transaction: the
# attempt's end, the event with its evidence, and the termination that is owed where work may still be running.
FINISH = text("""
WITH ends AS (
    SELECT DISTINCT ON (run_id, epoch) * FROM jsonb_to_recordset(CAST(:ends AS jsonb)) AS e (
        run_id uuid, epoch bigint, from_status text, silent_before timestamptz, status text, error_code text,
        error_message text, kind text, detail jsonb, outcome jsonb, last_seq bigint, work_ended boolean,
        retry_after float)
), ended AS (
    UPDATE runs r
    SET status = e.status, error_code = e.error_code, error_message = e.error_message, sends = 0,
        finished_at = CASE WHEN e.status <> 'queued' THEN clock_timestamp() END,
        updated_at = CASE WHEN e.status = 'queued' THEN clock_timestamp() ELSE r.updated_at END,
        not_before = CASE WHEN e.status = 'queued' THEN clock_timestamp() + e.retry_after * interval '1 s' END
    FROM ends e
    WHERE r.id = e.run_id AND r.epoch = e.epoch AND r.status = e.from_status
      AND (e.silent_before IS NULL OR r.updated_at < e.silent_before)
    RETURNING r.id, r.attempt, r.epoch, r.status
), closed AS (
    UPDATE run_attempts a
    SET finished_at = clock_timestamp(), outcome = e.outcome, last_seq = e.last_seq,
        termination = CASE WHEN NOT e.work_ended THEN 'owed' END, adoption = NULL,
        reaped_at = CASE WHEN e.kind = 'reaped' THEN clock_timestamp() END
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

# owed: work that must still be ended and that this node can end; nobody need wait for that any more (`waived`). A name
# that others hold as well is not enough, but where nothing else was recorded.
OWED = text("""
SELECT run_id, attempt FROM run_attempts
WHERE termination = 'owed' AND (host IS NULL OR host = :host AND (slot IS NULL OR slot = :slot))
UNION ALL
SELECT run_id, attempt FROM run_attempts
WHERE termination = 'waived' AND host = :host AND (slot IS NULL OR slot = :slot)
ORDER BY run_id
""")

# settle: the work of an attempt is confirmed gone; the run, if it waits for that, may be claimed again, in so many s.
SETTLE = text("""
WITH settled AS (
    UPDATE run_attempts SET termination = 'done'
    WHERE run_id = :run_id AND attempt = :attempt AND termination IN ('owed', 'waived')
    RETURNING run_id, attempt
), told AS (
    INSERT INTO run_events (run_id, attempt, kind) SELECT run_id, attempt, 'terminated' FROM settled
)
SELECT greatest(0, extract(epoch FROM coalesce(r.not_before, clock_timestamp()) - clock_timestamp()))::float
FROM settled s JOIN runs r ON r.id = s.run_id WHERE r.status = 'queued'
""")

# resend: queued runs that nobody claimed; each time, the gap to the next doubles.
RESEND = text("""
WITH unclaimed AS (
    SELECT r.id FROM runs r
    WHERE r.status = 'queued' AND (r.not_before IS NULL OR r.not_before <= clock_timestamp())
      AND r.updated_at < clock_timestamp() - :resend_after * power(2, least(r.sends, :doublings))
      AND NOT EXISTS (SELECT FROM run_attempts a WHERE a.run_id = r.id AND a.termination = 'owed')
    ORDER BY r.id LIMIT :limit FOR NO KEY UPDATE OF r SKIP LOCKED
), resent AS (
    UPDATE runs r SET sends = r.sends + 1, updated_at = clock_timestamp()
    FROM unclaimed u WHERE r.id = u.id
    RETURNING r.id, r.attempt, r.sends
)
INSERT INTO run_events (run_id, attempt, kind, detail)
SELECT id, attempt, 'resent', jsonb_build_object('sends', sends) FROM resent
RETURNING run_id
""")


# tell once: an event, unless exactly that has been told already.
TELL_ONCE = text("""
INSERT INTO run_events (run_id, attempt, kind, detail)
SELECT :run_id, :attempt, :kind, CAST(:detail AS jsonb)
WHERE NOT EXISTS (
    SELECT FROM run_events e
    WHERE e.run_id = :run_id AND e.attempt = :attempt AND e.kind = :kind AND e.detail = CAST(:detail AS jsonb))
""")


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run as it was asked for, already validated."""

    adapter: str
    out_of_process_liveness: bool
    config: dict[str, Any]
    labels: dict[str, str]
    max_attempts: int
    max_runtime: timedelta | None
    idempotency_key: str | None
    trace_parent: str | None = None


class Printing(NamedTuple):
    """What a run's output means: whether it is its proof of life, and from which attempt on it is not late."""

    out_of_process_liveness: bool
    live_from: int


class Standing(StrEnum):
    """What a fencing token is still worth."""

    CURRENT = "current"
    """Its follower may write."""
    ADOPTED = "adopted"
    """Another worker follows the work: leave it alone."""
    ENDED = "ended"
    """The run has ended, or is at another attempt: end the work."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that an `End` did apply to."""

    run_id: UUID
    attempt: int
    epoch: int
    status: Status


class RunStore:
    """Runs in PostgreSQL. Methods that take a `connection` are part of the caller's transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- asked for, claimed, recorded

    def add(self, new: NewRun) -> tuple[Run, bool]:
        """Write the row of a new run; the same idempotency key gives the run of the first time, and False.

        Raises `IdempotencyConflict` when that one was asked to do something else.
        """
        run_id = uuid7()
        try:
            with self._database.begin() as connection:
                self._insert(connection, run_id, new)
        except IntegrityError as error:
            if new.idempotency_key is None or "idempotency_key" not in str(error.orig):
                raise
            return self._same_as_before(new, new.idempotency_key), False
        return self.get(run_id), True

    @staticmethod
    def _insert(connection: Connection, run_id: UUID, new: NewRun) -> None:
        connection.execute(
            insert(Run).values(
                id=run_id,
                adapter=new.adapter,
                out_of_process_liveness=new.out_of_process_liveness,
                max_attempts=new.max_attempts,
                max_runtime=new.max_runtime,
            )
        )
        connection.execute(
            insert(RunSpec).values(
                run_id=run_id,
                config=new.config,
                labels=new.labels,
                idempotency_key=new.idempotency_key,
                trace_parent=new.trace_parent,
            )
        )
        connection.execute(insert(RunEvent).values(run_id=run_id, attempt=0, kind=EventKind.ENQUEUED.value, detail={}))

    def _same_as_before(self, new: NewRun, key: str) -> Run:
        with self._database.session() as session:
            run_id = session.execute(select(RunSpec.run_id).where(RunSpec.idempotency_key == key)).scalar_one()
        run = self.get(run_id)
        if (run.adapter, run.spec.config) != (new.adapter, new.config):
            raise IdempotencyConflict(
                f"idempotency_key {key!r} belongs to run {run_id}, which has another adapter or config; use a new key."
            )
        return run

    def claim(
        self, run_id: UUID, worker_node: str, worker_id: UUID | None = None, adapters: Sequence[str] | None = None
    ) -> Work | None:
        """Start the next attempt of a queued run, or None when it is not this worker's to start, or not yet.

        `adapters` are those that this worker has; None for all.
        """
        values = {
            "run_id": run_id,
            "worker_node": worker_node,
            "worker_id": worker_id,
            "adapters": None if adapters is None else list(adapters),
        }
        with self._database.begin() as connection:
            row = connection.execute(CLAIM, values).one_or_none()
        return None if row is None else work_of(row, row.max_runtime)

    def lacks_adapter(self, run_id: UUID, worker_node: str, adapters: Sequence[str]) -> str | None:
        """The adapter that a queued run waits for and that is not among these, which is told once; None for no such."""
        values = {"run_id": run_id, "worker_node": worker_node, "adapters": list(adapters)}
        with self._database.begin() as connection:
            adapter: str | None = connection.execute(LACKS, values).scalar()
        return adapter

    def awaiting(self, adapters: Sequence[str], limit: int) -> list[UUID]:
        """Queued runs that an earlier worker had no adapter for, and that need one of these."""
        with self._database.begin() as connection:
            return list(connection.execute(AWAITED, {"adapters": list(adapters), "limit": limit}).scalars())

    def claimed_for(self, worker_id: UUID, claimed_before: timedelta) -> set[Fence]:
        """What this worker claimed so long ago or longer, and has recorded nothing of."""
        values = {"worker_id": worker_id, "claimed_before": claimed_before}
        with self._database.begin() as connection:
            return {Fence(row.id, row.epoch) for row in connection.execute(UNFOLLOWED, values)}

    def take_back(self, fence: Fence, note: str, wait: float, doublings: int) -> float | None:
        """Put a run back into the queue whose attempt began nothing; in how many seconds it may be claimed.

        The attempt does not count. None when it recorded work, has output, or is not this fence's any more.
        """
        values = fence._asdict() | {"note": note, "wait": wait, "doublings": doublings}
        with self._database.begin() as connection:
            seconds: float | None = connection.execute(TAKE_BACK, values).scalar()
        return seconds

    def persist_run_process_metadata(
        self, fence: Fence, host: str, process: ProcessIdentity, slot: str | None = None
    ) -> None:
        """Record the child that an attempt has spawned; raises `Superseded` when the attempt is not running."""
        detail = {"host": host, "pid": process.pid, "process_group_id": process.process_group_id}
        self._persist(fence, EventKind.SPAWNED, detail, host=host, slot=slot, **process.as_handle())

    def persist_run_handle(
        self, fence: Fence, host: str | None, handle: dict[str, Any], slot: str | None = None
    ) -> None:
        """Record the handle of work that is dispatched elsewhere, or what more is known of it; raises as above."""
        self._persist(fence, EventKind.DISPATCHED, {"host": host}, host=host, slot=slot, handle=json.dumps(handle))

    def _persist(self, fence: Fence, kind: EventKind, detail: dict[str, Any], **columns: Any) -> None:
        names = ("host", "slot", "pid", "process_group_id", "started_at", "namespace", "marker", "handle")
        absent = dict.fromkeys(names)
        values = absent | columns | {"kind": kind.value, "detail": json.dumps(detail)}
        with self._database.begin() as connection:
            recorded = connection.execute(PERSIST, values | fence._asdict()).one_or_none()
        if recorded is None:
            raise Superseded(f"Run {fence.run_id} is no longer followed under epoch {fence.epoch}.")

    def trace_parents(self, run_ids: Iterable[UUID]) -> dict[UUID, str | None]:
        """The places of these runs in the traces of those who asked for them."""
        with self._database.session() as session:
            found = session.execute(select(RunSpec.run_id, RunSpec.trace_parent).where(RunSpec.run_id.in_(run_ids)))
            return {row.run_id: row.trace_parent for row in found}

    # -- alive

    @staticmethod
    def printing(connection: Connection, run_ids: Iterable[UUID]) -> dict[UUID, Printing]:
        """For each of these runs that exists, what its output means."""
        rows = connection.execute(PRINTING, {"ids": [str(run_id) for run_id in run_ids]})
        return {row.id: Printing(row.out_of_process_liveness, row.live_from) for row in rows}

    @staticmethod
    def note_late_output(connection: Connection, keys: Iterable[tuple[UUID, int]]) -> list[str]:
        """Flag the attempts among these that were reaped before this output came; returns the adapters of new ones."""
        values = key_arrays(keys)
        return list(connection.execute(LATE_OUTPUT, values).scalars()) if values["ids"] else []

    def note_late_result(self, end: End) -> str | None:
        """Flag an attempt that was reaped before this result came; returns its adapter, None when it was not reaped."""
        values = end.fence._asdict() | {"last_seq": end.last_seq, "detail": json.dumps(end.detail)}
        with self._database.begin() as connection:
            adapter: str | None = connection.execute(LATE_RESULT, values).scalar()
        return adapter

    @staticmethod
    def refresh(connection: Connection, fences: Iterable[Fence], proof: Proof) -> set[Fence]:
        """Write a proof of life for the runs that these fences still follow; returns the fences it applied to."""
        parameters = fence_arrays(fences)
        if not parameters["ids"]:
            return set()
        rows = connection.execute(REFRESH, parameters | {"proof": proof.value})
        return {Fence(row.id, row.epoch) for row in rows}

    def standings(self, fences: Iterable[Fence]) -> dict[Fence, Standing]:
        """What each of these fences is still worth."""
        wanted = set(fences)
        if not wanted:
            return {}
        with self._database.begin() as connection:
            rows = connection.execute(STANDING, fence_arrays(wanted)).all()
        known = {Fence(row.id, row.epoch): Standing(row.standing) for row in rows}
        return {fence: known.get(fence, Standing.ENDED) for fence in wanted}

    # -- ended

    @staticmethod
    def end(connection: Connection, ends: Sequence[End]) -> list[Ended]:
        """Apply the ends whose conditions still hold; returns those. Call it through `workers.finish.finish`."""
        rows = connection.execute(FINISH, {"ends": json.dumps([_end_record(end) for end in ends])})
        return [Ended(row.id, row.attempt, row.epoch, Status(row.status)) for row in rows]

    @staticmethod
    def free(connection: Connection, run_ids: Iterable[UUID]) -> set[UUID]:
        """Those of these runs that nobody else is writing just now; nobody does until this transaction ends."""
        return set(connection.execute(FREE, {"ids": [str(run_id) for run_id in run_ids]}).scalars())

    def owed_terminations(self, node: Node) -> list[tuple[UUID, int]]:
        """Run and attempt of all work that must still be ended and that `node` can end.

        All of it: behind a limit, work that cannot be ended would hide the work that can.
        """
        values = {"host": node.name, "slot": node.slot}
        with self._database.begin() as connection:
            return [(row.run_id, row.attempt) for row in connection.execute(OWED, values)]

    def settle_termination(self, run_id: UUID, attempt: int) -> float | None:
        """Record that an attempt's work is confirmed gone. Where its run waits for exactly that: in how many seconds it
        may be claimed."""
        with self._database.begin() as connection:
            seconds: float | None = connection.execute(SETTLE, {"run_id": run_id, "attempt": attempt}).scalar()
        return seconds

    def resend_unclaimed(self, resend_after: timedelta, doublings: int, limit: int = 1000) -> list[UUID]:
        """The queued runs whose message may be lost, marked as sent once more."""
        parameters = {"resend_after": resend_after, "doublings": doublings, "limit": limit}
        with self._database.begin() as connection:
            return list(connection.execute(RESEND, parameters).scalars())

    def tell_once(self, run_id: UUID, attempt: int, kind: EventKind, detail: dict[str, Any]) -> None:
        """Write an event, unless exactly that has been told of the attempt already."""
        values = {"run_id": run_id, "attempt": attempt, "kind": kind.value, "detail": json.dumps(detail)}
        with self._database.begin() as connection:
            connection.execute(TELL_ONCE, values)

    # -- read

    def get(self, run_id: UUID) -> Run:
        """A run with what was asked for and its attempts; raises `RunNotFound`."""
        query = select(Run).where(Run.id == run_id).options(joinedload(Run.spec), selectinload(Run.attempts))
        with self._database.session() as session:
            run = session.execute(query).scalar_one_or_none()
        if run is None:
            raise RunNotFound(f"There is no run {run_id}.")
        return run

    def get_attempt(self, run_id: UUID, attempt: int) -> RunAttempt:
        with self._database.session() as session:
            return session.get_one(RunAttempt, (run_id, attempt))

    def list(
        self,
        *,
        statuses: Sequence[Status] = (),
        adapter: str | None = None,
        labels: Mapping[str, str] | None = None,
        before: UUID | None = None,
        limit: int = 50,
    ) -> list[Run]:
        """The newest runs first; `before` is the id after which a page goes on, the last one of the page before it."""
        query = select(Run).options(joinedload(Run.spec), selectinload(Run.attempts))
        if statuses:
            query = query.where(Run.status.in_([status.value for status in statuses]))
        if adapter is not None:
            query = query.where(Run.adapter == adapter)
        if labels:
            query = query.where(Run.spec.has(RunSpec.labels.contains(labels)))
        if before is not None:
            query = query.where(Run.id < before)
        with self._database.session() as session:
            return list(session.execute(query.order_by(Run.id.desc()).limit(limit)).unique().scalars())

    def events(self, run_id: UUID) -> Sequence[RunEvent]:
        """What happened to a run, in the order in which it happened."""
        with self._database.session() as session:
            query = select(RunEvent).where(RunEvent.run_id == run_id).order_by(RunEvent.id)
            return session.execute(query).scalars().all()

    def resolve(self, short: str) -> UUID:
        """The id of the one run whose id begins or ends with `short`; raises `RunNotFound` for none or several.

        The ids are time-ordered: runs of the same minute differ at the end, which is therefore the handy part.
        """
        wanted = short.strip().lower()
        if len(wanted) < 4 or not all(character in "0123456789abcdef-" for character in wanted):
            raise RunNotFound(f"{short!r} is no run id; give an id as `reprieve ps` shows it, 4 characters or more.")
        with self._database.begin() as connection:
            found = connection.execute(*_id_query(wanted)).scalars().all()
        if len(found) != 1:
            problem = "fits more than one run; give more of it" if found else "fits no run; see `reprieve ps`"
            raise RunNotFound(f"The run id {short!r} {problem}.")
        run_id: UUID = found[0]
        return run_id


def _id_query(wanted: str) -> tuple[TextClause, dict[str, str]]:
    """A whole id is found by the primary key; only a part of one has to be looked for in every row."""
    with suppress(ValueError):
        if str(UUID(wanted)) == wanted:
            return text("SELECT id FROM runs WHERE id = CAST(:id AS uuid)"), {"id": wanted}
    parts = {"begins": f"{wanted}%", "ends": f"%{wanted}"}
    return text("SELECT id FROM runs WHERE id::text LIKE :begins OR id::text LIKE :ends LIMIT 2"), parts


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


def _end_record(end: End) -> dict[str, Any]:
    silent_before: datetime | None = end.silent_before
    return {
        "run_id": str(end.fence.run_id),
        "epoch": end.fence.epoch,
        "from_status": end.from_status.value,
        "silent_before": silent_before.isoformat() if silent_before else None,
        "status": end.status.value,
        "error_code": end.error_code.value if end.error_code else None,
        "error_message": end.error_message,
        "kind": end.kind.value,
        "detail": end.detail,
        "outcome": end.outcome,
        "last_seq": end.last_seq,
        "work_ended": end.work_ended,
        "retry_after": end.retry_after.total_seconds(),
    }
