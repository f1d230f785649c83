"""The workers: who was seen when, what they lose when they end, and who follows on."""

from dataclasses import dataclass, field

import numpy as np

from reprieve.models.liveness import ADOPT_AT_ONCE, ADOPT_INTERVAL, Timing
from reprieve.simulation.conditions import TICK, Conditions, Incident, Moment
from reprieve.simulation.faults import host_of
from reprieve.simulation.fleet import Fleet, Kind, Truth
from reprieve.simulation.spans import Bools, Floats, Ints

#: Seconds from "is to be adopted" to the new follower's first look: its turn comes, and it attaches.
ADOPTED_AFTER = (1.0, 5.0)
#: What one worker takes over in a tick.
ADOPTED_PER_TICK = ADOPT_AT_ONCE * int(TICK / ADOPT_INTERVAL)
#: By kind: whether another worker can follow such work.
ATTACHING = np.array([kind in (Kind.PLATFORM, Kind.HOST_BOUND, Kind.UNASKED) for kind in Kind])


@dataclass(slots=True)
class Left:
    """What a worker process that ended, or that drains, leaves behind: its row says when it was seen last."""

    seen: float
    runs: Ints
    epochs: Ints


@dataclass
class Crew:
    """Workers in their places. A process that ends and the one that follows it are two workers in the database."""

    fleet: Fleet
    here: Conditions
    timing: Timing
    rng: np.random.Generator
    adopts: bool = True
    adoptions: int = 0
    seen: Floats = field(init=False)
    known: Bools = field(init=False)
    left: list[Left] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seen = np.full(self.here.workers, -np.inf)
        self.known = np.zeros(self.here.workers, dtype=np.bool_)
        self._hosts: Ints = np.array([host_of(worker) for worker in range(self.here.workers)], dtype=np.int64)

    def note_seen(self, tick: int) -> None:
        """The workers that reached the database in this tick were seen; one that drains says nothing any more."""
        beats = self.here.beats[tick]
        came = np.isfinite(beats) & ~self.here.drains[tick]
        self.seen[came] = beats[came]
        self.known |= came

    def free(self, tick: int) -> Ints:
        """The workers that can begin or adopt something in this tick."""
        if self.here.database.holds(tick * TICK):
            return np.zeros(0, dtype=np.int64)
        return np.nonzero(self.here.reachable[tick] & ~self.here.drains[tick])[0]

    def answering_hosts(self, now: float, tick: int) -> set[int]:
        """The hosts that a sweep asks, and of which a worker answers."""
        gone_after = self.timing.worker_gone_after.total_seconds()
        asked = set(self._hosts[self.seen > now - gone_after].tolist())
        return asked & set(self._hosts[self.here.reachable[tick]].tolist())

    def suffer(self, moment: Moment, active: Ints) -> Ints:
        """An incident of a worker; returns the in-process runs that it gave up at the end of a drain."""
        mine: Ints = active[(self.fleet.worker[active] == moment.worker) & self.fleet.followed[active]]
        inside: Ints = mine[self.fleet.kind[mine] == Kind.IN_PROCESS.value]
        outside: Ints = mine[self.fleet.kind[mine] != Kind.IN_PROCESS.value]
        if moment.what == Incident.CRASH.value:
            self.fleet.dies[inside] = np.minimum(self.fleet.dies[inside], moment.at)
            self._leave(outside, moment, float(self.seen[moment.worker]))
        elif moment.what == Incident.DRAIN.value:
            self._leave(outside, moment, -np.inf if self._can_write(moment.at) else float(self.seen[moment.worker]))
        else:
            given_up: Ints = inside[self.fleet.last_alive(inside) > moment.at]
            return given_up
        return np.zeros(0, dtype=np.int64)

    def _can_write(self, time: float) -> bool:
        return not self.here.database.holds(time)

    def _leave(self, runs: Ints, moment: Moment, seen: float) -> None:
        self.fleet.lose_follower(runs, moment.at)
        if seen == -np.inf and self.adopts:  # Handed over, one by one.
            self.fleet.owed[runs] = True
        self.left.append(Left(seen, runs, self.fleet.epoch[runs].copy()))
        self.known[moment.worker] = False

    def orphan(self, now: float, active: Ints) -> None:
        """What the workers followed that were not seen lately is to be adopted: the sweep's `ORPHAN`."""
        if not self.adopts:
            return
        gone_at = now - self.timing.worker_gone_after.total_seconds()
        for left in [one for one in self.left if one.seen < gone_at]:
            self.left.remove(left)
            same = (self.fleet.epoch[left.runs] == left.epochs) & (self.fleet.state[left.runs] == Truth.RUNNING.value)
            self.fleet.owed[left.runs[same]] = True
        gone = self.known & (self.seen < gone_at)
        self.known &= ~gone
        of_gone = gone[np.maximum(self.fleet.worker[active], 0)] & self.fleet.followed[active]
        self.fleet.owed[active[of_gone & ATTACHING[self.fleet.kind[active]]]] = True

    def hand_over(self, runs: Ints) -> None:
        """The sweep found these there and nobody speaking for them."""
        if self.adopts:
            self.fleet.owed[runs[ATTACHING[self.fleet.kind[runs]]]] = True

    def adopt(self, tick: int, active: Ints) -> None:
        """Workers take over what is to be adopted, where it is theirs to."""
        owed = active[self.fleet.owed[active]]
        free = self.free(tick) if len(owed) else owed
        if not len(owed) or not len(free):
            return
        bound = self.fleet.kind[owed] == Kind.HOST_BOUND.value
        anywhere = owed[~bound][: ADOPTED_PER_TICK * len(free)]
        self._take_over(anywhere, self.rng.choice(free, len(anywhere)), tick)
        for host in np.unique(self.fleet.host[owed[bound]]).tolist():
            of_host = free[self._hosts[free] == host]
            if len(of_host):
                here = owed[bound & (self.fleet.host[owed] == host)][: ADOPTED_PER_TICK * len(of_host)]
                self._take_over(here, self.rng.choice(of_host, len(here)), tick)

    def _take_over(self, runs: Ints, workers: Ints, tick: int) -> None:
        times = (tick + 1) * TICK - self.rng.uniform(*ADOPTED_AFTER, len(runs))
        stored = self.here.queue.earliest_sent(np.full(len(runs), tick * TICK))
        mute = self.here.reads_from[tick][np.maximum(self.fleet.worker[runs], 0)]
        self.fleet.adopt(runs, times, workers.astype(np.int64), np.minimum(stored, mute))
        self.adoptions += len(runs)
