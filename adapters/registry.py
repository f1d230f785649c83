"""The adapters that are installed, found by their entry points."""

import logging
import threading
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from reprieve.adapters.protocol import AnyAdapter, Attaching, Keeping
from reprieve.models.errors import UnknownAdapter
from reprieve.models.faults import is_unfit

ENTRY_POINT_GROUP = "reprieve.adapters"

logger = logging.getLogger(__name__)


@cache
def adapter_classes() -> Mapping[str, type[AnyAdapter]]:
    """Every installed adapter class by its type, without broken plug-ins: those must not end the runs of others."""
    return {adapter_class.type: adapter_class for adapter_class in map(_load, _plugins()) if adapter_class is not None}


def names() -> list[str]:
    """Those that are installed, whether they can be used or not; loads none."""
    return [one.name for one in _plugins()]


def _plugins() -> list[EntryPoint]:
    return list(entry_points(group=ENTRY_POINT_GROUP))


def _load(entry_point: EntryPoint) -> type[AnyAdapter] | None:
    """The class of a plug-in, or None, with the reason in the log."""
    try:
        adapter_class: type[AnyAdapter] = entry_point.load()
    except Exception as error:
        logger.exception("The adapter %r cannot be loaded (%s).", entry_point.value, type(error).__name__)
        return None
    for member in ("type", "has_out_of_process_liveness", "config_model", "execute", "terminate"):
        if not hasattr(adapter_class, member):
            logger.error("The adapter %r declares no %r: it cannot be used.", entry_point.value, member)
            return None
    return adapter_class


def find_adapter(adapter_type: str) -> type[AnyAdapter]:
    """The class of an adapter; raises `UnknownAdapter` with those that can be used here."""
    classes = adapter_classes()
    if adapter_type not in classes:
        installed = ", ".join(sorted(classes)) or "none"
        broken = "; it is installed, but broken: see the log" if adapter_type in names() else ""
        raise UnknownAdapter(f"There is no adapter {adapter_type!r} here; installed: {installed}{broken}.")
    return classes[adapter_type]


def can_attach(adapter_type: str) -> bool:
    """Whether another worker that has this adapter can follow the work; False for one that is not installed here."""
    return issubclass(adapter_classes().get(adapter_type, object), Attaching)


class Adapters:
    """The adapters of one process, each built once, when it is first needed, with the name that `host` returns then.

    Thread-safe.
    """

    def __init__(self, folder: Path, host: Callable[[], str]) -> None:
        self._folder = folder
        self._host = host
        self._built: dict[str, AnyAdapter] = {}
        self._broken: set[str] = set()
        self._locks: dict[str, threading.RLock] = {}

    def attaching(self) -> list[str]:
        """Those that this process can use to follow what another worker has started."""
        return [name for name in self.usable() if can_attach(name)]

    def get(self, adapter_type: str) -> AnyAdapter:
        """Raises `UnknownAdapter`."""
        if adapter_type not in self._built:
            with self._building(adapter_type):
                if adapter_type not in self._built:
                    adapter_class = find_adapter(adapter_type)
                    self._built[adapter_type] = adapter_class(self._folder / adapter_type, self._host())
        return self._built[adapter_type]

    def usable(self) -> list[str]:
        """The adapters that this process can use: those that are installed and can be built here."""
        return [name for name in adapter_classes() if self._can_be_built(name)]

    def _can_be_built(self, name: str) -> bool:
        with self._building(name):
            if name in self._broken:
                return False
            try:
                self.get(name)
            except Exception as error:
                if is_unfit(error):  # This worker's trouble, which says nothing about the adapter.
                    return True
                logger.exception("The adapter %r cannot be used here; its runs wait for a worker that can.", name)
                self._broken.add(name)
                return False
            return True

    def own_limit(self, name: str) -> int | None:
        """How many runs of an adapter a worker follows at once, beside its places; None: each takes a place."""
        return getattr(find_adapter(name), "own_limit", None)

    def keeping(self) -> list[Keeping]:
        """The adapters that keep something of their attempts on this host."""
        names = [name for name in self.usable() if issubclass(find_adapter(name), Keeping)]
        return [adapter for name in names if isinstance(adapter := self.get(name), Keeping)]

    def _building(self, name: str) -> threading.RLock:
        """A lock for each: an adapter whose building hangs must not keep the others from their work."""
        return self._locks.setdefault(name, threading.RLock())
