"""Adding runs, and reading them with their attempts and events."""

import json
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import joinedload, selectinload

from reprieve.models.errors import RunNotFound
from reprieve.models.rows import RunAttempt, RunEvent, RunRow, RunSpec
from reprieve.models.status import EventKind
from reprieve.models.work import Retries, retries_of
from reprieve.stores.database import Database

# tell once: an event, unless there is exactly this one already.
TELL_ONCE = text("""
INSERT INTO run_events (run_id, attempt, kind, detail)
SELECT :run_id, :attempt, :kind, CAST(:detail AS jsonb)
WHERE NOT EXISTS (
    SELECT FROM run_events e
    WHERE e.run_id = :run_id AND e.attempt = :attempt AND e.kind = :kind AND e.detail = CAST(:detail AS jsonb))
""")

# retries: read for those alone that are lost, beside what is narrow.
RETRIES = text("""
SELECT run_id, retry_on, retry_delay FROM run_specs
WHERE run_id = ANY(CAST(:ids AS uuid[])) AND retry_on IS NOT NULL
""")


class RunStore:
    """Runs in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, run_id: UUID, *, with_reports: bool = False) -> RunRow:
        """A run with what was asked for and its attempts, and with what these have said; raises `RunNotFound`."""
        said = [selectinload(RunRow.reports)] if with_reports else []
        whole = joinedload(RunRow.spec), selectinload(RunRow.attempts), *said
        query = select(RunRow).where(RunRow.id == run_id).options(*whole)
        with self._database.session() as session:
            run = session.execute(query).scalar_one_or_none()
        if run is None:
            raise RunNotFound(f"There is no run {run_id}.")
        return run

    def get_attempt(self, run_id: UUID, attempt: int) -> RunAttempt:
        with self._database.session() as session:
            return session.get_one(RunAttempt, (run_id, attempt))

    def events(self, run_id: UUID) -> Sequence[RunEvent]:
        """What happened to a run, in the order in which it happened."""
        with self._database.session() as session:
            query = select(RunEvent).where(RunEvent.run_id == run_id).order_by(RunEvent.id)
            return session.execute(query).scalars().all()

    def tell_once(self, run_id: UUID, attempt: int, kind: EventKind, detail: dict[str, Any]) -> None:
        """Write an event, unless the attempt has exactly this one already."""
        values = {"run_id": run_id, "attempt": attempt, "kind": kind.value, "detail": json.dumps(detail)}
        self._database.run(TELL_ONCE, values)

    def retries(self, run_ids: Iterable[UUID]) -> dict[UUID, Retries]:
        """Which ends another attempt follows, of those of these runs that asked for that."""
        rows = self._database.run(RETRIES, {"ids": list(map(str, run_ids))})
        return {row.run_id: retries_of(row.retry_on, row.retry_delay) for row in rows}

    def trace_parents(self, run_ids: Iterable[UUID]) -> dict[UUID, str | None]:
        """The place of each of these runs in its caller's trace."""
        with self._database.session() as session:
            found = session.execute(select(RunSpec.run_id, RunSpec.trace_parent).where(RunSpec.run_id.in_(run_ids)))
            return {row.run_id: row.trace_parent for row in found}
