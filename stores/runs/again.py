"""Runs that are to be done again: what each was asked for with."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from reprieve.models.errors import RunNotFound
from reprieve.models.requests import NewRun
from reprieve.stores.statements import Executor, json_of, qualified, uuid_of


def as_asked(executor: Executor, run_ids: Sequence[UUID]) -> list[NewRun]:
    """A new run for each of these, in their order, with all that it was asked for with, and as its adapter keeps that.

    But for its idempotency key, which names that one run, and the moment at which it was to start, which is over.
    Raises `RunNotFound`.
    """
    runs, specs = qualified(executor.schema, "runs"), qualified(executor.schema, "run_specs")
    statement = f"""
SELECT r.id, r.adapter, r.out_of_process_liveness, s.config, s.labels, r.max_attempts, r.max_runtime, r.lane,
       r.priority, s.start_within, s.retry_on, s.retry_delay, s.notify, r.quiet_after, r.max_silence,
       s.max_memory
FROM {runs} r JOIN {specs} s ON s.run_id = r.id
WHERE r.id IN (SELECT CAST(id AS uuid) FROM jsonb_array_elements_text(CAST(:ids AS jsonb)) AS t(id))
"""  # noqa: S608 - our own text, and quoted names
    rows = executor.run(statement, {"ids": json.dumps([str(run_id) for run_id in run_ids])})
    found = {uuid_of(row.id): row for row in rows}
    if missing := next((run_id for run_id in run_ids if run_id not in found), None):
        raise RunNotFound(f"There is no run {missing}.")
    return [_anew(run_id, found[run_id]) for run_id in run_ids]


def not_made_with(executor: Executor, key: str, run_ids: Sequence[UUID]) -> list[UUID]:
    """Those of these runs that are not themselves what a request for many, with this key, has made."""
    statement = f"""
SELECT run_id FROM {qualified(executor.schema, "run_specs")}
WHERE run_id IN (SELECT CAST(id AS uuid) FROM jsonb_array_elements_text(CAST(:ids AS jsonb)) AS t(id))
  AND idempotency_key = :key || '-' || CAST(again_of AS text)
"""  # noqa: S608 - our own text, and a quoted name
    rows = executor.run(statement, {"ids": json.dumps([str(run_id) for run_id in run_ids]), "key": key})
    made = {uuid_of(row.run_id) for row in rows}
    return [run_id for run_id in run_ids if run_id not in made]


def _anew(run_id: UUID, row: Any) -> NewRun:
    asked = dict(row._asdict())
    asked |= {name: json_of(asked[name]) for name in ("config", "labels", "retry_on", "notify")}
    return NewRun(**asked | {"id": uuid7(), "again_of": run_id})
