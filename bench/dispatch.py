"""Runs of `true` from the queue to their ends, beside a plain Celery worker and other queues that run the same command.

Everything shares the processors: the worker, its commands, PostgreSQL, Redis, the workers of logs and archive.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import psutil
from sqlalchemy import text

from bench.enqueue import RIVAL_NAMES, RIVALS
from bench.measure import Figures, Result, play, quantile
from bench.stack import Stack, worker
from reprieve import RunRequest, enqueue_run, enqueue_runs
from reprieve.cli.roles import ROLES
from reprieve.models.chunks import Chunk

CONFIG = {"command": ["true"]}
#: What a plain Celery worker of commands has at once; more make it no faster.
PLAIN_CONCURRENCY = 8
PLAIN_QUEUE = "plain"


@contextmanager
def fleet(stack: Stack) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of runs, and beside it those of logs, archive and control, as `reprieve up` has them."""
    with ExitStack() as ending:
        for role in ("worker-logs", "worker-archive", "worker-control"):
            ending.enter_context(worker(ROLES[role], stack.folder))
        yield ending.enter_context(worker(ROLES["worker-runs"], stack.folder))


def processor_ms(process: psutil.Process) -> tuple[float, float]:
    """Milliseconds of a process, and of its children that have ended or go on."""
    times, others = process.cpu_times(), 0.0
    for child in process.children(recursive=True):
        try:
            used = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        others += used.user + used.system + used.children_user + used.children_system
    return 1000 * (times.user + times.system), 1000 * (others + times.children_user + times.children_system)


def postgres_ms(stack: Stack) -> float:
    return sum(processor_ms(psutil.Process(stack.postgres.pid)))


def ours(stack: Stack, count: int, *, beforehand: bool) -> Figures:
    stack.empty()
    requests = [RunRequest("process", CONFIG)] * count
    if beforehand:
        enqueue_runs(requests)
    with fleet(stack) as runs:
        if not beforehand:
            wait_for(lambda: stack.services.database.run("SELECT count(*) FROM workers")[0][0])
        process, database = processor_ms(psutil.Process(runs.pid)), postgres_ms(stack)
        if not beforehand:
            began = time.perf_counter()
            for _ in requests:
                enqueue_run("process", CONFIG)
        wait_for(lambda: counted(stack, "status <> 'queued'"))
        if beforehand:
            began = time.perf_counter()
            process, database = processor_ms(psutil.Process(runs.pid)), postgres_ms(stack)
        wait_for(lambda: counted(stack, "status = 'succeeded'") == count)
        taken = time.perf_counter() - began
        own, children = processor_ms(psutil.Process(runs.pid))
        return {
            "per_second": count / taken,
            "worker_ms": (own - process[0]) / count,
            "children_ms": (children - process[1]) / count,
            "postgres_ms": (postgres_ms(stack) - database) / count,
        }


def counted(stack: Stack, condition: str) -> int:
    with stack.services.database.begin() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM runs WHERE {condition}")).scalar_one())  # noqa: S608


def wait_for(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.02)


def plain(stack: Stack, count: int, *, beforehand: bool) -> Figures:
    """A Celery task that runs the command, by a worker of its own on the same Redis."""
    from bench.plain import run_command

    log = stack.folder / "plain.log"
    log.unlink(missing_ok=True)
    command = (sys.executable, "-m", "celery", "-A", "bench.plain", "worker", "--pool=threads", "--loglevel=INFO")
    options = (f"--concurrency={PLAIN_CONCURRENCY}", f"--queues={PLAIN_QUEUE}", "--without-gossip", "--without-mingle")
    if beforehand:
        for _ in range(count):
            run_command.delay(CONFIG["command"])
    with worker([*command, *options], stack.folder, log.name) as started:
        done = partial(_lines, log, "succeeded in")
        if not beforehand:
            wait_for(lambda: _lines(log, " ready."))
        else:
            wait_for(done)
        own, children = processor_ms(psutil.Process(started.pid))
        began, before = time.perf_counter(), done()
        if not beforehand:
            for _ in range(count):
                run_command.delay(CONFIG["command"])
        wait_for(lambda: done() >= count)
        taken = time.perf_counter() - began
        after = processor_ms(psutil.Process(started.pid))
    made = count - before
    return {
        "per_second": made / taken,
        "worker_ms": (after[0] - own) / made,
        "children_ms": (after[1] - children) / made,
        "postgres_ms": 0.0,
    }


def _lines(log: Path, word: str) -> int:
    return log.read_text().count(word) if log.exists() else 0


def rival(stack: Stack, name: str, count: int) -> Figures:
    program = Path(__file__).with_name("working_rivals.py")
    said = subprocess.run([RIVALS, program, name, stack.dsn, str(count)], capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(said.stdout)
    return figures | {"worker_ms": 0.0, "children_ms": 0.0, "postgres_ms": 0.0}


def at_rest(stack: Stack, times: int) -> Figures:
    """Milliseconds from `enqueue_run` to the first line at a follower, one run after the other."""
    stack.empty()
    taken = []
    with fleet(stack):
        for number in range(times + 3):
            began = time.perf_counter()
            run = enqueue_run("process", {"command": ["echo", "hello"]})
            for item in stack.services.log_of(run.id).follow():
                if isinstance(item, Chunk):
                    break
            if number >= 3:  # The first open their connections.
                taken.append(1000 * (time.perf_counter() - began))
            time.sleep(0.3)
    taken.sort()
    return {"p50_ms": quantile(taken, 0.5), "p99_ms": quantile(taken, 0.99), "worst_ms": taken[-1]}


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:
    result, count = Result("dispatch"), 100 if quick else 1000
    rivals: dict[str, Callable[[], Figures]] = {
        "plain Celery, beforehand": lambda: plain(stack, count, beforehand=True),
        "Reprieve, beforehand": lambda: ours(stack, count, beforehand=True),
        "plain Celery, as they come": lambda: plain(stack, count, beforehand=False),
        "Reprieve, as they come": lambda: ours(stack, count, beforehand=False),
        **{name: partial(rival, stack, name, count) for name in RIVAL_NAMES},
    }
    play(result, rounds, rivals, say)
    for when in ("beforehand", "as they come"):
        ratio = result.ratio(f"Reprieve, {when}", f"plain Celery, {when}", "per_second")
        result.notes[f"beside plain Celery, {when}"] = ratio
    result.notes["beside procrastinate"] = result.ratio("Reprieve, beforehand", "procrastinate", "per_second")
    for name, value in at_rest(stack, 20 if quick else 100).items():
        result.notes[f"to the first line, {name}"] = value
    return result
