"""What is to be simulated: how many runs for how long, under which faults, with which guards of the reaper."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from reprieve.models.errors import InvalidRequest

HOUR = 3600.0
#: A fleet larger than this does not fit into the memory that a simulation may take.
MOST_RUNS = 2_000_000
#: Parts that a fleet is split into, at most.
MOST_PARTS = 64
#: The times of a simulation are held second by second; a week of them is enough.
MOST_HOURS = 168.0


class Guard(StrEnum):
    """What keeps the reaper from convicting a live run, or leaves none behind; each can be switched off."""

    WATCH = "watch"
    """After a gap in our own looking a whole window passes before silence convicts."""
    LISTEN = "listen"
    """Silence convicts nobody while the log pipeline lags."""
    ASK = "ask"
    """A platform is asked before silent work of it is convicted."""
    BRAKE = "brake"
    """One sweep convicts a bounded share of the fleet."""
    ADOPT = "adopt"
    """Another worker follows the work of one that is gone."""
    DOUBT = "doubt"
    """Doubt is counted from the first unanswered question, and what has ended is not doubtful."""
    VOUCH = "vouch"
    """A worker that cannot reach the database vouches for its work through Redis."""
    CREATE = "create"
    """While its worker waits to create it, work lives, and its platform cannot say that it is gone."""


class FaultKind(StrEnum):
    """What goes wrong. Rates and lengths: `simulation.faults.CATALOGUE`."""

    WORKER_CRASH = "worker-crash"
    ROLLING_DEPLOY = "rolling-deploy"
    BACKLOG = "backlog"
    LOG_WORKERS_STUCK = "log-workers-stuck"
    BROKER_OUTAGE = "broker-outage"
    DATABASE_OUTAGE = "database-outage"
    PARTITION = "partition"
    CLOCK_SKEW = "clock-skew"
    MESSAGES_LOST = "messages-lost"
    BEAT_STOPPED = "beat-stopped"
    CONTROL_RESTART = "control-restart"
    REDIS_FLUSH = "redis-flush"
    PLATFORM_OUTAGE = "platform-outage"
    PROBE_HANGS = "probe-hangs"
    WORKER_STOPPED = "worker-stopped"
    KEEPALIVE_STARVED = "keepalive-starved"
    DATABASE_CUT = "database-cut"


ALL_FAULTS = frozenset(FaultKind)


@dataclass(frozen=True, slots=True)
class Plan:
    """One simulation. Everything that happens in it follows from these values."""

    runs: int = 100_000
    hours: float = 24.0
    seed: int = 1
    faults: frozenset[FaultKind] = ALL_FAULTS
    without: frozenset[Guard] = field(default_factory=frozenset)
    parts: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.parts <= MOST_PARTS:
            raise InvalidRequest(f"--parts {self.parts} cannot be simulated; use 1 to {MOST_PARTS}.")
        if not self.parts <= self.runs <= MOST_RUNS * self.parts:
            of = f" of {self.parts} parts" if self.parts > 1 else ""
            raise InvalidRequest(
                f"--runs {self.runs}{of} cannot be simulated; use {self.parts} to {MOST_RUNS * self.parts}."
            )
        if not 1 / 6 <= self.hours <= MOST_HOURS:
            raise InvalidRequest(
                f"--hours {self.hours:g} cannot be simulated; use 0.2 (a run is found dead after 6 minutes at the "
                f"latest) to {MOST_HOURS:g}."
            )
        if self.seed < 0:
            raise InvalidRequest(f"--seed {self.seed} is negative; use 0 or more.")

    @property
    def seconds(self) -> float:
        return self.hours * HOUR

    def lacking(self, guard: Guard) -> "Plan":
        """The same without one guard more."""
        return replace(self, without=self.without | {guard})


def parse_faults(names: str) -> frozenset[FaultKind]:
    """`all`, `none`, or names with commas between them."""
    if names == "all":
        return ALL_FAULTS
    if names == "none":
        return frozenset()
    return frozenset(FaultKind(name) for name in _known("--faults", names, FaultKind, "`all` or `none`"))


def parse_guards(names: str) -> tuple[Guard, ...]:
    """`all`, or names with commas between them, each once, in the order in which the reaper has them."""
    if names == "all":
        return tuple(Guard)
    wanted = set(_known("--without", names, Guard, "`all`"))
    return tuple(guard for guard in Guard if guard in wanted)


def _known(option: str, names: str, known: Iterable[StrEnum], besides: str) -> list[str]:
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in set(known)]
    if unknown or not wanted:
        wrong = f"does not know {', '.join(map(repr, unknown))}" if unknown else "names nothing"
        raise InvalidRequest(f"{option} {wrong}; use {besides}, or some of {', '.join(known)}.")
    return wanted
