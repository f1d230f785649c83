"""What asking for a run costs: beside a plain Celery `delay()`, a COPY of the same rows, and other queues' inserts."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from io import StringIO
from pathlib import Path

import psycopg2
from uuid_utils.compat import uuid7

from bench.asking import BATCH, CONFIG, THREADS
from bench.measure import Figures, Result, play
from bench.stack import Stack

#: How often a batch is written in each round.
BATCHES = 5
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


def asking(way: str, count: int) -> Figures:
    """How many are asked for a second in this way, by a service of its own."""
    command = [sys.executable, "-m", "bench.asking", way, str(count)]
    figures: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return figures


def copy(stack: Stack, count: int, times: int) -> Figures:
    """The same rows by COPY, each time in one transaction."""
    batches = [_as_files(count) for _ in range(times)]
    with closing(psycopg2.connect(stack.dsn)) as connection:
        began = time.perf_counter()
        for files in batches:
            with connection, connection.cursor() as cursor:
                for table, lines in files.items():
                    cursor.copy_expert(f"COPY {table} FROM STDIN", StringIO(lines))
        return {"per_second": count * times / (time.perf_counter() - began)}


def _as_files(count: int) -> dict[str, str]:
    """The rows of so many runs, by their table and its columns."""
    ids, config = [str(uuid7()) for _ in range(count)], json.dumps(CONFIG)
    tables = {
        "runs (id, adapter, out_of_process_liveness, max_attempts)": [f"{one}\tprocess\tf\t1" for one in ids],
        "run_specs (run_id, config, labels)": [f"{one}\t{config}\t{{}}" for one in ids],
        "run_events (run_id, attempt, kind, detail)": [f"{one}\t0\tenqueued\t{{}}" for one in ids],
    }
    return {table: "\n".join(lines) + "\n" for table, lines in tables.items()}


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
    result, count = Result("enqueue"), 100 if quick else 1000
    singly: dict[str, Callable[[], Figures]] = {
        "delay() of plain Celery": lambda: asking("delay", count),
        "enqueue_run": lambda: asking("enqueue_run", count),
        f"delay(), {THREADS} threads": lambda: asking("delay by threads", count),
        f"enqueue_run, {THREADS} threads": lambda: asking("enqueue_run by threads", count),
        **{f"{name}, one by one": partial(rival, stack, name, count, "single") for name in RIVAL_NAMES},
        "COPY of 1,000 runs": lambda: copy(stack, BATCH, BATCHES),
        "enqueue_runs of 1,000": lambda: asking("enqueue_runs", BATCH * BATCHES),
        **{f"{name}, 1,000 at once": partial(rival, stack, name, BATCHES * BATCH, "batch") for name in RIVAL_NAMES},
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
