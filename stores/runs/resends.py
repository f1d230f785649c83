"""Resends: the queued runs whose message has to be sent again."""

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


class ResendStore:
    """What is to be sent again, from PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def unclaimed(self, resend_after: timedelta, doublings: int, limit: int = 1000) -> list[UUID]:
        """The queued runs whose message may be lost, marked as sent once more."""
        rows = self._database.run(RESEND, {"resend_after": resend_after, "doublings": doublings, "limit": limit})
        return [row.run_id for row in rows]
