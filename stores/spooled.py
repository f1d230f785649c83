"""What the spools of living workers hold of logs that the store does not have: it is late, and not missing."""

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import text

from reprieve.models.chunks import LogKey
from reprieve.models.extents import HOLDER_BELIEVED_FOR
from reprieve.models.sequences import Range
from reprieve.stores.arrays import key_arrays
from reprieve.stores.database import Database

# hold: what a holder holds now, instead of what it reported before. A hint for some seconds: not worth waiting for the
# disk.
HOLD = text("""
WITH said AS (
    SELECT k.* FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:first AS bigint[]),
                           CAST(:last AS bigint[])) AS k (run_id, attempt, from_seq, to_seq),
                    set_config('synchronous_commit', 'off', true)
), gone AS (
    DELETE FROM spooled s WHERE s.holder = :holder AND NOT EXISTS (
        SELECT FROM said k WHERE k.run_id = s.run_id AND k.attempt = s.attempt)
)
INSERT INTO spooled (run_id, attempt, holder, from_seq, to_seq)
SELECT run_id, attempt, CAST(:holder AS uuid), from_seq, to_seq FROM said ORDER BY run_id, attempt
ON CONFLICT (run_id, attempt, holder) DO UPDATE
SET from_seq = EXCLUDED.from_seq, to_seq = EXCLUDED.to_seq, seen_at = clock_timestamp()
""")

FORGET = text("DELETE FROM spooled WHERE seen_at < clock_timestamp() - 10 * CAST(:believed_for AS interval)")


class SpooledStore:
    """Keeps what holders report, and forgets it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def hold(self, holder: UUID, held: Mapping[LogKey, Range]) -> None:
        """Record what a holder holds: these numbers of each of these logs and what follows, and no other log."""
        keys = sorted(held)
        ranges = {"first": [held[key][0] for key in keys], "last": [held[key][1] for key in keys]}
        with self._database.at_once() as connection:
            connection.execute(HOLD, key_arrays(keys) | ranges | {"holder": holder})

    def forget(self) -> int:
        """Delete the reports of holders that have long been silent; returns how many."""
        with self._database.at_once() as connection:
            return connection.execute(FORGET, {"believed_for": HOLDER_BELIEVED_FOR}).rowcount
