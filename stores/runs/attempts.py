"""Attempts: what an attempt has started, recorded before it may begin, and what its follower may still write."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self

from sqlalchemy import TextClause, text

from reprieve.models.errors import Superseded
from reprieve.models.process import ProcessIdentity
from reprieve.models.status import EventKind
from reprieve.models.used import Used, used_columns
from reprieve.models.work import Fence
from reprieve.stores.arrays import fence_arrays
from reprieve.stores.database import Database

# persist: what attempts have started, recorded before it may begin, unless the attempt has ended meanwhile. A handle
# may be recorded again when more is known of the work; that is no second start, and makes no second event. With
# `:waits`, a row that another transaction holds is waited for; without, it is passed over.
PERSIST = """
WITH said AS (
    SELECT * FROM jsonb_to_recordset(CAST(:starts AS jsonb)) AS s (
        run_id uuid, epoch bigint, kind text, detail jsonb, host text, slot text, pid int, process_group_id int,
        started_at float, namespace text, marker text, handle jsonb)
), before AS MATERIALIZED (
    SELECT a.run_id, a.attempt, a.epoch, a.handle IS NULL AND a.process_pid IS NULL AS is_first
    FROM run_attempts a JOIN said s ON s.run_id = a.run_id AND s.epoch = a.epoch
    WHERE a.finished_at IS NULL
    ORDER BY a.run_id FOR NO KEY UPDATE OF a {held}
), recorded AS (
    UPDATE run_attempts a
    SET host = s.host, slot = s.slot, process_pid = s.pid, process_group_id = s.process_group_id,
        process_started_at = s.started_at, process_namespace = s.namespace, process_marker = s.marker,
        handle = s.handle
    FROM before b JOIN said s ON s.run_id = b.run_id AND s.epoch = b.epoch
    WHERE a.run_id = b.run_id AND a.attempt = b.attempt AND a.epoch = b.epoch AND a.finished_at IS NULL
    RETURNING a.run_id, a.attempt, a.epoch, b.is_first, s.kind, s.detail
), told AS (
    INSERT INTO run_events (run_id, attempt, kind, detail)
    SELECT run_id, attempt, kind, detail FROM recorded WHERE is_first
)
SELECT run_id, epoch FROM recorded
"""
PERSIST_WAITING, PERSIST_FREE = (text(PERSIST.format(held=held)) for held in ("", "SKIP LOCKED"))

# standing: which of these fences may still write. If another worker has adopted the attempt, the work goes on and its
# old follower is to leave it; in every other case the work is to be ended.
STANDING = text("""
SELECT t.id, t.epoch, CASE WHEN r.epoch = t.epoch THEN 'current' ELSE 'adopted' END AS standing
FROM runs r JOIN unnest(CAST(:ids AS uuid[]), CAST(:epochs AS bigint[])) AS t (id, epoch) ON t.id = r.id
WHERE r.status = 'running' AND (r.epoch = t.epoch OR r.out_of_process_liveness AND r.epoch > t.epoch)
""")


# note used: what an attempt used that another has ended (a cancel, a reap), as its follower says when its work is gone.
NOTE_USED = text("""
UPDATE run_attempts
SET cpu_seconds = coalesce(:cpu_seconds, cpu_seconds), peak_memory = coalesce(:peak_memory, peak_memory),
    memory_limit = coalesce(:memory_limit, memory_limit)
WHERE run_id = :run_id AND epoch = :epoch AND finished_at IS NOT NULL
""")


class Standing(StrEnum):
    """What a fence is still worth."""

    CURRENT = "current"
    """Its follower may write."""
    ADOPTED = "adopted"
    """Another worker follows the work: leave it alone."""
    ENDED = "ended"
    """The run has ended, or is at another attempt: end the work."""


@dataclass(frozen=True, slots=True)
class Start:
    """What an attempt has started: a child of its worker (`of_process`), or work that a handle leads to."""

    fence: Fence
    kind: EventKind
    detail: dict[str, Any]
    host: str | None
    slot: str | None
    handle: dict[str, Any] | None = None
    pid: int | None = None
    process_group_id: int | None = None
    started_at: float | None = None
    namespace: str | None = None
    marker: str | None = None

    @classmethod
    def of_process(cls, fence: Fence, host: str, process: ProcessIdentity, slot: str | None) -> Self:
        detail = {"host": host, "pid": process.pid, "process_group_id": process.process_group_id}
        return cls(fence, EventKind.SPAWNED, detail, host, slot, **process.as_handle())

    @classmethod
    def of_handle(cls, fence: Fence, host: str | None, handle: dict[str, Any], slot: str | None) -> Self:
        return cls(fence, EventKind.DISPATCHED, {"host": host}, host, slot, handle)

    def as_record(self) -> dict[str, Any]:
        """As the statement reads it."""
        said = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "fence"}
        return said | {"run_id": str(self.fence.run_id), "epoch": self.fence.epoch}


class AttemptStore:
    """Attempts in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def persist(self, start: Start) -> None:
        """Record what an attempt has started; raises `Superseded` when the attempt is not running."""
        if not self._persist(PERSIST_WAITING, [start]):
            raise Superseded(f"Run {start.fence.run_id} is no longer followed under epoch {start.fence.epoch}.")

    def persist_free(self, starts: Iterable[Start]) -> set[Fence]:
        """Record what these attempts have started; returns those that were recorded.

        The others are not running, or another transaction holds them just now.
        """
        return self._persist(PERSIST_FREE, starts)

    def _persist(self, statement: TextClause, starts: Iterable[Start]) -> set[Fence]:
        records = json.dumps([start.as_record() for start in starts])
        rows = self._database.run(statement, {"starts": records})
        return {Fence(row.run_id, row.epoch) for row in rows}

    def note_used(self, fence: Fence, used: Used) -> None:
        """Keep what an attempt used that has ended without its follower."""
        self._database.run(NOTE_USED, fence._asdict() | used_columns(used))

    def standings(self, fences: Iterable[Fence]) -> dict[Fence, Standing]:
        """What each of these fences is still worth."""
        wanted = set(fences)
        if not wanted:
            return {}
        rows = self._database.run(STANDING, fence_arrays(wanted))
        known = {Fence(row.id, row.epoch): Standing(row.standing) for row in rows}
        return {fence: known.get(fence, Standing.ENDED) for fence in wanted}
