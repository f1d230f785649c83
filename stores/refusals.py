"""What the log archive refuses at present: a row for each kind of operation that has failed and not succeeded since."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text

from reprieve.models.errors import LogUnavailable
from reprieve.models.health import Refusal
from reprieve.stores.database import Database

logger = logging.getLogger(__name__)

#: What an archive is asked to do for logs, as its refusals are kept.
WRITE, REMOVE = "write", "remove"

# refuse: the last refusal of each kind, and since when there has been nothing else.
REFUSE = text("""
INSERT INTO archive_refusals AS r (operation, refusal) VALUES (:operation, :refusal)
ON CONFLICT (operation) DO UPDATE SET at = clock_timestamp(), times = r.times + 1, refusal = EXCLUDED.refusal
RETURNING times
""")

ACCEPT = text("DELETE FROM archive_refusals WHERE operation = :operation RETURNING times")

REFUSALS = text("SELECT operation, since, at, times, refusal FROM archive_refusals ORDER BY operation DESC")


class ArchiveRefusals:
    """Notes the refusals of the object store, and that they are over."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def noting(self, operation: str) -> Iterator[None]:
        """Note how an operation goes. A refusal is logged once for the whole fleet, and not once for each log."""
        try:
            yield
        except LogUnavailable as error:
            values = {"operation": operation, "refusal": str(error)}
            with self._database.begin() as connection:
                times = connection.execute(REFUSE, values).scalar_one()
            if times == 1:
                logger.error("%s It is tried again; this is said once.", error)
            raise
        with self._database.begin() as connection:
            times = connection.execute(ACCEPT, {"operation": operation}).scalar()
        if times is not None:
            logger.warning("The log archive takes what it has refused %d times.", times)

    def current(self) -> list[Refusal]:
        """What is refused at present, by operation."""
        with self._database.begin() as connection:
            return [Refusal(**row._mapping) for row in connection.execute(REFUSALS)]
