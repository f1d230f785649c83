"""What one worker of runs carries: remote runs, Jobs and commands that live, all at once, and what it costs.

The API server of the Jobs is a stand-in, in a process of its own. Proofs of life of the remote runs, which reach the
API and not the worker, are given by this process in its place.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any, cast

import psutil

from bench.dispatch import wait_for
from bench.measure import Figures, Result, quantile
from bench.stack import Stack, worker
from reprieve import RunRequest, enqueue_run, enqueue_runs
from reprieve.cli.roles import ROLES
from reprieve.models.status import Proof, Status
from reprieve.models.work import End, Fence
from reprieve.workers.finish import finish
from reprieve.workers.refresh import give_proof

#: A command that prints a line a second, and costs next to nothing itself.
PRINTING = {"command": ["bash", "-c", "exec 3<> <(:); while :; do echo line; read -rt 1 -u 3; done"]}
#: Seconds between two looks at how old the last proofs of life are.
LOOK_INTERVAL = 5.0
#: Seconds between two proofs of life of the remote runs, as `reprieve exec` gives them.
HEARTBEAT_INTERVAL = 20.0

OLDEST = "SELECT extract(epoch FROM max(clock_timestamp() - updated_at))::float FROM runs WHERE status = 'running'"
RUNNING = "SELECT count(*) FROM runs WHERE status = 'running' AND adapter = :adapter"
FENCES = "SELECT id, epoch FROM runs WHERE status = 'running' AND adapter = 'remote'"


def started(stack: Stack, adapter: str, config: dict[str, Any], count: int) -> None:
    """So many runs more, all of them running when this returns."""
    database = stack.services.database
    before = int(database.run(RUNNING, {"adapter": adapter})[0][0])
    for first in range(0, count, 1000):
        enqueue_runs([RunRequest(adapter, config)] * min(1000, count - first))
    wait_for(lambda: database.run(RUNNING, {"adapter": adapter})[0][0] >= before + count)


def memory_kb(process: psutil.Process) -> float:
    """Kilobytes of the process that no other has (USS)."""
    return float(process.memory_full_info().uss) / 1024


class Cluster:
    """The API server of the Jobs, in a process of its own."""

    def __init__(self, stack: Stack) -> None:
        command = [sys.executable, "-m", "bench.cluster", str(stack.folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._asked, self._said = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        os.environ["KUBECONFIG"] = self._line()

    def requests(self) -> int:
        """How many it has had so far."""
        self._asked.write("?\n")
        self._asked.flush()
        return int(self._line())

    def _line(self) -> str:
        return self._said.readline().strip()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._asked.close()
        self._said.close()


@contextmanager
def producers(stack: Stack) -> Iterator[None]:
    """Remote work gives its signs of life while the block lasts."""
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(HEARTBEAT_INTERVAL):
            fences = [Fence(row.id, row.epoch) for row in stack.services.database.run(FENCES)]
            give_proof(stack.services, fences, Proof.HEARTBEAT)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def ms_of_true(stack: Stack, times: int) -> float:
    """The median of the milliseconds from asking for a run of `true` to its end."""
    taken, database = [], stack.services.database
    for _ in range(times):
        began = time.perf_counter()
        run_id = enqueue_run("process", {"command": ["true"]}).id
        while database.run("SELECT status FROM runs WHERE id = :id", {"id": run_id})[0][0] != "succeeded":
            time.sleep(0.002)
        taken.append(1000 * (time.perf_counter() - began))
    return quantile(sorted(taken), 0.5)


def held(stack: Stack, process: psutil.Process, cluster: Cluster, seconds: float) -> Figures:
    """Over so many seconds: the oldest proof of life, the most threads, the share of a processor that is used, and the
    requests to the API server in a minute."""
    asked = cluster.requests()
    oldest, threads, until = 0.0, 0, time.monotonic() + seconds
    used, began = process.cpu_times(), time.monotonic()
    while time.monotonic() < until:
        time.sleep(LOOK_INTERVAL)
        oldest = max(oldest, float(stack.services.database.run(OLDEST)[0][0]))
        threads = max(threads, process.num_threads())
    now = process.cpu_times()
    passed = time.monotonic() - began
    return {
        "oldest_proof_s": oldest,
        "threads": threads,
        "processor": (now.user + now.system - used.user - used.system) / passed,
        "requests_a_minute": (cluster.requests() - asked) / passed * 60,
    }


def end_all(stack: Stack) -> None:
    """End what lives, whose commands would outlive this bench."""
    database = stack.services.database
    live = database.run("SELECT id, epoch FROM runs WHERE status = 'running' AND adapter <> 'remote'")
    finish(stack.services, [End.by_cancel(Fence(row.id, row.epoch), Status.RUNNING) for row in live])
    wait_for(lambda: not database.run("SELECT FROM run_attempts WHERE termination = 'owed' LIMIT 1"))


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:  # noqa: ARG001
    result = Result("carry")
    remote, jobs, detached, seconds = (200, 40, 20, 20.0) if quick else (10_000, 2_000, 500, 600.0)
    os.environ["REPRIEVE_TIME_SCALE"] = "1"
    with ExitStack() as ending:
        cluster = Cluster(stack)
        ending.callback(cluster.close)
        for role in ("worker-logs", "worker-archive", "worker-control", "beat"):
            ending.enter_context(worker(ROLES[role], stack.folder))
        runs = ending.enter_context(worker([*ROLES["worker-runs"], "--concurrency=600"], stack.folder))
        process = psutil.Process(runs.pid)
        ms_of_true(stack, 5)
        result.add("alone", {"true_ms": ms_of_true(stack, 30), "threads": process.num_threads()})
        ending.enter_context(producers(stack))
        for adapter, config, count in (
            ("remote", {"note": "silent"}, remote),
            ("kubernetes", {"image": "busybox", "command": ["sleep", "600"]}, jobs),
            ("detached", PRINTING, detached),
        ):
            before = memory_kb(process)
            started(stack, adapter, config, count)
            figures: Figures = {"kb_each": (memory_kb(process) - before) / count, "threads": process.num_threads()}
            say(f"  {count:,} {adapter}: {figures}")
            result.add(f"{count:,} {adapter}", figures)
        time.sleep(seconds / 10)  # The last streams are opened.
        figures = held(stack, process, cluster, seconds)
        say(f"  held: {figures}")
        result.add("held", figures)
        result.add("beside them", {"true_ms": ms_of_true(stack, 30), "threads": process.num_threads()})
        end_all(stack)
    return result
