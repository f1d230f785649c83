"""What goes wrong, how often and for how long, and the schedule that a seed gives.

The rates are far above those of a well-kept system: a simulated day is meant to hold what a bad year does. The kinds
are those of `docs/failures.md`. Each kind draws from a stream of its own, so that leaving one out moves no other.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from reprieve.simulation.plan import FaultKind, Plan

DAY = 86_400.0
WORKERS_PER_HOST = 2
ZONES = 3
#: About how many running runs a worker follows; the fleet has as many workers as that takes, within limits.
RUNS_PER_WORKER = 50
FEWEST_WORKERS, MOST_WORKERS = 12, 60


class Scope(Enum):
    """What a fault happens to."""

    SYSTEM = "the system"
    WORKER = "worker"
    ZONE = "zone"


@dataclass(frozen=True, slots=True)
class Rate:
    """How often a fault comes in a day, and how many seconds it lasts: usually, and in a `rare` share of cases."""

    per_day: float
    seconds: tuple[float, float]
    rare: float = 0.0
    rare_seconds: tuple[float, float] = (0.0, 0.0)
    place: Scope = Scope.SYSTEM


CATALOGUE: dict[FaultKind, Rate] = {
    FaultKind.WORKER_CRASH: Rate(24, (10, 90), 0.15, (300, 1200), Scope.WORKER),
    FaultKind.ROLLING_DEPLOY: Rate(2, (0, 0)),  # As long as it takes, worker after worker.
    FaultKind.BACKLOG: Rate(2, (360, 3600), 0.2, (5400, 10_800)),  # The lag's peak is a third of it.
    FaultKind.LOG_WORKERS_STUCK: Rate(1, (240, 1200), 0.2, (1800, 3000)),
    FaultKind.BROKER_OUTAGE: Rate(2, (20, 300), 0.2, (300, 1200)),
    FaultKind.DATABASE_OUTAGE: Rate(3, (10, 170), 0.4, (180, 1200)),
    FaultKind.PARTITION: Rate(4, (15, 170), 0.1, (240, 1200), Scope.ZONE),
    FaultKind.CLOCK_SKEW: Rate(6, (600, 7200), place=Scope.WORKER),
    FaultKind.MESSAGES_LOST: Rate(2, (600, 1800)),
    FaultKind.BEAT_STOPPED: Rate(2, (90, 400), 0.3, (600, 1800)),
    FaultKind.CONTROL_RESTART: Rate(4, (5, 60)),
    FaultKind.REDIS_FLUSH: Rate(2, (0, 0)),
    FaultKind.PLATFORM_OUTAGE: Rate(2, (120, 1200), 0.1, (1900, 3000)),
    FaultKind.PROBE_HANGS: Rate(2, (120, 1500)),
    FaultKind.WORKER_STOPPED: Rate(6, (20, 170), 0.1, (240, 900), Scope.WORKER),
    FaultKind.KEEPALIVE_STARVED: Rate(8, (20, 150), place=Scope.WORKER),
    FaultKind.DATABASE_CUT: Rate(6, (20, 170), 0.4, (240, 2400), Scope.WORKER),  # Of one worker, from PostgreSQL alone.
}

#: A deploy asks a worker to stop each so many seconds; one waits so long for its in-process work (`drain_seconds`) …
DEPLOY_STEP = 60.0
DRAIN_LIMIT = 600.0
#: … and is back so many seconds after it has ended.
RESTART = 20.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong: from when to when (seconds of virtual time), and to what.

    `place` is the number of the worker or the zone, None for the system. `size` says how bad it is, from 0 to 1.
    """

    kind: FaultKind
    start: float
    end: float
    place: int | None = None
    size: float = 0.0

    def meets(self, start: float, end: float) -> bool:
        """Whether it was on at some time between these."""
        return self.start <= end and self.end >= start

    def __str__(self) -> str:
        where = "" if self.place is None else f" of {CATALOGUE[self.kind].place.value} {self.place}"
        return f"{self.kind.value}{where} ({clock(self.start)} for {self.end - self.start:.0f} s)"


def clock(seconds: float) -> str:
    """A virtual time as a person reads it; hours go on after 24."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"


def schedule(plan: Plan, workers: int) -> list[Fault]:
    """The faults of a plan in the order of their beginning."""
    faults = [
        fault
        for number, kind in enumerate(FaultKind)
        if kind in plan.faults
        for fault in _draw(kind, plan.seconds, workers, np.random.default_rng([plan.seed, 1, number]))
    ]
    return in_order(faults)


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    """Faults in the order of their beginning."""
    return sorted(faults, key=lambda one: (one.start, one.kind, one.place or 0))


def _draw(kind: FaultKind, horizon: float, workers: int, rng: np.random.Generator) -> list[Fault]:
    rate = CATALOGUE[kind]
    faults = []
    for _ in range(int(rng.poisson(rate.per_day * horizon / DAY))):
        start = float(rng.uniform(0, horizon))
        seconds = rng.uniform(*(rate.rare_seconds if rng.random() < rate.rare else rate.seconds))
        if kind is FaultKind.ROLLING_DEPLOY:
            seconds = DEPLOY_STEP * (workers - 1) + DRAIN_LIMIT + RESTART
        place = {Scope.SYSTEM: None, Scope.WORKER: int(rng.integers(workers)), Scope.ZONE: int(rng.integers(ZONES))}
        faults.append(Fault(kind, start, start + float(seconds), place[rate.place], float(rng.random())))
    return faults


def workers_for(running: float) -> int:
    """How many workers so many running runs need, in whole hosts and zones."""
    step = WORKERS_PER_HOST * ZONES
    wanted = min(max(running / RUNS_PER_WORKER, FEWEST_WORKERS), MOST_WORKERS)
    return int(-(-wanted // step) * step)


def host_of(worker: int) -> int:
    return worker // WORKERS_PER_HOST


def zone_of(worker: int) -> int:
    return host_of(worker) % ZONES
