"""Lanes in PostgreSQL: their rules, and what is running and waits in each."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from reprieve.models.lanes import LaneState, Rule
from reprieve.stores.database import Database
from reprieve.stores.runs.conditions import CLAIMABLE, DRAINED
from reprieve.stores.runs.queue import PATTERNS, WAITING, fits, rule_of

SET = text("""
INSERT INTO lanes (pattern, at_once) VALUES (:pattern, :limit)
ON CONFLICT (pattern) DO UPDATE SET at_once = :limit RETURNING pattern, at_once AS "limit", paused_at
""")
PUT = text("""
INSERT INTO lanes AS l (pattern, at_once, paused_at)
VALUES (:pattern, :limit, CASE WHEN :paused THEN clock_timestamp() END)
ON CONFLICT (pattern) DO UPDATE
SET at_once = :limit, paused_at = CASE WHEN :paused THEN coalesce(l.paused_at, clock_timestamp()) END
RETURNING pattern, at_once AS "limit", paused_at
""")
PAUSE = text("""
INSERT INTO lanes AS l (pattern, paused_at) VALUES (:pattern, clock_timestamp())
ON CONFLICT (pattern) DO UPDATE SET paused_at = coalesce(l.paused_at, clock_timestamp())
RETURNING pattern, at_once AS "limit", paused_at
""")
RESUME = text("""
UPDATE lanes SET paused_at = NULL WHERE pattern = :pattern RETURNING pattern, at_once AS "limit", paused_at
""")
REMOVE = text("DELETE FROM lanes WHERE pattern = :pattern RETURNING pattern")
RULES = text('SELECT pattern, at_once AS "limit", paused_at FROM lanes ORDER BY pattern')


def _served(lane: str) -> str:
    """The condition that a living worker takes the runs of a lane."""
    takes_it = f"w.lanes IS NULL OR EXISTS (SELECT FROM unnest(w.lanes) AS s (pattern) WHERE {fits('s.pattern', lane)})"
    lives = f"w.seen_at > clock_timestamp() - CAST(:gone_after AS interval) AND NOT w.stopping AND NOT {DRAINED}"
    return f"EXISTS (SELECT FROM workers w WHERE {lives} AND ({takes_it}))"


# states: of all lanes that have a run under way or in the queue, and of those that have a rule by their own name; or of
# one. A lane is served where a worker was seen of late that serves it.
STATES = text(f"""
WITH {PATTERNS}, running AS (
    SELECT lane, count(*) AS n FROM runs
    WHERE status = 'running' AND (CAST(:lane AS text) IS NULL OR lane = :lane) GROUP BY lane
), ending AS (
    SELECT r.lane, count(*) AS n FROM run_attempts a JOIN runs r ON r.id = a.run_id
    WHERE a.termination = 'owed' AND (CAST(:lane AS text) IS NULL OR lane = :lane) GROUP BY r.lane
), waiting AS (
    SELECT lane, count(*) FILTER (WHERE now) AS n, count(*) FILTER (WHERE NOT now) AS later,
           clock_timestamp() - min(created_at) FILTER (WHERE now) AS oldest
    FROM (SELECT r.lane, r.created_at, {CLAIMABLE} AS now FROM runs r
          WHERE r.status = 'queued' AND (CAST(:lane AS text) IS NULL OR lane = :lane)) q
    GROUP BY lane
), named AS (
    SELECT lane FROM running UNION SELECT lane FROM ending UNION SELECT lane FROM waiting
    UNION SELECT pattern FROM lanes WHERE pattern NOT LIKE '%*' AND (CAST(:lane AS text) IS NULL OR pattern = :lane)
    UNION SELECT CAST(:lane AS text) WHERE CAST(:lane AS text) IS NOT NULL
)
SELECT d.lane, l.pattern, l.at_once, l.paused_at, coalesce(r.n, 0) AS running, coalesce(e.n, 0) AS ending,
       coalesce(w.n, 0) AS waiting, coalesce(w.later, 0) AS later, w.oldest,
       {_served("d.lane")} AS is_served
FROM named d
LEFT JOIN LATERAL ({rule_of("d.lane")}) l ON true
LEFT JOIN running r ON r.lane = d.lane LEFT JOIN ending e ON e.lane = d.lane LEFT JOIN waiting w ON w.lane = d.lane
ORDER BY d.lane
""")  # noqa: S608 - our own text

# unserved: lanes in which runs wait, and that no living worker serves; where no worker lives at all, none.
UNSERVED = text(f"""
WITH RECURSIVE {WAITING}
SELECT q.lane FROM waiting q WHERE q.lane IS NOT NULL AND NOT {_served("q.lane")}
  AND EXISTS (SELECT FROM workers WHERE seen_at > clock_timestamp() - CAST(:gone_after AS interval))
""")  # noqa: S608 - our own text

# ahead: how many waiting runs of its lane go before this one. Counted up to a number that nobody counts beyond.
AHEAD = text(f"""
SELECT count(*) FROM (
    SELECT FROM runs r JOIN runs o ON o.id = :run_id AND o.lane = r.lane
    WHERE {CLAIMABLE} AND (r.priority, o.id) > (o.priority, r.id) LIMIT :limit) q
""")  # noqa: S608 - our own text


class LaneStore:
    """Lanes in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rules(self) -> list[Rule]:
        """All rules, by their patterns."""
        return [_rule(row) for row in self._database.run(RULES)]

    def limit(self, pattern: str, limit: int | None) -> Rule:
        """How many runs of each lane that fits may be running at once; what is running goes on."""
        return self._write(SET, pattern, limit=limit)

    def put(self, pattern: str, limit: int | None, *, paused: bool) -> Rule:
        """Both at once."""
        return self._write(PUT, pattern, limit=limit, paused=paused)

    def pause(self, pattern: str) -> Rule:
        """Have no run of these lanes begin; what is running goes on."""
        return self._write(PAUSE, pattern)

    def resume(self, pattern: str) -> Rule | None:
        """Have their runs begin again; None where there is no such rule."""
        return next((_rule(row) for row in self._database.run(RESUME, {"pattern": pattern})), None)

    def remove(self, pattern: str) -> bool:
        """Forget the rule; returns whether there was one."""
        return bool(self._database.run(REMOVE, {"pattern": pattern}))

    def states(self, gone_after: timedelta, lane: str | None = None) -> list[LaneState]:
        """The lanes, or this one. A worker counts as living whose heartbeat is no older than `gone_after`."""
        return [_state(row) for row in self._database.run(STATES, {"gone_after": gone_after, "lane": lane})]

    def unserved(self, gone_after: timedelta) -> list[str]:
        """The lanes in which runs wait that no living worker takes."""
        return [row.lane for row in self._database.run(UNSERVED, {"gone_after": gone_after})]

    def ahead(self, run_id: UUID, limit: int) -> int:
        """How many waiting runs of its lane go before a waiting run, up to `limit`."""
        ((count,),) = self._database.run(AHEAD, {"run_id": run_id, "limit": limit})
        return int(count)

    def _write(self, statement: Any, pattern: str, **values: Any) -> Rule:
        rows: Sequence[Any] = self._database.run(statement, {"pattern": pattern} | values)
        return _rule(rows[0])


def _rule(row: Any) -> Rule:
    return Rule(row.pattern, row.limit, row.paused_at)


def _state(row: Any) -> LaneState:
    rule = None if row.pattern is None else Rule(row.pattern, row.at_once, row.paused_at)
    return LaneState(
        lane=row.lane,
        rule=rule,
        running=row.running,
        ending=row.ending,
        waiting=row.waiting,
        later=row.later,
        oldest=row.oldest,
        is_served=row.is_served,
    )
