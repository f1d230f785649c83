"""Refreshes per second over a large running fleet, their WAL, and how many are HOT; and what an index would cost."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import text

from bench.fleet import make_fleet, tidy
from bench.measure import Figures, Result, play
from bench.stack import Stack
from reprieve.models.status import Proof
from reprieve.models.work import Fence
from reprieve.stores.runs.refresh import write_proof

#: Refreshes in one statement: a message of output with this many runs in it.
AT_ONCE = 1_000
INDEX = "refresh_rival"


def fences_of(stack: Stack) -> list[Fence]:
    with stack.services.database.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        return [Fence(run_id, 1) for run_id in connection.execute(text("SELECT id FROM runs")).scalars()]


def refresh(stack: Stack, fences: Sequence[Fence], seconds: float, connections: int) -> Figures:
    """Refresh random runs of the fleet for so long, each turn over the fleet in another order."""
    made = [0] * connections
    before, began = _counters(stack), time.perf_counter()

    def work(number: int) -> None:
        shuffled = random.Random(number)
        while time.perf_counter() < began + seconds:
            with stack.services.database.begin() as connection:
                made[number] += len(write_proof(connection, shuffled.sample(fences, AT_ONCE), Proof.OUTPUT))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - began
    after = _counters(stack)
    grown = {name: after[name] - before[name] for name in after}
    return {
        "refreshes_per_second": sum(made) / taken,
        "wal_bytes_per_refresh": grown["wal"] / sum(made),
        "page_images_per_refresh": grown["images"] / sum(made),
        "hot_share": grown["hot"] / max(1, grown["updates"]),
    }


def _counters(stack: Stack) -> dict[str, float]:
    """Bytes of WAL so far, page images in it (after each checkpoint once per page), and updates so far."""
    return stack.statistics(
        "SELECT wal_bytes AS wal, wal_fpi AS images, n_tup_upd AS updates, n_tup_hot_upd AS hot "
        "FROM pg_stat_wal, pg_stat_user_tables WHERE relname = 'runs'"
    )


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:
    result = Result("refresh")
    size, seconds = (10_000, 1.0) if quick else (1_000_000, 30.0)
    make_fleet(stack, size)
    fences = fences_of(stack)
    result.notes["fleet"] = size
    result.notes["needed_per_second"] = size / 60
    cases: dict[str, Callable[[], Figures]] = {
        f"{count} connection{'s' * (count > 1)}": partial(refresh, stack, fences, seconds, count) for count in (1, 2)
    }
    play(result, rounds, cases, say)
    with stack.services.database.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text(f"CREATE INDEX {INDEX} ON runs (updated_at)"))
    tidy(stack, "runs")
    play(result, rounds, {"with an index on updated_at": partial(refresh, stack, fences, seconds, 2)}, say)
    with stack.services.database.begin() as connection:
        connection.execute(text(f"DROP INDEX {INDEX}"))
    return result
