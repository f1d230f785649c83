"""Lists of runs, a page at a time, the newest first, however many runs there are.

A page looks at a bounded number of runs, which one index names, from where the page before ended. If it has looked at
so many, it ends early, with few runs or none, and says from where the next one goes on: every page is there soon, and
all pages together are exact. By a label that few runs have, these are found at once. Everything else that no index
names, free text for example, is looked for from the newest run on.

An id begins with the time, by the clock of the machine that asked for the run: so `since` and `until` are its ends. The
oldest first, it is the same list from its other end. What is running is few, so that it can be sorted by anything.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from reprieve.models.filters import RunFilter, Sort
from reprieve.models.status import Status
from reprieve.stores.statements import Executor, json_of, qualified, uuid_of

#: Runs that a page looks at first: where many fit, that is enough …
LOOKS_FIRST = 1_000
#: … and at the most: some tens of milliseconds.
LOOKS_MOST = 10_000
#: Of labels that no more runs have, all of these are looked at.
FEW = 5_000
#: If PostgreSQL expects so many, they are not even counted: for millions, that alone takes a second.
SURELY_MANY = 100_000
#: By how much the clock of a machine that asks for runs may be off.
CLOCKS_DIFFER = timedelta(hours=1)

#: What a run must be, by the name of its value.
CONDITIONS = {
    "error": "r.error_code = :error",
    "statuses": "r.status IN (SELECT jsonb_array_elements_text(CAST(:statuses AS jsonb)))",
    "adapter": 'r.adapter COLLATE "C" = :adapter',
    "lane": 'r.lane COLLATE "C" = :lane',
    "labels": "s.labels @> CAST(:labels AS jsonb)",
    "since": "r.created_at >= CAST(:since AS timestamptz)",
    "until": "r.created_at < CAST(:until AS timestamptz)",
    "ended_since": "r.finished_at >= CAST(:ended_since AS timestamptz)",
    "text": """(strpos(lower(concat_ws(' ', r.error_code, r.error_message)), lower(CAST(:text AS text))) > 0
        OR EXISTS (SELECT FROM jsonb_each_text(s.labels) AS l(name, value)
                   WHERE strpos(lower(l.name || '=' || l.value), lower(CAST(:text AS text))) > 0))""",
}
#: Where in the list it must be.
PLACES = {
    "before": "{id} < CAST(:before AS uuid)",
    "beyond": "{id} > CAST(:beyond AS uuid)",
    "first": "{id} >= CAST(:first AS uuid)",
    "last": "{id} <= CAST(:last AS uuid)",
}
#: The conditions that an index answers, the one that mostly names the fewest runs first.
INDEXED = ("error", "statuses", "adapter", "lane")


class Listing:
    """One page of a list: which runs are looked at, and which of these fit."""

    def __init__(
        self,
        executor: Executor,
        wanted: RunFilter,
        before: UUID | None,
        limit: int,
        columns: str,
        sort: Sort = Sort.NEWEST,
    ) -> None:
        sort.check(wanted, before)
        self._executor = executor
        self._runs, self._specs = (qualified(executor.schema, table) for table in ("runs", "run_specs"))
        self._wanted = wanted
        self._sort = sort
        self._order, self._back = ("ASC", "DESC") if sort is Sort.OLDEST else ("DESC", "ASC")
        self._values = _values(wanted) | _place(before, sort)
        self._index = _index(wanted)
        self._limit = limit
        self._columns = columns

    def page(self) -> tuple[list[Any], UUID | None]:
        """The runs that fit, and the id from which the next page goes on; None where this one is the last."""
        if self._sort.is_of_running:
            return list(self._running()), None
        if not self._conditions(self._index):
            return self._look(self._limit + 1)
        rows, further = self._look(LOOKS_FIRST)
        if further is None or len(rows) == self._limit:
            return rows, further
        # As many as would fill the page, if of those further back as many fit.
        looks = LOOKS_FIRST * self._limit // len(rows) if rows else LOOKS_MOST + 1
        if looks > LOOKS_MOST and "labels" in self._values and (found := self._labelled()) is not None:
            return found
        return self._look(min(2 * looks, LOOKS_MOST))

    def _running(self) -> Sequence[Any]:
        """Those that are running, in an order of their own."""
        fitting = "".join(f" AND {one}" for one in self._conditions("statuses"))
        order = "r.started_at" if self._sort is Sort.LONGEST else "r.updated_at"
        statement = f"""
SELECT {self._columns} FROM {self._runs} r JOIN {self._specs} s ON s.run_id = r.id
WHERE r.status = 'running'{fitting} ORDER BY {order}, r.id LIMIT :limit
"""  # noqa: S608 - our own text, and quoted names
        return self._executor.run(statement, self._values | {"limit": self._limit})

    def _look(self, looks: int) -> tuple[list[Any], UUID | None]:
        """Among so many from here on."""
        looks = max(looks, self._limit + 1)
        statement = self._statement(self._ids_looked_at(), self._conditions(self._index))
        rows = self._executor.run(statement, self._values | {"looks": looks, "enough": looks, "limit": self._limit + 1})
        return self._cut(rows, whole=rows[0].looked < looks)

    def _labelled(self) -> tuple[list[Any], UUID | None] | None:
        """Among those with the labels, if these are few."""
        places = "".join(f" AND {place}" for place in self._places("s.run_id"))
        labelled = f"SELECT s.run_id AS id FROM {self._specs} s WHERE {CONDITIONS['labels']}"  # noqa: S608 - our own text
        statement = self._statement(f"{labelled}{places} LIMIT :looks", self._conditions("labels"))
        values = self._values | {"looks": FEW + 1, "enough": FEW, "limit": self._limit + 1}
        with self._executor.together() as transaction:
            ((plan,),) = transaction.run(f"EXPLAIN (FORMAT JSON) {labelled}", self._values)
            if json_of(plan)[0]["Plan"]["Plan Rows"] > SURELY_MANY:
                return None
            # However many it takes them for: if they are few, only the index finds them soon.
            transaction.run("SET LOCAL enable_seqscan = off")
            rows = transaction.run(statement, values)
        return None if rows[0].looked > FEW else self._cut(rows, whole=True)

    def _cut(self, rows: Sequence[Any], *, whole: bool) -> tuple[list[Any], UUID | None]:
        """The rows of the page, without the one that shows that there are more."""
        found = [row for row in rows if row.id is not None]
        page = found[: self._limit]
        if len(found) > self._limit:
            return page, uuid_of(page[-1].id)
        return page, None if whole else uuid_of(rows[0].last)

    def _ids_looked_at(self) -> str:
        """The ids that the index names, or all, in the order of the list."""
        if self._index == "statuses":
            # Named in the statement: each has a partial index.
            of_each = [self._ids([_of_status(status)]) for status in self._wanted.statuses]
            together = " UNION ALL ".join(f"({one})" for one in of_each)
            return f"SELECT id FROM ({together}) o ORDER BY id {self._order} LIMIT :looks"  # noqa: S608
        return self._ids([CONDITIONS[self._index]] if self._index else [])

    def _ids(self, conditions: Sequence[str]) -> str:
        everywhere = [*conditions, *self._places("r.id")]
        where = f"WHERE {' AND '.join(everywhere)}" if everywhere else ""
        return f"SELECT r.id FROM {self._runs} r {where} ORDER BY r.id {self._order} LIMIT :looks"  # noqa: S608

    def _conditions(self, answered: str | None) -> list[str]:
        """All but the one that an index has answered."""
        return [one for name, one in CONDITIONS.items() if name in self._values and name != answered]

    def _places(self, of: str) -> list[str]:
        return [place.format(id=of) for name, place in PLACES.items() if name in self._values]

    def _statement(self, looked: str, conditions: Sequence[str]) -> str:
        """With each run that fits: how many were looked at, and the last of these. A row of that where none fits."""
        # As one truth, which no index answers: they are for those that are looked at, each found by its id. By an index
        # of labels, 100,000 rows were read for ten.
        fitting = f" AND ({' AND '.join(conditions)}) IS TRUE" if conditions else ""
        # Many are looked at for few that fit: only in what the conditions are about.
        tables = {"r.": f"JOIN {self._runs} r ON r.id = l.id", "s.": f"JOIN {self._specs} s ON s.run_id = l.id"}
        joined = " ".join(join for name, join in tables.items() if name in fitting)
        return f"""
WITH looked AS MATERIALIZED ({looked}), fitting AS MATERIALIZED (
    SELECT l.id FROM looked l {joined}
    WHERE (SELECT count(*) FROM looked) <= :enough{fitting} ORDER BY l.id {self._order} LIMIT :limit
)
SELECT (SELECT count(*) FROM looked) AS looked, (SELECT id FROM looked ORDER BY id {self._back} LIMIT 1) AS last,
    {self._columns}
FROM (VALUES (1)) AS one LEFT JOIN fitting f ON true
LEFT JOIN {self._runs} r ON r.id = f.id LEFT JOIN {self._specs} s ON s.run_id = f.id ORDER BY f.id {self._order}
"""  # noqa: S608 - our own text, and quoted names


def _index(wanted: RunFilter) -> str | None:
    """The condition by whose index runs are looked at."""
    given = [name for name in INDEXED if getattr(wanted, name)]
    # Most runs have succeeded: whatever else is asked for, fewer fit.
    return next((name for name in given if name != "statuses" or Status.SUCCEEDED not in wanted.statuses), None) or (
        "statuses" if "statuses" in given else None
    )


def _place(before: UUID | None, sort: Sort) -> dict[str, Any]:
    """From where the list goes on."""
    return {} if before is None else {"beyond" if sort is Sort.OLDEST else "before": str(before)}


def _values(wanted: RunFilter) -> dict[str, Any]:
    """What the statements name, of what is asked for."""
    values = {
        "error": wanted.error and wanted.error.value,
        "statuses": json.dumps(wanted.statuses) if wanted.statuses else None,
        "adapter": wanted.adapter,
        "lane": wanted.lane,
        "labels": json.dumps(dict(wanted.labels)) if wanted.labels else None,
        "since": wanted.since and wanted.since.isoformat(),
        "first": wanted.since and str(UUID(int=_milliseconds(wanted.since, -CLOCKS_DIFFER) << 80)),
        "until": wanted.until and wanted.until.isoformat(),
        "last": wanted.until and str(UUID(int=(_milliseconds(wanted.until, CLOCKS_DIFFER) + 1 << 80) - 1)),
        "ended_since": wanted.ended_since and wanted.ended_since.isoformat(),
        "text": wanted.text,
    }
    return {name: value for name, value in values.items() if value is not None}


def _of_status(status: Status) -> str:
    """The condition as the index of lists has it; what is running has one of its own."""
    if status is Status.RUNNING:
        return "r.status = 'running'"
    return f"r.status COLLATE \"C\" = '{status}' AND r.status <> 'running'"


def _milliseconds(moment: datetime, off: timedelta) -> int:
    """What an id may begin with that was made at this moment by a clock which is so much off; an id has 48 bits."""
    return max(0, min(int(1000 * (moment.timestamp() + off.total_seconds())), 2**48 - 1))
