"""Places: how many runs a worker may follow at once. Pure.

A run that uses the worker's host, as a command does, takes up one of its places. One that uses nothing of it but a
connection takes none: its adapter has a limit of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Room:
    """So many more runs of these adapters can be taken, all together."""

    adapters: tuple[str, ...]
    runs: int


@dataclass(frozen=True, slots=True)
class Places:
    """How many runs may use this host at once, and the limits of the adapters whose runs do not, by their names."""

    here: int
    elsewhere: Mapping[str, int]

    def rooms(self, adapters: Iterable[str], followed: Mapping[str, int]) -> list[Room]:
        """What these adapters can take, beside the runs that are followed: how many by the name of their adapter.

        A group that is full has room for none, or for less: adopted runs take up places, too.
        """
        usable = list(adapters)
        using_us = tuple(name for name in usable if name not in self.elsewhere)
        left = self.here - sum(count for name, count in followed.items() if name not in self.elsewhere)
        rooms = [Room(using_us, left)] if using_us else []
        own = {name: self.elsewhere[name] for name in usable if name in self.elsewhere}
        return rooms + [Room((name,), limit - followed.get(name, 0)) for name, limit in own.items()]
