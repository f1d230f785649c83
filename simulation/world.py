"""The simulation itself: tick by tick, what happens to the fleet, and what the reaper makes of it."""

import heapq
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reprieve.models.draining import end_of_drained
from reprieve.models.judging import Judgement
from reprieve.models.liveness import Timing
from reprieve.models.reaping import Verdict
from reprieve.models.status import Probe, Status
from reprieve.models.work import End
from reprieve.simulation import proofs
from reprieve.simulation.conditions import TICK, TICKS_PER_SWEEP, Conditions
from reprieve.simulation.crew import Crew
from reprieve.simulation.faults import DRAIN_LIMIT, WORKERS_PER_HOST, Fault, in_order, schedule, workers_for
from reprieve.simulation.fleet import PROBE, PROOFS, Fleet, Kind, Truth
from reprieve.simulation.plan import Guard, Plan
from reprieve.simulation.proofs import Proofs
from reprieve.simulation.reaper import DECIDING, Reaper, Sweep, moment
from reprieve.simulation.report import LATEST, PUNCTUALITY, Detection, Facts, Reap, Report, classify
from reprieve.simulation.spans import Floats, Ints

#: Seconds by which a sweep's message may be late, at most.
LATE = 2.0
#: Seconds that a worker takes to create what it could not, once the platform is back: its longest wait between tries.
CREATED_AFTER = (1.0, 30.0)
#: Seconds after which a message may come again: where messages are lost, they are also repeated.
REPEATED_AFTER = 1.0

Progress = Callable[[float], Any]


class World:
    """One simulation under way, of a fleet that is not split.

    Of other timings, or of faults that were not drawn, if they are given. `besides` are faults that it shares with
    others.
    """

    def __init__(
        self,
        plan: Plan,
        timing: Timing | None = None,
        faults: list[Fault] | None = None,
        besides: Sequence[Fault] = (),
    ) -> None:
        self.timing = timing or Timing()
        self.rng = np.random.default_rng([plan.seed, 4])
        self.fleet = Fleet(plan)
        running = float(self.fleet.duration.sum()) / plan.seconds
        workers = workers_for(running)
        faults = in_order([*(schedule(plan, workers) if faults is None else faults), *besides])
        self.here = Conditions(plan, workers, faults)
        self.crew = Crew(self.fleet, self.here, self.timing, self.rng, adopts=Guard.ADOPT not in plan.without)
        self.reaper = Reaper(self.fleet, self.here, self.crew, self.timing, plan.without, self.rng)
        self.report = Report(plan, workers, faults)
        self.active: Ints = np.zeros(0, dtype=np.int64)
        self._coming = 0
        self._moments = list(reversed(self.here.moments))
        self._flushes = sorted(self.here.flushes, reverse=True)
        self._restarts = sorted(self.here.control.ends.tolist(), reverse=True)
        self._retries: list[tuple[float, int]] = []

    def run(self, progress: Progress = lambda _: None) -> Report:
        """Run it to the end; `progress` is called with the share that is done."""
        for tick in range(self.here.ticks):
            self.step(tick)
            if tick % 50 == 0:
                progress(tick / self.here.ticks)
        self._close_the_books(self.here.ticks * TICK)
        progress(1.0)
        return self.report

    def step(self, tick: int) -> None:
        """One tick: the sweep looks, things happen, proofs arrive, the sweep's verdicts are carried out."""
        sweep = self._sweep(tick)
        self._begin(tick)
        self._suffer(tick)
        self.crew.note_seen(tick)
        proven = proofs.of_tick(self.fleet, self.here, self.active, tick, self.rng)
        if sweep is not None:
            proofs.apply(self.fleet, proven, sweep.carried_out_at)
            self._carry_out(sweep)
        proofs.apply(self.fleet, proven, (tick + 1) * TICK)
        self._end(tick)
        self._keep_running()
        self.crew.adopt(tick, self.active)

    # -- what happens

    def _keep_running(self) -> None:
        self.active = self.active[self.fleet.state[self.active] == Truth.RUNNING.value]

    def _begin(self, tick: int) -> None:
        """Runs that are due are claimed, if the broker, the database and a worker are up."""
        until = (tick + 1) * TICK
        due = self._due(until)
        free = self.crew.free(tick)
        if not len(due) or not len(free) or self.here.broker.holds(tick * TICK):
            return
        self._coming += int(np.sum(self.fleet.attempt[due] == 0))
        while self._retries and self._retries[0][0] < until:
            heapq.heappop(self._retries)
        workers = self.rng.choice(free, len(due)).astype(np.int64)
        times = np.maximum(self.fleet.wanted[due], tick * TICK)
        self.fleet.begin(due, times, workers, workers // WORKERS_PER_HOST, self._creation(due, times))
        self.active = np.concatenate([self.active, due])

    def _creation(self, due: Ints, claimed: Floats) -> Floats:
        """When work claimed at these times is created: on a platform that is down, soon after it is back."""
        back = np.where(self.fleet.kind[due] == Kind.PLATFORM.value, self.here.platform.release(claimed), claimed)
        return np.where(back > claimed, back + self.rng.uniform(*CREATED_AFTER, len(due)), claimed)

    def _due(self, until: float) -> Ints:
        upto = int(np.searchsorted(self.fleet.wanted, until))
        fresh = np.arange(self._coming, max(upto, self._coming), dtype=np.int64)
        again = np.array([run for ready, run in self._retries if ready < until], dtype=np.int64)
        return np.concatenate([fresh, again])

    def _suffer(self, tick: int) -> None:
        until = (tick + 1) * TICK
        while self._moments and self._moments[-1].at < until:
            given_up = self.crew.suffer(self._moments.pop(), self.active)
            self.report.drained += len(given_up)
            for run in given_up.tolist():
                self._finish(run, end_of_drained(self.reaper.suspect(run), DRAIN_LIMIT, self.timing), until)
            self._keep_running()
        while self._flushes and self._flushes[-1] < until:
            proofs.lose_on_the_way(self.fleet, self.here, self.active, self._flushes.pop(), self.rng)

    def _end(self, tick: int) -> None:
        """The follower of work records its result, once the database can be written; time-outs likewise."""
        until = (tick + 1) * TICK
        fleet, active = self.fleet, self.active
        writes = np.isfinite(self.here.beats[tick])[np.maximum(fleet.worker[active], 0)]
        speaks = (fleet.followed[active] & writes) | (fleet.kind[active] == Kind.REMOTE.value)
        if self.here.database.holds(tick * TICK):
            return
        readable = (fleet.kind[active] != Kind.PLATFORM.value) | (not self.here.platform.holds(tick * TICK))
        by_itself = (fleet.ends[active] < until) & (fleet.ends[active] <= fleet.dies[active]) & readable
        overdue = fleet.started[active] + fleet.max_runtime[active] < until
        over = speaks & (by_itself | (overdue & fleet.followed[active]))
        at = active[over]
        self.report.ended += len(at)
        self.report.died += int(np.sum(fleet.dies[at] < np.minimum(fleet.ends[at], until)))
        for run in at[(fleet.dies[at] < fleet.ends[at]) & (fleet.dies[at] < until)].tolist():
            self.report.found.append(Detection(until - float(fleet.dies[run]), float(fleet.well[run])))
        fleet.close(at)

    def _finish(self, run: int, end: End, at: float, gone_at: float = 0.0) -> None:
        """Close the row; queue a retry for when its delay is over and the old work is confirmed gone, at `gone_at`."""
        self.fleet.close(np.array([run]))
        if end.status is Status.QUEUED:
            heapq.heappush(self._retries, (max(at + end.retry_after.total_seconds(), gone_at), run))
            self.report.retried += 1

    # -- the sweep

    def _sweep(self, tick: int) -> Sweep | None:
        now = tick * TICK + float(self.rng.uniform(0, LATE))
        if not self._is_called(tick, now):
            return None
        sweep = self.reaper.sweep(now, self.active)
        if self.rng.random() < self.here.loss(now):  # The same message comes again.
            sweep = self.reaper.sweep(now + REPEATED_AFTER, self.active) or sweep
        if sweep is not None:
            self._count_well(sweep)
        return sweep

    def _is_called(self, tick: int, now: float) -> bool:
        """Whether a sweep's message arrives, beat's or that of a starting control worker, and a worker can take it."""
        here = self.here
        began = False
        while self._restarts and self._restarts[-1] <= tick * TICK:
            began = self._restarts.pop() > (tick - 1) * TICK
        sent = tick % TICKS_PER_SWEEP == 0 and not here.beat.holds(now) and self.rng.random() >= here.loss(now)
        return (sent or began) and not (here.broker.holds(now) or here.database.holds(now) or here.control.holds(now))

    def _carry_out(self, sweep: Sweep) -> None:
        """End what was convicted and is still silent; refresh what is alive; have it followed."""
        reaped = 0
        alive, unfollowed = [], []
        for run, verdict in zip(sweep.runs.tolist(), sweep.ruling.verdicts, strict=True):
            end, judgement = sweep.ruling.end_of(verdict), verdict.judgement
            if end is None:
                self.report.sparings[judgement.value] += 1
                self.reaper.remember(run, verdict, sweep.carried_out_at)
                alive += [run] if judgement is Judgement.SPARE_ALIVE else []
                unfollowed += [run] if judgement.wants_follower else []
            elif self._applies(end, run):
                reaped += verdict.for_silence
                self._count_reap(run, verdict, sweep)
                self._finish(run, end, sweep.carried_out_at + DECIDING, self._ended_by(run, sweep.carried_out_at))
        seen = np.array(alive, dtype=np.int64)
        at = np.full(len(seen), sweep.carried_out_at)
        proofs.apply(self.fleet, Proofs(seen, at, np.full(len(seen), PROBE)), np.inf)
        self.crew.hand_over(np.array(unfollowed, dtype=np.int64))
        if sweep.may_orphan:
            self.crew.orphan(sweep.now, self.active)
        self.report.series.add(sweep.now, len(self.active), len(sweep.runs), reaped)
        self._keep_running()

    def _applies(self, end: End, run: int) -> bool:
        """The conditions of `FINISH`: it is running still, and has given no proof of life since the sweep looked."""
        updated_at = moment(float(self.fleet.updated[run]))
        silent = end.silent_before is None or updated_at < end.silent_before
        return silent and self.fleet.state[run] == Truth.RUNNING.value

    def _count_reap(self, run: int, verdict: Verdict, sweep: Sweep) -> None:
        fleet, at = self.fleet, sweep.carried_out_at
        self.report.convictions[verdict.judgement.value] += 1
        if fleet.vanished(run, at):
            self.report.died += 1
            self.report.found.append(Detection(at - float(fleet.dies[run]), float(fleet.well[run])))
        elif verdict.judgement is Judgement.REAP_TIMED_OUT:
            self.report.timed_out += 1
        elif fleet.is_alive(run, at):
            self.report.live.append(self._live_reap(run, verdict, sweep))
        else:
            self.report.ended_unread += 1

    def _ended_by(self, run: int, at: float) -> float:
        """When a worker of its host can confirm that the old attempt's work has ended."""
        worker = int(self.fleet.worker[run])
        ways = (self.here.cut_off[worker], self.here.apart[worker], self.here.down[worker])
        return next((end for way in ways if (end := way.end_of(at))), at)

    def _live_reap(self, run: int, verdict: Verdict, sweep: Sweep) -> Reap:
        fleet, at = self.fleet, sweep.carried_out_at
        worker = int(fleet.worker[run])
        since = float(fleet.updated[run])
        facts = Facts(
            in_process=bool(fleet.kind[run] == Kind.IN_PROCESS.value),
            cut_off=self.here.cut_off[worker].longest_before(since, at) if worker >= 0 else 0.0,
            quiet=at - fleet.last_print(run, at),
            pause=fleet.longest_pause(run),
        )
        return Reap(
            what=classify(verdict.judgement, facts),
            at=at,
            run=run,
            kind=Kind(fleet.kind[run]).words,
            judgement=verdict.judgement,
            silence=sweep.now - since,
            facts=facts,
            last_proof=PROOFS[int(fleet.proof[run])].value,
            answer=verdict.answer.value if verdict.answer else None,
            faults=tuple(self.here.during(since, at, {worker, int(fleet.worker_before[run])} - {-1})),
        )

    # -- the dead

    def _count_well(self, sweep: Sweep) -> None:
        """Count for each dead run how long the system has been well (`Detection`)."""
        fleet, now = self.fleet, sweep.now
        interval = min(sweep.since_last, self.timing.sweep_interval.total_seconds() + LATE)
        dead = self.active[(fleet.dies[self.active] < now) & (fleet.dies[self.active] < fleet.ends[self.active])]
        late = dead[fleet.updated[dead] > np.maximum(fleet.dies[dead], fleet.counted[dead])]
        fleet.well[late] = 0.0
        fleet.counted[dead] = fleet.updated[dead]
        for run in dead.tolist() if not sweep.ruling.limit.is_on else []:
            if self._could_convict(run, sweep):
                since = max(float(fleet.dies[run]), float(fleet.updated[run]), now - interval)
                fleet.well[run] += now - since

    def _could_convict(self, run: int, sweep: Sweep) -> bool:
        """Whether nothing kept this sweep from convicting the run, had it been silent for just longer than the window.

        Not asked of `judge`: a judge that convicts nobody must not pass for a system that is unwell.
        """
        at, window = moment(sweep.now), self.timing.window
        if sweep.watch.age(at) < window:
            return False
        if self.fleet.kind[run] == Kind.IN_PROCESS.value:
            return True
        answer = self.reaper.answer(run, sweep.now, sweep.hosts)
        return answer is Probe.DEAD or (answer is None and sweep.watch.heard_for(at) >= window)

    def _close_the_books(self, now: float) -> None:
        fleet = self.fleet
        self.report.started = self._coming
        self.report.adoptions = self.crew.adoptions
        dead = self.active[(fleet.dies[self.active] < now) & (fleet.dies[self.active] < fleet.ends[self.active])]
        self.report.died += len(dead)
        self.report.missed = [
            f"{Kind(fleet.kind[run]).words} run {run}, dead for {now - fleet.dies[run]:.0f} s"
            for run in dead.tolist()
            if fleet.well[run] > LATEST + PUNCTUALITY
        ]
