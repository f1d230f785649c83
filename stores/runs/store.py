"""Adding runs, and reading them with their attempts and events."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, TextClause, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import joinedload, selectinload
from uuid_utils.compat import uuid7

from reprieve.models.errors import IdempotencyConflict, RunNotFound
from reprieve.models.rows import RunAttempt, RunEvent, RunRow, RunSpec
from reprieve.models.status import EventKind, Status
from reprieve.stores.database import Database

# tell once: an event, unless there is exactly this one already.
TELL_ONCE = text("""
INSERT INTO run_events (run_id, attempt, kind, detail)
SELECT :run_id, :attempt, :kind, CAST(:detail AS jsonb)
WHERE NOT EXISTS (
    SELECT FROM run_events e
    WHERE e.run_id = :run_id AND e.attempt = :attempt AND e.kind = :kind AND e.detail = CAST(:detail AS jsonb))
""")


@dataclass(frozen=True, slots=True)
class NewRun:
    """A requested run, already validated."""

    adapter: str
    out_of_process_liveness: bool
    config: dict[str, Any]
    labels: dict[str, str]
    max_attempts: int
    max_runtime: timedelta | None
    idempotency_key: str | None
    trace_parent: str | None = None


class RunStore:
    """Runs in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, new: NewRun) -> tuple[RunRow, bool]:
        """Write the row of a new run; the same idempotency key gives the first run again, and False.

        Raises `IdempotencyConflict` when that run has another adapter or config.
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
            insert(RunRow).values(
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

    def _same_as_before(self, new: NewRun, key: str) -> RunRow:
        with self._database.session() as session:
            run_id = session.execute(select(RunSpec.run_id).where(RunSpec.idempotency_key == key)).scalar_one()
        run = self.get(run_id)
        if (run.adapter, run.spec.config) != (new.adapter, new.config):
            raise IdempotencyConflict(
                f"idempotency_key {key!r} belongs to run {run_id}, which has another adapter or config; use a new key."
            )
        return run

    def get(self, run_id: UUID) -> RunRow:
        """A run with what was asked for and its attempts; raises `RunNotFound`."""
        query = (
            select(RunRow).where(RunRow.id == run_id).options(joinedload(RunRow.spec), selectinload(RunRow.attempts))
        )
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
    ) -> list[RunRow]:
        """The newest runs first; `before` is the id after which a page goes on, the last one of the page before it."""
        query = select(RunRow).options(joinedload(RunRow.spec), selectinload(RunRow.attempts))
        if statuses:
            query = query.where(RunRow.status.in_([status.value for status in statuses]))
        if adapter is not None:
            query = query.where(RunRow.adapter == adapter)
        if labels:
            query = query.where(RunRow.spec.has(RunSpec.labels.contains(labels)))
        if before is not None:
            query = query.where(RunRow.id < before)
        with self._database.session() as session:
            return list(session.execute(query.order_by(RunRow.id.desc()).limit(limit)).unique().scalars())

    def events(self, run_id: UUID) -> Sequence[RunEvent]:
        """What happened to a run, in the order in which it happened."""
        with self._database.session() as session:
            query = select(RunEvent).where(RunEvent.run_id == run_id).order_by(RunEvent.id)
            return session.execute(query).scalars().all()

    def tell_once(self, run_id: UUID, attempt: int, kind: EventKind, detail: dict[str, Any]) -> None:
        """Write an event, unless the attempt has exactly this one already."""
        values = {"run_id": run_id, "attempt": attempt, "kind": kind.value, "detail": json.dumps(detail)}
        self._database.run(TELL_ONCE, values)

    def trace_parents(self, run_ids: Iterable[UUID]) -> dict[UUID, str | None]:
        """The place of each of these runs in its caller's trace."""
        with self._database.session() as session:
            found = session.execute(select(RunSpec.run_id, RunSpec.trace_parent).where(RunSpec.run_id.in_(run_ids)))
            return {row.run_id: row.trace_parent for row in found}

    def resolve(self, short: str) -> UUID:
        """The id of the one run whose id begins or ends with `short`; raises `RunNotFound` for none or several.

        The ids are time-ordered: runs of the same minute differ at the end, which is therefore the handy part.
        """
        wanted = short.strip().lower()
        if len(wanted) < 4 or not all(character in "0123456789abcdef-" for character in wanted):
            raise RunNotFound(f"{short!r} is no run id; give an id as `reprieve ps` shows it, 4 characters or more.")
        found = [row.id for row in self._database.run(*_id_query(wanted))]
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
