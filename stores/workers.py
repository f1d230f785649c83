"""Workers and their heartbeats (`workers.seen_at`), and which of them are to take nothing new (`drains`)."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from reprieve.models.errors import InvalidRequest
from reprieve.models.nodes import Node
from reprieve.models.text import as_given
from reprieve.models.workers import DrainRecord, Presence, WorkerRecord
from reprieve.stores.database import Database
from reprieve.stores.runs.conditions import DRAINED

# seen: the heartbeat of a worker, and of its node with it.
SEEN = text("""
WITH node AS (
    INSERT INTO nodes (slot, name, namespace) VALUES (:slot, :host, :namespace)
    ON CONFLICT (slot) DO UPDATE SET name = :host, namespace = :namespace, seen_at = clock_timestamp()
)
INSERT INTO workers (
    id, node, host, slot, namespace, lanes, version, roles, adapters, places, runs, spool_bytes, stopping)
VALUES (
    :id, :node, :host, :slot, :namespace, CAST(:lanes AS text[]), :version, :roles, :adapters, :places, :runs,
    :spool_bytes, :stopping)
ON CONFLICT (id) DO UPDATE
SET seen_at = clock_timestamp(), adapters = EXCLUDED.adapters, runs = EXCLUDED.runs,
    spool_bytes = EXCLUDED.spool_bytes, stopping = EXCLUDED.stopping
""")

# leave: a worker that ends counts as gone at once; the next sweep finds what it may not have handed over.
LEAVE = text("UPDATE workers SET seen_at = '-infinity' WHERE id = :id")

HOSTS = text("SELECT DISTINCT host FROM workers WHERE seen_at > clock_timestamp() - :gone_after")

# all: workers that have not left, as they last said of themselves.
ALL = text(f"""
SELECT w.id, w.node AS name, w.host, w.version, w.roles, w.adapters, w.lanes, w.started_at AS since,
       w.seen_at AS last_seen, w.seen_at < clock_timestamp() - :gone_after AS is_gone, w.runs, w.places, w.spool_bytes,
       w.stopping OR {DRAINED} AS draining
FROM workers w WHERE w.seen_at > '-infinity' ORDER BY w.host, w.node, w.started_at
""")  # noqa: S608 - our own text

# drain: by the name of a worker, or of a host that was seen lately. No row where there is neither.
DRAIN = text("""
INSERT INTO drains (name, host)
SELECT :name, host FROM (
    SELECT host FROM workers WHERE :name IN (node, host) UNION ALL SELECT name FROM nodes WHERE name = :name
) known LIMIT 1
ON CONFLICT (name) DO UPDATE SET host = EXCLUDED.host RETURNING name
""")
UNDRAIN = text("DELETE FROM drains WHERE name = :name RETURNING name")
DRAINS = text("SELECT name, host, since FROM drains ORDER BY name")

# forget: drains of hosts that are forgotten themselves, so that they are no more than the hosts that there are.
FORGET = text("""
DELETE FROM drains d
WHERE d.since < clock_timestamp() - :forgotten_after AND NOT EXISTS (SELECT FROM nodes n WHERE n.name = d.host)
""")

IS_DRAINED = text("SELECT FROM drains WHERE name IN (:node, :host)")

# takers: the adapters with which workers that are there, and take something new, could follow what this worker leaves;
# `here` if one of them holds the same slot, and so acts on the same processes.
TAKERS = text(f"""
SELECT a.adapter, bool_or(w.slot = :slot) AS here FROM workers w CROSS JOIN unnest(w.adapters) AS a (adapter)
WHERE w.id <> :id AND w.seen_at > clock_timestamp() - :gone_after AND NOT w.stopping AND NOT {DRAINED}
GROUP BY a.adapter
""")  # noqa: S608 - our own text


class WorkerStore:
    """Workers in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def seen(self, worker_id: UUID, worker_node: str, node: Node, presence: Presence | None = None) -> None:
        """Renew this worker's heartbeat, and its node's; `worker_node` is what Celery calls it."""
        said = presence or Presence()
        values: dict[str, Any] = {
            "id": worker_id,
            "node": worker_node,
            "host": node.name,
            "slot": node.slot,
            "namespace": node.namespace,
            "lanes": None if said.lanes is None else list(said.lanes),
            "version": said.version,
            "roles": list(said.roles),
            "adapters": list(said.adapters),
            "places": said.places,
            "runs": said.runs,
            "spool_bytes": said.spool_bytes,
            "stopping": said.stopping,
        }
        self._database.run(SEEN, values)

    def leave(self, worker_id: UUID) -> None:
        """This worker has ended and follows nothing any more."""
        self._database.run(LEAVE, {"id": worker_id})

    def hosts(self, gone_after: timedelta) -> set[str]:
        """The hosts of the workers whose heartbeat is no older than this."""
        return {row.host for row in self._database.run(HOSTS, {"gone_after": gone_after})}

    def all(self, gone_after: timedelta) -> list[WorkerRecord]:
        """Workers of runs, by host and name; those not seen for longer than `gone_after` are gone."""
        return [WorkerRecord.model_validate(row) for row in self._database.run(ALL, {"gone_after": gone_after})]

    def drains(self) -> list[DrainRecord]:
        """What is drained, whether it is there or not."""
        return [DrainRecord.model_validate(row) for row in self._database.run(DRAINS)]

    def drain(self, name: str) -> None:
        """Have a worker, or all of a host, take nothing new. Raises `InvalidRequest` where there is neither."""
        if not self._database.run(DRAIN, {"name": name}):
            named = as_given(name, 300)
            raise InvalidRequest(f"There is no worker or host {named}; `reprieve workers` shows those that there are.")

    def undrain(self, name: str) -> None:
        """Have it take runs again. Raises `InvalidRequest` where it is not drained."""
        if not self._database.run(UNDRAIN, {"name": name}):
            raise InvalidRequest(
                f"{as_given(name, 300)} is not drained, by this name; `reprieve workers` shows what is."
            )

    def forget_drains(self, forgotten_after: timedelta) -> None:
        """Forget drains that old, of hosts that are forgotten."""
        self._database.run(FORGET, {"forgotten_after": forgotten_after})

    def is_drained(self, worker_node: str, host: str) -> bool:
        """Whether a worker of this name, on this host, is to take nothing new."""
        return bool(self._database.run(IS_DRAINED, {"node": worker_node, "host": host}))

    def takers(self, worker_id: UUID, node: Node, gone_after: timedelta) -> dict[str, bool]:
        """The adapters with which others could follow what this worker leaves; True where one is on its own node."""
        values = {"id": worker_id, "slot": node.slot, "gone_after": gone_after}
        return {row.adapter: row.here for row in self._database.run(TAKERS, values)}

    def idle(self, gone_after: timedelta) -> Sequence[str]:
        """The names of the workers that are there and take nothing new, if none takes anything."""
        there = [one for one in self.all(gone_after) if not one.is_gone]
        return [one.name for one in there] if all(one.draining for one in there) else []
