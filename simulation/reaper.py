"""A sweep in virtual time, in the order of `workers/sweep.py`: find, decide by `models.reaping`, carry out."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np

from reprieve.models import judging, reaping, watching
from reprieve.models.judging import Judgement, Suspect
from reprieve.models.liveness import Timing
from reprieve.models.reaping import Findings, Ruling, Verdict
from reprieve.models.status import Probe
from reprieve.models.watching import Watch
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
#: A fleet of so many runs that no number of convictions is too many at once.
WITHOUT_END = 1 << 62


def moment(seconds: float) -> datetime:
    """A virtual time as the decisions get it."""
    return BEGINNING + timedelta(seconds=seconds)


def _moment(seconds: float) -> datetime | None:
    return moment(seconds) if np.isfinite(seconds) else None


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one sweep decided. `runs` are the numbers of the verdicts' runs; times are seconds.

    `watch` is the sweep's own, as it is with all guards.
    """

    now: float
    carried_out_at: float
    since_last: float
    watch: Watch
    runs: Ints
    ruling: Ruling
    may_orphan: bool
    hosts: set[int]


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
        """A sweep at `now` over the running runs; None where another sweep has just been made."""
        at, previous = moment(now), self.previous
        if not watching.is_due(previous, at, self.timing):
            return None
        watch = watching.next_watch(previous, at, self.timing)
        self._send_canary(now)
        runs = self._silent_or_overdue(now, active)
        hosts = self.crew.answering_hosts(now, int(now // TICK))
        suspects = {run: self.suspect(run) for run in runs.tolist()}
        answers = self._ask(suspects, now, hosts)
        carried_out_at = now + self._takes(answers)
        found = Findings(
            suspects=list(suspects.values()),
            fleet=len(active),
            answers=answers,
            heard_at=self._heard(carried_out_at),
            vouched={one.fence for run, one in suspects.items() if self._is_vouched_for(run, now)},
        )
        ruling = reaping.decide(watch, found, at, self.timing)
        self.previous = watch = ruling.watch
        if self.without:
            ruling = reaping.decide(*self._unguarded(watch, found, at), at, self.timing)
        since_last = (at - previous.last_sweep_at).total_seconds() if previous else 0.0
        may_orphan = watching.may_orphan(watch, at, self.timing)
        return Sweep(now, carried_out_at, since_last, watch, runs, ruling, may_orphan, hosts)

    def _unguarded(self, watch: Watch, found: Findings, now: datetime) -> tuple[Watch, Findings]:
        """What a sweep would decide by without the guards that are off."""
        long_ago = now - LONG_AGO
        if Guard.DOUBT in self.without and watch.age(now) >= self.timing.window:
            watch = replace(watch, since=long_ago)
            doubted = [replace(one, unknown_at=one.updated_at, answered_at=None) for one in found.suspects]
            unsure = {run: Probe.UNKNOWN if said is Probe.ENDED else said for run, said in found.answers.items()}
            found = replace(found, suspects=doubted, answers=unsure)
        if Guard.WATCH in self.without:
            watch = replace(watch, since=long_ago)
        if Guard.LISTEN in self.without:
            watch, found = replace(watch, hearing_since=long_ago), replace(found, heard_at=now)
        if Guard.BRAKE in self.without:
            found = replace(found, fleet=WITHOUT_END)
        return watch, found

    def suspect(self, run: int) -> Suspect:
        """A run's row as the sweep reads it, with what earlier sweeps kept of the same silence."""
        fleet = self.fleet
        remembered = bool(fleet.silence_of[run] == fleet.updated[run])
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
            unknown_at=_moment(float(fleet.unknown[run])) if remembered else None,
            answered_at=_moment(float(fleet.answered[run])) if remembered else None,
            vouched_at=_moment(float(fleet.vouched[run])) if remembered else None,
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
        fleet, suspect, judgement = self.fleet, verdict.suspect, verdict.judgement
        if moment(float(fleet.updated[run])) != suspect.updated_at:
            return
        if fleet.silence_of[run] != fleet.updated[run]:
            fleet.silence_of[run] = fleet.updated[run]
            fleet.unknown[run], fleet.answered[run], fleet.vouched[run] = np.inf, -np.inf, -np.inf
        if judgement is Judgement.SPARE_UNKNOWN:
            fleet.unknown[run] = min(fleet.unknown[run], at)
        if judgement.ends_doubt:
            fleet.answered[run] = at
        if judgement is Judgement.SPARE_VOUCHED and suspect.vouched_at is not None:
            fleet.vouched[run] = (suspect.vouched_at - BEGINNING).total_seconds()

    def answer(self, run: int, now: float, hosts: set[int]) -> Probe | None:
        """What the platform of a run would say of it now; None where there is none to be asked."""
        kind = self.fleet.kind[run]
        if Guard.ASK in self.without or kind in (Kind.IN_PROCESS, Kind.UNASKED, Kind.REMOTE):
            return None
        down = self.here.platform.holds(now) or self.here.probes_hang.holds(now)
        if (kind == Kind.PLATFORM.value and down) or (
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
        """When the newest canary was sent that has come back; forgets those before it."""
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

    def _ask(self, suspects: dict[int, Suspect], now: float, hosts: set[int]) -> dict[UUID, Probe]:
        at = moment(now)
        asked = {run: one for run, one in suspects.items() if judging.should_ask(one, at, self.timing)}
        return {one.run_id: said for run, one in asked.items() if (said := self.answer(run, now, hosts)) is not None}

    def _takes(self, answers: dict[UUID, Probe]) -> float:
        """Seconds from listing to carrying out: as long as the slowest platform takes, up to the limit."""
        if Probe.UNKNOWN in answers.values():
            return self.timing.ask_limit.total_seconds()
        return ASKING if answers else DECIDING
