"""Who this process is: the name of its node, leased from the data folder (`adapters/slots.py`).

Workers of runs hold the name. A control worker beside them on the same folder, and a sweep by hand, only look:
they speak for the host's processes where the node is theirs too. The API, the command line and clients need no name,
take none, and write nothing to the data folder for it.
"""

import threading
from collections.abc import Collection

import psutil

from reprieve.adapters.host import namespace
from reprieve.adapters.slots import Lease, Slots
from reprieve.models.nodes import Node, ends_with_us
from reprieve.workers.settings import Settings


class Identity:
    """The lease of this process, taken when it is first needed. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._slots = Slots(settings.data_dir / "nodes", namespace())
        self._lock = threading.Lock()
        self._lease: Lease | None = None

    @property
    def is_by_hand(self) -> bool:
        """Whether somebody has set the name, so that no other will do."""
        return self._settings.node_name is not None

    def held(self, without: Collection[str] = ()) -> Lease:
        """What this process holds; if that is nothing yet, a slot whose name is none of `without`.

        Raises `NoIdentity`.
        """
        with self._lock:
            if self._lease is None or not self._lease.is_held:
                settings = self._settings
                self._lease = self._slots.hold(settings.node_name, settings.host_name, without)
            return self._lease

    def seen(self) -> Node | None:
        """The node whose processes can be seen from here: ours, or that of another process beside us; None without."""
        with self._lock:
            if self._lease is not None and self._lease.is_held:
                return self._lease.node
        return self._slots.look(self._settings.node_name)

    def name(self) -> str:
        """The name of that node, or what it would be called."""
        node = self.seen()
        return node.name if node else self._settings.host_name

    def let_go(self) -> None:
        with self._lock:
            if self._lease is not None:
                self._lease.let_go()


def ends_container() -> bool:
    """Whether the end of this process ends all that runs in its PID namespace."""
    try:
        above = [(one.pid, one.name()) for one in psutil.Process().parents()]
    except psutil.Error:
        above = []  # Hidden from us, as whatever is outside.
    return ends_with_us(namespace(), above)
