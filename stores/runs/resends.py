"""Resends: the queued runs whose message has to be sent again."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from reprieve.stores.database import Database
from reprieve.stores.runs.conditions import CLAIMABLE

# resend: queued runs that nobody claimed; each time, the gap to the next doubles.
RESEND = text(f"""
WITH unclaimed AS (
    SELECT r.id FROM runs r
    WHERE {CLAIMABLE} AND r.updated_at < clock_timestamp() - :resend_after * power(2, least(r.sends, :doublings))
    ORDER BY r.id LIMIT :limit FOR NO KEY UPDATE OF r SKIP LOCKED
), resent AS (
    UPDATE runs r SET sends = r.sends + 1, updated_at = clock_timestamp()
    FROM unclaimed u WHERE r.id = u.id
    RETURNING r.id, r.attempt, r.sends
)
INSERT INTO run_events (run_id, attempt, kind, detail)
SELECT id, attempt, 'resent', jsonb_build_object('sends', sends) FROM resent
RETURNING run_id
""")  # noqa: S608 - our own text

# awaited: the queued runs that another worker had no adapter for, and this one has.
AWAITED = text("""
SELECT r.id FROM runs r
WHERE r.status = 'queued' AND r.adapter = ANY(CAST(:adapters AS text[])) AND EXISTS (
    SELECT FROM run_events e
    WHERE e.run_id = r.id AND e.attempt = r.attempt AND e.kind = 'noted' AND e.detail ->> 'lacking' = r.adapter)
ORDER BY r.id LIMIT :limit
""")


class ResendStore:
    """What is to be sent again, from PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def unclaimed(self, resend_after: timedelta, doublings: int, limit: int = 1000) -> list[UUID]:
        """The queued runs whose message may be lost, marked as sent once more."""
        rows = self._database.run(RESEND, {"resend_after": resend_after, "doublings": doublings, "limit": limit})
        return [row.run_id for row in rows]

    def awaiting(self, adapters: Sequence[str], limit: int) -> list[UUID]:
        """Queued runs that an earlier worker had no adapter for, and that need one of these."""
        return [row.id for row in self._database.run(AWAITED, {"adapters": list(adapters), "limit": limit})]
