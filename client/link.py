"""What a process that asks for runs holds: built when it is first needed, and anew in each child of a fork.

A forked child must not use what its parent opened: both would talk on one connection. So it builds its own. The old is
dropped and not closed: that would end the parent's (psycopg2 and redis-py both see to that, by the process's number).
"""

import os
import threading
from dataclasses import dataclass

from reprieve.client.sending import Hints
from reprieve.stores.connections import Connections
from reprieve.stores.runs.records import RunRecords
from reprieve.workers import current
from reprieve.workers.settings import Settings


@dataclass(frozen=True, slots=True)
class Link:
    """The way to the database and to the broker."""

    chosen: Settings | None
    connections: Connections
    hints: Hints

    @property
    def records(self) -> RunRecords:
        return RunRecords(self.connections)


_lock = threading.Lock()
_link: Link | None = None


def link() -> Link:
    """This process's own. Raises `SettingsError` if it is not said where the database and Redis are."""
    global _link
    found, chosen = _link, current.chosen()
    if found is not None and found.chosen is chosen:
        return found
    with _lock:
        if _link is None or _link.chosen is not chosen:
            if _link is not None:
                _link.connections.close()
            settings = current.settings()
            connections = Connections(settings.require_database_url())
            _link = Link(chosen, connections, Hints(settings.require_broker_url()))
        return _link


def _forget() -> None:
    global _link, _lock
    _link, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
