"""Leases: who alone may do something just now, and until when, by the database's clock.

A lease is a row, and taking, renewing and releasing it is one short statement each, in no transaction that would stay
open: a holder that is frozen, or cut off from the network, holds up nobody for longer than its lease. In exchange a
holder may lose it without noticing, so that whatever it writes in its name is conditional on holding it still.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import text

from reprieve.models.errors import LeaseLost
from reprieve.models.faults import is_unfit
from reprieve.stores.database import Database

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Each of these has its transaction not wait for the disk, which would be most of its cost: a lease that a crash of the
# server undoes is lost to its holder like any other, and one that it brings back ends by itself.

# take: a lease that nobody holds, or whose time is over; or that began later than now, before the clock was set back.
TAKE = text("""
INSERT INTO leases AS l (name, holder, token, since, until)
SELECT :name, :holder, CAST(:token AS uuid), clock_timestamp(), clock_timestamp() + :length
FROM set_config('synchronous_commit', 'off', true)
ON CONFLICT (name) DO UPDATE
SET holder = EXCLUDED.holder, token = EXCLUDED.token, since = EXCLUDED.since, until = EXCLUDED.until
WHERE l.until < clock_timestamp() OR l.since > clock_timestamp()
""")

# renew: also a lease whose time is over, as long as nobody else has taken it.
RENEW = text("""
UPDATE leases SET until = clock_timestamp() + :length FROM set_config('synchronous_commit', 'off', true)
WHERE name = :name AND token = :token
""")

RELEASE = text("""
DELETE FROM leases USING set_config('synchronous_commit', 'off', true) WHERE name = :name AND token = :token
""")

# tidy: what holders left that were killed, and nobody has wanted since.
TIDY = text("DELETE FROM leases WHERE until < clock_timestamp() - CAST(:age AS interval)")

#: For how long a lease whose time is over is kept, for a person to see who held it.
KEPT_FOR = timedelta(hours=1)


class Lease:
    """A lease that this process holds, or held. Each taking has a token of its own, so no two are ever confused."""

    def __init__(self, database: Database, name: str, token: UUID, length: timedelta) -> None:
        self._database = database
        self.name = name
        self.token = token
        self.length = length

    @property
    def key(self) -> dict[str, Any]:
        """What a statement that is conditional on holding it names it by."""
        return {"name": self.name, "token": self.token}

    def renew(self) -> None:
        """Hold it for its whole length from now on; raises `LeaseLost`."""
        with self._database.at_once() as connection:
            renewed = connection.execute(RENEW, self.key | {"length": self.length}).rowcount
        if not renewed:
            raise LeaseLost(f"Another has taken the lease {self.name!r}.")

    def while_going_through(self, items: Iterable[T]) -> Iterator[T]:
        """Pass these on, and renew the lease whenever a quarter of it has passed; raises `LeaseLost`."""
        step = self.length.total_seconds() / 4
        due = time.monotonic() + step
        for item in items:
            if time.monotonic() > due:
                self.renew()
                due = time.monotonic() + step
            yield item


class Leases:
    """The leases of one system, as this node takes them."""

    def __init__(self, database: Database, node: Callable[[], str]) -> None:
        """`node` returns this node's name, which may not be known yet."""
        self._database = database
        self._node = node

    @property
    def holder(self) -> str:
        """What a person finds this process by."""
        return f"{self._node()}, process {os.getpid()}"

    @contextmanager
    def hold(self, name: str, length: timedelta) -> Iterator[Lease | None]:
        """A lease of this name for the block, to be renewed within `length`; None while another holds it."""
        lease = Lease(self._database, name, uuid4(), length)
        with self._database.at_once() as connection:
            values = lease.key | {"holder": self.holder, "length": length}
            taken = connection.execute(TAKE, values).rowcount
        if not taken:
            yield None
            return
        try:
            yield lease
        finally:
            self._release(lease)

    def _release(self, lease: Lease) -> None:
        """Let others have it at once. Where that cannot be said, they have it when its time is over."""
        try:
            with self._database.at_once() as connection:
                connection.execute(RELEASE, lease.key)
        except Exception as error:
            if not is_unfit(error):
                raise
            logger.warning("The lease %r was not released (%s); it ends by itself.", lease.name, type(error).__name__)

    def tidy(self) -> int:
        """Delete what is long over; returns how many."""
        with self._database.at_once() as connection:
            return connection.execute(TIDY, {"age": KEPT_FOR}).rowcount
