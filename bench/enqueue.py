"""What asking for a run costs: beside a plain Celery `delay()`, a COPY of the same rows, and other queues' inserts."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from io import StringIO
from pathlib import Path

import psycopg2
from celery import Celery
from uuid_utils.compat import uuid7

from bench.measure import Figures, Result, play
from bench.stack import Stack
from reprieve import RunRequest, enqueue_run, enqueue_runs

THREADS = 4
CONFIG = {"command": ["true"]}
#: The rivals' own environment, which `make bench ARGS=enqueue` makes.
RIVALS = Path(__file__).parents[1] / "build" / "rivals" / "bin" / "python"

RIVAL_NAMES = ("procrastinate", "pgqueuer")

#: Programs that are timed as a whole, imports and all. Each prints the seconds that it took, and its peak in MB.
STARTS = {
    "import celery, sqlalchemy": "import celery, sqlalchemy",
    "import reprieve, first enqueue_run": ("import reprieve; reprieve.enqueue_run('process', {'command': ['true']})"),
}
TIMED = (
    "import time; began = time.perf_counter(); {code}; taken = time.perf_counter() - began; import json; "
    "print(json.dumps([taken, int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024]))"
)


def timed(count: int, work: Callable[[], object], times: int = 1) -> Figures:
    """How many runs a second, and milliseconds of this process's CPU for each."""
    began, began_cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    taken, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    return {"per_second": count * times / taken, "cpu_ms": 1000 * cpu / (count * times)}


def by_threads(count: int, work: Callable[[], object]) -> Figures:
    """The same by four threads, as of a service that answers several requests at once."""

    def one_of_them(_: int) -> None:
        for _ in range(count // THREADS):
            work()

    with ThreadPoolExecutor(THREADS) as pool:
        return timed(count, lambda: list(pool.map(one_of_them, range(THREADS))))


def copy(stack: Stack, count: int) -> Figures:
    """The same rows by COPY, in one transaction."""
    ids = [str(uuid7()) for _ in range(count)]
    config = json.dumps(CONFIG)
    tables = {
        "runs (id, adapter, out_of_process_liveness, max_attempts)": [f"{one}\tprocess\tf\t1" for one in ids],
        "run_specs (run_id, config, labels)": [f"{one}\t{config}\t{{}}" for one in ids],
        "run_events (run_id, attempt, kind, detail)": [f"{one}\t0\tenqueued\t{{}}" for one in ids],
    }
    files = {table: "\n".join(lines) + "\n" for table, lines in tables.items()}
    with closing(psycopg2.connect(stack.dsn)) as connection:

        def work() -> None:
            with connection, connection.cursor() as cursor:
                for table, lines in files.items():
                    cursor.copy_expert(f"COPY {table} FROM STDIN", StringIO(lines))

        return timed(count, work)


def rival(stack: Stack, name: str, count: int, way: str) -> Figures:
    said = subprocess.run(
        [RIVALS, Path(__file__).with_name("rivals.py"), name, stack.dsn, str(count), way],
        capture_output=True,
        text=True,
        check=True,
    )
    figures: dict[str, float] = json.loads(said.stdout)
    return figures


def start(code: str) -> Figures:
    """A program of its own, its imports and all."""
    command = [sys.executable, "-P", "-c", TIMED.format(code=code)]
    taken, peak = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {"seconds": taken, "mb": peak}


def command(*arguments: str) -> Figures:
    began = time.perf_counter()
    subprocess.run([Path(sys.executable).with_name("reprieve"), *arguments], stdout=subprocess.DEVNULL, check=True)
    return {"seconds": time.perf_counter() - began}


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:
    result, count, batch = Result("enqueue"), 100 if quick else 1000, 1000
    plain = Celery("plain", broker=stack.redis.url, set_as_current=False)

    @plain.task(name="send_mail", ignore_result=True)  # type: ignore[untyped-decorator]
    def send_mail(_: str) -> None:
        """Nobody takes it."""

    requests = [RunRequest("process", CONFIG) for _ in range(batch)]
    send_mail.delay("to warm up")
    enqueue_run("process", CONFIG)
    singly: dict[str, Callable[[], Figures]] = {
        "delay() of plain Celery": lambda: timed(1, lambda: send_mail.delay("a message"), count),
        "enqueue_run": lambda: timed(1, lambda: enqueue_run("process", CONFIG), count),
        f"delay(), {THREADS} threads": lambda: by_threads(count, lambda: send_mail.delay("a message")),
        f"enqueue_run, {THREADS} threads": lambda: by_threads(count, lambda: enqueue_run("process", CONFIG)),
        **{f"{name}, one by one": partial(rival, stack, name, count, "single") for name in RIVAL_NAMES},
        "COPY of 1,000 runs": lambda: copy(stack, batch),
        "enqueue_runs of 1,000": lambda: timed(batch, lambda: enqueue_runs(requests)),
        **{f"{name}, 1,000 at once": partial(rival, stack, name, batch, "batch") for name in RIVAL_NAMES},
    }
    play(result, rounds, singly, say)
    starts: dict[str, Callable[[], Figures]] = {
        **{name: partial(start, code) for name, code in STARTS.items()},
        "reprieve --help": lambda: command("--help"),
        "reprieve ps": lambda: command("ps", "--limit", "1"),
    }
    play(result, rounds, starts, say)
    result.notes["enqueue_run beside delay()"] = result.ratio("enqueue_run", "delay() of plain Celery", "per_second")
    result.notes[f"the same by {THREADS} threads"] = result.ratio(
        f"enqueue_run, {THREADS} threads", f"delay(), {THREADS} threads", "per_second"
    )
    result.notes["enqueue_runs beside COPY"] = result.ratio("enqueue_runs of 1,000", "COPY of 1,000 runs", "per_second")
    return result
