"""A sweep in virtual time, in the order of `workers/sweep.py`; whatever is decided, `models.reaping` decides."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np

from reprieve.models import reaping
from reprieve.models.liveness import Timing
from reprieve.models.reaping import Brake, Judgement, Suspect, Verdict, Watch
from reprieve.models.status import Probe
from reprieve.simulation.conditions import TICK, Conditions
from reprieve.simulation.crew import Crew
from reprieve.simulation.fleet import PROOFS, Fleet, Kind
from reprieve.simulation.plan import Guard
from reprieve.simulation.spans import Ints

#: When virtual time begins; any moment would do.
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
#: Seconds that a sweep takes without a platform that hangs, and with nobody to ask.
ASKING, DECIDING = 1.0, 0.2
LONG_AGO = timedelta(days=365)


def moment(seconds: float) -> datetime:
    """A virtual time as the decisions get it."""
    return BEGINNING + timedelta(seconds=seconds)


def _moment(seconds: float) -> datetime | None:
    return moment(seconds) if np.isfinite(seconds) else None


def _doubtful(answer: Probe | None) -> Probe | None:
    """An answer, where what has ended is not told from what nobody can tell."""
    return Probe.UNKNOWN if answer is Probe.ENDED else answer


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one sweep decided. `runs` are the numbers of the verdicts' runs; times are seconds."""

    now: float
    carried_out_at: float
    since_last: float
    watch: Watch
    runs: Ints
    verdicts: list[Verdict]
    limit: Brake
    may_orphan: bool
    hosts: set[int] = field(default_factory=set)


@dataclass
class Reaper:
    """The reaper, and what it remembers: its watch, and the canaries that it sent."""

    fleet: Fleet
    here: Conditions
    crew: Crew
    timing: Timing
    without: frozenset[Guard]
    rng: np.random.Generator
    previous: Watch | None = None
    canaries: list[tuple[float, float]] = field(default_factory=list)

    def sweep(self, now: float, active: Ints) -> Sweep | None:
        """A sweep at `now` over the running runs; None for one that a sweep just before made needless."""
        at, previous = moment(now), self.previous
        if not reaping.is_due(previous, at, self.timing):
            return None
        watch = reaping.next_watch(previous, at, self.timing)
        self._send_canary(now)
        runs = self._silent_or_overdue(now, active)
        hosts = self.crew.answering_hosts(now, int(now // TICK))
        suspects = [self.suspect(run, now) for run in runs.tolist()]
        answers = self._ask(suspects, runs, now, hosts)
        carried_out_at = now + self._takes(answers)
        watch = reaping.listen(watch, self._heard(carried_out_at), at, self.timing)
        self.previous = watch
        verdicts = [
            Verdict(one, self.judge(one, watch, answer, at), answer)
            for one, answer in zip(suspects, answers, strict=True)
        ]
        limit = Brake(fleet=len(active), convicted=sum(one.for_silence for one in verdicts))
        if Guard.BRAKE not in self.without:
            verdicts = reaping.brake(verdicts, limit)
        since_last = (at - previous.last_sweep_at).total_seconds() if previous else 0.0
        may_orphan = reaping.may_orphan(watch, at, self.timing)
        return Sweep(now, carried_out_at, since_last, watch, runs, verdicts, limit, may_orphan, hosts)

    def judge(self, suspect: Suspect, watch: Watch, answer: Probe | None, now: datetime) -> reaping.Judgement:
        """The judgement of `models.reaping`, told what it would be told without the guards that are off."""
        if Guard.DOUBT in self.without and watch.age(now) >= self.timing.window:
            suspect, answer = replace(suspect, unanswered_since=suspect.updated_at), _doubtful(answer)
            watch = replace(watch, since=now - LONG_AGO)
        if Guard.WATCH in self.without:
            watch = replace(watch, since=now - LONG_AGO)
        if Guard.LISTEN in self.without:
            watch = replace(watch, hearing_since=now - LONG_AGO)
        return reaping.judge(suspect, watch, answer, now, self.timing)

    def suspect(self, run: int, now: float) -> Suspect:
        """A run's row as the sweep reads it, and what is said of it in Redis."""
        fleet = self.fleet
        remembered = bool(fleet.told_of[run] == fleet.updated[run])
        vouched = now if self._is_vouched_for(run, now) else float(fleet.vouched[run]) if remembered else -np.inf
        limit = float(fleet.max_runtime[run])
        return Suspect(
            run_id=UUID(int=run),
            epoch=int(fleet.epoch[run]),
            attempt=int(fleet.attempt[run]),
            max_attempts=int(fleet.max_attempts[run]),
            adapter=Kind(fleet.kind[run]).words,
            out_of_process_liveness=bool(fleet.kind[run] != Kind.IN_PROCESS.value),
            started_at=moment(float(fleet.started[run])),
            max_runtime=timedelta(seconds=limit) if np.isfinite(limit) else None,
            updated_at=moment(float(fleet.updated[run])),
            last_proof=PROOFS[int(fleet.proof[run])].value,
            last_chunk=0,
            worker_node=f"worker-{fleet.worker[run]}" if fleet.worker[run] >= 0 else None,
            unanswered_since=_moment(float(fleet.unanswered[run])) if remembered else None,
            vouched_at=_moment(vouched),
        )

    def _is_vouched_for(self, run: int, now: float) -> bool:
        """Whether Redis holds a vouch of its follower: for a child, or its result; for other work while it is seen."""
        fleet, worker = self.fleet, int(self.fleet.worker[run])
        if Guard.VOUCH in self.without or worker < 0 or not fleet.followed[run]:
            return False
        given = self.here.vouched(worker, now)
        if given < fleet.followed_since[run] or now - given > self.timing.tolerated_lag.total_seconds():
            return False
        if fleet.kind[run] == Kind.IN_PROCESS.value:
            return bool(given < fleet.dies[run])
        unseen = fleet.kind[run] == Kind.PLATFORM.value and self.here.platform.holds(given)
        return fleet.is_alive(run, given) and not unseen

    def remember(self, run: int, verdict: Verdict, at: float) -> None:
        """Keep what the next sweep is to know of a run that was spared in this silence: its rows in `sparings`."""
        fleet, suspect = self.fleet, verdict.suspect
        if moment(float(fleet.updated[run])) != suspect.updated_at:
            return
        if fleet.told_of[run] != fleet.updated[run]:
            fleet.told_of[run] = fleet.updated[run]
            fleet.unanswered[run], fleet.vouched[run] = np.inf, -np.inf
        if verdict.judgement is Judgement.SPARE_UNKNOWN:
            fleet.unanswered[run] = min(fleet.unanswered[run], at)
        elif verdict.judgement in (Judgement.SPARE_ENDED, Judgement.SPARE_VOUCHED) and fleet.unanswered[run] < at:
            fleet.unanswered[run] = at
        if verdict.judgement is Judgement.SPARE_VOUCHED and suspect.vouched_at is not None:
            fleet.vouched[run] = (suspect.vouched_at - BEGINNING).total_seconds()

    def answer(self, run: int, now: float, hosts: set[int]) -> Probe | None:
        """What the platform of a run would say of it now; None where there is none to be asked."""
        kind = self.fleet.kind[run]
        if Guard.ASK in self.without or kind in (Kind.IN_PROCESS, Kind.UNASKED, Kind.REMOTE):
            return None
        away = self.here.platform.holds(now) or self.here.probes_hang.holds(now)
        if (kind == Kind.PLATFORM.value and away) or (
            kind == Kind.HOST_BOUND.value and self.fleet.host[run] not in hosts
        ):
            return Probe.UNKNOWN
        if now < self.fleet.created[run]:
            return Probe.DEAD if Guard.CREATE in self.without else Probe.UNKNOWN
        if self.fleet.is_alive(run, now):
            return Probe.ALIVE
        return Probe.DEAD if self.fleet.vanished(run, now) else Probe.ENDED

    def _send_canary(self, now: float) -> None:
        if not self.here.broker.holds(now) and self.rng.random() >= self.here.loss(now):
            self.canaries.append((now, float(self.here.queue.stored_at(np.array([now]))[0])))

    def _heard(self, now: float) -> datetime | None:
        """When the newest canary was sent that has come back; those before it are of no use any more."""
        back = [sent for sent, stored in self.canaries if stored <= now]
        if not back:
            return self.previous.heard_at if self.previous else None
        self.canaries = [one for one in self.canaries if one[0] > max(back)]
        newest = moment(max(back))
        heard = self.previous.heard_at if self.previous else None
        return newest if heard is None else max(newest, heard)

    def _silent_or_overdue(self, now: float, active: Ints) -> Ints:
        fleet = self.fleet
        silent = fleet.updated[active] < now - self.timing.window.total_seconds()
        return active[silent | (now - fleet.started[active] > fleet.max_runtime[active])]

    def _ask(self, suspects: list[Suspect], runs: Ints, now: float, hosts: set[int]) -> list[Probe | None]:
        at = moment(now)
        return [
            self.answer(run, now, hosts) if reaping.should_ask(one, at, self.timing) else None
            for one, run in zip(suspects, runs.tolist(), strict=True)
        ]

    def _takes(self, answers: list[Probe | None]) -> float:
        """Seconds from listing to carrying out: as long as the slowest platform, up to the limit."""
        if Probe.UNKNOWN in answers:
            return self.timing.ask_limit.total_seconds()
        return ASKING if any(answers) else DECIDING
