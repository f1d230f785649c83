"""A hundred thousand short runs through one stack: what each of them leaves behind, and whether anything grows."""

import time
from collections.abc import Callable
from functools import partial

from bench.dispatch import counted, fleet, wait_for
from bench.measure import Result
from bench.stack import Stack
from reprieve import RunRequest, enqueue_runs

#: Every tenth of them prints something.
SILENT, PRINTING = {"command": ["true"]}, {"command": ["echo", "hello"]}
#: Runs that are looked at together.
PART = 10_000

LEFT = """
SELECT (SELECT sum(n_live_tup) FROM pg_stat_user_tables)::float AS rows,
       (SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables)::float AS bytes
"""
OPEN = "SELECT count(*) FROM run_attempts WHERE finished_at IS NOT NULL AND log_closed_at IS NULL"


def _have_succeeded(stack: Stack, count: int) -> bool:
    return counted(stack, "status = 'succeeded'") == count


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:  # noqa: ARG001
    result, part = Result("short"), 200 if quick else PART
    with fleet(stack):
        for number in range(1, 3 if quick else 11):
            began = time.perf_counter()
            requests = [RunRequest("process", PRINTING if one % 10 == 0 else SILENT) for one in range(part)]
            for first in range(0, part, 1000):
                enqueue_runs(requests[first : first + 1000])
            wait_for(partial(_have_succeeded, stack, number * part))
            taken = time.perf_counter() - began
            wait_for(lambda: stack.services.database.run(OPEN)[0][0] == 0)
            stack.services.database.run("ANALYZE")
            left = stack.services.database.run(LEFT)[0]
            objects = sum(1 for _ in (stack.folder / "data" / "archive").rglob("*.zst"))
            figures = {
                "per_second": part / taken,
                "rows_each": left.rows / (number * part),
                "bytes_each": left.bytes / (number * part),
                "objects": float(objects),
            }
            say(f"  {number * part:,}: {figures}")
            result.add(f"after {number * part:,}", figures)
    return result
