"""Terminations: work of an ended attempt that may still be running, which must be ended and confirmed gone."""

from uuid import UUID

from sqlalchemy import text

from reprieve.models.nodes import Node
from reprieve.stores.database import Database
from reprieve.stores.runs.conditions import FOR_THIS_NODE

# owed: work that this node can end and that must still be ended; for some of it nobody waits any more (`waived`). The
# node's name alone is enough only where no slot was recorded, since another node may have the same name.
OWED = text(f"""
SELECT run_id, attempt FROM run_attempts a WHERE termination = 'owed' AND {FOR_THIS_NODE}
UNION ALL
SELECT run_id, attempt FROM run_attempts a WHERE termination = 'waived' AND host = :host AND {FOR_THIS_NODE}
ORDER BY run_id
""")  # noqa: S608 - our own text

# settle: the work of an attempt is confirmed gone; the run, if it waits for that, may be claimed again, now or later.
SETTLE = text("""
WITH settled AS (
    UPDATE run_attempts SET termination = 'done'
    WHERE run_id = :run_id AND attempt = :attempt AND termination IN ('owed', 'waived')
    RETURNING run_id, attempt
), told AS (
    INSERT INTO run_events (run_id, attempt, kind) SELECT run_id, attempt, 'terminated' FROM settled
)
SELECT r.id FROM settled s JOIN runs r ON r.id = s.run_id
WHERE r.status = 'queued' AND (r.not_before IS NULL OR r.not_before <= clock_timestamp())
""")


class TerminationStore:
    """Owed terminations in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def owed(self, node: Node) -> list[tuple[UUID, int]]:
        """Run and attempt of all work that must still be ended and that `node` can end.

        There is no limit: work that cannot be ended would fill it, and hide the work that can.
        """
        rows = self._database.run(OWED, {"host": node.name, "slot": node.slot})
        return [(row.run_id, row.attempt) for row in rows]

    def settle(self, run_id: UUID, attempt: int) -> bool:
        """Record that an attempt's work is confirmed gone; whether its run may be claimed now, and waited for that."""
        return bool(self._database.run(SETTLE, {"run_id": run_id, "attempt": attempt}))
