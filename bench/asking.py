"""A service that asks for runs, in a process of its own with no more in it than it needs, as its rivals have one.

`python -m bench.asking WAY COUNT`, with the addresses in the environment as for any service. Prints how many a second,
and the milliseconds of this process's CPU for each.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

CONFIG = {"command": ["true"]}
THREADS = 4
#: Runs that are asked for by one call of `enqueue_runs`.
BATCH = 1000


def delay() -> Callable[[], object]:
    """A plain Celery task, which nobody takes."""
    from celery import Celery

    app = Celery("plain", broker=os.environ["REPRIEVE_REDIS_URL"])

    @app.task(name="send_mail", ignore_result=True)  # type: ignore[untyped-decorator]
    def send_mail(_: str) -> None:
        pass

    return lambda: send_mail.delay("a message")


def enqueue_run() -> Callable[[], object]:
    import reprieve

    return lambda: reprieve.enqueue_run("process", CONFIG)


def enqueue_runs() -> Callable[[], object]:
    import reprieve

    requests = [reprieve.RunRequest("process", CONFIG) for _ in range(BATCH)]
    return lambda: reprieve.enqueue_runs(requests)


def by_threads(call: Callable[[], object], calls: int) -> None:
    """As a service does that answers several requests at once."""
    with ThreadPoolExecutor(THREADS) as pool:
        for one in [pool.submit(lambda: [call() for _ in range(calls // THREADS)]) for _ in range(THREADS)]:
            one.result()


def one_by_one(call: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        call()


Repeat = Callable[[Callable[[], object], int], None]
#: What makes the call, how it is repeated, and how many it asks for at once.
WAYS: dict[str, tuple[Callable[[], Callable[[], object]], Repeat, int]] = {
    "delay": (delay, one_by_one, 1),
    "enqueue_run": (enqueue_run, one_by_one, 1),
    "delay by threads": (delay, by_threads, 1),
    "enqueue_run by threads": (enqueue_run, by_threads, 1),
    "enqueue_runs": (enqueue_runs, one_by_one, BATCH),
}


def measured(way: str, count: int) -> dict[str, float]:
    make, repeat, at_once = WAYS[way]
    call = make()
    call()
    began, began_cpu = time.perf_counter(), time.process_time()
    repeat(call, count // at_once)
    taken, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    return {"per_second": count / taken, "cpu_ms": 1000 * cpu / count}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measured(sys.argv[1], int(sys.argv[2]))))
