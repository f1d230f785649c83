"""Tokens, of which only the hash is kept: of runs whose work reports from outside, and of users of the HTTP API.

One more is a data folder's own, in a file that only its owner may read: `reprieve up` makes it, and the commands of
that user find it there.
"""

import hmac
import os
import secrets
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from uuid import UUID

from sqlalchemy import select, text

from reprieve.models.access import Holder, Scope
from reprieve.models.errors import InvalidRequest, RunNotFound, SettingsError, cannot_be_written
from reprieve.models.rows import ApiToken
from reprieve.models.text import is_plain_text
from reprieve.stores.database import Database

#: Random bytes of a token.
TOKEN_BYTES = 32
#: Where a data folder's own is.
OWN_TOKEN = "api_token"  # noqa: S105 - the name of a file

# issue: one token for each run; a new one replaces the old.
ISSUE = text("""
INSERT INTO run_tokens (run_id, hash) SELECT id, :hash FROM runs WHERE id = :run_id
ON CONFLICT (run_id) DO UPDATE SET hash = EXCLUDED.hash, created_at = clock_timestamp()
RETURNING run_id
""")

FIND = text("SELECT hash FROM run_tokens WHERE run_id = :run_id")

CREATE = text("""
INSERT INTO api_tokens (name, hash, scope) VALUES (:name, :hash, :scope) ON CONFLICT (name) DO NOTHING RETURNING name
""")

# find-holder: by the hash of the given token, which reveals nothing about other hashes.
HOLDER = text("SELECT name, scope FROM api_tokens WHERE hash = :hash")

#: Characters of a token's name.
MAX_NAME_LENGTH = 64


class TokenStore:
    """Tokens in PostgreSQL. A fast hash is enough: what is hashed is random, and nobody can guess it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def issue(self, run_id: UUID) -> str:
        """A new token, good for this run only; it cannot be shown again. Raises `RunNotFound`."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        if not self._database.run(ISSUE, {"run_id": run_id, "hash": hash_of(token)}):
            raise RunNotFound(f"There is no run {run_id}.")
        return token

    def check(self, run_id: UUID, token: object) -> bool:
        """Whether this is the run's token, compared in constant time."""
        if not isinstance(token, str):
            return False
        found = self._database.run(FIND, {"run_id": run_id})
        return bool(found) and hmac.compare_digest(bytes(found[0].hash), hash_of(token))

    # -- of the HTTP API

    def create(self, name: str, scope: Scope) -> str:
        """A new token of this name; it cannot be shown again. Raises `InvalidRequest`."""
        if not (is_plain_text(name) and 1 <= len(name.strip()) <= MAX_NAME_LENGTH):
            raise InvalidRequest(f"The name {name!r} will not do; give text of 1 to {MAX_NAME_LENGTH} characters.")
        token = secrets.token_urlsafe(TOKEN_BYTES)
        if not self._database.run(CREATE, {"name": name, "hash": hash_of(token), "scope": scope.value}):
            raise InvalidRequest(f"There is a token {name!r} already; revoke it first, or choose another name.")
        return token

    def revoke(self, name: str) -> bool:
        """Whether there was a token of this name; there is none any more."""
        with self._database.begin() as connection:
            return connection.execute(text("DELETE FROM api_tokens WHERE name = :name"), {"name": name}).rowcount > 0

    def all_for_api(self) -> Sequence[ApiToken]:
        """The tokens by name, without what they are."""
        with self._database.session() as session:
            return session.execute(select(ApiToken).order_by(ApiToken.name)).scalars().all()

    def any_for_api(self) -> bool:
        """Whether there is a token at all."""
        with self._database.begin() as connection:
            return bool(connection.execute(text("SELECT EXISTS (SELECT FROM api_tokens)")).scalar())

    def holder_of(self, token: str) -> Holder | None:
        """Whose a token is; None for one that is not known."""
        rows = self._database.run(HOLDER, {"hash": hash_of(token)})
        return next((Holder(row.name, Scope(row.scope)) for row in rows), None)


def own_token(data_dir: Path) -> str | None:
    """The token of a data folder; None while there is none. Raises `SettingsError` for a file that cannot be it."""
    file = data_dir / OWN_TOKEN
    try:
        token = file.read_text(encoding="ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The token in {file} cannot be read ({getattr(error, 'strerror', 'no text')}).") from None
    if len(token) < TOKEN_BYTES:
        raise SettingsError(f"{file} holds no token; remove it, and another is made.")
    return token


def make_own_token(data_dir: Path) -> str:
    """The token of a data folder, made by the first caller if there is none. Raises `SettingsError`."""
    if (found := own_token(data_dir)) is not None:
        return found
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Whole and private (0600) before it has its name.
        with tempfile.NamedTemporaryFile("w", dir=data_dir, prefix=f".{OWN_TOKEN}-") as fresh:
            fresh.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
            fresh.flush()
            with suppress(FileExistsError):
                os.link(fresh.name, data_dir / OWN_TOKEN)
    except OSError as error:
        raise cannot_be_written(data_dir, error) from None
    return own_token(data_dir) or make_own_token(data_dir)


def hash_of(token: str) -> bytes:
    """What is kept of a token, and compared."""
    return sha256(token.encode("utf-8", "backslashreplace")).digest()
