"""A fleet that is split by the hash of a run's id: each part with a database, queues, workers and a reaper of its own.

What happens to a zone or to a platform happens to all parts at once; a deploy goes through all of them. Everything else
each part has for itself, drawn as for a system that stands alone: its database is down while the others' are there, its
log queue lags, its beat stops. Nothing is decided across parts. So each is simulated by itself, one after the other,
and a fleet of any size needs the memory of one part.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reprieve.simulation.faults import MOST_WORKERS, Fault, schedule
from reprieve.simulation.plan import MOST_PARTS, FaultKind, Plan
from reprieve.simulation.report import Report
from reprieve.simulation.world import World

#: What all parts suffer at the same time.
SHARED = frozenset({FaultKind.PARTITION, FaultKind.PLATFORM_OUTAGE, FaultKind.PROBE_HANGS, FaultKind.ROLLING_DEPLOY})


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What came of each part."""

    plan: Plan
    parts: list[Report]

    @property
    def is_good(self) -> bool:
        """Whether that is so of every part."""
        return all(part.is_good for part in self.parts)

    def record(self) -> dict[str, Any]:
        """The same as data: the records of the parts, in their order."""
        parts = [part.record() for part in self.parts]
        return {"seed": self.plan.seed, "runs": self.plan.runs, "hours": self.plan.hours, "parts": parts}


def plans(plan: Plan) -> list[Plan]:
    """What each part simulates by itself: the runs that fall to it, and the faults that it has alone."""
    if plan.parts == 1:
        return [plan]
    spread = np.random.default_rng([plan.seed, 5]).multinomial(plan.runs - plan.parts, [1 / plan.parts] * plan.parts)
    return [
        # Seeds of their own, none of which another part has under any seed; a part that nothing falls to has one run.
        replace(plan, runs=1 + int(runs), seed=plan.seed * MOST_PARTS + number, faults=plan.faults - SHARED, parts=1)
        for number, runs in enumerate(spread)
    ]


def shared(plan: Plan) -> list[Fault]:
    """The faults that all parts suffer at the same time."""
    return schedule(replace(plan, faults=plan.faults & SHARED), MOST_WORKERS) if plan.parts > 1 else []


def simulate(plan: Plan, progress: Callable[[float], Any] = lambda _: None) -> SplitReport:
    """Simulate all parts of a plan; `progress` is called with the share that is done."""
    return SplitReport(plan, list(_reports(plan, progress)))


def _reports(plan: Plan, progress: Callable[[float], Any]) -> Iterator[Report]:
    together = shared(plan)
    for number, part in enumerate(plans(plan)):

        def of_all(share: float, before: int = number) -> None:
            progress((before + share) / plan.parts)

        yield World(part, besides=together).run(of_all)
