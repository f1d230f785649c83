"""1,000 live readers for an hour (MINUTES=60): does the memory of the API stay flat, and does its haste?

The figures of the last minute are there to be compared with those of the first.
"""

import os
from collections.abc import Callable

from bench.live import measure
from bench.measure import Result
from bench.stack import Stack

READERS = 1000
MINUTES = int(os.environ.get("MINUTES", "60"))


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:  # noqa: ARG001 - as all have
    result = Result("hold")
    readers, pieces, seconds = (50, 2, 3.0) if quick else (READERS, MINUTES, 60.0)
    for minute, figures in enumerate(measure(stack, readers, seconds, pieces), 1):
        result.add(f"minute {minute}", figures)
    return result
