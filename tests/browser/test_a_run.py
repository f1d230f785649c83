"""One run on the page: why it ended, what it runs, its attempts over its life, what it used."""

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from reprieve import cancel_run, enqueue_run
from reprieve.models.access import Scope
from reprieve.models.retrying import with_retry
from reprieve.models.saying import Report, Said, in_numbers, percent
from reprieve.models.status import ErrorCode, EventKind
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.runs.reports import News
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from reprieve.workers.sweep import sweep
from tests.browser.views import fact, open_run
from tests.support.rows import age, happened, new_run, running, watch_for
from tests.support.served import Served
from tests.support.waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


def ended(services: Services, outcome: Outcome) -> Work:
    work = running(services)
    assert finish(services, [End.by_result(work.fence, outcome, 0)])
    return work


def test_each_kind_of_end_has_a_first_sentence_of_its_own_and_it_is_said_once(services: Services, page: Page) -> None:
    too_long = "Ran for longer than its max_runtime of 60 s."
    failed = ended(services, Outcome.of_exit(3)).run_id
    killed = ended(services, Outcome.failed("It used more than 64 MB.", ErrorCode.OOM_KILLED)).run_id
    overdue = ended(services, Outcome.failed(too_long, ErrorCode.TIMED_OUT)).run_id
    cancelled, silent = new_run(services).id, running(services).run_id
    cancel_run(cancelled)
    age(services, silent, 400)
    watch_for(services, 3600)
    assert sweep(services)["reaped"] == 1
    for run, begins in (
        (failed, "Failed: The command ended with exit status 3."),
        (killed, "Killed for memory: It used more than 64 MB."),
        (overdue, f"Out of time: {too_long}"),
        (cancelled, "Cancelled by "),
        (silent, "Reaped: no proof of life for 6 min"),
    ):
        open_run(page, run)
        why = page.locator("#run-why")
        expect(why).to_contain_text(begins)
        assert why.inner_text() not in page.locator("#why").inner_text()
    expect(page.locator("#run-next")).to_contain_text("Look next: whether its work is there still")


def test_what_a_run_runs_is_shown_to_whoever_may_run_it(services: Services, served: Served, page: Page) -> None:
    served.app.state.services = services  # These ask everybody.
    run = enqueue_run("process", {"command": ["echo", "<b>it</b>"], "cwd": "/srv"}).id
    for scope in (Scope.READ, Scope.RUN):
        page.goto("/")
        page.get_by_label("Token").fill(services.tokens.create(scope.value, scope))
        page.get_by_role("button", name="Go on").click()
        expect(page.get_by_role("heading", name="Runs")).to_be_visible()
        open_run(page, run)
        expect(fact(page, "Asked for")).to_contain_text(" by ")
        if scope is Scope.READ:
            expect(page.locator("#run-what")).to_be_hidden()
            page.get_by_role("button", name="Forget the token").click()
    expect(page.locator("#run-what")).to_have_text("echo '<b>it</b>' in /srv")
    page.get_by_text("What it was asked for with").click()
    expect(page.locator("#config")).to_contain_text('"cwd": "/srv"')


def test_a_run_that_waits_says_first_what_it_waits_for(services: Services, page: Page) -> None:
    open_run(page, new_run(services, lane="night").id)
    expect(page.locator("#run-why")).to_contain_text("lane night")
    expect(page.locator("#attempts li")).to_have_count(1)
    expect(page.locator("#attempts")).to_contain_text("Attempt 1waited")


def test_each_attempt_is_shown_over_the_life_of_the_run(services: Services, page: Page) -> None:
    work = running(services, max_attempts=2, retry_on={"exit_status": [75]}, retry_delay=timedelta(hours=1))
    happened(services, work.run_id, EventKind.QUIET, 1)
    end = with_retry(End.by_result(work.fence, Outcome.of_exit(75), 0), work, services.timing)
    assert finish(services, [end])
    open_run(page, work.run_id)
    rows = page.locator("#attempts li")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("on worker@nowhere")
    expect(rows.first).to_contain_text("exit_status, to be tried again")
    expect(rows.last).to_contain_text("Attempt 2waited")
    expect(fact(page, "Attempt")).to_have_text("1 of 2")
    expect(fact(page, "Asked for").locator("time")).to_have_attribute("title", re.compile(r"\d{4}"))


def test_a_moment_is_exact_where_one_points_at_it(services: Services, page: Page) -> None:
    work = ended(services, Outcome())
    open_run(page, work.run_id)
    shown = fact(page, "Ended").locator("time")
    expect(shown).to_have_text(re.compile(r"today \d\d:\d\d"))
    said = datetime.fromisoformat(str(shown.get_attribute("datetime")))
    finished = services.records.get(work.run_id).finished_at
    assert finished is not None
    assert abs(said - finished) < timedelta(milliseconds=1)


def test_what_was_asked_of_one_run_and_answered_late_is_not_shown_as_that_of_another(
    services: Services, page: Page
) -> None:
    work = running(services, config={"command": ["echo", "of the first"]})
    assert finish(services, [End.by_result(work.fence, Outcome.of_exit(3), 0)])
    other = ended(services, Outcome()).run_id
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(re.compile(f"{work.run_id}/(explain|request)"), hold)
    open_run(page, work.run_id)
    eventually(lambda: page.title() and len(held) == 2)
    open_run(page, other)
    expect(page.locator("#run-why")).to_contain_text("Succeeded")
    expect(page.locator("#run-what")).to_be_visible()
    for late in held:
        with page.expect_response(late.request.url):
            late.continue_()
    with page.expect_response(f"**/v1/runs/{other}"):
        pass
    expect(page.locator("#run-why")).to_contain_text("Succeeded")
    expect(page.locator("#run-what")).to_have_text("true")
    assert "exit_status" not in page.locator("main").inner_text()


def test_what_a_run_says_is_told_in_the_numbers_that_a_terminal_tells_it_in(services: Services, page: Page) -> None:
    work = running(services)
    usage: dict[str, int | float] = {"usd": 0.0004, "b": 1_234_567, "c": 1_234_567.8, "d": 0.1 + 0.2, "e": 12.5}
    services.reports.write([News(work.fence, 1, Said(1, Report(progress=0.29, usage=usage)), 0.0)])
    open_run(page, work.run_id)
    expect(fact(page, "Usage")).to_have_text(in_numbers(usage))
    expect(fact(page, "Usage")).to_contain_text("usd 0.0004")
    expect(fact(page, "Progress")).to_have_text(percent(0.29))
    page.goto("/")
    expect(page.locator("#runs")).to_contain_text("29 %")


def test_a_run_took_as_long_as_all_its_attempts_in_the_list_and_in_its_view(services: Services, page: Page) -> None:
    run = ended(services, Outcome()).run_id
    services.database.run("UPDATE run_attempts SET started_at = clock_timestamp() - interval '3 h 30 s'")
    age(services, run, 3600, "started_at")
    open_run(page, run)
    expect(fact(page, "Took")).to_have_text("3 h")
    page.goto("/")
    expect(page.locator("#runs")).to_contain_text("3 h")


SAMPLES = [
    {"at": "2026-11-30T03:00:00Z", "cpu_seconds": 0, "memory_bytes": 10_000_000},
    {"at": "2026-11-30T03:00:20Z", "cpu_seconds": 40, "memory_bytes": 512_000_000},
    {"at": "2026-11-30T03:00:40Z", "cpu_seconds": 40, "memory_bytes": None},
]


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (SAMPLES, "Over 40 s: memory up to 488 MiB (area), up to 2.0 processors (line)."),
        (SAMPLES[:2], "Over 20 s: memory up to 488 MiB (area), up to 2.0 processors (line)."),
        ([SAMPLES[0], SAMPLES[0]], "Over 0.0 s: memory up to 9.5 MiB (area), up to 0.0 processors (line)."),
    ],
)
def test_what_a_run_used_is_a_picture_with_the_same_in_words(page: Page, samples: list[Any], words: str) -> None:
    page.goto("/")
    told = page.evaluate(
        """samples => import('/page/used.js').then(used => [
            used.words(samples),
            used.pictured(samples).map(one => [one.getAttribute('class'), one.getAttribute('points')]),
        ])""",
        samples,
    )
    assert told[0] == words
    assert [name for name, _ in told[1]] == ["memory", "processors"]
    assert not re.search("NaN|Infinity", str(told[1]))


def test_one_sample_makes_no_picture(page: Page) -> None:
    page.goto("/")
    code = "samples => import('/page/used.js').then(used => used.pictured(samples).length)"
    assert page.evaluate(code, SAMPLES[:1]) == 0
