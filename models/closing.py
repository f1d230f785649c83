"""Closing a log: what to do next with the log of an attempt that has ended, and when its host may forget it."""

from datetime import timedelta
from enum import StrEnum

from reprieve.models.extents import Extent
from reprieve.models.sequences import SeqRanges

#: How long what an adapter kept of an attempt on its host stays, where nobody read it to its end.
KEPT_FOR = timedelta(days=7)


class Closing(StrEnum):
    """What to do next."""

    WAIT = "wait"
    """The attempt has not ended, or its tail may still be on its way."""
    ARCHIVE = "archive"
    """Write the archive: everything is there, or has been waited for."""
    DROP = "drop"
    """The archive is written and verified: the hot segments can go."""
    DONE = "done"


def next_step(log: Extent) -> Closing:
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
    if log.is_whole:
        return Closing.ARCHIVE
    return Closing.WAIT if log.held is not None or log.is_awaited else Closing.ARCHIVE


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
