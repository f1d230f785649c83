"""Questions of a sweep about work that only the workers of its host can see, and their answers."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text

from reprieve.models.nodes import Node
from reprieve.models.status import Probe
from reprieve.models.work import Fence
from reprieve.stores.arrays import fence_arrays, key_arrays
from reprieve.stores.database import Database

# handles: what to ask the platform about, for those of these runs that have a handle.
HANDLES = text("""
SELECT a.run_id, a.attempt, r.adapter, a.host, a.handle, a.slot
FROM unnest(CAST(:ids AS uuid[]), CAST(:epochs AS bigint[])) AS t (id, epoch)
JOIN runs r ON r.id = t.id AND r.epoch = t.epoch
JOIN run_attempts a ON a.run_id = r.id AND a.attempt = r.attempt
WHERE a.handle IS NOT NULL
""")

# ask: what a sweep asks about work that only the workers of its host can see.
ASK = text("""
INSERT INTO questions (run_id, attempt, host, adapter, handle)
SELECT * FROM jsonb_to_recordset(CAST(:questions AS jsonb))
    AS q (run_id uuid, attempt int, host text, adapter text, handle jsonb)
ON CONFLICT (run_id, attempt) DO UPDATE SET asked_at = clock_timestamp(), answer = NULL
""")

OPEN_QUESTIONS = text("""
SELECT q.run_id, q.attempt, q.adapter, q.host, q.handle, a.slot
FROM questions q JOIN run_attempts a ON a.run_id = q.run_id AND a.attempt = q.attempt
WHERE q.answer IS NULL AND q.host = :host AND (a.slot IS NULL OR a.slot = :slot)
""")

ANSWER = text("""
UPDATE questions q SET answer = k.answer
FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[]), CAST(:answers AS text[])) AS k (run_id, attempt, answer)
WHERE q.run_id = k.run_id AND q.attempt = k.attempt
""")

ANSWERS = text("SELECT run_id, answer FROM questions WHERE answer IS NOT NULL")

FORGET_QUESTIONS = text("DELETE FROM questions")


@dataclass(frozen=True, slots=True)
class Handle:
    """Work of an attempt as its platform knows it; only `host` can act on it, or any host if that is None."""

    run_id: UUID
    attempt: int
    adapter: str
    host: str | None
    handle: dict[str, Any]
    slot: str | None = None

    def is_for(self, node: Node | None) -> bool:
        """Whether this node can act on it: any can, or exactly this one."""
        if self.host is None:
            return True
        return node is not None and self.host == node.name and self.slot in (None, node.slot)


class QuestionStore:
    """Questions in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def handles(self, fences: Iterable[Fence]) -> list[Handle]:
        """The work under these fences that has a handle."""
        values = fence_arrays(fences)
        if not values["ids"]:
            return []
        return [Handle(**row._mapping) for row in self._database.run(HANDLES, values)]

    def ask(self, handles: Sequence[Handle]) -> None:
        """Ask the workers of the handles' hosts, and delete the questions of earlier sweeps."""
        questions = [asdict(handle) | {"run_id": str(handle.run_id)} for handle in handles]
        with self._database.begin() as connection:
            connection.execute(FORGET_QUESTIONS)
            if questions:
                connection.execute(ASK, {"questions": json.dumps(questions)})

    def unanswered(self, node: Node) -> list[Handle]:
        """The work that this node is asked about."""
        rows = self._database.run(OPEN_QUESTIONS, {"host": node.name, "slot": node.slot})
        return [Handle(**row._mapping) for row in rows]

    def answer(self, answers: Mapping[tuple[UUID, int], Probe]) -> None:
        """Record what this host knows of the work that it was asked about."""
        if not answers:
            return
        values = key_arrays(answers) | {"answers": [answers[key].value for key in sorted(answers)]}
        self._database.run(ANSWER, values)

    def answers(self) -> dict[UUID, Probe]:
        """The answers so far."""
        return {row.run_id: Probe(row.answer) for row in self._database.run(ANSWERS)}
