"""The tokens of runs whose work reports from outside: of each, only the hash is kept."""

import hmac
import secrets
from hashlib import sha256
from uuid import UUID

from sqlalchemy import text

from models.errors import RunNotFound
from stores.database import Database

#: Random bytes of a token.
TOKEN_BYTES = 32

# issue: one token for each run; a new one replaces the old.
ISSUE = text("""
INSERT INTO run_tokens (run_id, hash) SELECT id, :hash FROM runs WHERE id = :run_id
ON CONFLICT (run_id) DO UPDATE SET hash = EXCLUDED.hash, created_at = clock_timestamp()
RETURNING run_id
""")

FIND = text("SELECT hash FROM run_tokens WHERE run_id = :run_id")


class TokenStore:
    """Tokens in PostgreSQL. A fast hash is enough: what is hashed is random, and nobody can guess it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def issue(self, run_id: UUID) -> str:
        """A new token, good for this run only; it cannot be shown again. Raises `RunNotFound`."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        with self._database.begin() as connection:
            issued = connection.execute(ISSUE, {"run_id": run_id, "hash": _hash(token)}).one_or_none()
        if issued is None:
            raise RunNotFound(f"There is no run {run_id}.")
        return token

    def check(self, run_id: UUID, token: object) -> bool:
        """Whether this is the run's token, in a time that tells nothing of how much of it is right."""
        if not isinstance(token, str):
            return False
        with self._database.begin() as connection:
            found: bytes | None = connection.execute(FIND, {"run_id": run_id}).scalar()
        return found is not None and hmac.compare_digest(bytes(found), _hash(token))


def _hash(token: str) -> bytes:
    return sha256(token.encode("utf-8", "backslashreplace")).digest()
