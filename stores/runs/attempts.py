"""Attempts: what an attempt has started, recorded before it may begin, and what its follower may still write."""

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from sqlalchemy import text

from reprieve.models.errors import Superseded
from reprieve.models.process import ProcessIdentity
from reprieve.models.status import EventKind
from reprieve.models.work import Fence
from reprieve.stores.arrays import fence_arrays
from reprieve.stores.database import Database

# persist: what the attempt started, recorded before it may begin, unless the attempt has ended meanwhile. A handle may
# be recorded again when more is known of the work; that is no second start, and makes no second event.
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

# standing: which of these fences may still write. If another worker has adopted the attempt, the work goes on and its
# old follower is to leave it; in every other case the work is to be ended.
STANDING = text("""
SELECT t.id, t.epoch, CASE WHEN r.epoch = t.epoch THEN 'current' ELSE 'adopted' END AS standing
FROM runs r JOIN unnest(CAST(:ids AS uuid[]), CAST(:epochs AS bigint[])) AS t (id, epoch) ON t.id = r.id
WHERE r.status = 'running' AND (r.epoch = t.epoch OR r.out_of_process_liveness AND r.epoch > t.epoch)
""")


class Standing(StrEnum):
    """What a fence is still worth."""

    CURRENT = "current"
    """Its follower may write."""
    ADOPTED = "adopted"
    """Another worker follows the work: leave it alone."""
    ENDED = "ended"
    """The run has ended, or is at another attempt: end the work."""


class AttemptStore:
    """Attempts in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
        if not self._database.run(PERSIST, values | fence._asdict()):
            raise Superseded(f"Run {fence.run_id} is no longer followed under epoch {fence.epoch}.")

    def standings(self, fences: Iterable[Fence]) -> dict[Fence, Standing]:
        """What each of these fences is still worth."""
        wanted = set(fences)
        if not wanted:
            return {}
        rows = self._database.run(STANDING, fence_arrays(wanted))
        known = {Fence(row.id, row.epoch): Standing(row.standing) for row in rows}
        return {fence: known.get(fence, Standing.ENDED) for fence in wanted}
