"""What the reaper reads and remembers: its watch, the suspects, and the lease that makes a sweep single-flight."""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, select, text

from reprieve.models.errors import LeaseLost
from reprieve.models.health import Pulse
from reprieve.models.judging import Judgement, Suspect
from reprieve.models.paging import pages
from reprieve.models.rows import Sparing
from reprieve.models.watching import Watch
from reprieve.stores.database import Database
from reprieve.stores.leases import Lease, Leases
from reprieve.stores.runs.conditions import REPORTS, SUSPICIOUS

# suspect ids: running runs that are silent or overdue. One pass over the running runs in whatever order is cheapest:
# in the order of an index, a million rows would be fetched one by one.
SUSPECT_IDS = text(f"""
SELECT r.id FROM runs r
WHERE r.status = 'running' AND {SUSPICIOUS}
""")  # noqa: S608 - our own text

# suspects: a page of them, as they are by now. Narrow on purpose: no config, handle or outcome. What earlier sweeps
# learned in the same silence is read from its sparings. A vouch counts from when a sweep saw it in Redis, not from when
# it last spared, or it would renew itself.
SUSPECTS = text(f"""
SELECT r.id AS run_id, r.epoch, r.attempt, r.max_attempts, r.adapter, r.out_of_process_liveness,
       r.started_at, r.max_runtime, r.updated_at, r.last_proof, coalesce(upper(l.stored) - 1, 0) AS last_chunk,
       a.worker_node, s.unknown_at, s.answered_at, s.vouched_at,
       {REPORTS} AS reports, r.start_by
FROM runs r
LEFT JOIN LATERAL (
    SELECT max(first_at) FILTER (WHERE judgement = 'spare_unknown') AS unknown_at,
           max(last_at) FILTER (WHERE judgement = ANY(:ends_doubt)) AS answered_at,
           max(CAST(detail ->> 'vouched_at' AS timestamptz)) FILTER (WHERE judgement = 'spare_vouched') AS vouched_at
    FROM sparings WHERE run_id = r.id AND attempt = r.attempt AND silent_since = r.updated_at
) s ON true
LEFT JOIN run_attempts a ON a.run_id = r.id AND a.attempt = r.attempt
LEFT JOIN attempt_logs l ON l.run_id = r.id AND l.attempt = r.attempt
WHERE r.id = ANY(CAST(:ids AS uuid[])) AND r.status = 'running' AND {SUSPICIOUS}
ORDER BY r.id
""")  # noqa: S608 - our own text

LAST_WATCH = text("""
SELECT watching_since AS since, last_sweep_at, window_length AS window, hearing_since, heard_at,
       reports_since, reports_at
FROM reaper_watch
""")

# watch: written only by a sweep that still holds its lease. `heard_at` is the echo's to write, never the sweep's.
NOTE_WATCH = text("""
INSERT INTO reaper_watch (id, watching_since, last_sweep_at, window_length, hearing_since)
SELECT 1, CAST(:since AS timestamptz), CAST(:last_sweep_at AS timestamptz), CAST(:window AS interval),
       CAST(:hearing_since AS timestamptz)
FROM leases WHERE name = :name AND token = :token FOR SHARE
ON CONFLICT (id) DO UPDATE
SET watching_since = :since, last_sweep_at = :last_sweep_at, window_length = :window, hearing_since = :hearing_since
""")

# echo: a canary came back. An older one than the last says nothing new, unless the clock was set back meanwhile.
ECHO = text("""
UPDATE reaper_watch SET heard_at = :sent_at
WHERE heard_at IS NULL OR heard_at < :sent_at OR heard_at > clock_timestamp()
""")

# take reports: an API takes reports. It begins anew (`reports_since`) if no API took any for longer than is tolerated.
TAKE_REPORTS = text("""
UPDATE reaper_watch SET reports_at = clock_timestamp(), reports_since = CASE
    WHEN :after_a_gap OR reports_since IS NULL
        OR clock_timestamp() - reports_at NOT BETWEEN interval '0' AND :tolerated THEN clock_timestamp()
    ELSE reports_since END
""")

FLEET = text("SELECT count(*) FROM runs WHERE status = 'running'")

# spare: the evidence of sparings. The same judgement on the same silence is counted, and its evidence replaced.
SPARE = text("""
INSERT INTO sparings AS s (run_id, attempt, silent_since, judgement, detail)
SELECT * FROM jsonb_to_recordset(CAST(:sparings AS jsonb))
    AS e (run_id uuid, attempt int, silent_since timestamptz, judgement text, detail jsonb)
ON CONFLICT (run_id, attempt, silent_since, judgement) DO UPDATE
SET last_at = clock_timestamp(), times = s.times + 1, detail = EXCLUDED.detail
""")

# account: by adapter, how many attempts were reaped, and how many of those gave a sign of life later.
ACCOUNT = text("""
SELECT r.adapter, count(*) AS reaped,
       count(*) FILTER (WHERE a.late_output_at IS NOT NULL OR a.late_result_at IS NOT NULL) AS suspected_false
FROM run_attempts a JOIN runs r ON r.id = a.run_id WHERE a.reaped_at IS NOT NULL
GROUP BY r.adapter ORDER BY r.adapter
""")

# pulse: the last completed sweep, and the holder of one that is under way, or was never heard of again.
LAST_COMPLETED = text("""
SELECT clock_timestamp() - w.last_completed_at AS age, clock_timestamp() - w.heard_at AS lag, w.last_report,
       l.holder, clock_timestamp() - l.since AS held_for,
       CASE WHEN EXISTS (SELECT FROM run_tokens t JOIN runs r ON r.id = t.run_id WHERE r.status = 'running')
            THEN clock_timestamp() - w.reports_at END AS deaf_for
FROM (SELECT 1) always LEFT JOIN reaper_watch w ON true LEFT JOIN leases l ON l.name = :lease
""")

COMPLETE = text("""
UPDATE reaper_watch SET last_completed_at = clock_timestamp(), last_report = CAST(:report AS jsonb)
WHERE EXISTS (SELECT FROM leases WHERE name = :name AND token = :token FOR SHARE)
""")

#: The name of the sweep's lease.
SWEEP = "reaper.sweep"


@dataclass(frozen=True, slots=True)
class Account:
    """How many attempts of one adapter's runs were reaped, and how many of those may have been alive."""

    adapter: str
    reaped: int
    suspected_false: int


class SweepStore:
    """The reaper's reading and memory."""

    def __init__(self, database: Database, leases: Leases, lease_length: timedelta) -> None:
        self._database = database
        self._leases = leases
        self._lease_length = lease_length

    def single_flight(self) -> AbstractContextManager[Lease | None]:
        """The lease that only one sweep at a time gets, on any host; None while another sweep has it."""
        return self._leases.hold(SWEEP, self._lease_length)

    def last_watch(self) -> Watch | None:
        with self._database.begin() as connection:
            row = connection.execute(LAST_WATCH).one_or_none()
        return Watch(**row._mapping) if row else None

    def note_watch(self, lease: Lease, watch: Watch) -> None:
        """Remember this watch; raises `LeaseLost` if another sweep has begun since, whose watch is newer."""
        self._write(lease, NOTE_WATCH, asdict(watch))

    def _write(self, lease: Lease, statement: TextClause, values: dict[str, Any]) -> None:
        with self._database.at_once() as connection:
            if not connection.execute(statement, values | lease.key).rowcount:
                raise LeaseLost("Another sweep has begun since this one did.")

    def hear(self, sent_at: datetime) -> None:
        """A canary that was sent at this time has come back through the log queue."""
        with self._database.begin() as connection:
            connection.execute(ECHO, {"sent_at": sent_at})

    def take_reports(self, tolerated: timedelta, *, after_a_gap: bool) -> None:
        """An API takes reports; `after_a_gap` where it knows that it did not all the time since it last said so."""
        with self._database.begin() as connection:
            connection.execute(TAKE_REPORTS, {"tolerated": tolerated, "after_a_gap": after_a_gap})

    def heard_at(self) -> datetime | None:
        """When the newest canary was sent that has come back."""
        watch = self.last_watch()
        return watch.heard_at if watch else None

    def fleet(self) -> int:
        """How many runs are running."""
        with self._database.begin() as connection:
            return int(connection.execute(FLEET).scalar_one())

    def spare(self, sparings: Sequence[tuple[Suspect, dict[str, Any]]]) -> None:
        """Keep the evidence of why these were spared."""
        records = [
            {
                "run_id": str(suspect.run_id),
                "attempt": suspect.attempt,
                "silent_since": suspect.updated_at.isoformat(),
                "judgement": evidence["judgement"],
                "detail": evidence,
            }
            for suspect, evidence in sparings
        ]
        if records:
            with self._database.begin() as connection:
                connection.execute(SPARE, {"sparings": json.dumps(records)})

    def sparings(self, run_id: UUID) -> Sequence[Sparing]:
        """Why a run was spared when it was suspect, oldest judgement first."""
        with self._database.session() as session:
            return (
                session.execute(select(Sparing).where(Sparing.run_id == run_id).order_by(Sparing.first_at))
                .scalars()
                .all()
            )

    def account(self) -> list[Account]:
        """The reaper's own account: how many attempts it reaped, and how many of them gave a sign of life later."""
        with self._database.begin() as connection:
            return [Account(**row._mapping) for row in connection.execute(ACCOUNT)]

    def pulse(self) -> Pulse:
        """How long ago the last sweep completed and what it did, who sweeps now, whether the database takes writes."""
        read_only = self._database.is_read_only()
        with self._database.begin() as connection:
            row = connection.execute(LAST_COMPLETED, {"lease": SWEEP}).one()
        return Pulse(**row._mapping, read_only=read_only)

    def complete(self, lease: Lease, report_json: str) -> None:
        """Remember that a sweep has completed, and what it did; raises `LeaseLost`."""
        self._write(lease, COMPLETE, {"report": report_json})

    def suspects(self, cutoff: datetime, now: datetime, page_size: int) -> Iterator[list[Suspect]]:
        """Pages of suspects in order of id; each page is read when it is requested."""
        moment: dict[str, Any] = {"cutoff": cutoff, "now": now}
        ends_doubt = [one.value for one in Judgement if one.ends_doubt]
        with self._database.begin() as connection:
            ids = sorted(connection.execute(SUSPECT_IDS, moment).scalars())
        for page in pages(ids, page_size):
            wanted = moment | {"ids": [str(run_id) for run_id in page], "ends_doubt": ends_doubt}
            with self._database.begin() as connection:
                suspects = [Suspect(**row._mapping) for row in connection.execute(SUSPECTS, wanted)]
            yield suspects
