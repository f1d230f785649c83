"""Many tabs of one browser over HTTP/1.1, which has six connections for all of them; and what is old says so."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, Route, expect

from reprieve.models.work import End, Outcome
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from tests.support.rows import chunk, ingest, running
from tests.support.served import Served
from tests.support.tabs import hide, see
from tests.support.waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

OpenTab = Callable[[str], Page]


@pytest.fixture
def open_tab(page: Page) -> Iterator[OpenTab]:
    """One more tab of the same browser, at this address."""

    def opened(address: str) -> Page:
        tab = page.context.new_page()
        tab.goto(address)
        return tab

    return opened


def has_lines(page: Page, *wanted: str) -> None:
    """It shows these, each once, as soon as it has drawn them."""
    expect(page.locator("#lines .row").filter(has_text=re.compile("."))).to_have_text(list(wanted), timeout=15_000)


@pytest.mark.row("G15")
def test_seven_tabs_show_seven_runs_as_they_print_and_an_eighth_loads(
    services: Services, served: Served, open_tab: OpenTab
) -> None:
    works = [running(services) for _ in range(7)]
    for number, work in enumerate(works):
        ingest(services, [chunk(work, 1, b"first of %d\n" % number)])
    tabs = [open_tab(f"/#/runs/{work.run_id}") for work in works]
    for number, tab in enumerate(tabs):
        expect(tab.locator("#lines")).to_contain_text(f"first of {number}", timeout=30_000)
    hub = served.app.state.hub
    eventually(lambda: hub.readers == 3)
    for number, work in enumerate(works):
        ingest(services, [chunk(work, 2, b"second of %d\n" % number)])
    for number, tab in enumerate(tabs):
        expect(tab.locator("#lines")).to_contain_text(f"second of {number}", timeout=30_000)
        has_lines(tab, f"first of {number}", f"second of {number}")
    eighth = open_tab("/")
    expect(eighth.locator("#runs tr")).to_have_count(7)
    assert hub.readers == 3
    # A tab that has a stream is closed, or hidden: another one has it then.
    for tab in tabs[:3]:
        hide(tab)
    eventually(lambda: hub.readers == 3)
    for tab in tabs[:5]:
        tab.close()
    eventually(lambda: hub.readers == 2)
    assert finish(services, [End.by_result(works[6].fence, Outcome(), 2)])
    expect(tabs[6].locator("#log-state")).to_have_text("This is all of it.", timeout=30_000)


@pytest.mark.row("G15")
def test_tabs_of_one_run_share_one_stream_and_each_has_every_line_once(
    services: Services, served: Served, open_tab: OpenTab
) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1, b"line 1\n")])
    tabs = [open_tab(f"/#/runs/{work.run_id}") for _ in range(3)]
    for tab in tabs:
        expect(tab.locator("#lines")).to_contain_text("line 1", timeout=30_000)
    hub = served.app.state.hub
    for seq in range(2, 12):
        ingest(services, [chunk(work, seq, b"line %d\n" % seq)])
    eventually(lambda: hub.readers == 1)
    for tab in tabs:
        expect(tab.locator("#lines")).to_contain_text("line 11", timeout=30_000)
    late = open_tab(f"/#/runs/{work.run_id}")
    tabs[0].close()  # The one that reads, most likely: another one goes on.
    for seq in range(12, 22):
        ingest(services, [chunk(work, seq, b"line %d\n" % seq)])
    assert finish(services, [End.by_result(work.fence, Outcome(), 21)])
    for tab in (*tabs[1:], late):
        expect(tab.locator("#log-state")).to_have_text("This is all of it.", timeout=30_000)
        has_lines(tab, *(f"line {seq}" for seq in range(1, 22)))


@pytest.mark.row("G15")
def test_a_hidden_tab_has_no_stream_and_asks_nothing_and_goes_on_from_where_it_was(
    services: Services, served: Served, page: Page
) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1, b"before\n")])
    page.goto(f"/#/runs/{work.run_id}")
    expect(page.locator("#lines")).to_contain_text("before")
    hub = served.app.state.hub
    eventually(lambda: hub.readers == 1)
    expect(page.locator("#events li")).not_to_have_count(0)  # The first look is over.
    hide(page)
    eventually(lambda: hub.readers == 0)
    ingest(services, [chunk(work, 2, b"meanwhile\n")])
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(4500)  # More than two looks.
    assert asked == []
    see(page)
    expect(page.locator("#lines .row")).to_have_text(["before", "meanwhile"])
    eventually(lambda: hub.readers == 1)


def test_where_no_stream_opens_the_output_comes_all_the_same(services: Services, page: Page) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1, b"one\n")])
    # As a proxy that holds answers back until they are whole.
    held: list[Route] = []
    page.route(lambda url: "/log/live" in url and "once" not in url, lambda route: held.append(route))
    page.goto(f"/#/runs/{work.run_id}")
    expect(page.locator("#lines")).to_contain_text("one", timeout=15_000)
    ingest(services, [chunk(work, 2, b"two\n")])
    expect(page.locator("#lines .row")).to_have_text(["one", "two"], timeout=15_000)
    assert held


def test_without_locks_each_tab_asks_by_itself(services: Services, served: Served, page: Page) -> None:
    page.add_init_script("Object.defineProperty(Navigator.prototype, 'locks', { get: () => undefined })")
    work = running(services)
    ingest(services, [chunk(work, 1, b"one\n")])
    page.goto(f"/#/runs/{work.run_id}")
    expect(page.locator("#lines")).to_contain_text("one")
    ingest(services, [chunk(work, 2, b"two\n")])
    assert finish(services, [End.by_result(work.fence, Outcome(), 2)])
    expect(page.locator("#log-state")).to_have_text("This is all of it.", timeout=15_000)
    has_lines(page, "one", "two")


@pytest.mark.row("G15")
def test_a_status_that_is_old_turns_grey_and_says_from_when_it_is(
    services: Services, served: Served, page: Page
) -> None:
    running(services)
    page.goto("/")
    expect(page.locator("#runs tr")).to_have_count(1)
    expect(page.locator("#as-of")).to_be_hidden()
    served.stop()
    expect(page.locator("#as-of")).to_contain_text("no answer since", timeout=20_000)
    expect(page.locator("body.old")).to_have_count(1)
    served.start()
    expect(page.locator("#as-of")).to_be_hidden(timeout=20_000)
    expect(page.locator("body.old")).to_have_count(0)


def test_a_request_that_is_never_answered_ends_and_the_status_is_old_meanwhile(services: Services, page: Page) -> None:
    running(services)
    page.goto("/")
    expect(page.locator("#runs tr")).to_have_count(1)
    held: list[Route] = []
    page.route("**/v1/fleet", lambda route: held.append(route))
    expect(page.locator("#as-of")).to_contain_text("no answer since", timeout=20_000)
    expect(page.locator("#health")).to_contain_text("The API does not answer", timeout=30_000)
    page.unroute("**/v1/fleet")
    expect(page.locator("#as-of")).to_be_hidden(timeout=30_000)
