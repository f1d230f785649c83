"""What the work of one attempt says of itself, between its adapter and the rows, where it is written now and then."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from reprieve.models.errors import InvalidRequest
from reprieve.models.faults import is_database_away, is_unfit
from reprieve.models.saying import Report, Said
from reprieve.models.sequences import MAX_SEQ
from reprieve.models.text import as_given
from reprieve.models.work import Fence
from reprieve.stores.runs.reports import News, ReportStore

logger = logging.getLogger(__name__)

#: Seconds between two writes of what one attempt has said; the last of it is written with its end.
WRITE_INTERVAL = 10.0


class Sayings:
    """Thread-safe: the adapter's thread adds to it, others write it.

    All that was said so far is written each time, under its last number: what is written twice, or late, harms nothing,
    and what could not be written is in what is written next. But for the result, which may be large: that is written
    until it was.
    """

    def __init__(self, fence: Fence, attempt: int, said: Said) -> None:
        """`said` is what the rows have of it."""
        self._fence, self._attempt, self._said = fence, attempt, said
        self._written = said.number
        self._written_at = float("-inf")
        self._said_at = 0.0
        self._lock = threading.Lock()

    @property
    def number(self) -> int:
        """That of the last report that was taken."""
        return self._said.number

    def take(self, report: Report, number: int | None = None) -> None:
        """Take a report, unless it was taken before; without a number it is the next one. Raises `InvalidRequest`."""
        if number is not None and (type(number) is not int or not 0 < number <= MAX_SEQ):
            raise InvalidRequest(f"number is {as_given(number, 60)}; give a whole number from 1 to {MAX_SEQ}.")
        with self._lock:
            after = self._said.take(self._said.number + 1 if number is None else number, report)
            if after is not self._said:
                self._said, self._said_at = after, time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether there is something to be written by now."""
        return self._said.number > self._written and time.monotonic() >= self._written_at + WRITE_INTERVAL

    def news(self) -> News | None:
        """What is to be written; None for nothing."""
        with self._lock:
            if self._said.number <= self._written:
                return None
            return News(self._fence, self._attempt, self._said, time.monotonic() - self._said_at)

    def put_off(self) -> None:
        """It could not be written just now: try it after a while."""
        self._written_at = time.monotonic()

    def written(self, news: News) -> None:
        """The rows have it, or never will."""
        with self._lock:
            self._written, self._written_at = max(self._written, news.said.number), time.monotonic()
            if self._said.report.result is news.said.report.result:
                self._said = replace(self._said, report=replace(self._said.report, result=None))


def write_all(reports: ReportStore, news: Sequence[News]) -> list[bool]:
    """Write what these attempts have said; for each, whether that is settled, and need not be tried again.

    Where one of them cannot be written, the others are. What is no fault of the environment is logged, and let go: no
    second try would change it. Raises where the database is away.
    """
    try:
        reports.write(news)
    except Exception as error:
        if is_database_away(error):
            raise
        if len(news) > 1:
            return [settled for one in news for settled in write_all(reports, [one])]
        if is_unfit(error):
            logger.warning("What run %s said of itself is not written yet (%s).", news[0].fence.run_id, error)
            return [False]
        logger.exception("What run %s said of itself cannot be written.", news[0].fence.run_id)
    return [True] * len(news)
