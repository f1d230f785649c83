"""New runs in PostgreSQL: however many, by one statement with few values, so in one round trip and by any driver."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import UUID

from reprieve.models.errors import IdempotencyConflict, InvalidRequest
from reprieve.models.faults import sqlstate_of
from reprieve.models.records import Run
from reprieve.models.requests import NewRun
from reprieve.models.status import Status
from reprieve.models.text import in_seconds
from reprieve.stores.runs.records import RunRecords
from reprieve.stores.statements import Executor, json_of, qualified, uuid_of

#: Characters of JSON that PostgreSQL takes as one value whatever they say: its own form has 12 bytes for a digit and a
#: comma, and may have 268 MB. For more, there is a savepoint: to be refused must not end a caller's transaction.
SURELY_TAKEN = 2**24
#: Characters that it is not even sent, for it would not take them.
MOST_ASKED = 2**28
#: What PostgreSQL says of such a value.
TOO_MUCH = "54000"


@cache
def _insert(schema: str | None) -> str:
    """insert-runs: what is asked for first, whose key may be known already; a run only for what was new. Keys are taken
    in their order: of two who ask for the same ones at once, each would wait for the other.

    A known id is one as well: the statement was run before, and its answer was lost.
    """
    runs, specs, events = (qualified(schema, table) for table in ("runs", "run_specs", "run_events"))
    return f"""
WITH asked AS (
    SELECT * FROM jsonb_to_recordset(CAST(:asked AS jsonb)) AS a(
        id uuid, adapter text, outlives boolean, max_attempts integer, max_runtime text,
        config jsonb, labels jsonb, idempotency_key text, lane text, priority smallint,
        start_at timestamptz, start_within text, retry_on jsonb, retry_delay text, notify jsonb, quiet_after text,
        max_silence text, again_of uuid, max_memory bigint)
), specified AS (
    INSERT INTO {specs} (run_id, config, labels, idempotency_key, trace_parent, asked_by,
                         retry_on, retry_delay, notify, start_within, again_of, max_memory)
    SELECT id, config, labels, idempotency_key, CAST(:trace_parent AS text), CAST(:asked_by AS text),
           nullif(retry_on, 'null'), CAST(retry_delay AS interval), nullif(notify, 'null'),
           CAST(start_within AS interval), again_of, max_memory
    FROM asked ORDER BY idempotency_key, id
    ON CONFLICT DO NOTHING RETURNING run_id
), added AS (
    INSERT INTO {runs} (id, adapter, out_of_process_liveness, max_attempts, max_runtime, lane, priority,
                        not_before, start_by, quiet_after, max_silence)
    SELECT a.id, a.adapter, a.outlives, a.max_attempts, CAST(a.max_runtime AS interval), a.lane, a.priority,
           a.start_at, greatest(a.start_at, clock_timestamp()) + CAST(a.start_within AS interval),
           CAST(a.quiet_after AS interval), CAST(a.max_silence AS interval)
    FROM asked a JOIN specified s ON s.run_id = a.id
    RETURNING id, created_at, updated_at, start_by
), told AS (
    INSERT INTO {events} (run_id, attempt, kind, detail) SELECT id, 0, 'enqueued', '{{}}' FROM added
), told_of_again AS (
    INSERT INTO {events} (run_id, attempt, kind, detail)
    SELECT r.id, r.attempt, 'again', jsonb_build_object('run', a.id)
    FROM added d JOIN asked a ON a.id = d.id JOIN {runs} r ON r.id = a.again_of
    FOR KEY SHARE OF r  -- One that is being removed is told nothing, and is done again all the same.
)
SELECT id, created_at, updated_at, start_by FROM added
"""  # noqa: S608 - our own text, and a quoted name


@cache
def _known(schema: str | None) -> str:
    """Which runs these ids and keys belong to."""
    runs, specs = qualified(schema, "runs"), qualified(schema, "run_specs")
    return f"""
SELECT s.run_id, s.idempotency_key, s.config, s.again_of, r.adapter FROM {specs} s JOIN {runs} r ON r.id = s.run_id
WHERE s.run_id IN (SELECT CAST(id AS uuid) FROM jsonb_array_elements_text(CAST(:ids AS jsonb)) AS t(id))
   OR s.idempotency_key IN (SELECT jsonb_array_elements_text(CAST(:keys AS jsonb)))
"""  # noqa: S608 - our own text, and a quoted name


@dataclass(frozen=True, slots=True)
class By:
    """Who asks for runs, and from which place in a trace, as W3C Trace Context writes it."""

    asked_by: str | None = None
    trace_parent: str | None = None


NOBODY = By()


def insert(executor: Executor, new: Sequence[NewRun], by: By = NOBODY) -> list[tuple[Run, bool]]:
    """Write these runs, or none of them. Returns each one's record, and whether it is new, in the same order.

    A known idempotency key gives its run; raises `IdempotencyConflict` when that has another adapter or config, and
    `InvalidRequest` for more than PostgreSQL takes at once.
    """
    asked = json.dumps([_asked(one) for one in new], ensure_ascii=False)
    if len(asked) > MOST_ASKED:
        raise _too_much(len(new), asked)
    may_fail = len(asked) > SURELY_TAKEN or (len(new) > 1 and any(one.idempotency_key is not None for one in new))
    try:
        if not may_fail:
            return _inserted(executor, new, asked, by)
        with executor.together() as transaction:
            return _inserted(transaction, new, asked, by)
    except Exception as error:
        if sqlstate_of(error) == TOO_MUCH:
            raise _too_much(len(new), asked) from error
        raise


def _too_much(runs: int, asked: str) -> InvalidRequest:
    what = "The run is" if runs == 1 else f"None of the {runs} runs was enqueued: together they are"
    way = "keep what is large elsewhere" if runs == 1 else "ask for them in parts"
    size = f"{len(asked.encode()) // 10**6} MB with config and labels"
    return InvalidRequest(f"{what} {size}, and PostgreSQL does not take as much at once; {way}.")


def _inserted(executor: Executor, new: Sequence[NewRun], asked: str, by: By) -> list[tuple[Run, bool]]:
    values = {"asked": asked, "asked_by": by.asked_by, "trace_parent": by.trace_parent}
    added = {str(row.id): row for row in executor.run(_insert(executor.schema), values)}
    found = [(one, added.get(str(one.id))) for one in new]
    others = _as_before(executor, [one for one, row in found if row is None])
    if others is None:
        return _inserted(executor, new, asked, by)
    return [(_record(one, row, by), True) if row else others[one.id] for one, row in found]


def _asked(one: NewRun) -> dict[str, Any]:
    return {
        "id": str(one.id),
        "adapter": one.adapter,
        "outlives": one.out_of_process_liveness,
        "max_attempts": one.max_attempts,
        "max_runtime": _interval(one.max_runtime),
        "config": one.config,
        "labels": one.labels,
        "idempotency_key": one.idempotency_key,
        "lane": one.lane,
        "priority": one.priority,
        "start_at": None if one.start_at is None else one.start_at.isoformat(),
        "start_within": _interval(one.start_within),
        "retry_on": one.retry_on,
        "retry_delay": _interval(one.retry_delay),
        "notify": one.notify,
        "quiet_after": _interval(one.quiet_after),
        "max_silence": _interval(one.max_silence),
        "again_of": None if one.again_of is None else str(one.again_of),
        "max_memory": one.max_memory,
    }


def _interval(length: timedelta | None) -> str | None:
    """As PostgreSQL reads it: what is too long for so many seconds is not for so many days."""
    if length is None:
        return None
    return f"{length.days} days {length.seconds}.{length.microseconds:06} seconds"


def _record(one: NewRun, row: Any, by: By) -> Run:
    """A run as its row is the moment after it was written."""
    return Run(
        id=one.id,
        adapter=one.adapter,
        out_of_process_liveness=one.out_of_process_liveness,
        status=Status.QUEUED,
        attempt=0,
        epoch=0,
        max_attempts=one.max_attempts,
        max_runtime_seconds=in_seconds(one.max_runtime),
        labels=one.labels,
        error_code=None,
        error_message=None,
        last_proof=None,
        created_at=row.created_at,
        started_at=None,
        updated_at=row.updated_at,
        finished_at=None,
        attempts=[],
        lane=one.lane,
        priority=one.priority,
        not_before=one.start_at,
        start_by=row.start_by,
        retry_on=one.retry_on,
        retry_delay_seconds=in_seconds(one.retry_delay),
        quiet_after_seconds=in_seconds(one.quiet_after),
        max_silence_seconds=in_seconds(one.max_silence),
        again_of=one.again_of,
        asked_by=by.asked_by,
        max_memory_bytes=one.max_memory,
    )


def _as_before(executor: Executor, new: Sequence[NewRun]) -> dict[UUID, tuple[Run, bool]] | None:
    """For each that was not written now, the run that was there; None where one of these has been removed since."""
    if not new:
        return {}
    keys = [one.idempotency_key for one in new if one.idempotency_key is not None]
    values = {"ids": json.dumps([str(one.id) for one in new]), "keys": json.dumps(keys)}
    rows = executor.run(_known(executor.schema), values)
    by_id = {uuid_of(row.run_id): row for row in rows}
    by_key = {row.idempotency_key: row for row in rows if row.idempotency_key is not None}
    known = {one.id: row for one in new if (row := by_id.get(one.id) or by_key.get(one.idempotency_key))}
    if any(one.id not in known for one in new):
        return None
    for one in new:
        row = known[one.id]
        if one.again_of != (again_of := row.again_of and uuid_of(row.again_of)) and one.again_of is not None:
            said = f"does run {again_of} again" if again_of else "does no other run again"
            raise IdempotencyConflict(
                f"idempotency_key {one.idempotency_key!r} belongs to run {row.run_id}, which {said}; use a new key."
            )
        if not one.is_as(row.adapter, json_of(row.config)):
            raise IdempotencyConflict(
                f"idempotency_key {one.idempotency_key!r} belongs to run {row.run_id}, which has another adapter or "
                "config; use a new key."
            )
    runs = {run.id: run for run in RunRecords(executor).of([uuid_of(row.run_id) for row in rows])}
    if len(runs) < len({uuid_of(row.run_id) for row in rows}):
        return None
    return {own: (runs[uuid_of(row.run_id)], uuid_of(row.run_id) == own) for own, row in known.items()}
