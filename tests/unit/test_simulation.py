"""The simulation: it repeats itself, drives the real decisions, and each guard is worth something in it."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reprieve.cli import extras
from reprieve.cli import main as cli_main
from reprieve.cli import simulate as cli_simulate
from reprieve.models import judging, reaping, retrying, watching
from reprieve.models.errors import NotInstalled
from reprieve.models.judging import Judgement, Suspect
from reprieve.models.liveness import ASK_LIMIT
from reprieve.models.reaping import Brake, Verdict
from reprieve.models.retrying import Attempt
from reprieve.models.watching import Watch
from reprieve.simulation import parts
from reprieve.simulation.conditions import Conditions
from reprieve.simulation.faults import CATALOGUE, Fault, schedule, workers_for
from reprieve.simulation.fleet import SHARES, Fleet, Kind
from reprieve.simulation.plan import HOUR, FaultKind, Guard, Plan, parse_faults, parse_guards
from reprieve.simulation.queue import LogQueue
from reprieve.simulation.report import LATEST, PUNCTUALITY, Facts, LiveReap, Report, classify
from reprieve.simulation.spans import Spans
from reprieve.simulation.world import World

#: A day of a small fleet takes two seconds on a slow core.
DAY = Plan(runs=6_000, hours=24)
SHORT = Plan(runs=1_500, hours=3)


def simulate(plan: Plan) -> Report:
    return World(plan).run()


@cache
def day(seed: int) -> Report:
    """What comes of a day of the real rules; never changed."""
    return simulate(replace(DAY, seed=seed))


# -- the whole


def test_the_same_seed_gives_the_same_to_the_letter_and_another_gives_another() -> None:
    first, again = simulate(SHORT), simulate(SHORT)
    assert json.dumps(first.record()) == json.dumps(again.record())
    assert first.series == again.series
    assert simulate(replace(SHORT, seed=2)).series != first.series


def test_without_a_fault_no_live_run_is_reaped_and_each_dead_one_is_found_within_window_and_sweep() -> None:
    report = simulate(Plan(runs=6_000, hours=8, faults=frozenset()))
    assert not report.live
    assert report.started == 6_000
    assert report.found
    assert not report.missed
    assert max(one.from_death for one in report.found) <= LATEST + PUNCTUALITY
    assert report.quantiles(well=False)["p50"] > 240
    assert report.convictions["reap_gone"] > 0
    assert report.convictions["reap_silent"] > 0
    assert not report.sparings


@pytest.mark.parametrize("seed", [2, 4, 11])
def test_with_all_faults_no_live_run_is_reaped_against_the_promise_and_no_dead_one_is_missed(seed: int) -> None:
    report = day(seed)
    assert len(report.faults) > 50
    assert len(report.found) > 50
    assert not report.false_reaps, [reap.sentence() for reap in report.false_reaps]
    assert not report.missed
    assert report.is_good
    assert max(one.well for one in report.found) <= LATEST + PUNCTUALITY


@pytest.mark.parametrize(
    ("guard", "seed"),
    [(Guard.LISTEN, 2), (Guard.ASK, 4), (Guard.ADOPT, 2), (Guard.VOUCH, 4)],
    ids=str,
)
def test_without_a_guard_live_runs_are_reaped_on_a_day_on_which_it_keeps_them_all(guard: Guard, seed: int) -> None:
    assert not day(seed).false_reaps
    assert simulate(replace(DAY, seed=seed).lacking(guard)).false_reaps


def test_without_the_watch_what_database_and_redis_kept_from_being_said_together_convicts() -> None:
    """Where Redis is there, workers vouch for their runs through it: the two guards stand for each other."""
    away = [Fault(kind, THEN, THEN + 890) for kind in (FaultKind.DATABASE_OUTAGE, FaultKind.BROKER_OUTAGE)]
    assert not report_under(*away).live
    assert report_under(*away, without=Guard.WATCH).false_reaps


def test_without_the_brake_more_runs_are_convicted_at_once() -> None:
    braked, free = day(11), simulate(replace(DAY, seed=11).lacking(Guard.BRAKE))
    assert braked.sparings["spare_braked"] > 0
    assert free.sparings["spare_braked"] == 0
    assert free.most_at_once > braked.most_at_once


def test_wrong_clocks_of_workers_change_nothing() -> None:
    plan = replace(SHORT, hours=8)
    skewed, right = simulate(plan), simulate(replace(plan, faults=plan.faults - {FaultKind.CLOCK_SKEW}))
    assert any(fault.kind is FaultKind.CLOCK_SKEW for fault in skewed.faults)
    record = skewed.record()
    assert {name for name, value in right.record().items() if record[name] != value} == {"faults"}


# -- it drives the real decisions


def always(result: Any) -> Callable[..., Any]:
    return lambda *_, **__: result


def test_a_judge_that_reaps_all_has_live_runs_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not day(4).false_reaps
    monkeypatch.setattr(reaping, "judge", always(Judgement.REAP_SILENT))
    assert simulate(replace(DAY, seed=4)).false_reaps


def test_a_judge_that_reaps_none_misses_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaping, "judge", always(Judgement.SPARE_UNKNOWN))
    report = simulate(replace(SHORT, faults=frozenset()))
    assert report.missed
    assert not report.is_good
    assert report.died == len(report.found) + len(report.missed) + report.open


def test_a_watch_that_always_begins_anew_warms_up_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        watching, "next_watch", lambda _, now, timing: Watch(since=now, last_sweep_at=now, window=timing.window)
    )
    report = simulate(replace(SHORT, faults=frozenset()))
    assert set(report.sparings) == {"spare_warming_up"}
    assert not report.convictions.keys() - {"reap_timed_out"}


def test_a_reaper_that_never_hears_its_canary_convicts_nobody_for_silence_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reaping, "listen", lambda watch, *_: replace(watch, hearing_since=None))
    report = simulate(replace(SHORT, faults=frozenset()))
    assert report.sparings["spare_lagging"] > 0
    assert report.convictions["reap_silent"] == 0
    assert report.convictions["reap_gone"] > 0


def test_a_reaper_that_asks_nobody_finds_nothing_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "should_ask", always(False))
    report = simulate(replace(SHORT, faults=frozenset()))
    assert report.convictions["reap_gone"] == 0
    assert report.convictions["reap_silent"] > 0


def test_a_brake_that_holds_all_misses_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    def hold_all(verdicts: list[Verdict], _: Brake) -> list[Verdict]:
        return [replace(one, judgement=Judgement.SPARE_BRAKED) for one in verdicts]

    monkeypatch.setattr(reaping, "brake", hold_all)
    report = simulate(replace(SHORT, faults=frozenset()))
    assert set(report.sparings) == {"spare_braked"}
    assert report.missed


def test_where_nothing_may_be_orphaned_less_is_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(SHORT, faults=frozenset({FaultKind.WORKER_CRASH}), seed=3)
    usual = simulate(plan)
    assert usual.adoptions > 0
    assert not usual.live
    monkeypatch.setattr(watching, "may_orphan", always(False))
    assert simulate(plan).false_reaps


def test_what_may_not_be_retried_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(SHORT, faults=frozenset({FaultKind.WORKER_CRASH}), seed=3)
    assert simulate(plan).retried > 0
    monkeypatch.setattr(retrying, "may_retry", always(False))
    assert simulate(plan).retried == 0


def test_a_retry_waits_for_as_long_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Attempt] = []
    real = retrying.retry_delay
    monkeypatch.setattr(retrying, "retry_delay", lambda lost, timing: asked.append(lost) or real(lost, timing))
    report = simulate(replace(SHORT, faults=frozenset({FaultKind.WORKER_CRASH}), seed=3))
    assert len(asked) == report.retried


def test_no_sweep_is_made_that_is_not_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "is_due", always(False))
    assert not simulate(SHORT).series.at


def test_suspects_are_judged_as_their_rows_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[str] = Counter()
    real = reaping.judge

    def judge(suspect: Suspect, *rest: Any) -> Judgement:
        seen[suspect.adapter] += 1
        assert suspect.out_of_process_liveness is (suspect.adapter != "in-process")
        assert suspect.updated_at >= suspect.started_at
        assert 1 <= suspect.attempt <= suspect.max_attempts
        return real(suspect, *rest)

    monkeypatch.setattr(reaping, "judge", judge)
    simulate(replace(DAY, hours=8))
    assert set(seen) == {kind.words for kind in Kind}


# -- what no promise covers, and what the rules do not keep


def facts(**changes: Any) -> Facts:
    return replace(Facts(in_process=True, cut_off=0.0, quiet=0.0), **changes)


@pytest.mark.parametrize(
    ("judgement", "what", "expected"),
    [
        (Judgement.REAP_PROCESS_LOST, facts(cut_off=217.1), LiveReap.CUT_OFF),
        (Judgement.REAP_PROCESS_LOST, facts(cut_off=217.0), LiveReap.FALSE),
        (Judgement.REAP_SILENT, facts(in_process=False, quiet=300.0, pause=117.1), LiveReap.PAUSED),
        (Judgement.REAP_SILENT, facts(in_process=False, quiet=300.0, pause=117.0), LiveReap.SPOKE),
        (Judgement.REAP_GONE, facts(in_process=False, quiet=300.0, pause=200.0), LiveReap.FALSE),
        (Judgement.REAP_UNANSWERED, facts(in_process=False, quiet=2000.0), LiveReap.DOUBT),
        (Judgement.REAP_SILENT, facts(in_process=False, quiet=300.0), LiveReap.SPOKE),
        (Judgement.REAP_SILENT, facts(in_process=False, quiet=300.1), LiveReap.FALSE),
        (Judgement.REAP_GONE, facts(in_process=False, quiet=0.0), LiveReap.FALSE),
    ],
)
def test_the_reap_of_a_live_run_is_told_by_what_was_so_of_it(
    judgement: Judgement, what: Facts, expected: LiveReap
) -> None:
    assert classify(judgement, what) is expected


def test_only_what_no_promise_covers_is_not_false() -> None:
    uncovered = {LiveReap.CUT_OFF, LiveReap.PAUSED, LiveReap.DOUBT}
    assert {what for what in LiveReap if not what.is_false} == uncovered


def report_under(*faults: Fault, without: Guard | None = None) -> Report:
    """What comes of a fleet under these faults, with all else well; none of its dead ones is missed."""
    plan = Plan(runs=3_000, hours=3)
    report = World(plan.lacking(without) if without else plan, faults=list(faults)).run()
    assert report.found
    assert not report.missed
    return report


def under(*faults: Fault) -> Counter[LiveReap]:
    """What live runs are reaped of it."""
    return Counter(reap.what for reap in report_under(*faults).live)


#: Well after the fleet has grown, and 7 s after a sweep.
THEN = 1.5 * HOUR + 7.0


@pytest.mark.parametrize(
    ("kind", "seconds", "place"),
    [
        (FaultKind.WORKER_CRASH, 600, 3),
        (FaultKind.ROLLING_DEPLOY, 12 * 60 + 620, None),
        (FaultKind.BROKER_OUTAGE, 900, None),
        (FaultKind.DATABASE_OUTAGE, 170, None),
        (FaultKind.DATABASE_OUTAGE, 900, None),
        (FaultKind.PARTITION, 200, 1),
        (FaultKind.CLOCK_SKEW, 3600, 2),
        (FaultKind.MESSAGES_LOST, 1800, None),
        (FaultKind.BEAT_STOPPED, 1800, None),
        (FaultKind.CONTROL_RESTART, 60, None),
        (FaultKind.REDIS_FLUSH, 0, None),
        (FaultKind.PLATFORM_OUTAGE, 1500, None),
        (FaultKind.PROBE_HANGS, 1500, None),
        (FaultKind.WORKER_STOPPED, 200, 4),
        (FaultKind.KEEPALIVE_STARVED, 200, 5),
        (FaultKind.DATABASE_CUT, 200, 6),
        (FaultKind.DATABASE_CUT, 4000, 6),
    ],
)
def test_one_fault_alone_has_no_live_run_reaped(kind: FaultKind, seconds: float, place: int | None) -> None:
    assert not under(Fault(kind, THEN, THEN + seconds, place, size=0.5))


def test_a_worker_that_is_cut_off_for_longer_than_the_window_counts_as_lost_with_its_runs() -> None:
    assert under(Fault(FaultKind.PARTITION, THEN, THEN + 600, place=1))[LiveReap.CUT_OFF] > 0


def test_a_platform_that_is_away_for_longer_than_doubt_lasts_loses_its_live_runs() -> None:
    reaped = under(Fault(FaultKind.PLATFORM_OUTAGE, THEN, THEN + 2400))
    assert set(reaped) == {LiveReap.DOUBT}


@pytest.mark.parametrize(("seconds", "reaped"), [(215, set()), (298, {LiveReap.CUT_OFF})])
def test_a_worker_may_be_cut_off_for_as_long_as_is_promised(seconds: float, reaped: set[LiveReap]) -> None:
    """Not for a whole window: the row may be a refresh and a keepalive old already when that begins."""
    assert set(under(Fault(FaultKind.WORKER_STOPPED, THEN, THEN + seconds, place=3))) == reaped


@pytest.mark.row("A24")
def test_a_worker_that_is_cut_off_from_the_database_alone_keeps_its_runs_since_it_vouches_for_them() -> None:
    cut = Fault(FaultKind.DATABASE_CUT, THEN, THEN + 1800, place=3)
    vouching, mute = report_under(cut), report_under(cut, without=Guard.VOUCH)
    assert vouching.sparings["spare_vouched"] > 0
    assert not vouching.live
    assert mute.of(LiveReap.FALSE)


@pytest.mark.row("A24")
@pytest.mark.parametrize(("seconds", "reaped"), [(215, set()), (700, {LiveReap.CUT_OFF})])
def test_then_it_may_be_cut_off_from_redis_too_for_as_long_as_is_promised(
    seconds: float, reaped: set[LiveReap]
) -> None:
    cut = Fault(FaultKind.DATABASE_CUT, THEN, THEN + 600 + seconds, place=3)
    assert set(under(cut, Fault(FaultKind.WORKER_STOPPED, THEN + 600, THEN + 600 + seconds, place=3))) == reaped


@pytest.mark.row("A24")
def test_what_dies_with_a_worker_that_vouched_for_it_is_found_within_window_and_sweep() -> None:
    cut = Fault(FaultKind.DATABASE_CUT, THEN, THEN + 2400, place=3)
    crash = Fault(FaultKind.WORKER_CRASH, THEN + 1210, THEN + 2400, place=3)
    report = report_under(cut, crash)
    assert not report.live
    assert report.convictions["reap_process_lost"] > 0
    assert max(one.from_death for one in report.found) <= LATEST + PUNCTUALITY + ASK_LIMIT.total_seconds()


@pytest.mark.row("A18")
def test_what_ended_while_everybody_was_away_is_read_and_not_convicted() -> None:
    """All workers die in an outage twice as long as doubt may last; they are back some time after the database is."""
    outage = Fault(FaultKind.DATABASE_OUTAGE, THEN, THEN + 3600)
    crashes = [Fault(FaultKind.WORKER_CRASH, THEN + 60, THEN + 3600 + 700, place) for place in range(12)]
    kept, lost = report_under(outage, *crashes), report_under(outage, *crashes, without=Guard.DOUBT)
    assert not {reap.kind for reap in kept.live} & {"platform", "host-bound"}
    assert kept.convictions["reap_unanswered"] == 0
    assert lost.convictions["reap_unanswered"] > 0
    assert lost.ended_unread > kept.ended_unread


def test_what_waits_to_be_created_on_a_platform_that_is_away_is_not_taken_for_gone() -> None:
    """It is back just before a sweep, which asks about what its workers have not tried again to create yet."""
    outage = Fault(FaultKind.PLATFORM_OUTAGE, THEN, THEN + 1190)
    assert not report_under(outage).live
    gone = report_under(outage, without=Guard.CREATE).false_reaps
    assert {(one.kind, one.judgement) for one in gone} == {("platform", Judgement.REAP_GONE)}


def test_an_outage_of_the_database_for_which_one_sweep_is_missing_does_not_add_to_a_stopped_worker() -> None:
    """With a gap of three minutes that counted as none, live runs were reaped for the two together."""
    outage = Fault(FaultKind.DATABASE_OUTAGE, THEN - 4, THEN + 112)
    stopped = Fault(FaultKind.WORKER_STOPPED, THEN + 110, THEN + 297, place=3)
    assert not under(outage)
    assert not under(stopped)
    assert not under(outage, stopped)


def test_remote_work_that_pauses_for_longer_than_is_promised_is_reaped_when_its_next_output_lags_as_tolerated() -> None:
    """A refresh, a pause and the tolerated lag are more than a window together."""
    assert set(under(Fault(FaultKind.LOG_WORKERS_STUCK, THEN, THEN + 1800))) == {LiveReap.PAUSED}


# -- what it is made of


def test_spans_merge_and_hold_their_start_but_not_their_end() -> None:
    spans = Spans([(5.0, 7.0), (1.0, 3.0), (2.0, 4.0), (9.0, 9.0)])
    assert list(spans) == [(1.0, 4.0), (5.0, 7.0)]
    assert spans.hold(np.array([0.9, 1.0, 3.9, 4.0, 5.0, 7.0])).tolist() == [False, True, True, False, True, False]
    assert spans.release(np.array([0.0, 2.0, 4.5, 6.0])).tolist() == [0.0, 4.0, 4.5, 7.0]
    assert (spans.end_of(2.0), spans.end_of(4.0)) == (4.0, None)
    assert spans.longest_before(3.5, 6.8) == pytest.approx(1.8)
    assert not Spans().holds(0.0)


def queue(*faults: Fault) -> LogQueue:
    return LogQueue(faults, Spans(), Spans(), 7200.0)


def test_output_is_stored_in_a_moment_and_in_a_backlog_as_late_as_that_is() -> None:
    times = np.array([100.0, 1400.0, 4000.0])
    assert (queue().stored_at(times) - times).tolist() == [0.5, 0.5, 0.5]
    lagging = queue(Fault(FaultKind.BACKLOG, 1000.0, 2000.0))
    assert (lagging.stored_at(times) - times).tolist() == pytest.approx([0.5, 1000 / 3 + 0.5, 0.5])
    assert lagging.earliest_sent(lagging.stored_at(times)).tolist() == pytest.approx(times, abs=1.0)


def test_what_is_on_its_way_when_redis_is_flushed_is_lost_and_the_backlog_with_it() -> None:
    flushed = queue(Fault(FaultKind.BACKLOG, 1000.0, 2000.0), Fault(FaultKind.REDIS_FLUSH, 1400.0, 1400.0))
    assert np.isinf(flushed.stored_at(np.array([1350.0]))).all()
    assert flushed.stored_at(np.array([1401.0, 900.0])).tolist() == [1401.5, 900.5]
    since, until = flushed.lost_at(1400.0)
    assert 1000 < since < 1350 < until == 1400.0


def test_a_fault_that_is_left_out_moves_no_other() -> None:
    all_of_them = schedule(DAY, 12)
    others = schedule(replace(DAY, faults=DAY.faults - {FaultKind.PARTITION}), 12)
    assert [fault for fault in all_of_them if fault.kind is not FaultKind.PARTITION] == others
    assert {fault.kind for seed in range(8) for fault in schedule(replace(DAY, seed=seed), 12)} == set(CATALOGUE)


def test_workers_come_in_whole_hosts_and_zones() -> None:
    assert [workers_for(running) for running in (0, 601, 1e9)] == [12, 18, 60]


def test_a_worker_is_silent_while_it_is_cut_off_and_speaks_soon_after() -> None:
    cut = Fault(FaultKind.WORKER_STOPPED, 1000.0, 1130.0, place=3)
    beats = Conditions(Plan(runs=1, hours=1), 12, [cut]).beats
    made = np.sort(beats[:, 3][np.isfinite(beats[:, 3])])
    assert not ((made >= 1000.0) & (made < 1130.0)).any()
    assert 1130.0 < made[made >= 1130.0][0] <= 1151.0
    assert np.diff(made).max() < 1130 - 1000 + 25
    other = beats[:, 2][:-1]
    assert np.diff(other).max() == pytest.approx(20.0)


def test_runs_are_of_all_kinds_and_only_out_of_process_ones_vanish_by_themselves() -> None:
    fleet = Fleet(Plan(runs=20_000))
    assert {Kind(kind) for kind in np.unique(fleet.kind)} == set(SHARES)
    vanishing = np.isfinite(fleet.lives_for)
    assert vanishing.any()
    assert not vanishing[fleet.kind == Kind.IN_PROCESS].any()


def test_a_run_prints_in_its_bursts_and_not_in_between() -> None:
    fleet = Fleet(Plan(runs=1))
    fleet.started[0], fleet.burst[0], fleet.period[0] = 1000.0, 30.0, 300.0
    at = np.zeros(3, dtype=np.int64)
    assert fleet.next_print(at, np.array([1010.0, 1030.0, 1299.0])).tolist() == [1010.0, 1300.0, 1300.0]
    assert [fleet.last_print(0, time) for time in (1010.0, 1200.0)] == [1010.0, 1030.0]


# -- a fleet that is split

SPLIT = Plan(runs=6_000, hours=8, parts=4)

#: What happens to one part alone, and for how long (seconds).
OF_ONE_PART = {
    "its database is down": Fault(FaultKind.DATABASE_OUTAGE, 7200, 8400),
    "its log pipeline lags": Fault(FaultKind.LOG_WORKERS_STUCK, 7200, 8400),
    "its reaper is down": Fault(FaultKind.BEAT_STOPPED, 7200, 9000),
    "its broker is down": Fault(FaultKind.BROKER_OUTAGE, 7200, 8000),
    "clocks of its workers are wrong": Fault(FaultKind.CLOCK_SKEW, 7200, 12_000, 3, 1.0),
}


def test_a_fleet_of_one_part_is_the_fleet_that_is_not_split() -> None:
    (alone,) = parts.simulate(SHORT).parts
    assert json.dumps(alone.record()) == json.dumps(simulate(SHORT).record())


def test_all_runs_fall_to_some_part_and_no_two_parts_are_alike() -> None:
    plans = parts.plans(replace(SPLIT, runs=100_000, parts=16))
    assert sum(plan.runs for plan in plans) == 100_000
    assert all(5_500 < plan.runs < 7_000 for plan in plans)
    seeds = [plan.seed for seed in (1, 2) for plan in parts.plans(replace(SPLIT, seed=seed, parts=16))]
    assert len(set(seeds)) == 32
    assert [plan.runs for plan in parts.plans(replace(SPLIT, runs=4))] == [1, 1, 1, 1]


def test_what_happens_to_a_zone_or_a_platform_happens_to_all_parts_at_once_and_the_rest_to_each_alone() -> None:
    report = parts.simulate(replace(SPLIT, hours=24))
    together = [{fault for fault in part.faults if fault.kind in parts.SHARED} for part in report.parts]
    alone = [{fault for fault in part.faults if fault.kind not in parts.SHARED} for part in report.parts]
    assert together[0]
    assert all(one == together[0] for one in together)
    assert all(alone)
    assert not set.intersection(*alone)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_part_reaps_a_live_run_against_the_promise_or_misses_a_dead_one(seed: int) -> None:
    report = parts.simulate(replace(SPLIT, seed=seed))
    assert report.is_good
    assert sum(len(part.found) for part in report.parts) > 50
    assert max(part.quantiles(well=True)["max"] for part in report.parts) <= LATEST + PUNCTUALITY


@pytest.mark.parametrize("what", OF_ONE_PART)
def test_what_happens_to_one_part_alone_changes_nothing_in_the_others_and_breaks_no_promise_in_it(what: str) -> None:
    fault = OF_ONE_PART[what]
    quiet = parts.plans(replace(SPLIT, faults=frozenset()))
    before = [World(plan).run() for plan in quiet]
    after = [World(plan, faults=[fault] if number == 1 else []).run() for number, plan in enumerate(quiet)]
    assert all(report.is_good for report in after)
    for number, (one, other) in enumerate(zip(before, after, strict=True)):
        if number != 1:
            assert other.record() == one.record()
            assert other.quantiles(well=False)["max"] <= LATEST + PUNCTUALITY, (
                "found in time, whatever the other suffers"
            )


def test_each_part_has_a_watch_and_a_brake_of_its_own() -> None:
    """The reaper of one part is away, and begins anew; the others judge on."""
    quiet = parts.plans(replace(SPLIT, faults=frozenset()))
    reports = [
        World(plan, faults=[OF_ONE_PART["its reaper is down"]] if number == 2 else []).run()
        for number, plan in enumerate(quiet)
    ]
    warming = [report.sparings["spare_warming_up"] for report in reports]
    assert warming[2] > 0
    assert warming[0] == warming[1] == warming[3] == 0


# -- the command


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--runs", "0"], "--runs 0 cannot be simulated; use 1 to 2000000."),
        (["--hours", "0"], "--hours 0 cannot be simulated"),
        (["--seed", "-1"], "--seed -1 is negative"),
        (["--parts", "65"], "--parts 65 cannot be simulated; use 1 to 64."),
        (["--parts", "4", "--runs", "3"], "--runs 3 of 4 parts cannot be simulated; use 4 to 8000000."),
        (["--parts", "4", "--without", "all"], "--parts tells of each part; use --without and --picture for a fleet"),
        (["--seeds", "0"], "--seeds 0 cannot be simulated; use 1 to 100."),
        (["--faults", "fire"], "--faults does not know 'fire'; use `all` or `none`, or some of worker-crash,"),
        (["--faults", ","], "--faults names nothing"),
        (
            ["--without", "luck"],
            "--without does not know 'luck'; use `all`, or some of watch, listen, ask, brake, adopt, doubt, vouch, "
            "create.",
        ),
        (
            ["--picture", "fleet.jpg"],
            "--picture fleet.jpg cannot be written; name a .png file in a folder that is there.",
        ),
        (["--picture", "nowhere/fleet.png"], "--picture nowhere/fleet.png cannot be written"),
    ],
)
def test_a_wrong_argument_is_told_in_a_sentence(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, *arguments) == 2
    assert sentence in capsys.readouterr().err


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["reprieve", "simulate", *arguments])
    with pytest.raises(SystemExit) as exit_status:
        cli_main.main()
    return exit_status.value.code


@pytest.mark.parametrize("missing", ["numpy", "matplotlib"])
def test_what_is_not_installed_is_named_with_what_brings_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(module: str) -> ModuleSpec | None:
        return None if module == missing else ModuleSpec(module, None)

    monkeypatch.setattr(extras, "find_spec", find)
    with pytest.raises(NotInstalled, match=rf"needs {missing}.*pip install 'reprieve\[simulation\]'"):
        cli_simulate.run_simulate(SHORT, seeds=1, picture=Path("fleet.png"))


def test_the_command_tells_figures_and_verdict_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "fleet.png"
    arguments = ("--runs", "1500", "--hours", "3", "--seeds", "2", "--without", "brake", "--picture", str(picture))
    assert command(monkeypatch, *arguments) == 0
    told = capsys.readouterr().out
    assert "seed 1" in told
    assert "seed 2" in told
    assert "GUARD OFF" in told
    assert "No live run was reaped against the promise." in told
    assert "No dead run was missed." in told
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 150_000


def test_the_command_exits_with_1_where_the_promise_was_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reaping, "judge", always(Judgement.REAP_SILENT))
    assert command(monkeypatch, "--runs", "1500", "--hours", "24", "--seed", "4") == 1
    told = capsys.readouterr().out
    assert "live runs were reaped against the promise." in told
    assert "reap_silent after" in told


def test_a_program_gets_the_records_of_all_seeds_and_variants(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "--runs", "1500", "--hours", "3", "--without", "ask,watch", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["good"] is True
    (seed,) = record["seeds"]
    assert list(seed["guards_off"]) == ["watch", "ask"]
    assert seed["guards_off"]["ask"]["without"] == ["ask"]
    assert seed["started"] == 1500


def test_the_command_tells_of_each_part(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--runs", "1500", "--hours", "3", "--parts", "3")
    assert command(monkeypatch, *arguments) == 0
    told = capsys.readouterr().out
    assert "WHILE WELL" in told
    assert "No live run was reaped against the promise." in told
    assert command(monkeypatch, *arguments, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record["good"] is True
    (seed,) = record["seeds"]
    assert sum(part["started"] for part in seed["parts"]) == 1500


def test_ctrl_c_ends_it_with_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> Report:
        raise KeyboardInterrupt

    monkeypatch.setattr(World, "run", interrupt)
    assert command(monkeypatch, "--runs", "10", "--hours", "1") == 130
    assert "the simulation was stopped" in capsys.readouterr().err


def test_faults_and_guards_are_chosen_by_name() -> None:
    assert parse_faults("none") == frozenset()
    assert parse_faults("all") == frozenset(FaultKind)
    assert parse_faults("partition, beat-stopped") == {FaultKind.PARTITION, FaultKind.BEAT_STOPPED}
    assert parse_guards("brake,watch") == (Guard.WATCH, Guard.BRAKE)
    assert parse_guards("all") == tuple(Guard)
