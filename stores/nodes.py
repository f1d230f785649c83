"""Nodes in PostgreSQL: when each was last seen, who else holds its name, and what unseen hosts still owe."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text

from reprieve.models.liveness import Timing
from reprieve.models.nodes import HeldTwice, Node, Unseen, complaints
from reprieve.stores.database import Database

# rivals: workers that were seen lately, of this name and of another data folder. One of our own slot is a predecessor,
# since the kernel gave us its lock; of another boot, it may as well be a copy of the machine.
RIVALS = text("""
SELECT node AS worker, seen_at, clock_timestamp() - seen_at AS seen_before FROM workers
WHERE host = :name AND seen_at > clock_timestamp() - :gone_after
  AND NOT (slot = :slot AND split_part(namespace, '/', 1) = :boot)
ORDER BY seen_at DESC
""")

# held twice: each of two holders of a name was seen after both had started.
HELD_TWICE = text("""
SELECT a.host AS name, array_agg(DISTINCT a.node ORDER BY a.node) AS workers
FROM workers a JOIN workers b ON b.host = a.host AND (b.slot <> a.slot OR b.namespace <> a.namespace)
WHERE a.seen_at > b.started_at AND b.seen_at > a.started_at
  AND a.seen_at > clock_timestamp() - :gone_after AND b.seen_at > clock_timestamp() - :gone_after
GROUP BY a.host ORDER BY a.host
""")

# owing: what is owed to hosts, and when somebody was last seen who can see whether that work is gone: a worker of its
# slot or, where that was not recorded yet, the one that followed it, or a node of its PID namespace.
OWING = """
SELECT a.run_id, a.attempt, a.host, a.slot,
       greatest(a.finished_at, w.seen_at, (
           SELECT max(n.seen_at) FROM nodes n WHERE n.slot = a.slot OR a.slot IS NULL AND n.name = a.host
              AND n.namespace = coalesce(a.process_namespace, a.handle ->> 'namespace'))) AS last_seen
FROM run_attempts a LEFT JOIN workers w ON w.id = a.worker_id
WHERE a.termination = 'owed' AND a.host IS NOT NULL
"""

UNSEEN = text(f"""
WITH owing AS ({OWING})
SELECT host AS name, count(*) AS owed, clock_timestamp() - max(last_seen) AS unseen_for
FROM owing GROUP BY host, slot HAVING max(last_seen) < clock_timestamp() - :unseen_for ORDER BY host
""")  # noqa: S608 - our own text

# waive: nobody waits for these terminations any more. They are still done if the host comes back. Rows that another
# transaction holds are skipped.
WAIVE = text(f"""
WITH owing AS ({OWING}), lost AS (
    SELECT a.run_id, a.attempt, l.last_seen
    FROM run_attempts a JOIN owing l ON a.run_id = l.run_id AND a.attempt = l.attempt
    WHERE l.last_seen < clock_timestamp() - :lost_after FOR NO KEY UPDATE OF a SKIP LOCKED
), waived AS (
    UPDATE run_attempts a SET termination = 'waived' FROM lost l
    WHERE a.run_id = l.run_id AND a.attempt = l.attempt AND a.termination = 'owed'
    RETURNING a.run_id, a.attempt, a.host, l.last_seen
)
INSERT INTO run_events (run_id, attempt, kind, detail)
SELECT run_id, attempt, 'noted', jsonb_build_object(
    'note', 'Host ' || host || CAST(:right AS text), 'host', host,
    'unseen_seconds', round(extract(epoch FROM clock_timestamp() - last_seen)))
FROM waived RETURNING run_id
""")  # noqa: S608 - our own text

FORGET = text("DELETE FROM nodes WHERE seen_at < clock_timestamp() - :forgotten_after")


@dataclass(frozen=True, slots=True)
class Rival:
    """A worker that holds our name on another data folder, or did until lately."""

    worker: str
    seen_at: datetime
    seen_before: timedelta


class NodeStore:
    """Reads who holds a name; settles what is owed to hosts that are lost."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rivals(self, node: Node, gone_after: timedelta) -> list[Rival]:
        """Workers seen within `gone_after` that have the name of this node, and are not of it."""
        values = {"name": node.name, "slot": node.slot, "boot": node.boot, "gone_after": gone_after}
        return [Rival(**row._mapping) for row in self._database.run(RIVALS, values)]

    def held_twice(self, gone_after: timedelta) -> list[HeldTwice]:
        """Names that two live holders have."""
        rows = self._database.run(HELD_TWICE, {"gone_after": gone_after})
        return [HeldTwice(row.name, tuple(row.workers)) for row in rows]

    def unseen(self, unseen_for: timedelta) -> list[Unseen]:
        """Hosts that owe terminations and of which no worker was seen for so long."""
        return [Unseen(**row._mapping) for row in self._database.run(UNSEEN, {"unseen_for": unseen_for})]

    def complaints(self, timing: Timing) -> list[str]:
        """What is wrong with the hosts, a sentence each; none when all is well."""
        return complaints(self.unseen(timing.window), self.held_twice(timing.worker_gone_after), timing)

    def waive(self, lost_after: timedelta, right: str) -> int:
        """Stop waiting for terminations of hosts not seen for so long; returns how many.

        `right` says why, and follows the host's name in the event.
        """
        return len(self._database.run(WAIVE, {"lost_after": lost_after, "right": right}))

    def forget(self, forgotten_after: timedelta) -> None:
        """Forget nodes that were not seen for so long."""
        self._database.run(FORGET, {"forgotten_after": forgotten_after})
