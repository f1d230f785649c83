"""Nodes: who holds a data folder, what a recorded name means to its holder, and what is known of an unseen host.

A node's name is for people, and for finding rows. What it *is* is its slot: a folder below the data folder, whose id is
recorded beside the name, so that two data folders under one name are never taken for each other. A number of a
process means something in one boot and one PID namespace only (`adapters.host.namespace`), which is recorded as well.
"""

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import count, dropwhile

from reprieve.models.liveness import Timing
from reprieve.models.watching import Watch

#: The longest name of a node, in characters: what a host name may have.
LONGEST_NAME = 253

#: The number that Linux gives to the PID namespace of the machine itself, which lasts as long as the boot.
_OF_THE_MACHINE = "pid:[4026531836]"

#: Programs that run as PID 1 and go on when one of their children ends.
_KEEP_RUNNING = frozenset({"systemd", "init", "supervisord", "s6-svscan", "runsvdir", "openrc-init"})

#: Inits that have one child, and end when it does.
_END_WITH_THEIR_CHILD = frozenset({"tini", "tini-static", "docker-init", "podman-init", "catatonit", "dumb-init"})


@dataclass(frozen=True, slots=True)
class Node:
    """Who we are: the name, the id of the slot that it is leased with, and the PID namespace in which it is held."""

    name: str
    slot: str
    namespace: str

    @property
    def boot(self) -> str:
        return boot_of(self.namespace)


class Whose(StrEnum):
    """What work that was recorded under a namespace and a slot is to the holder of a slot."""

    MINE = "mine"
    """Its process numbers mean something here: look them up."""
    GONE = "gone"
    """It was this node's, and ended with the boot or with the PID namespace in which it ran."""
    NOT_MINE = "not_mine"
    """Not mine to see, which is neither alive nor gone."""


def boot_of(namespace: str) -> str:
    """The boot in a namespace, as `adapters.host.namespace` writes it."""
    return namespace.partition("/")[0]


def whose(namespace: str, slot: str | None, ours: Node) -> Whose:
    """What work recorded under `namespace` and `slot` is to us; `slot` is None where it was recorded before slots were.

    Another PID namespace of this boot under our own slot is one whose holder has let go of it, or we would not hold it:
    its processes ended with it. Not so the machine's own, which ends with the boot only.
    """
    if namespace == ours.namespace:
        return Whose.MINE
    if slot not in (None, ours.slot):
        return Whose.NOT_MINE
    if boot_of(namespace) != ours.boot:
        return Whose.GONE
    return Whose.NOT_MINE if slot is None or _is_the_machines(namespace) else Whose.GONE


def may_inherit(holder: str | None, namespace: str) -> bool:
    """Whether a slot that `holder` has let go of may be held from `namespace`.

    What a worker of the machine itself leaves may still run when its slot is free: only its own successor sees it.
    """
    if holder is None or holder == namespace or boot_of(holder) != boot_of(namespace):
        return True
    return not _is_the_machines(holder)


def _is_the_machines(namespace: str) -> bool:
    return namespace.endswith(f"/{_OF_THE_MACHINE}")


def is_name(value: object) -> bool:
    """Whether this may be a node's name: text that is safe to show and to type."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable() and " " not in value


def as_name(text: str) -> str:
    """What a host calls itself, made a name."""
    return re.sub(r"[^!-~\w]", "-", text)[: LONGEST_NAME - 8] or "host"


def free_name(base: str, taken: Container[str]) -> str:
    """The first of BASE, BASE-2, BASE-3 … that is not taken."""
    return next(name for name in _numbered(base) if name not in taken)


def _numbered(base: str) -> Iterator[str]:
    yield base
    yield from (f"{base}-{number}" for number in count(2))


def ends_with_us(namespace: str, above: Sequence[tuple[int, str]]) -> bool:
    """Whether the end of this process ends all others of its PID namespace, as that of a container's main process does.

    `above` holds the number and the name of its parent, of whose parent, and so on, as far as its namespace shows them.
    An init that ends with its one child stands for it: the image brings one, and the engine may put another above that.
    It does when nothing else is above it (it is PID 1, or was started from outside, beside an init of somebody else's),
    or only a PID 1 that is not known to go on.
    """
    if "/" not in namespace or _is_the_machines(namespace):
        return False
    others = list(dropwhile(lambda one: one[1] in _END_WITH_THEIR_CHILD, above))
    return all(pid == 1 and name not in _KEEP_RUNNING for pid, name in others)


def may_waive(watch: Watch, now: datetime, timing: Timing) -> bool:
    """Whether a host that was not seen was not there: only where we looked for a window, in which it could be seen."""
    return watch.age(now) >= timing.window


@dataclass(frozen=True, slots=True)
class Unseen:
    """A host that owes terminations, and for how long nobody has seen a worker of it."""

    name: str
    owed: int
    unseen_for: timedelta


@dataclass(frozen=True, slots=True)
class HeldTwice:
    """A name that two live holders have, and what workers they are."""

    name: str
    workers: tuple[str, ...]


def complaints(unseen: list[Unseen], held_twice: list[HeldTwice], timing: Timing) -> list[str]:
    """What is wrong with the hosts, a sentence each; none when all is well."""
    return [*map(_of_twice, held_twice), *(_of_unseen(one, timing) for one in unseen)]


def _of_unseen(one: Unseen, timing: Timing) -> str:
    return (
        f"Host {one.name} owes the end of {one.owed} attempts, and no worker of it was seen for "
        f"{in_words(one.unseen_for)}: retries wait for it, for {in_words(timing.host_lost_after)} at the most. "
        "Start a worker on its data folder."
    )


def _of_twice(one: HeldTwice) -> str:
    return (
        f"The name {one.name} is held twice, by {' and '.join(one.workers)}, on different data folders: give each host "
        "a REPRIEVE_NODE_NAME of its own, or none, and a data folder that is no copy."
    )


def in_words(time: timedelta) -> str:
    """A time for people: `40 s`, `12 min`, `6 h`."""
    seconds = time.total_seconds()
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
