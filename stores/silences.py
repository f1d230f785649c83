"""The longest silences of attempts that have ended, against windows that might have been (`models.whatif`)."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from sqlalchemy import text

from reprieve.models.whatif import Shadow
from reprieve.stores.database import Database
from reprieve.stores.partitions import least_id

DAY = timedelta(days=1)

# ended: how many attempts of the runs of a range of ids have ended, with a silence that is known.
ENDED = text("""
SELECT count(*) AS attempts FROM run_attempts
WHERE run_id >= :first AND run_id < :past AND finished_at IS NOT NULL AND longest_silence IS NOT NULL
""")

# shadows: what each window would have done to them. Read are those alone that it matters for: silent for longer than
# the shortest window, which few are.
SHADOWS = text("""
WITH silent AS MATERIALIZED (
    SELECT a.longest_silence, r.status = 'succeeded' AND r.attempt = a.attempt AS succeeded,
           a.reaped_at IS NOT NULL
               AND a.outcome ->> 'error_code' IN ('adapter_liveness_lost', 'process_lost') AS reaped,
           a.late_output_at IS NOT NULL OR a.late_result_at IS NOT NULL AS came_late
    FROM run_attempts a JOIN runs r ON r.id = a.run_id
    WHERE a.run_id >= :first AND a.run_id < :past AND a.finished_at IS NOT NULL
      AND (a.longest_silence > CAST(:shortest AS interval) OR a.reaped_at IS NOT NULL)
)
SELECT w.length AS window,
       count(*) FILTER (WHERE s.longest_silence > w.length) AS silent,
       count(*) FILTER (WHERE s.longest_silence > w.length AND s.succeeded) AS succeeded,
       count(*) FILTER (WHERE s.longest_silence > w.length AND s.reaped) AS reaped,
       count(*) FILTER (WHERE s.longest_silence <= w.length AND s.reaped) AS waited_for,
       count(*) FILTER (WHERE s.longest_silence <= w.length AND s.reaped AND s.came_late) AS came_late
FROM unnest(CAST(:windows AS interval[])) AS w (length) CROSS JOIN silent s GROUP BY w.length
""")


def count_ended(database: Database, days: int, until: datetime) -> int:
    """How many attempts, of runs that were asked for in the days before `until`, have ended with a known silence."""
    return sum(database.run(ENDED, each)[0].attempts for each in _days(days, until))


def shadows(database: Database, windows: Sequence[timedelta], days: int, until: datetime) -> Iterator[Shadow]:
    """What each window would have done, for each of these days: a day is a range of ids, and a statement."""
    for each in _days(days, until):
        for row in database.run(SHADOWS, each | {"windows": list(windows), "shortest": min(windows)}):
            yield Shadow(**row._mapping)


def _days(days: int, until: datetime) -> Iterator[dict[str, object]]:
    for ago in range(days):
        past = until - ago * DAY
        # A service's clock, by which an id is made, may be ahead.
        yield {"first": least_id(past - DAY), "past": least_id(past if ago else past + DAY)}
