"""What requests for many runs have chosen: kept, so that one that comes again is about the same runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from reprieve.models.errors import IdempotencyConflict
from reprieve.stores.database import Database

#: For how long a key stands for the runs that were chosen with it.
KEPT_FOR = timedelta(days=7)

KNOWN = text("SELECT asked, run_ids, more FROM bulk_requests WHERE key = :key")

# keep: of two that come at once with one key, the first has chosen.
KEEP = text("""
INSERT INTO bulk_requests (key, asked, run_ids, more)
VALUES (:key, CAST(:asked AS jsonb), CAST(:run_ids AS uuid[]), :more) ON CONFLICT DO NOTHING
""")
FORGET = text("DELETE FROM bulk_requests WHERE asked_at < clock_timestamp() - CAST(:kept AS interval)")


@dataclass(frozen=True, slots=True)
class Choice:
    """The runs that a request is about, and whether more of them fit than it takes."""

    run_ids: Sequence[UUID]
    more: bool


class BulkStore:
    """Requests for many runs, by their idempotency keys."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, key: str, asked: Mapping[str, Any]) -> Choice | None:
        """What was chosen with this key; raises `IdempotencyConflict` if something else was asked for with it."""
        for row in self._database.run(KNOWN, {"key": key}):
            if row.asked != asked:
                raise IdempotencyConflict(f"idempotency_key {key!r} belongs to another request; use a new key.")
            return Choice(row.run_ids, row.more)
        return None

    def keep(self, key: str, asked: Mapping[str, Any], choice: Choice) -> Choice:
        """Keep what is chosen. Returns it or, where another request was faster, what that has chosen."""
        values = {"key": key, "asked": json.dumps(asked), "more": choice.more}
        self._database.run(FORGET, {"kept": KEPT_FOR})
        self._database.run(KEEP, values | {"run_ids": [str(run_id) for run_id in choice.run_ids]})
        return self.known(key, asked) or choice
