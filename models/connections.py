"""Connections of the HTTP API: how many there may be, for how long each may dawdle, and which goes first."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

#: Descriptors that the API has open beside its callers: PostgreSQL, Redis, the archive, threads that look something up,
#: and connections that were accepted a moment ago.
FILES_OF_THE_API = 256
#: Connections that are meant to be possible, where the hard limit of descriptors allows it: 2,000 readers,
#: and more.
WANTED = 4096
#: The fewest, however few descriptors there are.
FEWEST = 16
#: Of those, what readers of live output may take at the most.
SHARE_OF_READERS = 3 / 4


class Stage(StrEnum):
    """Where a connection is, and so for whom it waits."""

    HEAD = "head"
    """For the caller: no request has begun, or its head is not whole. An idle one is closed long before by uvicorn."""
    BODY = "body"
    """For the caller: the head of a request is here, its body is not whole."""
    ANSWER = "answer"
    """For us: a whole request is being answered, a stream of live output perhaps for days."""
    STALLED = "stalled"
    """For the caller: our buffer for it is full, and since then it has taken nothing, not even of the system's."""
    CLOSING = "closing"
    """For the caller: we have closed it, and it does not take the last of what we answered."""


#: Seconds that a connection may stay in a stage; as long as it takes, to be answered. A report has a few hundred KiB at
#: the most, and its producer gives up after 30 seconds.
PATIENCE = {Stage.HEAD: 20.0, Stage.BODY: 60.0, Stage.STALLED: 30.0, Stage.CLOSING: 30.0}


def most_connections(files: int) -> int:
    """How many connections there may be, of a process that may open so many files."""
    return max(FEWEST, min(WANTED, files - FILES_OF_THE_API))


def most_readers(connections: int) -> int:
    """How many of them may be streams of live output: the rest is kept for reports and for starting runs."""
    return int(connections * SHARE_OF_READERS)


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """What is known of a connection."""

    stage: Stage
    since: float
    """When it came to this stage, by a clock that only goes forward."""
    reads: bool
    """Whether its request only reads: its sender can reconnect and resume."""

    def is_overdue(self, now: float) -> bool:
        return now - self.since > PATIENCE.get(self.stage, float("inf"))


class HasState(Protocol):
    @property
    def state(self) -> ConnectionState: ...


C = TypeVar("C", bound=HasState)


def first_to_go(connections: Iterable[C]) -> C | None:
    """Which connection makes room for another: one that waits for its caller, else a reader; the oldest of its kind.

    None where all others are reports, or ask for a change: those are answered first.
    """
    ranked = [(rank, one.state.since, one) for one in connections if (rank := _rank(one.state)) is not None]
    return min(ranked, key=lambda each: each[:2])[2] if ranked else None


def _rank(state: ConnectionState) -> int | None:
    if state.stage is not Stage.ANSWER:
        return 0
    return 1 if state.reads else None
