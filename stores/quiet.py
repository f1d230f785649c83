"""Quiet runs in PostgreSQL: which may be, what a sweep makes of them, and until when nobody is told."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from reprieve.models.extents import HOLDER_BELIEVED_FOR
from reprieve.models.paging import pages
from reprieve.models.quiet import Listened, dossier
from reprieve.stores.database import Database
from reprieve.stores.runs.conditions import REPORTS

#: It asks to be listened to, nobody has snoozed it, and its row knows of no output for so long. NULL is passed over.
MAY_BE_QUIET = """
    r.status = 'running' AND greatest(r.output_at, r.started_at) < :now - least(r.quiet_after, r.max_silence)
    AND (r.snoozed_until > :now) IS NOT TRUE"""

# may be quiet: a pass over the running runs, as that for suspects; what each says is read for these alone.
MAY_BE_QUIET_IDS = text(f"SELECT r.id FROM runs r WHERE {MAY_BE_QUIET}")  # noqa: S608 - our own text

# listened: a page of them, as they are by now, with what the store, and the spools of living workers, have of them.
LISTENED = text(f"""
SELECT r.id AS run_id, r.epoch, r.attempt, r.max_attempts, r.adapter, r.started_at, r.updated_at, r.output_at,
       r.quiet_at, r.quiet_after, r.max_silence,
       (SELECT g.stored_at FROM log_segments g WHERE g.run_id = r.id AND g.attempt = r.attempt
        ORDER BY g.first_seq DESC LIMIT 1) AS stored_at,
       (SELECT max(e.at) FROM run_events e WHERE e.run_id = r.id AND e.kind = 'attached') AS attached_at,
       EXISTS (SELECT FROM spooled s WHERE s.run_id = r.id AND s.attempt = r.attempt
               AND s.seen_at > clock_timestamp() - :believed_for)
           OR EXISTS (SELECT FROM run_attempts a WHERE a.run_id = r.id AND a.attempt = r.attempt
                      AND a.adoption IS NOT NULL) AS is_on_its_way,
       {REPORTS} AS reports, r.start_by
FROM runs r
WHERE r.id = ANY(CAST(:ids AS uuid[])) AND {MAY_BE_QUIET} ORDER BY r.id
""")  # noqa: S608 - our own text

# mark: what the sweep has learned of these; of a silence that is new, an event tells. A row that somebody else writes
# just now is passed over until the next sweep, and so is one that has learned of output, or was snoozed, meanwhile, or
# of whose silence another sweep has told, which took the place of one that stood still.
MARK = text("""
WITH said AS (
    SELECT * FROM jsonb_to_recordset(CAST(:marks AS jsonb)) AS m (
        run_id uuid, epoch bigint, known timestamptz, told_at timestamptz, output_at timestamptz,
        is_quiet boolean, detail jsonb)
), free AS (
    SELECT r.id FROM runs r JOIN said s ON s.run_id = r.id
    WHERE r.epoch = s.epoch AND r.status = 'running' AND r.output_at IS NOT DISTINCT FROM s.known
      AND (r.snoozed_until > clock_timestamp()) IS NOT TRUE
      AND (r.quiet_at IS NOT DISTINCT FROM s.told_at OR NOT s.is_quiet)
    FOR NO KEY UPDATE OF r SKIP LOCKED
), marked AS (
    UPDATE runs r SET output_at = s.output_at, quiet_at = CASE WHEN s.is_quiet THEN clock_timestamp() END
    FROM said s JOIN free f ON f.id = s.run_id WHERE r.id = s.run_id
    RETURNING r.id, r.attempt, r.adapter, s.is_quiet, s.detail
), told AS (
    INSERT INTO run_events (run_id, attempt, kind, detail)
    SELECT id, attempt, 'quiet', detail FROM marked WHERE is_quiet
)
SELECT id FROM marked WHERE is_quiet
""")

# snooze: nobody is told that the run is quiet, and it does not stall, until then. If it still is quiet then, that is
# told anew.
SNOOZE = text("""
WITH snoozed AS (
    UPDATE runs SET snoozed_until = clock_timestamp() + :length, quiet_at = NULL
    WHERE id = :run_id AND status IN ('queued', 'running') RETURNING id, attempt, snoozed_until
)
INSERT INTO run_events (run_id, attempt, kind, detail)
SELECT id, attempt, 'snoozed', jsonb_build_object('until', snoozed_until, 'seconds', extract(epoch FROM :length))
FROM snoozed RETURNING run_id
""")


@dataclass(frozen=True, slots=True)
class Mark:
    """What was learned of a run: that it `is_quiet`, or that the store has output of which its row does not know."""

    of: Listened
    is_quiet: bool

    def record(self, now: datetime) -> dict[str, Any]:
        """As the statement reads it."""
        one = self.of
        return {
            "run_id": str(one.run_id),
            "epoch": one.epoch,
            "known": one.output_at.isoformat() if one.output_at else None,
            "told_at": one.quiet_at.isoformat() if one.quiet_at else None,
            "output_at": one.last_output.isoformat() if one.last_output else None,
            "is_quiet": self.is_quiet,
            "detail": dossier(one, now),
        }


class QuietStore:
    """Reads which runs may be quiet; keeps what was made of them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def listened(self, now: datetime, page_size: int) -> Iterator[list[Listened]]:
        """Pages of runs that may be quiet, in order of id; each page is read when it is requested."""
        ids = sorted(row.id for row in self._database.run(MAY_BE_QUIET_IDS, {"now": now}))
        for page in pages(ids, page_size):
            wanted = {"now": now, "ids": [str(run_id) for run_id in page], "believed_for": HOLDER_BELIEVED_FOR}
            yield [Listened(**row._mapping) for row in self._database.run(LISTENED, wanted)]

    def mark(self, marks: Sequence[Mark], now: datetime) -> list[UUID]:
        """Keep what was learned of these; returns those that are newly quiet."""
        if not marks:
            return []
        rows = self._database.run(MARK, {"marks": json.dumps([one.record(now) for one in marks])})
        return [row.id for row in rows]

    def snooze(self, run_id: UUID, length: timedelta) -> bool:
        """Snooze a run for so long from now; False where it has ended."""
        return bool(self._database.run(SNOOZE, {"run_id": run_id, "length": length}))
