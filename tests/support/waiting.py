"""Wait for a condition, never for a time."""

import urllib.request

from reprieve.testing.waiting import eventually

__all__ = ["answers", "eventually"]


def answers(url: str) -> bool:
    """Whether there is an answer, and it is 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
