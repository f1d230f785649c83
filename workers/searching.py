"""Looking through the logs of many runs for lines that match: hot ones and closed ones, a few runs at a time.

A run is looked at as it is when its turn comes. What is printed later is not found; what cannot be read is named.
"""

import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import re2

from reprieve.models.chunks import Chunk
from reprieve.models.errors import InvalidRequest, LogUnavailable, RunNotFound
from reprieve.models.filters import RunFilter
from reprieve.models.gaps import Gap
from reprieve.models.matching import Line, Matches, matching
from reprieve.models.records import Run
from reprieve.models.text import as_given, is_plain_text
from reprieve.stores.reading import LogReader
from reprieve.workers.bootstrap import Services

#: Runs whose logs are read at once.
AT_ONCE = 4
#: Runs that are looked at ahead of the one whose lines are given next.
AHEAD = 4 * AT_ONCE
#: Runs on a page of the list, and chunks that are read of a log at once: those of all readers are in memory.
PAGE, CHUNKS = 100, 100
#: Lines that are given of one run. More of them are no use to anybody who looks at many runs.
MOST_OF_RUN = 1_000
#: Characters of a pattern, and bytes that it may take to match: it comes from strangers, and each line is given to it.
MAX_PATTERN, MAX_MEMORY = 500, 8 * 2**20


@dataclass(slots=True)
class OfRun:
    """What was found in the logs of one run."""

    run: Run
    lines: list[Line] = field(default_factory=list)
    more: bool = False
    """Whether there are more lines that match than are given."""
    size: int = 0
    """Bytes that were looked at."""
    missing: str | None = None
    """Why not all of it could be looked at."""


def compiled(pattern: str, *, ignore_case: bool = False) -> Matches:
    """What says of a line whether it matches. Takes time that grows with the line, whatever the pattern (RE2).

    Raises `InvalidRequest` for what is no pattern there.
    """
    if not is_plain_text(pattern) or not 0 < len(pattern) <= MAX_PATTERN:
        raise InvalidRequest(f"grep must be a regular expression of 1 to {MAX_PATTERN} characters.")
    options = re2.Options()
    options.log_errors, options.case_sensitive, options.max_mem = False, not ignore_case, MAX_MEMORY
    try:
        search = re2.compile(pattern, options).search
    except re2.error as error:
        raise InvalidRequest(
            f"grep: {as_given(pattern, 100)} is no regular expression of RE2 ({_said(error)}); "
            r"what is to stand there as it is needs a backslash: \(, \[, \*."
        ) from None

    def matches(line: str) -> tuple[int, int] | None:
        found = search(line)
        return None if found is None else found.span()

    return matches


def _said(error: Any) -> str:
    (message,) = error.args or ("",)
    return message.decode("utf-8", "replace") if isinstance(message, bytes) else str(message)


def search(
    services: Services,
    wanted: RunFilter,
    matches: Matches,
    *,
    before: UUID | None = None,
    stream: str | None = None,
) -> Generator[OfRun | UUID]:
    """What matches in the logs of these runs, run by run, the newest first. Ends its threads when it is closed.

    Where none of thousands of runs is one of these, it gives the id up to which it has come: whoever has no more time
    may go on from there (`before`).
    """
    told_to_stop = threading.Event()
    waiting: deque[Future[OfRun] | UUID] = deque()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="search") as pool:
        try:
            for run in _runs(services, wanted, before):
                if isinstance(run, UUID):
                    waiting.append(run)
                else:
                    waiting.append(pool.submit(_of_run, services, run, matches, stream, told_to_stop))
                if len(waiting) > AHEAD:
                    yield _had(waiting.popleft())
            while waiting:
                yield _had(waiting.popleft())
        finally:
            told_to_stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _had(one: Future[OfRun] | UUID) -> OfRun | UUID:
    return one if isinstance(one, UUID) else one.result()


def _runs(services: Services, wanted: RunFilter, before: UUID | None) -> Iterator[Run | UUID]:
    while True:
        page = services.records.page(wanted, before=before, limit=PAGE)
        yield from page.runs
        if (before := page.next) is None:
            return
        if not page.runs:
            yield before


def _of_run(services: Services, run: Run, matches: Matches, stream: str | None, told_to_stop: threading.Event) -> OfRun:
    found = OfRun(run)
    try:
        for one in run.attempts:
            chunks = _chunks(services.log_of(run.id), one.attempt, found, told_to_stop)
            _take(found, (line for line in matching(chunks, matches) if stream in (None, line.stream)))
    except LogUnavailable as error:
        found.missing = str(error)
    except RunNotFound:  # It was removed meanwhile, and all that belongs to it.
        pass
    return found


def _chunks(reader: LogReader, attempt: int, found: OfRun, told_to_stop: threading.Event) -> Iterator[Chunk]:
    for item in reader.stored(attempt, at_once=CHUNKS):
        if told_to_stop.is_set() or found.more:
            return
        if isinstance(item, Gap):
            found.missing = f"chunks {item.first} to {item.last} of attempt {item.attempt} {item.why.in_words}"
        else:
            found.size += len(item.data)
            yield item


def _take(found: OfRun, lines: Iterator[Line]) -> None:
    for line in lines:
        if len(found.lines) == MOST_OF_RUN:
            found.more = True
            return
        found.lines.append(line)
