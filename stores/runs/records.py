"""Runs as records, for whoever looks at them: services, commands, the HTTP API."""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Unpack
from uuid import UUID

from reprieve.models.errors import RunNotFound
from reprieve.models.filters import END_OF_ID, RunChoice, RunFilter, Sort
from reprieve.models.process import work_of
from reprieve.models.records import AskedRecord, Run, RunPage
from reprieve.models.saying import of_run
from reprieve.models.used import used_of
from reprieve.stores.runs.lists import Listing
from reprieve.stores.statements import Executor, json_of, qualified, uuid_of

_COLUMNS = """
r.id, r.adapter, r.out_of_process_liveness, r.status, r.attempt, r.epoch, r.max_attempts,
CAST(extract(epoch FROM r.max_runtime) AS double precision) AS max_runtime_seconds, s.labels, r.error_code,
r.error_message, r.last_proof, r.created_at, r.started_at, r.updated_at, r.finished_at, r.lane, r.priority,
r.not_before, r.start_by, s.retry_on,
CAST(extract(epoch FROM s.retry_delay) AS double precision) AS retry_delay_seconds,
CAST(extract(epoch FROM r.quiet_after) AS double precision) AS quiet_after_seconds,
CAST(extract(epoch FROM r.max_silence) AS double precision) AS max_silence_seconds,
r.output_at, r.quiet_at, r.snoozed_until, s.again_of, s.asked_by, s.max_memory AS max_memory_bytes
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
        statement = f"""
SELECT {self._columns} FROM {self._table("runs")} r JOIN {self._table("run_specs")} s ON s.run_id = r.id
WHERE r.id IN (SELECT CAST(id AS uuid) FROM jsonb_array_elements_text(CAST(:ids AS jsonb)) AS t(id))
"""  # noqa: S608 - our own text, and quoted names
        rows = self._executor.run(statement, {"ids": json.dumps([str(run_id) for run_id in run_ids])})
        return [_record(row) for row in rows]

    def asked(self, run_id: UUID) -> AskedRecord:
        """What it was asked for with. Raises `RunNotFound`."""
        statement = f"""
SELECT config, idempotency_key, notify, CAST(extract(epoch FROM start_within) AS double precision) AS start_within
FROM {self._table("run_specs")} WHERE run_id = :id
"""  # noqa: S608 - our own text, and a quoted name
        for row in self._executor.run(statement, {"id": str(run_id)}):
            return AskedRecord(
                config=json_of(row.config),
                idempotency_key=row.idempotency_key,
                start_within_seconds=row.start_within,
                notify=json_of(row.notify),
            )
        raise RunNotFound(f"There is no run {run_id}.")

    def page(
        self, wanted: RunFilter, *, before: UUID | None = None, limit: int = 50, sort: Sort = Sort.NEWEST
    ) -> RunPage:
        """The first of these runs in this order; `before` is `next` of the page before. Raises `InvalidRequest`.

        A page may have fewer of them than `limit`, or none, where `next` says that there may be more (`lists`).
        """
        rows, further = Listing(self._executor, wanted, before, limit, self._columns, sort).page()
        return RunPage(runs=[_record(row) for row in rows], next=further)

    def ids(self, wanted: RunFilter, *, before: UUID | None = None, limit: int) -> tuple[list[UUID], UUID | None]:
        """The ids alone, and the id before which the next page begins."""
        rows, further = Listing(self._executor, wanted, before, limit, "r.id").page()
        return [uuid_of(row.id) for row in rows], further

    def newest(self, *, limit: int = 50, **choice: Unpack[RunChoice]) -> list[Run]:
        """The newest runs of these, the newest first. Raises `InvalidRequest`."""
        return self.first(RunFilter.of(**choice), limit)

    def first(self, wanted: RunFilter, limit: int, sort: Sort = Sort.NEWEST) -> list[Run]:
        """The same, however many runs have to be looked at for it."""
        runs, before = list[Run](), None
        while len(runs) < limit:
            page = self.page(wanted, before=before, limit=limit - len(runs), sort=sort)
            runs += page.runs
            if page.next is None:
                break
            before = page.next
        return runs

    @property
    def _columns(self) -> str:
        attempts = self._table("run_attempts")
        attempt = "to_jsonb(a) || jsonb_build_object('longest_silence_seconds', extract(epoch FROM a.longest_silence))"
        of_attempts = f"SELECT jsonb_agg({attempt} ORDER BY a.attempt) FROM {attempts} a WHERE a.run_id = r.id"  # noqa: S608
        return f"{_COLUMNS}, ({of_attempts}) AS attempts, ({self._reports}) AS reports"

    @property
    def _reports(self) -> str:
        """Without the results: each may be large, and its size is known without reading it."""
        narrow = "p.attempt, p.progress, p.sentence, p.usage, p.at, octet_length(p.result) AS result_bytes"
        reports = f"SELECT {narrow} FROM {self._table('run_reports')} p WHERE p.run_id = r.id"  # noqa: S608
        return f"SELECT jsonb_agg(to_jsonb(n)) FROM ({reports}) n"  # noqa: S608

    def result(self, run_id: UUID) -> str | None:
        """The newest result that an attempt of a run gave, as JSON; None for none. Raises `RunNotFound`."""
        statement = f"""
SELECT (SELECT p.result FROM {self._table("run_reports")} p WHERE p.run_id = r.id AND p.result IS NOT NULL
        ORDER BY p.attempt DESC LIMIT 1) AS result
FROM {self._table("runs")} r WHERE r.id = CAST(:id AS uuid)
"""  # noqa: S608 - our own text, and quoted names
        for row in self._executor.run(statement, {"id": str(run_id)}):
            return None if row.result is None else str(row.result)
        raise RunNotFound(f"There is no run {run_id}.")

    def now(self) -> datetime:
        """The database's clock."""
        (row,) = self._executor.run("SELECT clock_timestamp() AS now")
        now: datetime = row.now
        return now

    def resolve(self, short: str) -> UUID:
        """The id of the one run whose id begins or ends with `short`; raises `RunNotFound` for none or several.

        The ids are time-ordered: runs of the same minute differ at the end, which is therefore the handy part.
        """
        found = self.matching(short, 2)
        if len(found) != 1:
            problem = "fits more than one run; give more of it" if found else "fits no run; see `reprieve ps`"
            raise RunNotFound(f"The run id {short!r} {problem}.")
        return found[0]

    def matching(self, short: str, limit: int) -> list[UUID]:
        """The ids that begin or end with `short`, so many at the most; raises `RunNotFound` for what is none."""
        digits = short.strip().lower().replace("-", "")
        if not 4 <= len(digits) <= 32 or not all(digit in "0123456789abcdef" for digit in digits):
            raise RunNotFound(f"{short!r} is no run id; give an id as `reprieve ps` shows it, 4 characters or more.")
        statement, values = self._id_query(digits)
        return [uuid_of(row.id) for row in self._executor.run(statement, values | {"limit": limit})][:limit]

    def _id_query(self, digits: str) -> tuple[str, dict[str, Any]]:
        """A whole id, or one that begins or ends with this; each by an index."""
        runs, specs = self._table("runs"), self._table("run_specs")
        with suppress(ValueError):
            return f"SELECT id FROM {runs} WHERE id = CAST(:id AS uuid)", {"id": str(UUID(digits))}  # noqa: S608
        end = digits[::-1][:12]
        values = {
            "first": str(UUID(f"{digits:0<32.32}")),
            "last": str(UUID(f"{digits:f<32.32}")),
            "end": end,
            "beyond": end + "g",  # No digit comes after f.
            "ends": f"%{digits}",
        }
        statement = f"""
(SELECT id FROM {runs} WHERE id BETWEEN CAST(:first AS uuid) AND CAST(:last AS uuid) LIMIT :limit)
UNION
(SELECT run_id FROM {specs} WHERE {END_OF_ID} ~>=~ :end AND {END_OF_ID} ~<~ :beyond
    AND replace(CAST(run_id AS text), '-', '') LIKE :ends LIMIT :limit)
"""  # noqa: S608 - our own text, and quoted names
        return statement, values

    def _table(self, name: str) -> str:
        return qualified(self._executor.schema, name)


def _record(row: Any) -> Run:
    columns = dict(row._asdict())
    attempts = columns["attempts"] or []
    columns["report"] = of_run(json_of(columns.pop("reports")) or (), columns["attempt"])
    columns["attempts"] = [
        attempt | {"work": work_of(attempt), "used": used_of(attempt)} for attempt in json_of(attempts)
    ]
    return Run.model_validate(columns | {name: json_of(columns[name]) for name in ("labels", "retry_on")})
