"""Notices, which the trigger `owe_notices` writes (`migrations/versions/0021_notices.py`), and their rules."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from reprieve.models.errors import InvalidRequest, NoticeNotFound
from reprieve.models.notice_rules import MAX_RULES, Rule, is_name
from reprieve.models.notices import (
    LEAST_TRIES,
    SENT_KEPT,
    TRIED_FOR,
    UNDELIVERABLE_KEPT,
    UNDELIVERABLE_TOLD,
    Due,
    NoticeKind,
    NoticeState,
    Outbox,
    Told,
    pause_after,
)
from reprieve.models.owed import MAX_REASON, NO_ANSWER
from reprieve.models.work import storable
from reprieve.stores.database import Database

# try: of each receiver, what is due first, up to so many under way in this process. The try is written before it
# begins: if it hangs, or ends this process, the notice is tried again after the lease, by whoever looks then. The
# receivers are found by a step of the index for each; who comes first changes, so that none is always the last. `now()`
# stands still in a statement, so that the index is read up to what is due.
TRY = text("""
WITH RECURSIVE receivers AS (
    (SELECT receiver FROM notices WHERE state = 'owed' ORDER BY receiver LIMIT 1)
    UNION ALL
    SELECT (SELECT n.receiver FROM notices n WHERE n.state = 'owed' AND n.receiver > c.receiver
            ORDER BY n.receiver LIMIT 1)
    FROM receivers c WHERE c.receiver IS NOT NULL
), due AS (
    SELECT d.id FROM receivers c CROSS JOIN LATERAL (
        SELECT n.id FROM notices n
        WHERE n.state = 'owed' AND n.receiver = c.receiver AND n.next_try_at <= now()
        ORDER BY n.next_try_at
        LIMIT greatest(0, :of_each - coalesce(CAST(CAST(:busy AS jsonb) ->> c.receiver AS int), 0))
        FOR NO KEY UPDATE SKIP LOCKED
    ) d
    ORDER BY random() LIMIT :limit
)
UPDATE notices n SET tries = n.tries + 1, next_try_at = clock_timestamp() + :lease, reason = :no_answer
FROM due WHERE n.id = due.id
RETURNING n.id, n.run_id, n.attempt, n.kind, n.rule, n.url, n.receiver, n.at, n.tries, clock_timestamp() - n.at AS age
""")

# sent: also one that another process has given up meanwhile.
SENT = text("""
UPDATE notices SET state = 'sent', settled_at = clock_timestamp(), reason = NULL WHERE id = :id AND state <> 'sent'
""")

# fail: unless another process has begun a later try meanwhile. A test is tried once.
FAIL = text("""
WITH tried AS (
    SELECT id, kind = 'test' OR (
        clock_timestamp() + :pause > owed_at + :tried_for AND tries >= :least_tries) AS given_up FROM notices
    WHERE id = :id AND tries = :tries AND state = 'owed' FOR NO KEY UPDATE
)
UPDATE notices n SET reason = :reason, next_try_at = clock_timestamp() + :pause,
    state = CASE WHEN given_up THEN 'undeliverable' ELSE 'owed' END,
    settled_at = CASE WHEN given_up THEN clock_timestamp() END
FROM tried t WHERE n.id = t.id
RETURNING n.state
""")

# put off: this was no try.
PUT_OFF = text("""
UPDATE notices SET tries = tries - 1, next_try_at = clock_timestamp() + :pause, reason = NULL
WHERE id = :id AND tries = :tries AND state = 'owed'
""")

AGAIN = text("""
UPDATE notices SET state = 'owed', settled_at = NULL, owed_at = clock_timestamp(), next_try_at = clock_timestamp(),
    tries = 0, reason = NULL
WHERE id = :id RETURNING id
""")

_COLUMNS = "id, run_id, attempt, kind, rule, url, state, at, tries, reason, next_try_at, settled_at"

FIND = text(f"SELECT {_COLUMNS} FROM notices WHERE id = :id")  # noqa: S608 - our own text

OF_RUN = text(f"""
SELECT {_COLUMNS} FROM (SELECT * FROM notices WHERE run_id = :run_id ORDER BY at DESC, id LIMIT :limit) n
ORDER BY at, id
""")  # noqa: S608 - our own text

# in state: what was settled last, or is tried next, comes first.
IN_STATE = text(f"""
SELECT {_COLUMNS} FROM notices WHERE state = :state
ORDER BY CASE WHEN state = 'owed' THEN next_try_at END, settled_at DESC LIMIT :limit
""")  # noqa: S608 - our own text

# outbox: what is owed, and what could not be sent lately. Who tests a rule sees what comes of it, and nobody else.
OUTBOX = text("""
SELECT owed, late, undeliverable,
    (SELECT n.reason FROM notices n WHERE n.state = 'owed' AND n.kind <> 'test' AND n.reason IS NOT NULL
     ORDER BY n.next_try_at DESC LIMIT 1) AS owed_reason,
    (SELECT n.reason FROM notices n WHERE n.state = 'undeliverable' AND n.kind <> 'test'
     ORDER BY n.settled_at DESC LIMIT 1) AS reason
FROM (
    SELECT count(*) AS owed, coalesce(clock_timestamp() - min(owed_at), interval '0') AS late
    FROM notices WHERE state = 'owed' AND kind <> 'test') o, (
    SELECT count(*) AS undeliverable FROM notices
    WHERE state = 'undeliverable' AND kind <> 'test' AND settled_at > clock_timestamp() - CAST(:told AS interval)) u
""")

#: Notices that are removed in one statement.
REMOVED_AT_ONCE = 10_000

REMOVE = text("""
DELETE FROM notices WHERE id IN (
    SELECT id FROM notices WHERE state = :state AND settled_at < clock_timestamp() - CAST(:kept AS interval)
    LIMIT :limit)
""")

# add: in one statement with the count, under a lock of the table of rules: two who add at once add no more than may be.
LOCK_RULES = text("LOCK TABLE notice_rules IN SHARE ROW EXCLUSIVE MODE")
ADD_RULE = text("""
INSERT INTO notice_rules (name, url, kinds, labels, lane)
SELECT :name, :url, CAST(:kinds AS text[]), CAST(:labels AS jsonb), :lane
WHERE (SELECT count(*) FROM notice_rules WHERE name <> :name) < :most
ON CONFLICT (name) DO UPDATE
SET url = EXCLUDED.url, kinds = EXCLUDED.kinds, labels = EXCLUDED.labels, lane = EXCLUDED.lane
RETURNING name
""")

RULES = text("SELECT name, url, kinds, labels, lane FROM notice_rules ORDER BY name")

TEST = text("""
INSERT INTO notices (kind, rule, url) SELECT 'test', name, url FROM notice_rules WHERE name = :name RETURNING id
""")


class NoticeStore:
    """What is owed to whom, and what came of it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, of_each: int, busy: Mapping[str, int], limit: int, lease: timedelta) -> list[Due]:
        """Begin to try what is due; `busy` says how much is under way here already, by receiver."""
        values = {
            "of_each": of_each,
            "busy": json.dumps(dict(busy)),
            "limit": limit,
            "lease": lease,
            "no_answer": NO_ANSWER,
        }
        return [Due(**row._mapping) for row in self._database.run(TRY, values)]

    def sent(self, due: Due) -> None:
        """Its receiver has taken it."""
        self._database.run(SENT, {"id": due.id})

    def failed(self, due: Due, reason: str) -> NoticeState | None:
        """This try has failed; returns what becomes of the notice, None where another process has it by now."""
        values = {
            "id": due.id,
            "tries": due.tries,
            "reason": storable(reason)[:MAX_REASON],
            "pause": pause_after(due.tries),
            "tried_for": TRIED_FOR,
            "least_tries": LEAST_TRIES,
        }
        return next((NoticeState(row.state) for row in self._database.run(FAIL, values)), None)

    def put_off(self, due: Due, pause: timedelta) -> None:
        """It is not sent now, for what it tells of is not complete."""
        self._database.run(PUT_OFF, {"id": due.id, "tries": due.tries, "pause": pause})

    def again(self, notice_id: UUID) -> Told:
        """Have it be sent at once, whatever has become of it, and tried for another day. Raises `NoticeNotFound`."""
        self._database.run(AGAIN, {"id": notice_id})
        return self.find(notice_id)

    def find(self, notice_id: UUID) -> Told:
        """Raises `NoticeNotFound`."""
        for row in self._database.run(FIND, {"id": notice_id}):
            return Told(**row._mapping)
        raise NoticeNotFound(
            f"There is no notice {notice_id}; those that were sent are kept for {SENT_KEPT.days} days."
        )

    def of_run(self, run_id: UUID, limit: int = 20) -> list[Told]:
        """The last notices of a run, the oldest first."""
        return [Told(**row._mapping) for row in self._database.run(OF_RUN, {"run_id": run_id, "limit": limit})]

    def in_state(self, state: NoticeState, limit: int = 100) -> list[Told]:
        """Those that are tried next, or were settled last."""
        return [Told(**row._mapping) for row in self._database.run(IN_STATE, {"state": state.value, "limit": limit})]

    def outbox(self) -> Outbox:
        """How much is owed, and how much could not be sent."""
        (row,) = self._database.run(OUTBOX, {"told": UNDELIVERABLE_TOLD})
        return Outbox(**row._mapping)

    def tidy(self) -> int:
        """Remove what was settled long ago; returns how many."""
        removed = 0
        for state, kept in ((NoticeState.SENT, SENT_KEPT), (NoticeState.UNDELIVERABLE, UNDELIVERABLE_KEPT)):
            values = {"state": state.value, "kept": kept, "limit": REMOVED_AT_ONCE}
            while True:
                with self._database.begin() as connection:
                    of_this_turn = connection.execute(REMOVE, values).rowcount
                removed += of_this_turn
                if of_this_turn < REMOVED_AT_ONCE:
                    break
        return removed

    # -- rules

    def rules(self) -> list[Rule]:
        """By their names."""
        return [_rule(row._mapping) for row in self._database.run(RULES)]

    def put_rule(self, rule: Rule) -> None:
        """Add a rule, or put it in the place of that of its name. Raises `InvalidRequest` where there are too many."""
        values = {
            "name": rule.name,
            "url": rule.url,
            "kinds": [kind.value for kind in rule.kinds] or None,
            "labels": json.dumps(dict(rule.labels)),
            "lane": rule.lane,
            "most": MAX_RULES,
        }
        with self._database.begin() as connection:
            connection.execute(LOCK_RULES)
            if not connection.execute(ADD_RULE, values).all():
                raise InvalidRequest(f"There are {MAX_RULES} rules already; remove one first.")

    def remove_rule(self, name: str) -> None:
        """Nobody is told by it from now on; what is owed stays owed. Raises `NoticeNotFound`."""
        if not is_name(name):
            raise _no_rule(name)
        removed = self._database.run(text("DELETE FROM notice_rules WHERE name = :name RETURNING name"), {"name": name})
        if not removed:
            raise _no_rule(name)

    def test(self, name: str) -> Told:
        """Owe a notice that tells of nothing to the address of a rule. Raises `NoticeNotFound`."""
        for row in self._database.run(TEST, {"name": name}) if is_name(name) else ():
            return self.find(row.id)
        raise _no_rule(name)


def _rule(row: Mapping[Any, Any]) -> Rule:
    kinds: Sequence[str] = row["kinds"] or ()
    return Rule(row["name"], row["url"], tuple(NoticeKind(kind) for kind in kinds), row["labels"], row["lane"])


def _no_rule(name: str) -> NoticeNotFound:
    return NoticeNotFound(f"There is no rule {name[:100]!r}; `reprieve notices rules` shows them.")
