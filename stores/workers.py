"""Workers and their heartbeats (`workers.seen_at`)."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from reprieve.models.nodes import Node
from reprieve.stores.database import Database

# seen: the heartbeat of a worker, and of its node with it.
SEEN = text("""
WITH node AS (
    INSERT INTO nodes (slot, name, namespace) VALUES (:slot, :host, :namespace)
    ON CONFLICT (slot) DO UPDATE SET name = :host, namespace = :namespace, seen_at = clock_timestamp()
)
INSERT INTO workers (id, node, host, slot, namespace, lanes)
VALUES (:id, :node, :host, :slot, :namespace, CAST(:lanes AS text[]))
ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp()
""")

# leave: a worker that ends counts as gone at once; the next sweep finds what it may not have handed over.
LEAVE = text("UPDATE workers SET seen_at = '-infinity' WHERE id = :id")

HOSTS = text("SELECT DISTINCT host FROM workers WHERE seen_at > clock_timestamp() - :gone_after")


class WorkerStore:
    """Workers in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def seen(self, worker_id: UUID, worker_node: str, node: Node, lanes: Sequence[str] | None = None) -> None:
        """Renew this worker's heartbeat, and its node's.

        `worker_node` is what Celery calls it, and `lanes` what it serves, all where that is None.
        """
        values = {"id": worker_id, "node": worker_node, "host": node.name, "lanes": lanes}
        self._database.run(SEEN, values | {"slot": node.slot, "namespace": node.namespace})

    def leave(self, worker_id: UUID) -> None:
        """This worker has ended and follows nothing any more."""
        self._database.run(LEAVE, {"id": worker_id})

    def hosts(self, gone_after: timedelta) -> set[str]:
        """The hosts of the workers whose heartbeat is no older than this."""
        return {row.host for row in self._database.run(HOSTS, {"gone_after": gone_after})}
