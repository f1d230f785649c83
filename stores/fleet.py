"""The fleet at a glance: how many runs there are of each kind, and how long the quietest has been silent."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import text

from reprieve.stores.database import Database

#: Steps of the history, a sweep's interval each: an hour at the real timings.
HISTORY_STEPS = 60
#: Steps of which failures are told: a day.
STEPS_OF_FAILURES = 24 * HISTORY_STEPS
#: Steps that one sweep counts at the most: one is over since the last; after an upgrade, or a time without sweeps, more
#: are, and the day is gone back through.
COUNTED_AT_ONCE = 120

# active: what is under way, by the partial indexes of it; never the runs that have ended.
ACTIVE = text("""
SELECT status, adapter, count(*) AS runs, max(clock_timestamp() - updated_at) AS longest_silence,
       count(*) FILTER (WHERE status = 'running' AND quiet_at IS NOT NULL) AS quiet
FROM runs WHERE status IN ('queued', 'running') GROUP BY status, adapter ORDER BY status, adapter
""")

# ages: of the last proofs of life of running runs, in buckets with these upper bounds.
AGES = text("""
SELECT adapter, width_bucket(age, CAST(:bounds AS float[])) AS bucket, count(*) AS runs, sum(age) AS seconds
FROM (SELECT adapter, extract(epoch FROM clock_timestamp() - updated_at)::float AS age
      FROM runs WHERE status = 'running') r
GROUP BY adapter, bucket
""")

# owed: by the partial indexes of what is owed.
OWED = text("""
SELECT (SELECT count(*) FROM run_attempts WHERE termination = 'owed') AS termination,
       (SELECT count(*) FROM run_attempts WHERE adoption = 'owed') AS adoption,
       (SELECT count(*) FROM run_attempts WHERE finished_at IS NOT NULL AND log_closed_at IS NULL) AS closing
""")

# uncounted: what happened in the newest `most` of the last steps that no sweep has counted. Steps begin
# at whole multiples of their length; `now()` stands still in a statement.
UNCOUNTED = """
SELECT s.at, e.started, e.ended, e.reaped, e.failed
FROM (
    SELECT s.at
    FROM generate_series(date_bin(:step, now(), 'epoch') - (:steps - 1) * CAST(:step AS interval),
                         date_bin(:step, now(), 'epoch'), CAST(:step AS interval)) AS s(at)
    WHERE s.at < now() - :before * CAST(:step AS interval)
      AND NOT EXISTS (SELECT FROM history_steps h WHERE h.at = s.at AND h.length = :step AND h.failed IS NOT NULL)
    ORDER BY s.at DESC LIMIT :most
) s
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE kind = 'claimed') AS started,
           count(*) FILTER (WHERE kind IN ('succeeded', 'failed', 'cancelled')) AS ended,
           count(*) FILTER (WHERE kind = 'reaped') AS reaped,
           count(*) FILTER (WHERE kind = 'failed'
                               OR kind = 'reaped' AND detail ->> 'retry' IS DISTINCT FROM 'true') AS failed
    FROM run_events WHERE at >= s.at AND at < s.at + CAST(:step AS interval)
) e
"""
HISTORY = text(f"""
SELECT at, started, ended, reaped, failed FROM history_steps
WHERE length = :step AND failed IS NOT NULL AND at > date_bin(:step, now(), 'epoch') - :steps * CAST(:step AS interval)
UNION ALL ({UNCOUNTED}) ORDER BY at
""")  # noqa: S608 - our own text

# failures: in the steps of a day that are older than the history, as far as sweeps counted them: a sum of few rows.
FAILURES = text("""
SELECT coalesce(sum(failed), 0) AS failed FROM history_steps
WHERE length = :step AND at > date_bin(:step, now(), 'epoch') - :many * CAST(:step AS interval)
  AND at <= date_bin(:step, now(), 'epoch') - :steps * CAST(:step AS interval)
""")

# count: what happened in the steps that are over, for good: a whole step ago, so that who began to write has written.
# What a release that counts no failures has counted is counted again.
COUNT = text(f"""
INSERT INTO history_steps (at, length, started, ended, reaped, failed)
SELECT at, :step, started, ended, reaped, failed
FROM ({UNCOUNTED}) uncounted
ON CONFLICT (at, length) DO UPDATE SET failed = EXCLUDED.failed WHERE history_steps.failed IS NULL
""")  # noqa: S608 - our own text
FORGET = text("DELETE FROM history_steps WHERE at < now() - :steps * CAST(:step AS interval)")


@dataclass(frozen=True, slots=True)
class Step:
    """How many attempts began, ended otherwise than by the reaper, and were reaped, in one step of time.

    And how many runs failed, by themselves or by the reaper.
    """

    started: int = 0
    ended: int = 0
    reaped: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Ages:
    """How old the last proofs of life of an adapter's running runs are: how many in each bucket, and all together."""

    buckets: list[int]
    """How many are up to the first bound, then up to the second, and so on; the last has those beyond all bounds."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Active:
    """The runs of one adapter that are queued, or running.

    Of those that run, the age of the oldest proof of life, and how many are quiet.
    """

    status: str
    adapter: str
    runs: int
    longest_silence: timedelta
    quiet: int


class FleetStore:
    """Counts, read from the rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def active(self) -> list[Active]:
        return [Active(**row._mapping) for row in self._database.run(ACTIVE)]

    def ages(self, bounds: Sequence[float]) -> dict[str, Ages]:
        """By adapter; `bounds` are upper bounds in seconds, in order."""
        found: dict[str, Ages] = {}
        for row in self._database.run(AGES, {"bounds": list(bounds)}):
            of = found.get(row.adapter, Ages([0] * (len(bounds) + 1), 0.0))
            of.buckets[row.bucket] = row.runs
            found[row.adapter] = Ages(of.buckets, of.seconds + row.seconds)
        return found

    def history(self, step: timedelta) -> list[Step]:
        """What happened in each of the last steps, the newest, which is not over, last."""
        values = {"step": step, "steps": HISTORY_STEPS, "before": 0, "most": HISTORY_STEPS}
        rows = self._database.run(HISTORY, values)
        return [Step(row.started, row.ended, row.reaped, row.failed) for row in rows]

    def failures(self, step: timedelta) -> tuple[int, int]:
        """How many runs failed in the steps of the history, and in `STEPS_OF_FAILURES`: of those before the history, in
        the steps that sweeps have counted.
        """
        of_history = sum(one.failed for one in self.history(step))
        values = {"step": step, "steps": HISTORY_STEPS, "many": STEPS_OF_FAILURES}
        return of_history, of_history + int(self._database.run(FAILURES, values)[0].failed)

    def count(self, step: timedelta) -> None:
        """Count once what happened in those of the last steps that are over: the picture need not count it again."""
        over = {"step": step, "steps": STEPS_OF_FAILURES, "before": 2, "most": COUNTED_AT_ONCE}
        self._database.run(COUNT, over)
        # Somewhat later than they are of no use any more: who counts them as uncounted would count them again.
        self._database.run(FORGET, {"step": step, "steps": STEPS_OF_FAILURES + HISTORY_STEPS})

    def owed(self) -> dict[str, int]:
        """How many attempts are owed a termination, an adoption, the closing of their log."""
        return dict(self._database.run(OWED)[0]._mapping)
