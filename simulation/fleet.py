"""The runs: what they are, how they print, when they end or vanish, and what their rows say. One array per column."""

from enum import IntEnum

import numpy as np

from reprieve.models.status import Proof
from reprieve.simulation.plan import Guard, Plan
from reprieve.simulation.spans import Bools, Floats, Ints

#: Seconds that a run takes: log-normal about this median, within these limits.
MEDIAN_SECONDS, SPREAD = 1200.0, 1.0
LEAST_SECONDS, MOST_SECONDS = 60.0, 8 * 3600.0
#: Of out-of-process runs, the share that vanishes without a word.
VANISHING = 0.02
#: The share with a `max_runtime` that it exceeds, and the share with one that it does not.
OVERRUNNING, LIMITED = 0.01, 0.3
#: Every so many seconds work that reports through the API says that it is there, if it says so at all.
REMOTE_HEARTBEAT = 20.0


class Kind(IntEnum):
    """How a run's life can be known."""

    IN_PROCESS = 0
    """A child of its worker, which vouches for it straight in the database."""
    PLATFORM = 1
    """On a platform that any worker can ask, as Kubernetes; followed by a worker."""
    HOST_BOUND = 2
    """A process that outlives its worker; only workers of its host can look at it. As `detached`."""
    UNASKED = 3
    """Elsewhere, followed by a worker, on a platform that cannot be asked."""
    REMOTE = 4
    """Elsewhere, followed by nobody: what it says comes through the API and the log pipeline, or not at all."""

    @property
    def words(self) -> str:
        return self.name.lower().replace("_", "-")


SHARES = {Kind.IN_PROCESS: 0.35, Kind.PLATFORM: 0.3, Kind.HOST_BOUND: 0.15, Kind.UNASKED: 0.1, Kind.REMOTE: 0.1}


class Truth(IntEnum):
    """Where a run stands in the simulation."""

    WAITING = 0
    RUNNING = 1
    CLOSED = 2


PROOFS = (Proof.CLAIM, Proof.OUTPUT, Proof.KEEPALIVE, Proof.HEARTBEAT, Proof.PROBE)
CLAIM, OUTPUT, KEEPALIVE, HEARTBEAT, PROBE = range(5)


class Fleet:
    """All runs of a simulation. Times are seconds; infinity where something never happens."""

    def __init__(self, plan: Plan) -> None:
        rng = np.random.default_rng([plan.seed, 3])
        self.waiting_is_said = Guard.CREATE not in plan.without
        self._draw_work(rng, plan)
        self._draw_patterns(rng, plan.runs)
        self._begin_rows(plan.runs)
        self._begin_memory(plan.runs)

    def _draw_work(self, rng: np.random.Generator, plan: Plan) -> None:
        """What the runs are: of which kind, wanted when, for how long they take, and what is asked of them."""
        count = plan.runs
        self.kind: Ints = rng.choice(list(SHARES), size=count, p=list(SHARES.values())).astype(np.int64)
        self.wanted: Floats = np.sort(rng.uniform(0, plan.seconds, count))
        self.duration: Floats = np.clip(
            rng.lognormal(np.log(MEDIAN_SECONDS), SPREAD, count), LEAST_SECONDS, MOST_SECONDS
        )
        vanishes = (rng.random(count) < VANISHING) & (self.kind != Kind.IN_PROCESS.value)
        self.lives_for: Floats = np.where(vanishes, rng.random(count) * self.duration, np.inf)
        share = rng.random(count)
        limit = np.where(share < OVERRUNNING + LIMITED, self.duration * 2, np.inf)
        self.max_runtime: Floats = np.where(share < OVERRUNNING, self.duration / 2, limit)
        self.max_attempts: Ints = np.where(rng.random(count) < 0.5, 1, rng.integers(2, 4, count)).astype(np.int64)

    def _begin_rows(self, count: int) -> None:
        """Where each run stands, what its row says, and who follows it: nothing has happened yet."""
        self.state: Ints = np.zeros(count, dtype=np.int64)
        self.attempt: Ints = np.zeros(count, dtype=np.int64)
        self.epoch: Ints = np.zeros(count, dtype=np.int64)
        self.started: Floats = np.full(count, np.inf)
        self.created: Floats = np.full(count, np.inf)
        """When the work is there; until then its worker waits to create it, on a platform that is down."""
        self.ends: Floats = np.full(count, np.inf)
        self.dies: Floats = np.full(count, np.inf)
        self.updated: Floats = np.full(count, np.inf)
        self.proof: Ints = np.zeros(count, dtype=np.int64)
        self.throttled: Floats = np.zeros(count)
        """Until when the throttle's key is there."""
        self.worker: Ints = np.full(count, -1, dtype=np.int64)
        self.worker_before: Ints = np.full(count, -1, dtype=np.int64)
        """Who followed it before it was adopted."""
        self.host: Ints = np.full(count, -1, dtype=np.int64)
        self.followed: Bools = np.zeros(count, dtype=np.bool_)
        self.followed_since: Floats = np.full(count, np.inf)
        self.left_at: Floats = np.full(count, np.inf)
        """When its follower was lost; infinity while it has one."""
        self.unread_from: Floats = np.full(count, np.inf)
        self.owed: Bools = np.zeros(count, dtype=np.bool_)
        """Whether another worker is to follow it."""
        self.pending: Floats = np.full(count, np.inf)
        """When a message arrives that was lost at first and sent again."""

    def _begin_memory(self, count: int) -> None:
        """What the sweeps keep of each run (`Suspect`), and what the account of the dead does (`Detection`)."""
        self.silence_of: Floats = np.full(count, np.nan)
        """The last proof of life before the silence of which the sweeps have kept the next three."""
        self.unknown: Floats = np.full(count, np.inf)
        self.answered: Floats = np.full(count, -np.inf)
        self.vouched: Floats = np.full(count, -np.inf)
        self.well: Floats = np.zeros(count)
        """How long sweeps could have convicted a dead run."""
        self.counted: Floats = np.full(count, -np.inf)
        """The newest proof of life that this account knows of."""

    def _draw_patterns(self, rng: np.random.Generator, count: int) -> None:
        """Every `period` seconds a burst of `burst` seconds: without a pause, with pauses of minutes, or of an hour."""
        pattern = rng.choice(3, size=count, p=[0.5, 0.3, 0.2])
        remote = self.kind == Kind.REMOTE.value
        says_so = remote & (rng.random(count) < 0.7)
        burst = np.where(pattern == 0, 1.0, np.where(pattern == 1, rng.uniform(10, 120, count), 20.0))
        longest = np.where(remote, 200.0, 600.0)
        pause = np.where(pattern == 0, 0.0, np.where((pattern == 1) | remote, rng.uniform(60, longest), 3600.0))
        self.burst: Floats = np.where(says_so, 1.0, burst)
        self.period: Floats = np.where(says_so, REMOTE_HEARTBEAT, burst + pause)
        self.chatty: Bools = self.burst == self.period

    def next_print(self, at: Ints, times: Floats) -> Floats:
        """When these runs print next, at these times or later, as long as they live."""
        into = np.mod(times - self.started[at], self.period[at])
        return np.where(into < self.burst[at], times, times + self.period[at] - into)

    def last_print(self, run: int, time: float) -> float:
        """When a run that is alive printed last, up to this time."""
        into = float(np.mod(time - self.started[run], self.period[run]))
        return time - max(0.0, into - float(self.burst[run]))

    def longest_pause(self, run: int) -> float:
        """Seconds between two signs of life of work that nothing but its output speaks for; 0 for any other."""
        remote = self.kind[run] == Kind.REMOTE.value
        return float(self.period[run] - self.burst[run]) if remote else 0.0

    def last_alive(self, at: Ints) -> Floats:
        """Until when their work does anything."""
        return np.minimum(self.ends[at], self.dies[at])

    def is_alive(self, run: int, time: float) -> bool:
        return bool(time < self.ends[run] and time < self.dies[run])

    def vanished(self, run: int, time: float) -> bool:
        """Whether it is dead: gone without an end."""
        return bool(self.dies[run] <= time and self.dies[run] < self.ends[run])

    def begin(self, at: Ints, times: Floats, workers: Ints, hosts: Ints, created: Floats) -> None:
        """These attempts are claimed at these times by these workers; their work begins when it is created."""
        remote = self.kind[at] == Kind.REMOTE.value
        self.state[at] = Truth.RUNNING
        self.attempt[at] += 1
        self.epoch[at] += 1
        self.started[at] = self.updated[at] = self.followed_since[at] = times
        self.created[at] = self.unread_from[at] = created
        self.ends[at] = created + self.duration[at]
        self.dies[at] = created + self.lives_for[at]
        self.proof[at] = CLAIM
        self.throttled[at] = 0.0
        self.worker[at] = np.where(remote, -1, workers)
        self.worker_before[at] = -1
        self.host[at] = np.where(remote, -1, hosts)
        self.followed[at] = ~remote
        self.left_at[at] = self.pending[at] = np.inf
        self.owed[at] = False
        self.well[at] = 0.0
        self.counted[at] = -np.inf

    def lose_follower(self, at: Ints, time: float) -> None:
        self.followed[at] = False
        self.left_at[at] = time

    def adopt(self, at: Ints, times: Floats, workers: Ints, read_to: Floats) -> None:
        """Other workers follow these from now on, under a new epoch; what came before `read_to` is stored."""
        self.epoch[at] += 1
        self.worker_before[at] = self.worker[at]
        self.worker[at] = workers
        self.followed[at] = True
        self.owed[at] = False
        self.followed_since[at] = times
        self.unread_from[at] = np.maximum(self.unread_from[at], np.minimum(read_to, self.left_at[at]))
        self.left_at[at] = self.pending[at] = np.inf
        self.throttled[at] = 0.0

    def close(self, at: Ints) -> None:
        """Their rows leave `running`."""
        self.state[at] = Truth.CLOSED
        self.owed[at] = False
