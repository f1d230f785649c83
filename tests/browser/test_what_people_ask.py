"""What people come to the page with: each question is answered from the fleet's view by two clicks at the most."""

from datetime import timedelta
from uuid import UUID

import pytest
from playwright.sync_api import Page, Route, expect

from reprieve.models.retrying import with_retry
from reprieve.models.saying import Report, Said
from reprieve.models.status import ErrorCode
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.runs.insertion import By
from reprieve.stores.runs.reports import News
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from reprieve.workers.sweep import sweep
from tests.browser.views import fact, open_run
from tests.support.rows import age, chunk, claim, ingest, new_run, pass_the_wait, running, watch_for
from tests.support.waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


class Person:
    """Who has the fleet's view open, and clicks."""

    def __init__(self, page: Page) -> None:
        page.goto("/")
        self.page, self.clicks = page, 0

    def follows(self, name: str) -> None:
        self.page.get_by_role("link", name=name).first.click()
        self.clicks += 1

    def opens(self, run: UUID) -> None:
        self.follows(str(run).rsplit("-", 1)[-1])

    def presses(self, name: str) -> None:
        self.page.get_by_role("button", name=name).click()
        self.clicks += 1


def fails(
    services: Services, work: Work, printed: str = "", message: str = "The command ended with exit status 1."
) -> None:
    if printed:
        ingest(services, [chunk(work, 1, printed.encode())])
    assert finish(services, [End.by_result(work.fence, Outcome.failed(message, ErrorCode.EXIT_STATUS), 1)])


#: More lines than are seen at once, and what broke among them.
PRINTED = "".join(f"step {number}\n" for number in range(300)) + "ValueError: no column amount\n" + "closing\n" * 300


def of_two_attempts(services: Services, *printed: str) -> UUID:
    """A run that has failed twice, and what each attempt has printed."""
    first = running(services, max_attempts=2, retry_on={"exit_status": [75]}, retry_delay=timedelta(hours=1))
    ingest(services, [chunk(first, 1, printed[0].encode())])
    end = with_retry(End.by_result(first.fence, Outcome.of_exit(75), 1), first, services.timing)
    assert finish(services, [end])
    pass_the_wait(services, first.run_id)
    second = claim(services, first.run_id, "worker@nowhere")
    assert second is not None
    fails(services, second, printed[1])
    return first.run_id


def test_what_failed_last_night_and_why(services: Services, page: Page) -> None:
    work, lasts = running(services, labels={"job": "import"}), running(services)
    fails(services, work, message="No space is left on /srv.")
    age(services, work.run_id, 8 * 3600, "finished_at")
    person = Person(page)
    person.follows("1 failed in the last day")
    expect(page.locator("#runs tr")).to_have_count(1)
    expect(page.locator("#runs")).to_contain_text("No space is left on /srv.")
    assert person.clicks == 1
    assert str(lasts.run_id) not in page.locator("#runs").inner_html()


def test_what_a_run_waits_for(services: Services, page: Page) -> None:
    run = new_run(services, lane="night").id
    services.lanes.put("night", 1, paused=True)
    person = Person(page)
    person.opens(run)
    expect(page.locator("#run-why")).to_contain_text("paused")
    assert person.clicks == 1


def test_whether_it_is_stuck_or_only_quiet(services: Services, page: Page) -> None:
    work = running(services, quiet_after=timedelta(hours=1))
    age(services, work.run_id, 7200, "started_at")
    watch_for(services, 36_000)
    assert sweep(services)["quiet"] == 1
    person = Person(page)
    person.follows("1 quiet")
    person.opens(work.run_id)
    expect(page.locator("#run-why")).to_contain_text("last proof of life")
    expect(fact(page, "Status")).to_contain_text("quiet 2 h")
    expect(fact(page, "Last sign of life")).to_contain_text("ago, by claim")
    expect(fact(page, "Last output")).to_contain_text("none yet")
    assert person.clicks == 2


def test_what_it_cost(services: Services, page: Page) -> None:
    work = running(services)
    services.reports.write([News(work.fence, 1, Said(1, Report(usage={"cost_usd": 0.42})), 0.0)])
    person = Person(page)
    person.opens(work.run_id)
    expect(fact(page, "Usage")).to_have_text("cost_usd 0.42")
    assert person.clicks == 1


def test_who_started_it(services: Services, page: Page) -> None:
    run = new_run(services, By("anna@laptop")).id
    person = Person(page)
    expect(page.locator("#runs")).to_contain_text("by anna@laptop")
    person.opens(run)
    expect(fact(page, "Asked for")).to_contain_text("by anna@laptop")
    assert person.clicks == 1


@pytest.mark.parametrize("width", [375, 1280])
def test_the_line_where_it_broke(services: Services, page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    run = of_two_attempts(services, "KeyError: of the first attempt\n", PRINTED)
    person = Person(page)
    person.opens(run)
    person.presses("Show where it broke")
    expect(page.locator(".row.marked")).to_have_text("ValueError: no column amount")
    expect(page.locator(".row.marked")).to_be_in_viewport()
    expect(page.locator("#log-attempt")).to_have_value("2")
    assert person.clicks == 2


def test_where_it_broke_is_said_once_the_log_has_come_and_not_before(services: Services, page: Page) -> None:
    work = running(services)
    fails(services, work, PRINTED)
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/log/live*", hold)
    open_run(page, work.run_id)
    page.get_by_role("button", name="Show where it broke").click()
    eventually(lambda: page.title() and held)
    expect(page.locator("#log-matches")).to_have_text("Searching …")
    held.pop().continue_()
    expect(page.locator(".row.marked")).to_have_text("ValueError: no column amount")
    expect(page.locator("#log-matches")).to_be_empty()


def test_a_log_without_an_error_says_so_once_all_of_it_was_searched(services: Services, page: Page) -> None:
    work = running(services)
    fails(services, work, "well\n")
    open_run(page, work.run_id)
    page.get_by_role("button", name="Show where it broke").click()
    expect(page.locator("#log-matches")).to_have_text("No line tells of an error, and none is of stderr.")


def test_only_what_has_failed_and_had_begun_has_a_place_where_it_broke(services: Services, page: Page) -> None:
    broke = page.get_by_role("button", name="Show where it broke")
    work, waits, lives = running(services), new_run(services).id, running(services).run_id
    for run in (waits, lives):
        open_run(page, run)
        expect(page.locator("#run-why")).not_to_be_empty()
        expect(broke).to_be_hidden()
    fails(services, work)
    open_run(page, work.run_id)
    expect(broke).to_be_visible()


def test_why_it_is_as_it_is_is_folded_where_it_goes_well(services: Services, page: Page) -> None:
    well, ill, lives = running(services), running(services), running(services)
    assert finish(services, [End.by_result(well.fence, Outcome(), 0)])
    fails(services, ill)
    for work, is_open in ((ill, True), (lives, False), (well, False)):
        open_run(page, work.run_id)
        expect(page.locator("#why li")).not_to_have_count(0)
        expect(page.locator("#why")).to_be_visible(visible=is_open)
    # One that fails while somebody looks at it is explained.
    open_run(page, lives.run_id)
    expect(page.locator("#why li")).not_to_have_count(0)
    fails(services, lives)
    expect(page.locator("#why")).to_be_visible()
    page.get_by_text("Why it is as it is").click()
    expect(page.locator("#why")).to_be_hidden()
    page.get_by_text("Why it is as it is").click()
    expect(page.locator("#why")).to_be_visible()
    # It stays as somebody has it, however often the page looks at the run.
    for _ in range(2):
        with page.expect_response("**/v1/fleet"):
            pass
    expect(page.locator("#why")).to_be_visible()
