"""Wait for a condition, never for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    condition: Callable[[], T], *, timeout: float = 30.0, interval: float = 0.05, what: str | Callable[[], str] = ""
) -> T:
    """The first truthy value of `condition`; fails the test when there is none within `timeout` seconds.

    `what` says what was waited for; a function says it at the end, with what is known then.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            said = what() if callable(what) else what
            raise AssertionError(f"waited {timeout:g} s in vain for {said or condition}")
        time.sleep(interval)
