"""Memory of a log worker over a million chunks: it must stay flat after the first few."""

from collections.abc import Callable

import psutil

from bench.ingest import reprieve
from bench.measure import Result
from bench.stack import Stack


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:
    result = Result("memory")
    steps, chunks = (2, 2_000) if quick else (2 * rounds, 100_000)
    with stack.log_workers(1) as (worker,):
        for step in range(1, steps + 1):
            reprieve(stack, 100, chunks, 120)
            megabytes = psutil.Process(worker.pid).memory_info().rss / 1e6
            result.add(f"after {step * chunks:,} chunks", {"worker_mb": megabytes})
            say(f"  after {step * chunks:,} chunks: {megabytes:.1f} MB")
    first, *_, last = result.rounds
    result.notes["grown by, MB"] = result.median(last, "worker_mb") - result.median(first, "worker_mb")
    return result
