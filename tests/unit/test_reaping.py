"""The reaper's decisions, on both sides of every threshold."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from reprieve.models.judging import Judgement, Suspect, judge, should_ask
from reprieve.models.liveness import Timing
from reprieve.models.reaping import BRAKE_LEAST, Brake, Findings, Ruling, Verdict, brake, decide
from reprieve.models.retrying import may_retry, retry_delay
from reprieve.models.status import ErrorCode, EventKind, Probe, Status
from reprieve.models.watching import Watch, hears_reports, is_due, listen, may_orphan, next_watch
from reprieve.models.work import End

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
TIMING = Timing()
A_MOMENT = timedelta(microseconds=1)
OUT_OF_PROCESS, IN_PROCESS = True, False


def watch(
    *,
    last_sweep: timedelta = timedelta(0),
    age: timedelta = timedelta(hours=1),
    heard_for: timedelta | None = timedelta(hours=1),
    lag: timedelta | None = timedelta(seconds=2),
    timing: Timing = TIMING,
) -> Watch:
    return Watch(
        since=NOW - age,
        last_sweep_at=NOW - last_sweep,
        window=timing.window,
        hearing_since=None if heard_for is None else NOW - heard_for,
        heard_at=None if lag is None else NOW - lag,
    )


def new_watch() -> Watch:
    return watch(age=timedelta(0), heard_for=None, lag=None)


def suspect(*, silent: timedelta = timedelta(0), running: timedelta = timedelta(hours=2), **changes: Any) -> Suspect:
    usual = Suspect(
        run_id=UUID(int=1),
        epoch=7,
        attempt=1,
        max_attempts=1,
        adapter="detached",
        out_of_process_liveness=OUT_OF_PROCESS,
        started_at=NOW - running,
        max_runtime=None,
        updated_at=NOW - silent,
        last_proof="output",
        last_chunk=4107,
        worker_node="worker@host",
    )
    return replace(usual, **changes)


# -- the watch


def test_the_first_sweep_ever_starts_a_watch() -> None:
    assert next_watch(None, NOW, TIMING) == new_watch()


@pytest.mark.parametrize("gap", [timedelta(0), TIMING.sweep_interval, TIMING.blind_after])
def test_a_sweep_up_to_a_minute_and_a_half_after_the_last_goes_on_with_its_watch(gap: timedelta) -> None:
    assert next_watch(watch(last_sweep=gap), NOW, TIMING) == watch()


def test_a_sweep_more_than_that_after_the_last_starts_a_new_watch() -> None:
    assert next_watch(watch(last_sweep=TIMING.blind_after + A_MOMENT), NOW, TIMING) == new_watch()


def test_a_sweep_that_comes_before_the_last_one_starts_a_new_watch() -> None:
    """The database's clock was set back: what was seen by the old one says nothing."""
    assert next_watch(watch(last_sweep=-A_MOMENT), NOW, TIMING) == new_watch()


def test_a_sweep_after_one_with_another_time_scale_starts_a_new_watch() -> None:
    assert next_watch(watch(timing=Timing.scaled(30)), NOW, TIMING) == new_watch()


@pytest.mark.parametrize(
    ("gap", "due"),
    [
        (-timedelta(hours=1), True),
        (-A_MOMENT, True),
        (timedelta(0), False),
        (TIMING.sweep_interval / 10 - A_MOMENT, False),
        (TIMING.sweep_interval / 10, True),
        (TIMING.sweep_interval, True),
    ],
)
def test_a_sweep_is_due_from_a_tenth_of_the_interval_after_the_last(gap: timedelta, due: bool) -> None:
    assert is_due(watch(last_sweep=gap), NOW, TIMING) is due


def test_the_first_sweep_ever_is_due() -> None:
    assert is_due(None, NOW, TIMING)


# -- listening


@pytest.mark.parametrize("lag", [timedelta(0), TIMING.sweep_interval, TIMING.tolerated_lag])
def test_a_canary_up_to_two_minutes_old_goes_on_with_what_was_heard(lag: timedelta) -> None:
    heard = listen(watch(heard_for=timedelta(hours=1)), NOW - lag, NOW, TIMING)
    assert (heard.heard_for(NOW), heard.lag(NOW)) == (timedelta(hours=1), lag)


def test_a_canary_older_than_two_minutes_means_that_nothing_is_heard() -> None:
    late = TIMING.tolerated_lag + A_MOMENT
    heard = listen(watch(), NOW - late, NOW, TIMING)
    assert (heard.hearing_since, heard.heard_for(NOW), heard.lag(NOW)) == (None, timedelta(0), late)


def test_a_canary_that_is_still_to_be_sent_means_that_nothing_is_heard() -> None:
    heard = listen(watch(), NOW + A_MOMENT, NOW, TIMING)
    assert (heard.hearing_since, heard.heard_for(NOW)) == (None, timedelta(0))


def test_before_the_first_canary_has_come_back_nothing_is_heard() -> None:
    heard = listen(new_watch(), None, NOW, TIMING)
    assert (heard.hearing_since, heard.lag(NOW)) == (None, None)


def test_hearing_begins_anew_with_the_canary_that_came_through() -> None:
    heard = listen(watch(heard_for=None), NOW - timedelta(seconds=7), NOW, TIMING)
    assert heard.heard_for(NOW) == timedelta(seconds=7)


@pytest.mark.parametrize(
    ("age", "orphans"), [(TIMING.worker_gone_after - A_MOMENT, False), (TIMING.worker_gone_after, True)]
)
def test_a_worker_counts_as_gone_only_if_we_have_been_looking_for_as_long(age: timedelta, orphans: bool) -> None:
    assert may_orphan(watch(age=age), NOW, TIMING) is orphans


def taking_reports(*, since: timedelta, last: timedelta) -> Watch:
    return replace(watch(), reports_since=NOW - since, reports_at=NOW - last)


@pytest.mark.parametrize(
    ("heard", "counts"),
    [
        (watch(), True),
        (taking_reports(since=TIMING.window, last=TIMING.tolerated_lag), True),
        (taking_reports(since=TIMING.window - A_MOMENT, last=timedelta(0)), False),
        (taking_reports(since=TIMING.window, last=TIMING.tolerated_lag + A_MOMENT), False),
        (taking_reports(since=TIMING.window, last=-TIMING.tolerated_lag - A_MOMENT), False),
        (replace(watch(), reports_since=NOW), True),
        (replace(watch(), reports_at=NOW), True),
    ],
)
def test_silence_of_work_that_reports_counts_where_reports_were_taken_for_a_window(heard: Watch, counts: bool) -> None:
    assert hears_reports(heard, NOW, TIMING) is counts
    silent = suspect(silent=TIMING.window + A_MOMENT)
    judgement = Judgement.REAP_SILENT if counts else Judgement.SPARE_DEAF
    assert judge(replace(silent, reports=True), heard, None, NOW, TIMING) is judgement
    assert judge(silent, heard, None, NOW, TIMING) is Judgement.REAP_SILENT


# -- who is asked


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({"silent": TIMING.window + A_MOMENT}, True),
        ({"silent": TIMING.window}, False),
        ({"silent": TIMING.window + A_MOMENT, "out_of_process_liveness": IN_PROCESS}, False),
        ({"silent": TIMING.window + A_MOMENT, "max_runtime": timedelta(minutes=1)}, True),
        ({"silent": TIMING.window, "max_runtime": timedelta(minutes=1)}, False),
    ],
)
def test_the_platform_is_asked_about_silent_work_outside_the_worker_whether_or_not_its_time_is_over(
    changes: dict[str, Any], asked: bool
) -> None:
    assert should_ask(suspect(**changes), NOW, TIMING) is asked


# -- the judgement

SILENT = TIMING.window + A_MOMENT


def test_a_run_silent_for_exactly_the_window_is_spared() -> None:
    assert judge(suspect(silent=TIMING.window), watch(), None, NOW, TIMING) is Judgement.SPARE_PROVEN


@pytest.mark.parametrize(
    ("liveness", "judgement"), [(OUT_OF_PROCESS, Judgement.REAP_SILENT), (IN_PROCESS, Judgement.REAP_PROCESS_LOST)]
)
def test_a_run_silent_for_just_over_the_window_is_reaped_for_what_it_lost(liveness: bool, judgement: Judgement) -> None:
    silent = suspect(silent=SILENT, out_of_process_liveness=liveness)
    assert judge(silent, watch(), None, NOW, TIMING) is judgement


@pytest.mark.parametrize(
    ("age", "judgement"),
    [
        (timedelta(0), Judgement.SPARE_WARMING_UP),
        (TIMING.window - A_MOMENT, Judgement.SPARE_WARMING_UP),
        (TIMING.window, Judgement.REAP_SILENT),
    ],
)
def test_silence_convicts_nobody_before_the_watch_is_one_window_old(age: timedelta, judgement: Judgement) -> None:
    assert judge(suspect(silent=timedelta(days=1)), watch(age=age), None, NOW, TIMING) is judgement


@pytest.mark.parametrize(
    ("answer", "judgement"),
    [
        (Probe.DEAD, Judgement.SPARE_WARMING_UP),
        (Probe.UNKNOWN, Judgement.SPARE_UNKNOWN),
        (Probe.ENDED, Judgement.SPARE_ENDED),
        (Probe.ALIVE, Judgement.SPARE_ALIVE),
    ],
)
@pytest.mark.parametrize("age", [timedelta(0), TIMING.window - A_MOMENT])
def test_nor_does_any_word_of_a_platform_convict_before_that(
    answer: Probe, judgement: Judgement, age: timedelta
) -> None:
    """What it says is heard all the same: a follower is sent to what has ended, and doubt is counted."""
    asked_before_we_were_away = suspect(silent=timedelta(days=1), unknown_at=NOW - timedelta(hours=9))
    assert judge(asked_before_we_were_away, watch(age=age), answer, NOW, TIMING) is judgement


def test_a_young_watch_does_not_make_a_live_run_look_silent() -> None:
    assert judge(suspect(), watch(age=timedelta(0)), None, NOW, TIMING) is Judgement.SPARE_PROVEN


@pytest.mark.parametrize(
    ("heard_for", "judgement"),
    [
        (None, Judgement.SPARE_LAGGING),
        (TIMING.window - A_MOMENT, Judgement.SPARE_LAGGING),
        (TIMING.window, Judgement.REAP_SILENT),
    ],
)
def test_silence_convicts_only_what_was_listened_to_for_a_whole_window(
    heard_for: timedelta | None, judgement: Judgement
) -> None:
    assert judge(suspect(silent=SILENT), watch(heard_for=heard_for), None, NOW, TIMING) is judgement


def test_in_process_work_does_not_speak_through_the_log_pipeline_and_is_not_spared_for_its_lag() -> None:
    lost = suspect(silent=SILENT, out_of_process_liveness=IN_PROCESS)
    assert judge(lost, watch(heard_for=None), None, NOW, TIMING) is Judgement.REAP_PROCESS_LOST


@pytest.mark.parametrize("heard_for", [None, timedelta(hours=1)])
@pytest.mark.parametrize(
    ("answer", "judgement"),
    [
        (Probe.ALIVE, Judgement.SPARE_ALIVE),
        (Probe.ENDED, Judgement.SPARE_ENDED),
        (Probe.UNKNOWN, Judgement.SPARE_UNKNOWN),
        (Probe.DEAD, Judgement.REAP_GONE),
    ],
)
def test_the_platforms_word_decides_whether_or_not_the_log_pipeline_lags(
    answer: Probe, judgement: Judgement, heard_for: timedelta | None
) -> None:
    assert judge(suspect(silent=SILENT), watch(heard_for=heard_for), answer, NOW, TIMING) is judgement


@pytest.mark.row("A18")
@pytest.mark.parametrize(
    ("asked_in_vain", "judgement"),
    [
        (None, Judgement.SPARE_UNKNOWN),
        (TIMING.doubt_limit, Judgement.SPARE_UNKNOWN),
        (TIMING.doubt_limit + A_MOMENT, Judgement.REAP_UNANSWERED),
    ],
)
def test_doubt_spares_for_thirty_minutes_from_the_first_question_in_vain_however_long_the_silence(
    asked_in_vain: timedelta | None, judgement: Judgement
) -> None:
    assert TIMING.doubt_limit == timedelta(minutes=30)
    since = None if asked_in_vain is None else NOW - asked_in_vain
    silent = suspect(silent=timedelta(days=1), unknown_at=since)
    assert judge(silent, watch(), Probe.UNKNOWN, NOW, TIMING) is judgement


@pytest.mark.row("A18")
@pytest.mark.parametrize(
    ("age", "judgement"),
    [
        (TIMING.doubt_limit, Judgement.SPARE_UNKNOWN),
        (TIMING.doubt_limit + A_MOMENT, Judgement.REAP_UNANSWERED),
    ],
)
def test_a_gap_in_our_own_watching_begins_doubt_anew(age: timedelta, judgement: Judgement) -> None:
    silent = suspect(silent=timedelta(days=1), unknown_at=NOW - timedelta(hours=9))
    assert judge(silent, watch(age=age), Probe.UNKNOWN, NOW, TIMING) is judgement


@pytest.mark.parametrize(
    ("unknown", "answered", "since"),
    [(None, 3, None), (5, None, 5), (5, 3, 3), (3, 5, 3), (90, None, 60), (90, 80, 60)],
)
def test_doubt_counts_from_the_last_answer_and_from_no_time_before_the_watch(
    unknown: int | None, answered: int | None, since: int | None
) -> None:
    def ago(minutes: int | None) -> datetime | None:
        return None if minutes is None else NOW - timedelta(minutes=minutes)

    doubtful = suspect(unknown_at=ago(unknown), answered_at=ago(answered))
    assert doubtful.doubted_since(watch(age=timedelta(hours=1))) == ago(since)


@pytest.mark.row("A18")
@pytest.mark.parametrize("silent", [SILENT, TIMING.doubt_limit * 2, timedelta(days=30)])
@pytest.mark.parametrize("age", [timedelta(0), timedelta(days=30)])
def test_what_has_ended_is_never_convicted_however_long_nobody_has_read_how(silent: timedelta, age: timedelta) -> None:
    ended = suspect(silent=silent, unknown_at=NOW - silent)
    judgement = judge(ended, watch(age=age), Probe.ENDED, NOW, TIMING)
    assert judgement is Judgement.SPARE_ENDED
    assert judgement.wants_follower


def test_no_doubt_is_shared_with_what_nobody_can_be_asked_about_or_what_is_gone() -> None:
    first = suspect(silent=SILENT)
    assert judge(first, watch(), None, NOW, TIMING) is Judgement.REAP_SILENT
    assert judge(first, watch(), Probe.DEAD, NOW, TIMING) is Judgement.REAP_GONE


# -- what workers vouch for


@pytest.mark.row("A24")
@pytest.mark.parametrize(
    ("ago", "in_process", "outside"),
    [
        (timedelta(0), Judgement.SPARE_VOUCHED, Judgement.SPARE_VOUCHED),
        (TIMING.vouch_belief, Judgement.SPARE_VOUCHED, Judgement.SPARE_VOUCHED),
        (TIMING.vouch_belief + A_MOMENT, Judgement.REAP_PROCESS_LOST, Judgement.REAP_SILENT),
    ],
)
def test_a_vouch_that_a_sweep_saw_spares_for_what_redis_leaves_of_a_window(
    ago: timedelta, in_process: Judgement, outside: Judgement
) -> None:
    silent = suspect(silent=timedelta(days=1), vouched_at=NOW - ago)
    child = replace(silent, out_of_process_liveness=IN_PROCESS)
    assert judge(child, watch(), None, NOW, TIMING) is in_process
    assert judge(silent, watch(), None, NOW, TIMING) is outside


@pytest.mark.row("A24")
def test_a_vouch_outweighs_doubt_but_neither_a_platforms_word_nor_the_time_limit() -> None:
    vouched = suspect(silent=timedelta(days=1), vouched_at=NOW, unknown_at=NOW - timedelta(hours=2))
    assert judge(vouched, watch(), Probe.UNKNOWN, NOW, TIMING) is Judgement.SPARE_VOUCHED
    assert judge(vouched, watch(), Probe.DEAD, NOW, TIMING) is Judgement.REAP_GONE
    overdue = replace(vouched, max_runtime=timedelta(minutes=1))
    assert judge(overdue, watch(), Probe.UNKNOWN, NOW, TIMING) is Judgement.REAP_TIMED_OUT


@pytest.mark.row("A24")
@pytest.mark.parametrize("scale", [1, 5, 30])
def test_what_dies_after_it_was_vouched_for_is_found_no_later_than_any_other(scale: int) -> None:
    """Redis forgets a vouch in the tolerated lag, and a sweep that saw one believes it for the rest of a window."""
    timing = Timing.scaled(scale)
    assert timing.tolerated_lag + timing.vouch_belief == timing.window


@pytest.mark.row("A24")
def test_a_worker_that_loses_redis_too_has_as_long_as_one_that_loses_both_at_once() -> None:
    """Of a vouch's life in Redis, at least the last sweep but one sees it; the one before was a keepalive earlier."""
    surely_believed = TIMING.tolerated_lag - TIMING.sweep_interval + TIMING.vouch_belief
    assert surely_believed - TIMING.keepalive_interval >= TIMING.longest_cut_off


def test_doubt_that_has_run_out_still_convicts_nobody_while_the_log_pipeline_lags() -> None:
    silent = suspect(silent=timedelta(days=1), unknown_at=NOW - timedelta(days=1))
    assert judge(silent, watch(heard_for=None), Probe.UNKNOWN, NOW, TIMING) is Judgement.SPARE_LAGGING


def test_what_its_platform_sees_alive_is_spared_however_long_it_is_silent() -> None:
    assert judge(suspect(silent=timedelta(days=1)), watch(), Probe.ALIVE, NOW, TIMING) is Judgement.SPARE_ALIVE


@pytest.mark.row("A18")
@pytest.mark.parametrize("age", [timedelta(0), timedelta(hours=1)])
def test_what_has_ended_is_not_timed_out_for_the_time_in_which_nobody_could_read_how(age: timedelta) -> None:
    ended = suspect(silent=timedelta(days=1), running=timedelta(days=1), max_runtime=timedelta(minutes=30))
    assert judge(ended, watch(age=age), Probe.ENDED, NOW, TIMING) is Judgement.SPARE_ENDED


@pytest.mark.parametrize("answer", [None, *(answer for answer in Probe if answer is not Probe.ENDED)])
@pytest.mark.parametrize("age", [timedelta(0), timedelta(hours=1)], ids=["young watch", "old watch"])
@pytest.mark.parametrize("silent", [timedelta(0), timedelta(days=1)], ids=["printing", "silent"])
def test_a_run_over_its_max_runtime_is_timed_out_however_alive_it_is(
    silent: timedelta, age: timedelta, answer: Probe | None
) -> None:
    limit = timedelta(minutes=30)
    overdue = suspect(silent=silent, running=limit + A_MOMENT, max_runtime=limit)
    assert judge(overdue, watch(age=age, heard_for=None), answer, NOW, TIMING) is Judgement.REAP_TIMED_OUT


def test_a_run_at_exactly_its_max_runtime_is_spared() -> None:
    limit = timedelta(minutes=30)
    assert judge(suspect(running=limit, max_runtime=limit), watch(), None, NOW, TIMING) is Judgement.SPARE_PROVEN


@pytest.mark.parametrize(
    ("silent", "judgement"),
    [
        (timedelta(seconds=10), Judgement.SPARE_PROVEN),
        (timedelta(seconds=10) + A_MOMENT, Judgement.REAP_SILENT),
    ],
)
def test_the_window_of_a_faster_system_is_as_much_shorter(silent: timedelta, judgement: Judgement) -> None:
    timing = Timing.scaled(30)
    assert judge(suspect(silent=silent), watch(timing=timing), None, NOW, timing) is judgement


@pytest.mark.parametrize("judgement", list(Judgement))
def test_a_judgement_has_an_error_code_exactly_when_it_reaps(judgement: Judgement) -> None:
    assert (judgement.error_code is not None) == judgement.value.startswith("reap_")


# -- the brake


def verdict(judgement: Judgement = Judgement.REAP_SILENT, *, number: int = 1, **changes: Any) -> Verdict:
    return Verdict(suspect(run_id=UUID(int=number), **({"silent": SILENT} | changes)), judgement)


def convicts(count: int, judgement: Judgement = Judgement.REAP_GONE) -> list[Verdict]:
    """So many verdicts; the higher the number, the longer silent."""
    return [verdict(judgement, number=n, silent=SILENT + timedelta(seconds=n)) for n in range(1, count + 1)]


def reaped(verdicts: list[Verdict], fleet: int) -> list[int]:
    limit = Brake(fleet=fleet, convicted=sum(one.for_silence for one in verdicts))
    return [one.suspect.run_id.int for one in brake(verdicts, limit) if one.judgement.error_code]


def test_ten_convictions_are_carried_out_however_small_the_fleet() -> None:
    assert BRAKE_LEAST == 10
    assert len(reaped(convicts(10), fleet=10)) == 10


def test_of_eleven_in_a_small_fleet_the_one_that_was_heard_of_last_waits() -> None:
    assert reaped(convicts(11), fleet=11) == list(range(2, 12))


@pytest.mark.parametrize(("convicted", "carried_out"), [(20, 20), (21, 20), (100, 20)])
def test_a_fifth_of_a_larger_fleet_is_reaped_in_one_sweep(convicted: int, carried_out: int) -> None:
    ended = reaped(convicts(convicted), fleet=100)
    assert ended == list(range(convicted - carried_out + 1, convicted + 1))


def test_what_waits_for_the_brake_is_spared_as_such_and_the_others_verdicts_stay_as_they_are() -> None:
    verdicts = [*convicts(11), verdict(Judgement.SPARE_UNKNOWN, number=99)]
    braked = brake(verdicts, Brake(fleet=12, convicted=11))
    assert braked[0].judgement is Judgement.SPARE_BRAKED
    assert braked[1:] == verdicts[1:]


def test_the_time_limit_is_a_fact_and_not_braked() -> None:
    assert len(reaped(convicts(50, Judgement.REAP_TIMED_OUT), fleet=50)) == 50


# -- the whole


def find(*suspects: Suspect, **changes: Any) -> Findings:
    usual = Findings(suspects=suspects, fleet=100, answers={}, vouched=(), heard_at=NOW)
    return replace(usual, **changes)


def judgements(found: Findings, seen: Watch | None = None) -> list[Judgement]:
    return [one.judgement for one in decide(seen or watch(), found, NOW, TIMING).verdicts]


def test_a_sweep_judges_each_suspect_by_what_its_own_platform_said() -> None:
    silent = [suspect(run_id=UUID(int=number), silent=SILENT) for number in (1, 2, 3)]
    ruling = decide(watch(), find(*silent, answers={UUID(int=2): Probe.ALIVE}), NOW, TIMING)
    assert [one.suspect for one in ruling.verdicts] == silent
    assert [one.answer for one in ruling.verdicts] == [None, Probe.ALIVE, None]
    spared, reaped = Judgement.SPARE_ALIVE, Judgement.REAP_SILENT
    assert [one.judgement for one in ruling.verdicts] == [reaped, spared, reaped]
    assert (ruling.limit, ruling.now, ruling.timing) == (Brake(fleet=100, convicted=2), NOW, TIMING)


def test_a_sweep_listens_before_it_judges() -> None:
    deaf = watch(heard_for=None, lag=None)
    late = find(suspect(silent=SILENT), heard_at=NOW - TIMING.tolerated_lag - A_MOMENT)
    assert judgements(late) == [Judgement.SPARE_LAGGING]
    ruling = decide(deaf, find(), NOW, TIMING)
    assert ruling.watch == listen(deaf, NOW, NOW, TIMING)


def test_a_vouch_that_the_sweep_sees_counts_from_now_and_is_kept_with_the_evidence() -> None:
    first, second = (suspect(run_id=UUID(int=number), silent=SILENT) for number in (1, 2))
    ruling = decide(watch(), find(first, second, vouched={second.fence}), NOW, TIMING)
    assert [one.judgement for one in ruling.verdicts] == [Judgement.REAP_SILENT, Judgement.SPARE_VOUCHED]
    assert ruling.dossier(ruling.verdicts[1])["vouched_at"] == NOW.isoformat()
    assert ruling.dossier(ruling.verdicts[0])["vouched_at"] is None


def test_a_sweep_brakes_by_the_size_of_the_fleet_and_not_for_what_ran_too_long() -> None:
    silent = [suspect(run_id=UUID(int=number), silent=SILENT) for number in range(1, 22)]
    overdue = suspect(run_id=UUID(int=99), max_runtime=timedelta(minutes=1))
    assert judgements(find(*silent, overdue)).count(Judgement.SPARE_BRAKED) == 1
    assert judgements(find(*silent, overdue, fleet=105)).count(Judgement.SPARE_BRAKED) == 0


@pytest.mark.parametrize("judgement", list(Judgement))
def test_why_a_run_is_spared_is_kept_unless_it_is_no_suspect_any_more(judgement: Judgement) -> None:
    keeps = judgement.value.startswith("spare_") and judgement is not Judgement.SPARE_PROVEN
    assert verdict(judgement).is_spared is keeps


# -- the retry


@pytest.mark.parametrize("code", list(ErrorCode))
def test_only_a_lost_process_with_attempts_left_is_retried(code: ErrorCode) -> None:
    assert may_retry({"error_code": code}, suspect(attempt=1, max_attempts=2)) is (code is ErrorCode.PROCESS_LOST)


@pytest.mark.parametrize(("attempt", "allowed"), [(2, True), (3, False), (4, False)])
def test_a_retry_needs_an_attempt_that_is_left(attempt: int, allowed: bool) -> None:
    assert may_retry({"error_code": ErrorCode.PROCESS_LOST}, suspect(attempt=attempt, max_attempts=3)) is allowed


# -- the conviction

REAPS = [judgement for judgement in Judgement if judgement.error_code]
NO_SILENCE = (Judgement.REAP_TIMED_OUT, Judgement.REAP_NOT_STARTED)


def ruling(watch: Watch, limit: Brake) -> Ruling:
    return Ruling(watch, [], limit, NOW, TIMING)


#: By which a suspect was to have begun, where that matters.
START_BY = NOW - timedelta(seconds=30)


def convicted(one: Verdict) -> End:
    end = ruling(watch(), Brake(fleet=1, convicted=1)).end_of(one)
    assert end is not None
    return end


@pytest.mark.parametrize("judgement", [judgement for judgement in Judgement if not judgement.error_code])
def test_who_is_spared_is_not_ended(judgement: Judgement) -> None:
    assert ruling(watch(), Brake(fleet=1, convicted=0)).end_of(verdict(judgement)) is None


@pytest.mark.parametrize("judgement", [one for one in REAPS if one not in NO_SILENCE])
def test_a_conviction_for_silence_holds_only_while_the_run_is_still_silent(judgement: Judgement) -> None:
    assert convicted(verdict(judgement)).silent_before == NOW - TIMING.window


def test_a_conviction_for_the_time_limit_does_not_ask_for_silence() -> None:
    end = convicted(verdict(Judgement.REAP_TIMED_OUT, max_runtime=timedelta(seconds=90)))
    assert end.silent_before is None
    assert end.error_message == "Ran for longer than its max_runtime of 90 s."


def test_a_conviction_for_not_having_begun_holds_only_while_nothing_was_reported_since() -> None:
    end = convicted(verdict(Judgement.REAP_NOT_STARTED, start_by=START_BY))
    assert end.silent_before == START_BY
    assert end.error_message == (
        f"Nothing was reported of it by {START_BY:%Y-%m-%d %H:%M:%S} UTC, the time by which it was to have begun."
    )


@pytest.mark.parametrize("judgement", REAPS)
def test_a_reaped_run_fails_under_its_token_and_its_work_is_owed_an_end(judgement: Judgement) -> None:
    one, code = verdict(judgement, start_by=START_BY), judgement.error_code
    end, evidence = convicted(one), ruling(watch(), Brake(fleet=1, convicted=1)).dossier(one)
    assert code is not None
    assert (end.fence, end.from_status, end.status) == (suspect().fence, Status.RUNNING, Status.FAILED)
    assert (end.kind, end.error_code, end.work_ended) == (EventKind.REAPED, code, False)
    assert end.detail == evidence | {"error_code": code.value, "retry": False}


def test_a_lost_process_with_an_attempt_left_is_queued_without_an_error_and_still_owes_its_old_work() -> None:
    end = convicted(verdict(Judgement.REAP_PROCESS_LOST, attempt=1, max_attempts=2))
    assert (end.status, end.error_code, end.error_message) == (Status.QUEUED, None, None)
    assert (end.outcome, end.work_ended) == ({"error_code": "process_lost"}, False)
    assert end.detail["retry"] is True


def test_retries_of_many_runs_are_spread_over_a_sweeps_interval_and_further_with_each_attempt() -> None:
    lost = [suspect(run_id=UUID(int=number * 7919)) for number in range(1000)]
    first = [retry_delay(one, TIMING) for one in lost]
    assert timedelta(0) <= min(first) < max(first) < TIMING.sweep_interval
    assert retry_delay(suspect(run_id=UUID(int=500), epoch=0), TIMING) == TIMING.sweep_interval / 2
    by_tenths = [sum(n <= delay / TIMING.sweep_interval * 10 < n + 1 for delay in first) for n in range(10)]
    assert min(by_tenths) > 50
    assert retry_delay(replace(lost[500], attempt=3), TIMING) == 3 * first[500]
    assert retry_delay(replace(lost[500], attempt=99), TIMING) == 5 * first[500]


@pytest.mark.parametrize(
    ("judgement", "changes", "words"),
    [
        (Judgement.REAP_SILENT, {}, "the last was output, followed by worker@host."),
        (Judgement.REAP_SILENT, {"last_proof": None, "worker_node": None}, "the last was none, followed by nobody."),
        (Judgement.REAP_GONE, {}, "followed by worker@host. Its platform says that it is gone."),
        (
            Judgement.REAP_UNANSWERED,
            {"unknown_at": NOW - timedelta(seconds=1815)},
            "It was asked about since 2026-01-01 11:29:45 UTC, and for 1815 s nobody could say whether it lives.",
        ),
        (
            Judgement.REAP_UNANSWERED,
            {"unknown_at": NOW - timedelta(days=1)},
            "It was asked about since 2026-01-01 11:00:00 UTC, and for 3600 s nobody could say whether it lives.",
        ),
    ],
)
def test_the_message_of_a_reaped_run_says_how_long_it_was_silent_and_why_it_is_taken_for_dead(
    judgement: Judgement, changes: dict[str, Any], words: str
) -> None:
    message = convicted(verdict(judgement, silent=timedelta(seconds=307.4), **changes)).error_message or ""
    assert message.startswith("No proof of life for 307 s (window 300 s); ")
    assert message.endswith(words)


# -- the dossier


def test_a_dossier_holds_the_evidence_in_a_form_that_can_be_stored() -> None:
    silent = suspect(silent=timedelta(seconds=301.5), running=timedelta(hours=2), attempt=3)
    one = Verdict(silent, Judgement.SPARE_UNKNOWN, Probe.UNKNOWN)
    limit = Brake(fleet=100, convicted=30)
    told = ruling(watch(age=timedelta(hours=1), heard_for=timedelta(minutes=9)), limit).dossier(one)
    expected = {
        "judgement": "spare_unknown",
        "judged_at": "2026-01-01T12:00:00+00:00",
        "adapter": "detached",
        "last_proof": "output",
        "last_proof_at": "2026-01-01T11:54:58.500000+00:00",
        "last_chunk": 4107,
        "silent_seconds": 301.5,
        "cutoff": "2026-01-01T11:55:00+00:00",
        "window_seconds": 300.0,
        "running_seconds": 7200.0,
        "watching_since": "2026-01-01T11:00:00+00:00",
        "hearing_since": "2026-01-01T11:51:00+00:00",
        "reports_taken_since": None,
        "pipeline_lag_seconds": 2.0,
        "probe": "unknown",
        "unanswered_since": None,
        "vouched_at": None,
        "brake": {"fleet": 100, "convicted": 30, "allowed": 20, "on": True},
        "worker_node": "worker@host",
        "attempt": 3,
    }
    assert told == expected
    assert json.loads(json.dumps(told)) == told


def test_a_dossier_says_by_none_what_nobody_was_asked_and_nothing_was_heard_of() -> None:
    one = Verdict(suspect(silent=SILENT), Judgement.SPARE_LAGGING)
    told = ruling(new_watch(), Brake(fleet=0, convicted=0)).dossier(one)
    assert (told["probe"], told["pipeline_lag_seconds"], told["hearing_since"]) == (None, None, None)


def test_a_dossier_names_doubt_vouch_and_the_api_that_takes_reports() -> None:
    heard = replace(watch(), reports_since=NOW - timedelta(hours=2), reports_at=NOW)
    doubtful = suspect(
        silent=timedelta(seconds=300.00044),
        reports=True,
        unknown_at=NOW - timedelta(minutes=9),
        vouched_at=NOW - timedelta(minutes=1),
    )
    told = ruling(heard, Brake(fleet=0, convicted=0)).dossier(Verdict(doubtful, Judgement.SPARE_VOUCHED))
    assert told["silent_seconds"] == 300.0
    assert told["unanswered_since"] == "2026-01-01T11:51:00+00:00"
    assert told["vouched_at"] == "2026-01-01T11:59:00+00:00"
    assert told["reports_taken_since"] == "2026-01-01T10:00:00+00:00"
    silent = Verdict(replace(doubtful, reports=False), Judgement.SPARE_VOUCHED)
    assert ruling(heard, Brake(fleet=0, convicted=0)).dossier(silent)["reports_taken_since"] is None
