"""Masks secrets in a stream of bytes, however the stream is cut into pieces. Pure: no I/O, no clock.

What is masked is the union of all spans where any pattern stands, each connected span by one `***`: where two
secrets overlap, no end of one is left over. What could still become a secret is held back until more comes or the
stream ends: the longest end of the input that is the beginning of a pattern, and a masked span that it would lengthen.
"""

from collections.abc import Iterable, Iterator, Sequence

MASK = b"***"
#: Characters below which a value is not masked: a short one is found in many words, and masking would shred the log.
MIN_CHARACTERS = 4

#: Where a pattern stands: from the first of these offsets up to, not including, the second.
Span = tuple[int, int]


def patterns_of(value: str) -> frozenset[bytes]:
    """What to look for, to mask a secret: the whole of it, and each of its lines (a key, say, is shown line by line).

    White space around either is no part of a pattern, nor is a line a pattern that is too short without it.
    """
    candidates = {value.strip(), *(line.strip() for line in value.splitlines())}
    return frozenset(_encoded(text) for text in candidates if len(text) >= MIN_CHARACTERS)


def _encoded(text: str) -> bytes:
    """As it stands in a process's environment: text that Python made of undecodable bytes becomes those bytes again."""
    return text.encode("utf-8", "surrogateescape")


class Masker:
    """Masks one stream. Not thread-safe: one follower feeds it.

    What it has not given back yet is the last `held` bytes of its input. A fresh one that is fed from there on gives
    what this one would: a reader that starts again begins at `offset read - held`. Its memory is bounded by the
    longest pattern, whatever comes.
    """

    def __init__(self, patterns: Iterable[bytes] = ()) -> None:
        """`patterns` are what to mask, none of them empty; see `patterns_of`."""
        self._patterns = sorted(set(patterns), key=len, reverse=True)
        if b"" in self._patterns:
            raise ValueError("a pattern is empty; leave it out")
        self._pending = b""
        #: How many of the first pending bytes belong to a masked span, and how many before them do, already dropped.
        self._covered = 0
        self._dropped = 0

    @property
    def held(self) -> int:
        """How many bytes at the end of the input are held back."""
        return self._dropped + len(self._pending)

    def feed(self, data: bytes) -> bytes:
        """Take input, and give what is settled by now: maybe nothing, maybe what was held back before."""
        if not self._patterns:
            return data
        buffer = self._pending + data
        return self._settle(buffer, _tail_start(self._patterns, buffer))

    def flush(self) -> bytes:
        """The stream has ended: give what was held back. The masker is then as new."""
        return self._settle(self._pending, len(self._pending))

    def _settle(self, buffer: bytes, cut: int) -> bytes:
        """Give what lies before `cut`, and keep the rest; a span that the cut goes through is kept whole."""
        seed = [(-self._dropped, self._covered)] if self._covered else []
        spans = _merged([*seed, *_spans(self._patterns, buffer)])
        settled = [span for span in spans if span[1] <= cut]
        through = next((span for span in spans if span[0] < cut < span[1]), None)
        self._pending = buffer[cut:]
        self._covered, self._dropped = (through[1] - cut, cut - through[0]) if through else (0, 0)
        return _masked(buffer, settled, cut if through is None else max(through[0], 0))


def _masked(buffer: bytes, spans: Sequence[Span], end: int) -> bytes:
    """`buffer` up to `end`, with a mask at each of the spans, which are in order and lie before it."""
    if not spans:
        return buffer[:end]
    pieces, position = [], 0
    for start, stop in spans:
        pieces += [buffer[position : max(start, 0)], MASK]
        position = stop
    return b"".join([*pieces, buffer[position:end]])


def _spans(patterns: Iterable[bytes], buffer: bytes) -> Iterator[Span]:
    """Wherever a pattern stands, also where it overlaps itself or another."""
    for pattern in patterns:
        start = buffer.find(pattern)
        while start >= 0:
            yield start, start + len(pattern)
            start = buffer.find(pattern, start + 1)


def _merged(spans: Iterable[Span]) -> list[Span]:
    """In order, with those that overlap made one; those that only touch stay two."""
    merged: list[Span] = []
    for start, stop in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    return merged


def _tail_start(patterns: Sequence[bytes], buffer: bytes) -> int:
    """Where the longest end of `buffer` begins that is a beginning, but not the whole, of a pattern; else its end."""
    return min((_tail_start_of(pattern, buffer) for pattern in patterns), default=len(buffer))


def _tail_start_of(pattern: bytes, buffer: bytes) -> int:
    start = buffer.find(pattern[:1], max(len(buffer) - len(pattern) + 1, 0))
    while start >= 0:
        if pattern.startswith(buffer[start:]):
            return start
        start = buffer.find(pattern[:1], start + 1)
    return len(buffer)
