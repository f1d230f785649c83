"""The steps of a plan, and what comes of each. A plan yields a step, and is sent what came of it."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. Each may be sent again: none does more the second time."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request, and wait up to so many seconds for each part of its answer. Gives an `Answer` or `Lost`.

    `whole` limits the time in which a body that has begun comes to its end.
    """

    request: Request
    seconds: float
    whole: float


@dataclass(frozen=True, slots=True)
class Open:
    """The same, of which the body is received bit by bit if it succeeds; ends the stream that was open before.

    `seconds` limits the connecting, `silence` the time in which nothing comes, `whole` a body that is no stream.
    """

    request: Request
    seconds: float
    whole: float
    silence: float


@dataclass(frozen=True, slots=True)
class Receive:
    """Receive what comes next of the open stream. Gives bytes, none at its end, or `Lost`."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so many seconds. Gives nothing."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Give(Generic[T]):
    """Give this to the caller. Gives nothing."""

    item: T


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered; of a stream that was opened, without its body. The names of headers are lower-case."""

    status: int
    headers: Mapping[str, str]
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer, or not all of it: why."""

    why: str


Step = Send | Open | Receive | Pause
#: What is done for a caller, who is given items of type T.
Plan = Generator[Step | Give[T], Any, None]
#: A part of a plan that comes to a result of type T.
Part = Generator[Step, Any, T]


def advance(plan: Plan[T], came_of_it: Any) -> Step | Give[T] | None:
    """The next step of a plan; None at its end."""
    try:
        return plan.send(came_of_it)
    except StopIteration:
        return None
