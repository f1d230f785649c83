"""A run's output as a program reads it: pieces in order, and the gaps between them."""

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from reprieve.models.gaps import Gap, Why


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of one stream of an attempt, byte for byte as it was handed over; it may end within a line.

    `seq` numbers the pieces of an attempt, of all its streams, from 1. `at` is the time by the worker's clock.
    """

    attempt: int
    seq: int
    at: datetime
    stream: str
    data: bytes

    @property
    def last(self) -> int:
        """Its number, by the name that it has in a gap: a reader that goes on after an item goes on after this."""
        return self.seq

    @classmethod
    def of_json(cls, attempt: int, chunk: Mapping[str, Any]) -> Self:
        """A chunk as the HTTP API answers it. Raises KeyError, TypeError or ValueError for what is none."""
        data = b64decode(chunk["base64"]) if chunk.get("base64") is not None else chunk["text"].encode()
        return cls(attempt, chunk["seq"], datetime.fromisoformat(chunk["at"]), chunk["stream"], data)


#: What a reader of a log is given.
LogItem = Output | Gap


def gap_of_json(attempt: int, gap: Mapping[str, Any]) -> Gap:
    """A gap as the HTTP API answers it. Raises KeyError or ValueError for what is none."""
    return Gap(attempt, gap["first"], gap["last"], Why(gap["why"]))
