"""What came of a simulation: the live runs that were reaped and why, the dead ones and when they were found."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from reprieve.models.judging import Judgement
from reprieve.models.liveness import SWEEP_INTERVAL, WINDOW, Timing
from reprieve.simulation.faults import Fault, clock
from reprieve.simulation.plan import Plan

#: Seconds: an in-process run whose worker could not vouch for it for longer may be taken for a lost one; so may work
#: that only its output speaks for and that pauses for longer (`models.judging`).
PROMISED_CUT_OFF = Timing().longest_cut_off.total_seconds()
PROMISED_PAUSE = Timing().longest_pause.total_seconds()
#: A dead run that the system could have convicted for longer than this, and did not, is missed.
LATEST = (WINDOW + SWEEP_INTERVAL).total_seconds()
#: Seconds by which a sweep's message may come after its time: the rounding of `LATEST`.
PUNCTUALITY = 5.0
#: Reaps of each kind that are described in words.
TOLD = 5


class LiveReap(StrEnum):
    """Why a run was reaped whose work was alive."""

    FALSE = "falsely, in another way"
    """Against the promise, and none of what follows."""
    SPOKE = "falsely: it had printed within the window"
    """Against the promise. Out-of-process work that nobody can be asked about: what it printed was read by nobody."""
    CUT_OFF = "with a worker that was cut off for longer than is promised"
    """In-process, and its worker could not vouch for it for so long: it looks like a lost one."""
    PAUSED = "since it paused for longer than is promised, and nothing else spoke for it"
    """Out-of-process, without heartbeats and a platform to ask, and output lagged as is tolerated."""
    DOUBT = "since doubt ran out"
    """Nobody could say for longer than doubt is allowed to last whether it lives."""

    @property
    def is_false(self) -> bool:
        """Whether it was against the promise of `models.judging`."""
        return self not in (LiveReap.CUT_OFF, LiveReap.PAUSED, LiveReap.DOUBT)


@dataclass(frozen=True, slots=True)
class Facts:
    """The true state of a live run when it was reaped, which the reaper cannot know. Seconds.

    `cut_off`: for how long, in one piece, its worker had been unable to vouch for it. `quiet`: since its last output.
    `pause`: how long it pauses at the longest, where nothing but its output speaks for it; else 0.
    """

    in_process: bool
    cut_off: float
    quiet: float
    pause: float = 0.0


def classify(judgement: Judgement, facts: Facts) -> LiveReap:
    """Which kind of reap of a live run it was."""
    if facts.in_process and facts.cut_off > PROMISED_CUT_OFF:
        return LiveReap.CUT_OFF
    if judgement is Judgement.REAP_UNANSWERED:
        return LiveReap.DOUBT
    if judgement is Judgement.REAP_SILENT and facts.pause > PROMISED_PAUSE:
        return LiveReap.PAUSED
    spoke = judgement is Judgement.REAP_SILENT and facts.quiet <= WINDOW.total_seconds()
    return LiveReap.SPOKE if spoke else LiveReap.FALSE


@dataclass(frozen=True, slots=True)
class Reap:
    """The reap of a run whose work was alive. `silence` in seconds."""

    what: LiveReap
    at: float
    run: int
    kind: str
    judgement: Judgement
    silence: float
    facts: Facts
    last_proof: str
    answer: str | None
    faults: tuple[Fault, ...]

    def sentence(self) -> str:
        """The reap in words."""
        faults = "; ".join(map(str, self.faults)) or "no fault"
        asked = f", its platform said {self.answer}" if self.answer else ""
        cut = f", its worker had been cut off for {self.facts.cut_off:.0f} s" if self.facts.cut_off else ""
        if not self.facts.in_process:
            cut += f", its last output was printed {self.facts.quiet:.0f} s before"
        return (
            f"{clock(self.at)}: {self.kind} run {self.run}, {self.judgement.value} after {self.silence:.0f} s of "
            f"silence (last proof: {self.last_proof}){asked}{cut}. Since then: {faults}."
        )

    def record(self) -> dict[str, Any]:
        return {
            "what": self.what.name.lower(),
            "at_seconds": round(self.at, 3),
            "run": self.run,
            "kind": self.kind,
            "judgement": self.judgement.value,
            "silent_seconds": round(self.silence, 3),
            "cut_off_seconds": round(self.facts.cut_off, 3),
            "quiet_seconds": round(self.facts.quiet, 3),
            "last_proof": self.last_proof,
            "probe": self.answer,
            "faults": [str(fault) for fault in self.faults],
        }


@dataclass(frozen=True, slots=True)
class Detection:
    """When a dead run was found, in seconds.

    `from_death` counts from its death. `well` counts of that only the time in which the system itself was well: the
    sweep intervals, since its death and since the last proof of life of it that arrived late, at whose end a sweep
    took place that could have convicted the run, had it been silent for long enough. That leaves out the time in which
    sweeps were missing (blind), the watch was younger than a window (warming up), the pipeline had not been heard for
    a window where only silence speaks (lagging), the platform could not say (unknown), and the brake was on.
    """

    from_death: float
    well: float


@dataclass(slots=True)
class Series:
    """By sweep, for the picture and the histogram."""

    at: list[float] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    suspects: list[int] = field(default_factory=list)
    reaps: list[int] = field(default_factory=list)

    def add(self, at: float, running: int, suspects: int, reaps: int) -> None:
        self.at.append(at)
        self.running.append(running)
        self.suspects.append(suspects)
        self.reaps.append(reaps)


@dataclass(slots=True)
class Report:
    """What came of one simulation."""

    plan: Plan
    workers: int
    faults: list[Fault]
    started: int = 0
    retried: int = 0
    ended: int = 0
    drained: int = 0
    adoptions: int = 0
    died: int = 0
    ended_unread: int = 0
    timed_out: int = 0
    live: list[Reap] = field(default_factory=list)
    found: list[Detection] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    convictions: Counter[str] = field(default_factory=Counter)
    sparings: Counter[str] = field(default_factory=Counter)
    series: Series = field(default_factory=Series)

    def of(self, what: LiveReap) -> list[Reap]:
        return [reap for reap in self.live if reap.what is what]

    @property
    def false_reaps(self) -> list[Reap]:
        """Live runs that were reaped against the promise."""
        return [reap for reap in self.live if reap.what.is_false]

    @property
    def open(self) -> int:
        """Dead runs that were not found by the end, and are not missed: the system was not well for long enough."""
        return self.died - len(self.found) - len(self.missed)

    @property
    def most_at_once(self) -> int:
        """The most convictions for silence that one sweep carried out."""
        return max(self.series.reaps, default=0)

    @property
    def is_good(self) -> bool:
        """Whether no live run was reaped against the promise, and no dead one missed."""
        return not self.false_reaps and not self.missed

    def quantiles(self, *, well: bool) -> dict[str, float]:
        """The 50th and 99th percentile and the maximum of the detection times, in seconds; nothing where none was."""
        if not self.found:
            return {}
        times = np.array([one.well if well else one.from_death for one in self.found])
        values = {"p50": np.percentile(times, 50), "p99": np.percentile(times, 99), "max": times.max()}
        return {name: round(float(value), 1) for name, value in values.items()}

    def histogram(self) -> dict[str, int]:
        """How many sweeps convicted how many for silence."""
        edges = {
            "0": (0, 1),
            "1": (1, 2),
            "2-5": (2, 6),
            "6-20": (6, 21),
            "21-100": (21, 101),
            "over 100": (101, 1 << 60),
        }
        return {name: sum(low <= one < high for one in self.series.reaps) for name, (low, high) in edges.items()}

    def record(self) -> dict[str, Any]:
        """The report as data, without the series; the same plan gives the same."""
        return {
            "seed": self.plan.seed,
            "runs": self.plan.runs,
            "hours": self.plan.hours,
            "without": sorted(self.plan.without),
            "workers": self.workers,
            "faults": dict(sorted(Counter(fault.kind.value for fault in self.faults).items())),
            "started": self.started,
            "retried": self.retried,
            "ended": self.ended,
            "drained": self.drained,
            "ended_unread": self.ended_unread,
            "timed_out_by_the_reaper": self.timed_out,
            "live_runs_reaped": {what.name.lower(): len(self.of(what)) for what in LiveReap},
            "told": [reap.record() for what in LiveReap for reap in self.of(what)[:TOLD]],
            "died": self.died,
            "found": len(self.found),
            "missed": self.missed,
            "open_at_the_end": self.open,
            "detection_seconds": {"from_death": self.quantiles(well=False), "system_well": self.quantiles(well=True)},
            "most_convictions_at_once": self.most_at_once,
            "convictions_per_sweep": self.histogram(),
            "convictions": dict(sorted(self.convictions.items())),
            "sparings": dict(sorted(self.sparings.items())),
            "adoptions": self.adoptions,
        }
