"""The cursor in the log of a Pod, and reading on from it so that no line is lost or comes twice. Pure.

The API gives each line with the time at which its runtime wrote it down, and reads on from a time, but in whole seconds
only. So the cursor is: the newest time that was given, how many lines had exactly that time, and how many came after
the last of those (two threads of the runtime write down standard output and standard error, and may be a little out of
order). A reader that goes on asks for a little more than is missing, and passes over what was given.
"""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Self

#: Seconds before the newest line from which is read on, since lines may be a little out of order.
SKEW_SECONDS = 1
#: How long a line's time may be, with what surrounds it; what is longer is none.
MAX_TIMESTAMP = 40
_NANOSECONDS = 1_000_000_000
_TIMESTAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


def parse_timestamp(text: bytes) -> int | None:
    """Nanoseconds since 1970 of a time as RFC 3339 has it; None when it is none."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        return None
    seconds = _seconds(match[1] + match[3].replace(b"Z", b"+00:00"))
    return None if seconds is None else seconds * _NANOSECONDS + int((match[2] or b"").ljust(9, b"0"))


@lru_cache(maxsize=64)
def _seconds(text: bytes) -> int | None:
    """Cached, since most lines are of the same second as the line before."""
    try:
        return int(datetime.fromisoformat(text.decode()).timestamp())
    except ValueError:
        return None


def format_timestamp(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, _NANOSECONDS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


@dataclass(frozen=True, slots=True)
class LogCursor:
    """How much of a Pod's log was given."""

    name: str
    uid: str
    newest: int = 0
    """The newest time of a line that was given whole, in nanoseconds since 1970; 0 while there is none."""
    same: int = 0
    """How many lines with exactly that time were given."""
    after: int = 0
    """How many lines were given after the last of those; they are older."""
    line: int = 0
    """The time of the line that was given in part; 0 when there is none."""
    given: int = 0
    """How many bytes of that line were given."""

    def encode(self) -> str:
        """As the text that is stored with a chunk."""
        cursor = f"{self.name}/{self.uid}/{_formatted(self.newest)}/{self.same}/{self.after}"
        return f"{cursor}/{_formatted(self.line)}/{self.given}" if self.line else cursor

    @classmethod
    def decode(cls, cursor: str) -> Self:
        """Raises `ValueError`."""
        name, uid, newest, same, after, *partial = cursor.split("/")
        line, given = partial or ("", "0")
        return cls(name, uid, _parsed(newest), int(same), int(after), _parsed(line), int(given))

    @property
    def since(self) -> str | None:
        """The time to read on from, in whole seconds; None for all."""
        if not self.newest:
            return None
        seconds = self.newest // _NANOSECONDS - SKEW_SECONDS
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"

    def after_line(self, at: int) -> "LogCursor":
        """After one more whole line."""
        if at > self.newest:
            return LogCursor(self.name, self.uid, at, 1)
        if at == self.newest:
            return LogCursor(self.name, self.uid, at, self.same + 1)
        return LogCursor(self.name, self.uid, self.newest, self.same, self.after + 1)


def _formatted(at: int) -> str:
    return format_timestamp(at) if at else ""


def _parsed(text: str) -> int:
    if not text:
        return 0
    at = parse_timestamp(text.encode())
    if at is None:
        raise ValueError(f"{text!r} is no time")
    return at


class Resumption:
    """One answer of the log API, read on from a cursor: gives what is new in it, and moves the cursor past that.

    A line without a time was not written by the container: it is the rest of a line whose beginning is older than what
    was asked for, or a complaint of the node. It is passed over.
    """

    def __init__(self, cursor: LogCursor) -> None:
        self.cursor = cursor
        self.rotated_at: int | None = None
        """When the first line was written that is there in place of lines that were given before; None while all that
        was given is there. What was written in between may be lost."""
        self._start = cursor
        #: Whether all that was given before has been passed, and how many lines are still to be.
        self._passed = not cursor.newest
        self._same_seen = 0
        self._to_skip = 0
        #: The beginning of a line whose time is not complete yet.
        self._head = b""
        #: Whether a line is being read; then its time, None for a line that is passed over.
        self._in_line = False
        self._time: int | None = None
        #: How many bytes of it are still to be passed over, and how many there have been.
        self._skip_bytes = 0
        self._seen_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """Take a piece of the answer, cut anywhere; give what of it is new."""
        new: list[bytes] = []
        data, self._head = self._head + data, b""
        position = 0
        while position < len(data):
            if not self._in_line:
                begun = self._begin_line(data, position)
                if begun is None:
                    self._head = data[position:]
                    break
                position = begun
            end = data.find(b"\n", position) + 1
            new.append(self._take(data[position : end or len(data)], whole=bool(end)))
            position = end or len(data)
        return b"".join(new)

    def _begin_line(self, data: bytes, start: int) -> int | None:
        """Read the line's time and decide on the line; where its text begins, None when more is needed to tell."""
        window = data[start : start + MAX_TIMESTAMP]
        space, newline = window.find(b" "), window.find(b"\n")
        if space < 0 and newline < 0 and len(window) < MAX_TIMESTAMP:
            return None
        at = parse_timestamp(window[:space]) if space > 0 else None
        self._in_line, self._skip_bytes, self._seen_bytes = True, 0, 0
        if at is None:
            self._time = None
            return start
        self._time = at if self._is_new(at) else None
        if self._time is not None and self._time == self.cursor.line:
            self._skip_bytes = self.cursor.given
        return start + space + 1

    def _is_new(self, at: int) -> bool:
        if self._passed:
            return True
        if at > self._start.newest:
            if self._same_seen < self._start.same:
                # What was given before is not there any more: the log was rotated.
                self.rotated_at = at
            self._passed = True
        elif at == self._start.newest and self._same_seen < self._start.same:
            self._same_seen += 1
            self._to_skip = self._start.after
            self._passed = self._same_seen == self._start.same and not self._to_skip
            return False
        elif self._same_seen == self._start.same:
            self._to_skip -= 1
            self._passed = self._to_skip == 0
            return False
        return self._passed

    def _take(self, text: bytes, *, whole: bool) -> bytes:
        """A piece of the line that is being read, `whole` when it is its end; what of it is new."""
        self._in_line = not whole
        if self._time is None:
            return b""
        skipped = min(self._skip_bytes, len(text))
        self._skip_bytes -= skipped
        self._seen_bytes += len(text)
        if whole:
            self.cursor = self.cursor.after_line(self._time)
        elif self._seen_bytes > self.cursor.given or self._time != self.cursor.line:
            self.cursor = replace(self.cursor, line=self._time, given=self._seen_bytes) if text else self.cursor
        return text[skipped:]
