"""A million live runs, and a hundred workers that follow them: what all of these ask of one PostgreSQL, really sent.

Each simulated worker asks what a real one does, at the times at which that does: proofs of life for its ten thousand
runs, which of them are still its own, its heartbeat, and its looks for work. Threads of this process stand in for them.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID, uuid4

from sqlalchemy import text
from uuid_utils.compat import uuid7

from bench.fleet import make_fleet, tidy
from bench.measure import Figures, Result, quantile
from bench.refresh import fences_of
from bench.stack import Stack
from bench.sweep import LIVE, sweep
from reprieve.models.liveness import ADOPT_AT_ONCE
from reprieve.models.places import Room
from reprieve.models.requests import NewRun
from reprieve.models.status import Proof
from reprieve.models.work import Fence
from reprieve.stores.runs.insertion import insert
from reprieve.stores.runs.refresh import write_proof

WORKERS = 100
#: Threads that stand in for them: PostgreSQL has so many sessions.
THREADS = 12
ADAPTERS = ["detached", "process", "remote", "kubernetes"]
ROOMS = [Room(("detached", "process"), 50), Room(("remote",), 50), Room(("kubernetes",), 50)]
#: Proofs of life in one statement.
AT_ONCE = 1_000
#: Seconds between two keepalives, between two refreshes of a run, and between two looks for work.
KEEPALIVE, REFRESH, LOOK = 20.0, 60.0, 2.0

OF_WORKERS = text("UPDATE run_attempts SET worker_id = CAST(:worker AS uuid) WHERE run_id = ANY(CAST(:ids AS uuid[]))")


@dataclass
class Worker:
    """What it follows, and when it is next due to do what."""

    fences: Sequence[Fence]
    id: UUID = field(default_factory=uuid4)
    turns: int = 0

    def keepalive(self, stack: Stack) -> None:
        """A third of its runs are due for a refresh at each: the others had one within the minute."""
        services, part = stack.services, int(REFRESH / KEEPALIVE)
        services.workers.seen(self.id, f"runs@{self.id}", services.node)
        due = self.fences[self.turns % part :: part]
        for first in range(0, len(due), AT_ONCE):
            with services.database.begin() as connection:
                write_proof(connection, set(due[first : first + AT_ONCE]), Proof.HEARTBEAT)
        services.attempts.standings(self.fences)
        services.claims.claimed_for(self.id, services.timing.worker_gone_after)
        self.turns += 1

    def look(self, stack: Stack) -> None:
        services = stack.services
        services.claims.claim(ROOMS, f"runs@{self.id}", self.id)
        services.adoptions.to_adopt(services.node, ADAPTERS, ADOPT_AT_ONCE)
        services.adoptions.left_to_others(services.node.name, ADAPTERS, 500)
        services.terminations.owed(services.node)


def hundred(stack: Stack, workers: Sequence[Worker], seconds: float) -> Figures:
    """All of them for so long: how late their keepalives and their looks are at the worst, and the oldest proof."""
    began, late, ended = time.monotonic(), {"keepalive": 0.0, "look": 0.0}, threading.Event()
    due: list[tuple[float, str, Worker]] = []
    for number, one in enumerate(workers):
        due.append((began + KEEPALIVE * number / len(workers), "keepalive", one))
        due.append((began + LOOK * number / len(workers), "look", one))
    lock = threading.Condition()

    def work() -> None:
        while not ended.is_set():
            with lock:
                at, what, one = min(due, key=lambda turn: turn[0])
                if at > time.monotonic():
                    lock.wait(min(0.05, at - time.monotonic()))
                    continue
                due.remove((at, what, one))
                late[what] = max(late[what], time.monotonic() - at)
                due.append((at + (KEEPALIVE if what == "keepalive" else LOOK), what, one))
            getattr(one, what)(stack)

    with ThreadPoolExecutor(THREADS) as pool:
        turns = [pool.submit(work) for _ in range(THREADS)]
        time.sleep(seconds)
        oldest = stack.services.database.run(
            "SELECT extract(epoch FROM max(clock_timestamp() - updated_at))::float FROM runs WHERE status = 'running'"
        )[0][0]
        ended.set()
        for turn in turns:
            turn.result()
    return {"keepalive_late_s": late["keepalive"], "look_late_s": late["look"], "oldest_proof_s": float(oldest)}


def median_ms(act: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        taken.append(1000 * (time.perf_counter() - began))
    return quantile(sorted(taken), 0.5)


def run(stack: Stack, rounds: int, *, quick: bool, say: Callable[[str], None]) -> Result:
    result = Result("million")
    size, seconds = (10_000, 10.0) if quick else (1_000_000, 150.0)
    make_fleet(stack, size)
    fences, services = fences_of(stack), stack.services
    workers = [Worker(fences[number::WORKERS]) for number in range(WORKERS)]
    for one in workers:
        with services.database.begin() as connection:
            connection.execute(OF_WORKERS, {"worker": one.id, "ids": [str(fence.run_id) for fence in one.fences]})
    tidy(stack, "runs", "run_attempts")
    first = workers[0]
    asked: dict[str, Callable[[], object]] = {
        "which of 10,000 are still its own": lambda: services.attempts.standings(first.fences),
        "a claim where nothing waits": lambda: services.claims.claim(ROOMS, "w", first.id),
        "a look for orphans": lambda: services.adoptions.to_adopt(services.node, ADAPTERS, ADOPT_AT_ONCE),
        "a look for owed ends": lambda: services.terminations.owed(services.node),
        "a look for claims without a follower": lambda: services.claims.claimed_for(
            first.id, services.timing.worker_gone_after
        ),
        "the newest 50 runs": lambda: services.records.newest(limit=50),
    }
    for name, act in asked.items():
        result.add(name, {"ms": median_ms(act, 5 * rounds)})
        say(f"  {name}: {result.median(name, 'ms'):.1f} ms")
    insert(services.database, [NewRun(uuid7(), "process", False, {"command": ["true"]}) for _ in range(50 * rounds)])
    result.add("a claim of 50", {"ms": median_ms(partial(services.claims.claim, ROOMS, "w", first.id), rounds)})
    with services.database.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(LIVE)
    figures = hundred(stack, workers, seconds)
    say(f"  a hundred workers: {figures}")
    result.add("a hundred workers", figures)
    with services.database.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(LIVE)
    result.add("a sweep", {"ms": 1000 * sweep(stack, 0)["seconds"]})
    return result
