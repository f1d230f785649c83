"""From `on_log` to the follower's screen, in milliseconds."""

import threading
import time
from collections.abc import Callable
from functools import partial

from bench.measure import Figures, Result, play, quantile
from bench.stack import Stack
from reprieve.adapters.shipper import LogShipper
from reprieve.models.chunks import Chunk
from reprieve.stores.reading import LogReader
from reprieve.workers.context import RunContext
from reprieve.workers.ingest import publish


def measure(stack: Stack, per_second: int, seconds: float) -> Figures:
    """One run prints at a steady pace, one follower shows it."""
    services = stack.services
    work = stack.runs(1)[0]
    shipper = LogShipper(services.settings.spool_dir, publish, services.logs.stored)
    context = RunContext(services, shipper, work)
    count = int(per_second * seconds)
    said: list[float] = []
    seen: list[float] = []

    def follow() -> None:
        for item in LogReader(services.database, services.logs, services.live, work.run_id).follow():
            if isinstance(item, Chunk):
                seen.append(time.perf_counter())
            if len(seen) == count:
                return

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    began = time.perf_counter()
    for number in range(count):
        time.sleep(max(0.0, began + number / per_second - time.perf_counter()))
        said.append(time.perf_counter())
        context.on_log("stdout", b"line %d of a run that somebody follows\n" % number)
    follower.join(60)
    shipper.close(10)
    taken = sorted((there - here) * 1000 for here, there in zip(said, seen, strict=True))
    return {"p50_ms": quantile(taken, 0.5), "p99_ms": quantile(taken, 0.99), "worst_ms": taken[-1]}


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:
    result = Result("latency")
    seconds = 3.0 if quick else 20.0
    with stack.log_workers(1):
        cases: dict[str, Callable[[], Figures]] = {
            f"{pace:,} a second": partial(measure, stack, pace, seconds) for pace in (1, 1000)
        }
        play(result, rounds, cases, say)
    return result
