"""Waiting until the environment is fit again: the database is back, the disk has room (`models.faults`)."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception, wait_exponential_jitter

from reprieve.models.faults import is_unfit
from reprieve.models.results import last_line

T = TypeVar("T")

#: Seconds before the second try; twice as long before each further one.
FIRST_PAUSE = 0.2


def until_fit(
    act: Callable[[], T],
    say: Callable[[int, str], None] = lambda *_: None,
    *,
    longest: float = 5.0,
    stop: Callable[[float], bool] = lambda _: False,
    again: Callable[[BaseException], bool] = is_unfit,
) -> T:
    """Try `act` until it succeeds, and return its result. Pauses grow up to `longest` seconds.

    Before each pause, `say` gets the number of the try and why it failed. Raises an error that is not to be tried
    `again`, or the last one once `stop`, given the seconds since the first try, says so.
    """

    return Retrying(**_patience(say, longest, stop, again))(act)


async def until_fit_without_a_thread(
    act: Callable[[], Awaitable[T]],
    say: Callable[[int, str], None] = lambda *_: None,
    *,
    longest: float = 5.0,
    stop: Callable[[float], bool] = lambda _: False,
    again: Callable[[BaseException], bool] = is_unfit,
) -> T:
    """The same on an event loop."""

    async def tried() -> T:
        return await act()

    return await AsyncRetrying(**_patience(say, longest, stop, again))(tried)


def _patience(
    say: Callable[[int, str], None],
    longest: float,
    stop: Callable[[float], bool],
    again: Callable[[BaseException], bool],
) -> dict[str, Any]:
    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        say(state.attempt_number, last_line(error) if error else "")

    return {
        "retry": retry_if_exception(again),
        "wait": wait_exponential_jitter(multiplier=FIRST_PAUSE, max=longest),
        "stop": lambda state: stop(state.seconds_since_start or 0.0),
        "before_sleep": tell,
        "reraise": True,
    }
