"""Many pieces of owed work in one turn: several at once, so that one that hangs or fails does not hold up the rest."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TypeVar

from sqlalchemy.exc import DBAPIError

from reprieve.models.chunks import LogKey
from reprieve.models.errors import LogUnavailable
from reprieve.models.owed import Duty, reason_of
from reprieve.stores.owed import Setbacks
from reprieve.workers.journal import about

logger = logging.getLogger(__name__)

T = TypeVar("T")


def take_turns(
    items: Iterable[T],
    act: Callable[[T], None],
    *,
    at_once: int,
    deadline: float,
    seconds: float = float("inf"),
    name: str = "turn",
) -> None:
    """Apply `act`, which raises nothing, to each item, on so many threads at once.

    An item that takes longer than `deadline` seconds gives its place to another, and is not waited for. After so many
    `seconds` no further item is begun.
    """
    waiting, ends_at = deque(items), time.monotonic() + seconds
    under_way: dict[threading.Thread, float] = {}
    changed = threading.Event()

    def begin(item: T) -> None:
        try:
            act(item)
        finally:
            changed.set()

    while True:
        now = time.monotonic()
        under_way = {one: since for one, since in under_way.items() if one.is_alive() and now - since < deadline}
        while waiting and now < ends_at and len(under_way) < at_once:
            thread = threading.Thread(target=begin, args=(waiting.popleft(),), name=name, daemon=True)
            under_way[thread] = now
            thread.start()
        if not under_way:
            return
        changed.wait(min(0.1, deadline))
        changed.clear()


def fulfil(setbacks: Setbacks, duty: Duty, item: LogKey, act: Callable[[], str]) -> str:
    """Do what is owed to an attempt, and record the result: "failed", or what `act` returns.

    The try is recorded first: if it hangs, or kills this process, it still goes behind the others. Returns "left" if it
    was tried lately, or is being tried just now.
    """
    with about(*item):
        if not setbacks.begin(duty, [item]):
            return "left"
        try:
            result = act()
        except Exception as error:
            setbacks.failed(duty, item, reason_of(error))
            return _tell(duty, item, error)
        setbacks.done(duty, [item])
        return result


def set_back(setbacks: Setbacks, duty: Duty, item: LogKey, error: Exception) -> str:
    """Log why a try failed, and record it so that `explain` can say so; returns what the failure is called."""
    result = _tell(duty, item, error)
    try:
        setbacks.begin(duty, [item])
        setbacks.failed(duty, item, reason_of(error))
    except DBAPIError as problem:
        logger.warning("That this failed could not be written down (%s).", type(problem.orig).__name__)
    return result


def _tell(duty: Duty, item: LogKey, error: Exception) -> str:
    """Log a failure, and return what it is called. A refusal of the archive has been logged already, for all logs."""
    if isinstance(error, LogUnavailable):
        return "refused"
    logger.error("Run %s attempt %d: %s.", *item, duty.failure, exc_info=error)
    return "failed"


class Tally:
    """Counts the results; thread-safe."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, outcome: str, times: int = 1) -> None:
        with self._lock:
            self._counts[outcome] += times

    @property
    def counts(self) -> dict[str, int]:
        with self._lock:
            return {outcome: count for outcome, count in self._counts.items() if outcome != "left" and count}
