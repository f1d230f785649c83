"""What the faults mean: which worker can write when, whose output gets through, what the control workers can do.

Everything is worked out before the first tick, as tables with a row per tick and a column per worker. Clocks that are
wrong appear nowhere: every time that decides is the database's, which is the simulation's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from reprieve.models.liveness import KEEPALIVE_INTERVAL, SWEEP_INTERVAL, VOUCH_AFTER
from reprieve.simulation.faults import CATALOGUE, DEPLOY_STEP, DRAIN_LIMIT, RESTART, Fault, Scope, zone_of
from reprieve.simulation.plan import FaultKind, Plan
from reprieve.simulation.queue import LogQueue
from reprieve.simulation.spans import Bools, Floats, Ints, Spans

#: Seconds of a tick: each worker gives proof of life once in it.
TICK = KEEPALIVE_INTERVAL.total_seconds()
TICKS_PER_SWEEP = round(SWEEP_INTERVAL.total_seconds() / TICK)
#: Seconds that a worker takes to reach a database that is back, at least and at most: its pool's connections time out.
RECONNECT = (1.0, 25.0)
#: Shares of messages that are lost: always, and while messages are being lost, at least and at most.
USUALLY_LOST = 0.0005
LOST = (0.2, 0.5)


class Incident(Enum):
    """What happens to a worker at one moment."""

    CRASH = 0
    DRAIN = 1
    GIVE_UP = 2


@dataclass(frozen=True, slots=True, order=True)
class Moment:
    """An incident of a worker, and when (seconds)."""

    at: float
    worker: int
    what: int


class Conditions:
    """The circumstances of one simulation."""

    def __init__(self, plan: Plan, workers: int, faults: Sequence[Fault]) -> None:
        rng = np.random.default_rng([plan.seed, 2])
        self.workers = workers
        self.ticks = int(plan.seconds // TICK)
        self.faults = faults
        self.broker = self._of(FaultKind.BROKER_OUTAGE)
        self.database = self._of(FaultKind.DATABASE_OUTAGE)
        self.platform = self._of(FaultKind.PLATFORM_OUTAGE)
        self.probes_hang = self._of(FaultKind.PROBE_HANGS)
        self.beat = self._of(FaultKind.BEAT_STOPPED)
        self.control = self._of(FaultKind.CONTROL_RESTART)
        self._losing = [one for one in faults if one.kind is FaultKind.MESSAGES_LOST]
        self.flushes = [one.start for one in faults if one.kind is FaultKind.REDIS_FLUSH]
        self.queue = LogQueue(faults, self.broker, self.database, plan.seconds)
        self.moments = _moments(faults, workers)
        self.drains = self._drains()
        self.down = [
            Spans(self._at(FaultKind.WORKER_CRASH, worker)).union(
                self._deploys(worker, DRAIN_LIMIT, DRAIN_LIMIT + RESTART)
            )
            for worker in range(workers)
        ]
        #: While a worker reaches everything but the database.
        self.apart = [Spans(self._at(FaultKind.DATABASE_CUT, worker)) for worker in range(workers)]
        #: While a worker is there and cannot vouch for its work in any way, though the database is there.
        self.cut_off = [
            Spans(
                self._at(FaultKind.WORKER_STOPPED, worker)
                + self._at(FaultKind.KEEPALIVE_STARVED, worker)
                + self._at(FaultKind.PARTITION, zone_of(worker))
            )
            for worker in range(workers)
        ]
        self.beats = self._beats(rng)
        self._vouches = self._last_vouches()
        self.sends, self.reads_from, self.next_send = self._sending()
        self.reachable = self._reachable()

    def _of(self, kind: FaultKind) -> Spans:
        return Spans((fault.start, fault.end) for fault in self.faults if fault.kind is kind)

    def _at(self, kind: FaultKind, place: int) -> list[tuple[float, float]]:
        return [(one.start, one.end) for one in self.faults if one.kind is kind and one.place == place]

    def _deploys(self, worker: int, after: float, until: float) -> Spans:
        """A part of this worker's turn in each deploy."""
        turns = [one.start + worker * DEPLOY_STEP for one in self.faults if one.kind is FaultKind.ROLLING_DEPLOY]
        return Spans((turn + after, turn + until) for turn in turns)

    def _drains(self) -> Bools:
        """By tick and worker: whether it was asked to stop, and begins nothing any more."""
        starts: Floats = np.arange(self.ticks + 1, dtype=np.float64) * TICK
        turns = [self._deploys(worker, 0.0, DRAIN_LIMIT) for worker in range(self.workers)]
        return np.array([turn.hold(starts) for turn in turns]).T

    def _beats(self, rng: np.random.Generator) -> Floats:
        """When each worker's turn of proof reaches the database in each tick; infinity where it does not.

        A turn that fails is made again each second (`Supervisor.supervise`): the next success is soon after the cause
        is over.
        """
        beats = np.full((self.ticks + 1, self.workers), np.inf)
        self._turns = np.zeros(self.workers)
        for worker in range(self.workers):
            reconnect = rng.uniform(*RECONNECT)
            gone = Spans((start, end + reconnect) for start, end in [*self.database, *self.apart[worker]])
            self._turns[worker] = rng.uniform(0, TICK)
            wanted: Floats = self._turns[worker] + np.arange(self.ticks, dtype=np.float64) * TICK
            made = self.down[worker].union(self.cut_off[worker], gone).release(wanted)
            made = np.where(made > wanted, made + 1.0, made)
            tick = np.minimum(made // TICK, self.ticks).astype(np.int64)
            np.minimum.at(beats[:, worker], tick, made)
        return beats

    def _last_vouches(self) -> Floats:
        """By tick and worker: when it last vouched through Redis, up to the end of that tick; minus infinity: never."""
        times = self._turns + np.arange(self.ticks + 1, dtype=np.float64)[:, None] * TICK
        beaten = np.maximum.accumulate(np.where(np.isfinite(self.beats), self.beats, 0.0), axis=0)
        before = np.vstack([np.zeros((1, self.workers)), beaten[:-1]])
        before = np.where(self.beats <= times, self.beats, before)
        silent = [self.down[worker].union(self.cut_off[worker], self.broker) for worker in range(self.workers)]
        mute = np.array([one.hold(times[:, worker]) for worker, one in enumerate(silent)]).T
        given = (times - before >= VOUCH_AFTER.total_seconds()) & ~mute
        return np.maximum.accumulate(np.where(given, times, -np.inf), axis=0)

    def vouched(self, worker: int, now: float) -> float:
        """When this worker last vouched for what it follows, up to now; minus infinity: never, or it is lost."""
        tick = int(now // TICK)
        last = float(self._vouches[tick, worker])
        if last > now:
            last = float(self._vouches[max(tick - 1, 0), worker])
        lost = self.broker.holds(now) or any(last <= flush <= now for flush in self.flushes)
        return -np.inf if lost else last

    def _sending(self) -> tuple[Bools, Floats, Ints]:
        """By tick and sender: whether its output is sent; from when on what was printed is sent; the next such tick.

        Senders are the workers, one for all that comes through the API, and all of them again for work that is read
        through a platform's API, which may be down.
        """
        senders = self.workers + 1
        starts: Floats = np.arange(self.ticks + 1, dtype=np.float64) * TICK
        sends = np.ones((self.ticks + 1, 2 * senders), dtype=np.bool_)
        for worker in range(self.workers):
            mute = self.down[worker].union(
                Spans(self._at(FaultKind.WORKER_STOPPED, worker)),
                Spans(self._at(FaultKind.PARTITION, zone_of(worker))),
            )
            sends[:, worker] = ~mute.hold(starts)
            sends[:, senders + worker] = ~mute.union(self.platform).hold(starts)
        ticks = np.arange(self.ticks + 1)[:, None]
        last_sent = np.maximum.accumulate(np.where(sends, ticks, -1), axis=0)
        before = np.vstack([np.zeros((1, 2 * senders), dtype=np.int64), last_sent[:-1]])
        reads_from = np.minimum(before + 1, ticks) * TICK
        coming = np.where(sends, ticks, self.ticks)[::-1]
        return sends, reads_from.astype(np.float64), np.minimum.accumulate(coming, axis=0)[::-1].astype(np.int64)

    def _reachable(self) -> Bools:
        """By tick and worker: whether it is there to begin, to adopt and to answer, if the database is there."""
        starts: Floats = np.arange(self.ticks + 1, dtype=np.float64) * TICK
        columns = []
        for worker in range(self.workers):
            mute = self.down[worker].union(
                self.apart[worker],
                Spans(self._at(FaultKind.WORKER_STOPPED, worker)),
                Spans(self._at(FaultKind.PARTITION, zone_of(worker))),
            )
            columns.append(~mute.hold(starts))
        return np.array(columns).T

    def loss(self, time: float) -> float:
        """The share of messages that is lost at this time."""
        for fault in self._losing:
            if fault.start <= time < fault.end:
                return LOST[0] + (LOST[1] - LOST[0]) * fault.size
        return USUALLY_LOST if self.faults else 0.0

    def during(self, start: float, end: float, workers: set[int]) -> list[Fault]:
        """The faults between these times that can have touched a run that these workers followed."""
        touched: dict[Scope, set[int | None]] = {
            Scope.SYSTEM: {None},
            Scope.WORKER: {*workers},
            Scope.ZONE: {zone_of(worker) for worker in workers},
        }
        met = [one for one in self.faults if one.meets(start, end)]
        return [one for one in met if one.place in touched[CATALOGUE[one.kind].place]]


def _moments(faults: Sequence[Fault], workers: int) -> list[Moment]:
    moments = [
        Moment(one.start, one.place, Incident.CRASH.value)
        for one in faults
        if one.kind is FaultKind.WORKER_CRASH and one.place is not None
    ]
    for one in faults:
        if one.kind is FaultKind.ROLLING_DEPLOY:
            for worker in range(workers):
                asked = one.start + worker * DEPLOY_STEP
                moments.append(Moment(asked, worker, Incident.DRAIN.value))
                moments.append(Moment(asked + DRAIN_LIMIT, worker, Incident.GIVE_UP.value))
    return sorted(moments)
