"""What it costs to close the logs of many short runs: time, processor, statements, rows, bytes and objects."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import obstore
import psutil
from sqlalchemy import event, text

from bench.fleet import make_fleet, tidy
from bench.measure import Figures, Result, play
from bench.stack import Stack
from reprieve.models.chunks import Chunk, blocks_of
from reprieve.models.work import End, Fence, Outcome
from reprieve.stores.runs.ends import write_ends
from reprieve.workers.closing import close_owed
from reprieve.workers.ingest import ingest

#: The ends were so long ago that their logs are due.
LONG_AGO = text("UPDATE run_attempts SET finished_at = finished_at - interval '10 s'")
LEFT = text("SELECT count(*) FROM run_attempts WHERE finished_at IS NOT NULL AND log_closed_at IS NULL")
ROWS = text("SELECT (SELECT count(*) FROM log_archives) + (SELECT count(*) FROM log_segments)")
BYTES = text("""
SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('log_segments')
UNION ALL SELECT pg_total_relation_size('log_archives')
""")
WAL = text("SELECT pg_current_wal_insert_lsn() - '0/0'")


def close(stack: Stack, attempts: int, lines: int, pieces: int = 1) -> Figures:
    """The closing of so many logs of so many lines each, stored in so many pieces, per log."""
    services = stack.services
    make_fleet(stack, attempts)
    _print(stack, lines, pieces)
    with services.database.begin() as connection:
        connection.execute(LONG_AGO)
        wal = float(connection.execute(WAL).scalar_one())
    objects = _objects(stack)
    with _statements(stack) as count:
        began, own, servers = time.perf_counter(), time.process_time(), _postgres_seconds(stack)
        while _one(stack, LEFT):
            close_owed(services)
        seconds = time.perf_counter() - began
        own, servers = time.process_time() - own, _postgres_seconds(stack) - servers
    wal = _one(stack, WAL) - wal
    tidy(stack, "log_segments", "log_archives")
    with services.database.begin() as connection:
        size = sum(float(one) for one in connection.execute(BYTES).scalars())
    return {
        "ms": seconds * 1000 / attempts,
        "worker ms": own * 1000 / attempts,
        "postgres ms": servers * 1000 / attempts,
        "statements": len(count) / attempts,
        "rows left": _one(stack, ROWS) / attempts,
        "bytes left": size / attempts,
        "WAL bytes": wal / attempts,
        "objects": (_objects(stack) - objects) / attempts,
    }


def _print(stack: Stack, lines: int, pieces: int) -> None:
    """Have every run of the fleet print, and end."""
    services = stack.services
    with services.database.begin() as connection:
        ids = connection.execute(text("SELECT id FROM runs ORDER BY id")).scalars().all()
    for some in (ids[start : start + 500] for start in range(0, len(ids), 500)):
        for piece in range(pieces):
            ingest(
                services,
                blocks_of(
                    Chunk(run_id, 1, 1, seq, "stdout", f"step {seq} of run {run_id}: loss 0.123\n".encode())
                    for run_id in some
                    for seq in range(1 + lines * piece // pieces, 1 + lines * (piece + 1) // pieces)
                ),
            )
        with services.database.begin() as connection:
            write_ends(connection, [End.by_result(Fence(run_id, 1), Outcome(), lines) for run_id in some])


def _one(stack: Stack, query: object) -> float:
    with stack.services.database.begin() as connection:
        return float(connection.execute(query).scalar_one())  # type: ignore[call-overload]


def _objects(stack: Stack) -> int:
    return sum(len(page) for page in obstore.list(stack.services.archives.objects.store))


@contextmanager
def _statements(stack: Stack) -> Iterator[list[None]]:
    count: list[None] = []

    def note(*_: object) -> None:
        count.append(None)

    engine = stack.services.database.engine
    event.listen(engine, "after_cursor_execute", note)
    try:
        yield count
    finally:
        event.remove(engine, "after_cursor_execute", note)


def _postgres_seconds(stack: Stack) -> float:
    """Seconds of processor that the server and its sessions have taken; those that have ended count with the server."""
    server = psutil.Process(stack.postgres.pid)
    return sum(sum(one.cpu_times()[:4]) for one in (server, *server.children()))


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:
    result = Result("closing")
    attempts = 500 if quick else 10_000
    result.notes["attempts"] = attempts
    cases: dict[str, Callable[[], Figures]] = {
        f"{lines} lines": partial(close, stack, attempts, lines) for lines in (0, 1, 3, 100)
    }
    cases["60 lines in 60 pieces"] = partial(close, stack, attempts // 10, 60, 60)
    play(result, rounds, cases, say)
    return result
