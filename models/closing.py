"""Closing a log: what to do next with the log of an attempt that has ended, and when its host may forget it.

A small log stays where it is, in the database, and closing it is one mark on its attempt's row: nothing is copied, and
no object is made. The segments that it lies in are compressed already, and what names an object costs more bytes than
the log of a short run has. Only a large log becomes an object of the archive.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from reprieve.models.extents import Extent
from reprieve.models.sequences import SeqRanges

#: How long what an adapter kept of an attempt on its host stays, where nobody read it to its end.
KEPT_FOR = timedelta(days=7)

#: Seconds of ends whose logs are closed together, at one message.
CLOSED_EVERY = 2.0
#: Seconds after the last of these ends at which their logs are looked at: their last batches are mostly stored by then.
#: By the clock of the worker that takes the message; whatever that clock shows, the sweep sends again.
CLOSED_AFTER = 2.0

#: Bytes of segments, compressed, up to which a log stays in the database: some 80 KB of lines. What an object store
#: asks for writing an object and reading it back pays for so many bytes on a database's disk for more than a month; and
#: a reader gets them with the one statement that it needs anyway.
SMALL_BYTES = 16 * 1024
#: Segments up to which a small log stays as it lies. More are put together: a row costs more than a short line has.
FEW_PIECES = 4
#: Segments with which a log is no small one any more; no more of them are counted.
MANY_PIECES = 1_000
#: Bytes of output, unpacked, up to which segments are put together: whoever reads one line of a segment unpacks it all.
JOINED_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Hot:
    """What the database holds of a log: so many segments (at most `MANY_PIECES` were counted), chunks and bytes."""

    pieces: int = 0
    chunks: int = 0
    bytes: int = 0


class Closing(StrEnum):
    """What to do next."""

    WAIT = "wait"
    """The attempt has not ended, or its tail may still be on its way."""
    STAY = "stay"
    """Mark it as closed where it is: everything is there, or has been waited for, and it is small."""
    ARCHIVE = "archive"
    """Write the archive: the same of a large log, or of one whose stored chunks are not all in its segments."""
    DROP = "drop"
    """The archive is written and verified: the hot segments can go."""
    DONE = "done"


def next_step(log: Extent, hot: Hot) -> Closing:
    """The next step for a log.

    An end that names no last number is a reap or a cancel: only time shows that nothing more comes. What the spool of a
    living worker holds will come, and is waited for however long that takes.
    """
    if log.is_closed:
        return Closing.DONE
    if log.ended_for is None:
        return Closing.WAIT
    if log.archived is not None:
        return Closing.DROP
    if not log.is_whole and (log.held is not None or log.is_awaited):
        return Closing.WAIT
    return Closing.STAY if _is_small(hot) and hot.chunks == log.stored.count else Closing.ARCHIVE


def _is_small(hot: Hot) -> bool:
    return hot.bytes <= SMALL_BYTES and hot.pieces < MANY_PIECES


def may_forget(
    *, ended_for: timedelta | None, last_seq: int | None, stored: SeqRanges, closed: bool, termination_owed: bool
) -> bool:
    """Whether what an adapter kept on a host for an attempt, beside the log store, can go.

    At once when its follower read it to the end (the end names `last_seq`) and all of that is stored. What nobody read
    to its end, of work that was reaped or cancelled, stays for `KEPT_FOR`, so that a person can look at it.
    """
    if ended_for is None or not closed or termination_owed:
        return False
    whole = last_seq is not None and not stored.missing(last_seq)
    return whole or ended_for >= KEPT_FOR
