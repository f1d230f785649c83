"""Runs as records, for whoever looks at them: services, commands, the HTTP API."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

from reprieve.models.errors import RunNotFound
from reprieve.models.process import work_of
from reprieve.models.records import Run
from reprieve.models.status import Status
from reprieve.stores.statements import Executor, json_of, qualified, uuid_of

_COLUMNS = """
r.id, r.adapter, r.out_of_process_liveness, r.status, r.attempt, r.epoch, r.max_attempts,
CAST(extract(epoch FROM r.max_runtime) AS double precision) AS max_runtime_seconds, s.labels, r.error_code,
r.error_message, r.last_proof, r.created_at, r.started_at, r.updated_at, r.finished_at, r.lane, r.priority,
r.not_before, r.start_by, s.retry_on,
CAST(extract(epoch FROM s.retry_delay) AS double precision) AS retry_delay_seconds,
CAST(extract(epoch FROM r.quiet_after) AS double precision) AS quiet_after_seconds,
CAST(extract(epoch FROM r.max_silence) AS double precision) AS max_silence_seconds,
r.output_at, r.quiet_at, r.snoozed_until, s.again_of
"""


class RunRecords:
    """Runs in PostgreSQL, each with what was asked for and its attempts, by one statement."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def get(self, run_id: UUID) -> Run:
        """Raises `RunNotFound`."""
        for run in self.of([run_id]):
            return run
        raise RunNotFound(f"There is no run {run_id}.")

    def of(self, run_ids: Sequence[UUID]) -> list[Run]:
        """Those of these runs that there are, in no order."""
        ids = json.dumps([str(run_id) for run_id in run_ids])
        condition = "r.id IN (SELECT CAST(id AS uuid) FROM jsonb_array_elements_text(CAST(:ids AS jsonb)) AS t(id))"
        return self._read([condition], {"ids": ids})

    def newest(
        self,
        *,
        statuses: Sequence[Status] = (),
        adapter: str | None = None,
        labels: Mapping[str, str] | None = None,
        before: UUID | None = None,
        limit: int = 50,
    ) -> list[Run]:
        """The newest runs of these, the newest first.

        `before` is the id after which a page goes on: the last one of the page before it.
        """
        asked = {
            "r.status IN (SELECT jsonb_array_elements_text(CAST(:statuses AS jsonb)))": ("statuses", list(statuses)),
            "r.adapter = :adapter": ("adapter", adapter),
            "s.labels @> CAST(:labels AS jsonb)": ("labels", dict(labels or {})),
            "r.id < CAST(:before AS uuid)": ("before", before and str(before)),
        }
        given = {condition: pair for condition, pair in asked.items() if pair[1]}
        values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.values()}
        return self._read([*given], values | {"limit": limit}, "ORDER BY r.id DESC LIMIT :limit")

    def _read(self, conditions: Sequence[str], values: Mapping[str, Any], order: str = "") -> list[Run]:
        runs, specs, attempts = (self._table(name) for name in ("runs", "run_specs", "run_attempts"))
        statement = f"""
SELECT {_COLUMNS}, (
    SELECT jsonb_agg(to_jsonb(a) || jsonb_build_object('longest_silence_seconds', extract(epoch FROM a.longest_silence))
                     ORDER BY a.attempt) FROM {attempts} a WHERE a.run_id = r.id) AS attempts
FROM {runs} r JOIN {specs} s ON s.run_id = r.id
{"WHERE " + " AND ".join(conditions) if conditions else ""} {order}
"""  # noqa: S608 - our own text, and quoted names
        return [_record(row) for row in self._executor.run(statement, values)]

    def now(self) -> datetime:
        """The database's clock."""
        (row,) = self._executor.run("SELECT clock_timestamp() AS now")
        now: datetime = row.now
        return now

    def resolve(self, short: str) -> UUID:
        """The id of the one run whose id begins or ends with `short`; raises `RunNotFound` for none or several.

        The ids are time-ordered: runs of the same minute differ at the end, which is therefore the handy part.
        """
        wanted = short.strip().lower()
        if len(wanted) < 4 or not all(character in "0123456789abcdef-" for character in wanted):
            raise RunNotFound(f"{short!r} is no run id; give an id as `reprieve ps` shows it, 4 characters or more.")
        found = self._executor.run(*self._id_query(wanted))
        if len(found) != 1:
            problem = "fits more than one run; give more of it" if found else "fits no run; see `reprieve ps`"
            raise RunNotFound(f"The run id {short!r} {problem}.")
        return uuid_of(found[0].id)

    def _id_query(self, wanted: str) -> tuple[str, dict[str, str]]:
        """A whole id is found by the primary key; only a part of one has to be looked for in every row."""
        select = f"SELECT id FROM {self._table('runs')} WHERE "  # noqa: S608 - our own text
        with suppress(ValueError):
            return select + "id = CAST(:id AS uuid)", {"id": str(UUID(wanted))}
        parts = {"begins": f"{wanted}%", "ends": f"%{wanted}"}
        return select + "CAST(id AS text) LIKE :begins OR CAST(id AS text) LIKE :ends LIMIT 2", parts

    def _table(self, name: str) -> str:
        return qualified(self._executor.schema, name)


def _record(row: Any) -> Run:
    columns = dict(row._asdict())
    attempts = columns["attempts"] or []
    columns["attempts"] = [attempt | {"work": work_of(attempt)} for attempt in json_of(attempts)]
    return Run.model_validate(columns | {name: json_of(columns[name]) for name in ("labels", "retry_on")})
