"""From `on_log` to committed, chunks per second: Reprieve, the usual way, and the floor of one COPY."""

import io
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from uuid import uuid4

import psycopg2

from bench import usual
from bench.lines import lines
from bench.measure import Figures, Result, play
from bench.stack import Stack
from reprieve.adapters.shipper import LogShipper
from reprieve.workers.context import RunContext
from reprieve.workers.ingest import publish

FLOOR = """
CREATE TABLE IF NOT EXISTS floor_chunks (
    run_id uuid, attempt int, seq bigint, stream text, data bytea, cursor text, PRIMARY KEY (run_id, attempt, seq))
"""
COPY_AT_ONCE = 2_000


def reprieve(stack: Stack, runs: int, chunks: int, size: int) -> Figures:
    """The first `on_log` to the store's word that it has everything; the log workers are there already."""
    services = stack.services
    shipper = LogShipper(services.settings.spool_dir, publish, services.logs.stored)
    contexts = [RunContext(services, shipper, work) for work in stack.runs(runs)]
    texts = lines(1000, size)
    began = time.perf_counter()
    for number in range(chunks):
        contexts[number % runs].on_log("stdout", texts[number % 1000])
    if not shipper.close(600):
        raise TimeoutError("Not everything was stored within ten minutes.")
    return _rate(chunks, size, time.perf_counter() - began)


def floor(stack: Stack, runs: int, chunks: int, size: int) -> Figures:
    """One connection that COPYs a row for each chunk."""
    ids = [uuid4() for _ in range(runs)]
    texts = lines(1000, size)
    connection = psycopg2.connect(stack.dsn)
    with connection, connection.cursor() as cursor:
        cursor.execute(FLOOR)
        cursor.execute("TRUNCATE floor_chunks")
    began = time.perf_counter()
    for start in range(0, chunks, COPY_AT_ONCE):
        rows = "".join(
            f"{ids[number % runs]}\t1\t{number // runs + 1}\tstdout\t\\\\x{texts[number % 1000].hex()}\t\\N\n"
            for number in range(start, min(start + COPY_AT_ONCE, chunks))
        )
        with connection, connection.cursor() as cursor:
            cursor.copy_expert("COPY floor_chunks FROM STDIN", io.StringIO(rows))
    figures = _rate(chunks, size, time.perf_counter() - began)
    connection.close()
    return figures


def usual_way(stack: Stack, runs: int, chunks: int, size: int) -> Figures:
    """A task for each chunk; two processes, Celery's own defaults."""
    texts = [line.decode() for line in lines(1000, size)]
    ids = [str(uuid4()) for _ in range(runs)]
    connection = psycopg2.connect(stack.dsn)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(usual.SCHEMA + "TRUNCATE usual_chunks, usual_runs")
        cursor.executemany("INSERT INTO usual_runs VALUES (%s)", [(one,) for one in ids])
        usual.app.conf.broker_url = stack.redis.url
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "bench.usual",
            "worker",
            "-Q",
            "usual",
            "-c",
            "2",
            "-n",
            "usual@b",
        ]
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not usual.app.control.ping(["usual@b"], timeout=1.0):
                pass
            began = time.perf_counter()
            for number in range(chunks):
                usual.store.delay(ids[number % runs], number, texts[number % 1000])
            _until(lambda: _count(cursor, "usual_chunks") == chunks)
            return _rate(chunks, size, time.perf_counter() - began)
        finally:
            worker.terminate()
            worker.wait()
            connection.close()


def _rate(chunks: int, size: int, seconds: float) -> Figures:
    return {"chunks_per_second": chunks / seconds, "mb_per_second": chunks * size / seconds / 1e6}


def _count(cursor: "psycopg2.extensions.cursor", table: str) -> int:
    cursor.execute(f"SELECT count(*) FROM {table}")  # noqa: S608 - our own name
    (count,) = cursor.fetchone()
    return int(count)


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.02)


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:
    result = Result("ingest")
    many, few = (20_000, 200) if quick else (400_000, 1_500)
    with stack.log_workers(1):
        rivals: dict[str, Callable[[], Figures]] = {
            "reprieve": partial(reprieve, stack, 100, many, 120),
            "usual way": partial(usual_way, stack, 100, few, 120),
            "COPY floor": partial(floor, stack, 100, many, 120),
        }
        play(result, rounds, rivals, say)
        result.notes["times the usual way"] = result.ratio("reprieve", "usual way", "chunks_per_second")
        result.notes["times the COPY floor"] = result.ratio("reprieve", "COPY floor", "chunks_per_second")
        stack.empty()
        play(result, max(1, rounds - 2), _variations(stack, quick=quick), say)
        stack.empty()
    for workers in (1, 2, 4):
        with stack.log_workers(workers):
            case = f"{workers} log workers"
            play(result, max(1, rounds - 2), {case: partial(reprieve, stack, 100, many, 120)}, say)
            stack.empty()
    return result


def _variations(stack: Stack, *, quick: bool) -> dict[str, Callable[[], Figures]]:
    share = 20 if quick else 1
    sizes: Sequence[tuple[str, int, int, int]] = [
        ("1 run", 1, 300_000, 120),
        ("10 runs", 10, 300_000, 120),
        ("1,000 runs", 1000, 300_000, 120),
        ("1 KiB chunks", 100, 100_000, 1024),
        ("16 KiB chunks", 100, 10_000, 16 * 1024),
    ]
    cases: dict[str, Callable[[], Figures]] = {}
    for name, runs, chunks, size in sizes:
        cases[name] = partial(reprieve, stack, runs, chunks // share, size)
        cases[f"{name}, COPY"] = partial(floor, stack, runs, chunks // share, size)
    return cases
