"""What runs say of themselves, a row for each attempt that does (`models.saying`). Its reader is `stores.runs.records`.

A row holds all that was said by the reports up to its number, so that to write it twice is to write it once, and to
write what is older changes nothing. Who follows an attempt under an older epoch writes nothing after it was adopted.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from reprieve.models.saying import Report, Said
from reprieve.models.work import Fence
from reprieve.stores.database import Database

# say: for each attempt, what its follower has been told so far. A result that is not given is the one that is there.
# The attempt is looked at, and not locked: an adoption raises the row's own epoch (`stores.adoptions`).
SAY = text("""
INSERT INTO run_reports AS t (run_id, attempt, epoch, number, progress, sentence, usage, result, at)
SELECT DISTINCT ON (a.run_id, a.attempt)
       a.run_id, a.attempt, e.epoch, e.number, e.progress, e.sentence, e.usage, e.result,
       clock_timestamp() - e.age * interval '1 s'
FROM jsonb_to_recordset(CAST(:said AS jsonb)) AS e (
    run_id uuid, attempt int, epoch bigint, number bigint, progress float, sentence text, usage jsonb, result text,
    age float)
JOIN run_attempts a ON a.run_id = e.run_id AND a.attempt = e.attempt AND a.epoch = e.epoch
ORDER BY a.run_id, a.attempt, e.number DESC
ON CONFLICT (run_id, attempt) DO UPDATE
SET epoch = EXCLUDED.epoch, number = EXCLUDED.number, progress = EXCLUDED.progress, sentence = EXCLUDED.sentence,
    usage = EXCLUDED.usage, result = coalesce(EXCLUDED.result, t.result), at = EXCLUDED.at
WHERE t.epoch < EXCLUDED.epoch OR (t.epoch = EXCLUDED.epoch AND t.number < EXCLUDED.number)
""")

# hold: the row of an attempt of remote work, made if there is none, until this transaction ends.
BEGIN = text("""
INSERT INTO run_reports (run_id, attempt, epoch, number) VALUES (:run_id, :attempt, :epoch, 0) ON CONFLICT DO NOTHING
""")
KEPT = "SELECT number, progress, sentence, usage FROM run_reports WHERE run_id = :run_id AND attempt = :attempt"
HOLD = text(f"{KEPT} FOR UPDATE")
TAKE = text("""
UPDATE run_reports
SET number = :number, progress = :progress, sentence = :sentence, usage = CAST(:usage AS jsonb),
    result = coalesce(:result, result), at = clock_timestamp()
WHERE run_id = :run_id AND attempt = :attempt
""")


@dataclass(frozen=True, slots=True)
class News:
    """What an attempt has said so far, where that is more than its row has; the last of it so many seconds ago.

    A result is in it only where it is a new one.
    """

    fence: Fence
    attempt: int
    said: Said
    age: float


def said_of(row: Any) -> Said:
    """What a row has, but for its result."""
    return Said(row.number, Report(row.progress, row.sentence, None, row.usage))


class ReportStore:
    """Reports in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, news: Sequence[News]) -> None:
        """Write what these attempts have said so far, each once at the most. What nobody may say any more is let go."""
        if news:
            self._database.run(SAY, {"said": json.dumps([_record(one) for one in news])})

    def take(self, connection: Connection, fence: Fence, attempt: int, number: int | None, report: Report) -> Said:
        """Take one report of remote work, unless it was taken before; without a number it is the next one.

        Returns what is kept then. Raises `InvalidRequest` where it has too many names.
        """
        of = {"run_id": fence.run_id, "attempt": attempt}
        connection.execute(BEGIN, of | {"epoch": fence.epoch})
        before = said_of(connection.execute(HOLD, of).one())
        after = before.take(before.number + 1 if number is None else number, report)
        if after is not before:
            connection.execute(TAKE, of | _columns(after))
        return after

    def of(self, run_id: UUID, attempt: int) -> Said | None:
        """What is kept of an attempt, but for its result."""
        rows = self._database.run(KEPT, {"run_id": run_id, "attempt": attempt})
        return said_of(rows[0]) if rows else None


def _record(news: News) -> dict[str, Any]:
    own = {"run_id": str(news.fence.run_id), "attempt": news.attempt, "epoch": news.fence.epoch, "age": news.age}
    return own | _columns(news.said) | {"usage": dict(news.said.report.usage)}


def _columns(said: Said) -> dict[str, Any]:
    report = said.report
    return {
        "number": said.number,
        "progress": report.progress,
        "sentence": report.sentence,
        "usage": json.dumps(dict(report.usage)),
        "result": report.result,
    }
