"""What a log with many gaps costs: to add to it, to explain its run, and to close it (its archive included)."""

import time
from collections.abc import Callable

from sqlalchemy import text

from bench.measure import Figures
from bench.stack import Stack
from reprieve.models.chunks import Chunk, blocks_of
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.runs.ends import write_ends
from reprieve.workers.closing import close_log
from reprieve.workers.explaining import explain as explain_run
from reprieve.workers.ingest import ingest as take_in

#: The attempt ended so long ago that nothing more is waited for.
LONG_AGO = text("UPDATE run_attempts SET finished_at = finished_at - interval '1 hour' WHERE run_id = :id")
#: Tries, of which the fastest counts: what else the machine does is not ours.
TRIES = 3


def ingest(stack: Stack, gaps: int) -> Figures:
    """A message that adds one chunk, and another gap."""
    work = _scattered(stack, gaps)
    last = iter(range(2 * gaps + 3, 2 * gaps + 3 + 2 * TRIES, 2))
    return _fastest(lambda: take_in(stack.services, blocks_of([_chunk(work, next(last))])))


def explain(stack: Stack, gaps: int) -> Figures:
    """All that `reprieve explain` says, as text and as data."""
    run_id = _scattered(stack, gaps).run_id

    def told() -> None:
        explanation = explain_run(stack.services, run_id)
        _ = explanation.text, explanation.record.model_dump_json()

    return _fastest(told)


def close(stack: Stack, gaps: int) -> Figures:
    """Closing from its first look to its last step, with an archive in a folder."""
    works = [_scattered(stack, gaps) for _ in range(TRIES)]
    with stack.services.database.begin() as connection:
        for work in works:
            write_ends(connection, [End.by_result(work.fence, Outcome(), 2 * gaps + 1)])
            connection.execute(LONG_AGO, {"id": work.run_id})
    waiting = iter(works)
    return _fastest(lambda: close_log(stack.services, next(waiting).run_id, 1))


def _scattered(stack: Stack, gaps: int) -> Work:
    """A run with so many gaps in its log."""
    [work] = stack.runs(1)
    take_in(stack.services, blocks_of(_chunk(work, 2 * number + 1) for number in range(gaps + 1)))
    return work


def _chunk(work: Work, seq: int) -> Chunk:
    return Chunk(work.run_id, work.attempt, work.epoch, seq, "stdout", b"a line of output\n")


def _fastest(act: Callable[[], object]) -> Figures:
    times = []
    for _ in range(TRIES):
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return {"ms": min(times) * 1000}
