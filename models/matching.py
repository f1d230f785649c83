"""Which lines of a log match: chunks to lines, without colours, each with the number that the page gives it.

Nothing here knows what a pattern is: `matches` says it of a line.
"""

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import count

from reprieve.models.chunks import Chunk

#: Characters of a line that are looked at together. What is longer is looked at in parts, and a match over the edge of
#: two is not found.
LONGEST_LINE = 2**20
#: Characters of a line that a match shows: it is cut around what matched.
SHOWN = 500
#: What moves a terminal's cursor or colours what follows (ECMA-48: CSI, OSC and the two-character ones); none of it is
#: text.
CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an attempt's log that matched."""

    attempt: int
    number: int
    """From 1, all streams of the attempt in the order in which their lines began."""
    seq: int
    """The number of the chunk in which it ended."""
    at: datetime
    stream: str
    text: str
    """The line, or `SHOWN` characters around what matched."""


Matches = Callable[[str], tuple[int, int] | None]
"""Where in a line it matches, from and to; None if nowhere."""


def matching(chunks: Iterable[Chunk], matches: Matches) -> Iterator[Line]:
    """The lines of one attempt that match, in the order in which they ended; what follows the last newline is one."""
    streams: dict[str, _Stream] = {}
    numbers = count(1)
    for chunk in chunks:
        if chunk.stream not in streams:
            streams[chunk.stream] = _Stream(matches, numbers)
        yield from streams[chunk.stream].feed(chunk)
    for stream in streams.values():
        yield from stream.end()


class _Stream:
    """The lines of one stream. One that has begun has a number; it is looked at once it has ended, or is long."""

    def __init__(self, matches: Matches, numbers: Iterator[int]) -> None:
        self._matches = matches
        self._numbers = numbers
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._number: int | None = None
        self._parts: list[str] = []
        self._length = 0
        self._found: Line | None = None
        self._last: Chunk | None = None

    def feed(self, chunk: Chunk) -> Iterator[Line]:
        self._last = chunk
        *ended, rest = self._decoder.decode(chunk.data).split("\n")
        for part in ended:
            self._add(part, chunk)
            yield from self._close(chunk)
        if rest:
            self._add(rest, chunk)

    def end(self) -> Iterator[Line]:
        """What follows the last newline."""
        if self._last is not None and self._number is not None:
            yield from self._close(self._last)

    def _add(self, part: str, chunk: Chunk) -> None:
        if self._number is None:
            self._number = next(self._numbers)
        self._parts.append(part)
        self._length += len(part)
        if self._length >= LONGEST_LINE:
            self._look(chunk)

    def _close(self, chunk: Chunk) -> Iterator[Line]:
        self._look(chunk)
        if self._found is not None:
            yield self._found
        self._number, self._found = None, None

    def _look(self, chunk: Chunk) -> None:
        """Look at what has come of the line since it was last looked at."""
        text = CONTROL.sub("", "".join(self._parts).rstrip("\r"))
        self._parts, self._length = [], 0
        if self._found is None and (place := self._matches(text)) is not None:
            number = self._number or 0
            self._found = Line(chunk.attempt, number, chunk.seq, chunk.time, chunk.stream, _around(text, *place))


def _around(text: str, begins: int, ends: int) -> str:
    """So much of a line as is shown, with what matched, or its beginning, in the middle."""
    if len(text) <= SHOWN:
        return text
    first = max(0, min((begins + min(ends, begins + SHOWN)) // 2 - SHOWN // 2, len(text) - SHOWN))
    shown = text[first : first + SHOWN]
    return f"{'… ' if first else ''}{shown}{' …' if first + SHOWN < len(text) else ''}"
