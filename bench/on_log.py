"""Microseconds of one `on_log`, with the broker up, slow (stopped for half of each second) and down."""

import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from uuid import uuid4

import psutil

from bench.lines import lines
from bench.measure import Figures, Result, play, quantile
from bench.stack import Stack
from reprieve.adapters.shipper import LogShipper
from reprieve.workers.context import RunContext
from reprieve.workers.ingest import publish


def measure(stack: Stack, calls: int, per_second: int, runs: int = 1) -> Figures:
    """Each call by itself; at a steady pace, or (0) one after the other; the runs in turn."""
    services = stack.services
    # A folder for each: what one leaves unsent must not be shipped while the next is measured.
    shipper = LogShipper(stack.folder / uuid4().hex, publish, services.logs.stored)
    contexts = [RunContext(services, shipper, work) for work in stack.runs(runs)]
    texts = lines(1000, 120)
    taken = []
    begun = time.perf_counter()
    for number in range(calls):
        context, line = contexts[number % runs], texts[number % 1000]
        before = time.perf_counter_ns()
        context.on_log("stdout", line)
        taken.append(time.perf_counter_ns() - before)
        if per_second and number % 50 == 49:
            time.sleep(max(0.0, begun + (number + 1) / per_second - time.perf_counter()))
    shipper.close(0)
    taken.sort()
    figures = {"median_us": quantile(taken, 0.5), "p99_us": quantile(taken, 0.99), "worst_us": taken[-1]}
    return {name: value / 1000 for name, value in figures.items()}


class Stuttering:
    """Stops the broker for half of each second while the block lasts."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._process.send_signal(signal.SIGSTOP)
            self._ended.wait(0.5)
            self._process.send_signal(signal.SIGCONT)
            self._ended.wait(0.5)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:
    result = Result("on_log")
    calls = 2_000 if quick else 50_000
    paces = {"5,000 a second": 5_000, "at full speed": 0}
    with stack.log_workers(1):
        up = {f"broker up, {name}": partial(measure, stack, calls, pace) for name, pace in paces.items()}
        play(result, rounds, up, say)
        slow = {f"broker slow, {name}": partial(measure, stack, calls, pace) for name, pace in paces.items()}
        with Stuttering(stack.redis.pid or 0):
            play(result, rounds, slow, say)
    stack.redis.stop()
    down = {f"broker down, {name}": partial(measure, stack, calls, pace) for name, pace in paces.items()}
    play(result, rounds, down, say)
    stack.redis.start()
    return result
