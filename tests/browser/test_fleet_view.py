"""The fleet's view: what failed, sorted and searched lists, notices, lanes; at a million runs, and as axe judges it."""

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import axe_playwright_python
import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import text

from reprieve.models.access import Scope
from reprieve.models.filters import RunFilter
from reprieve.models.lanes import DEFAULT_LANE
from reprieve.models.notice_rules import checked_rule
from reprieve.models.status import ErrorCode
from reprieve.models.work import End, Outcome
from reprieve.models.workers import Presence
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from reprieve.workers.sweep import sweep
from tests.support.nodes import a_node
from tests.support.rows import age, chunk, claim, in_process, ingest, new_run, running, settle, watch_for
from tests.support.served import Served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


def violations(page: Page) -> list[str]:
    """What axe has against the page as it stands. It is let in past the policy, which allows our own scripts alone."""
    session = page.context.new_cdp_session(page)
    session.send("Runtime.evaluate", {"expression": AXE})
    found: dict[str, Any] = page.evaluate("tags => axe.run(document, { runOnly: tags })", _RULES)
    return [f"{one['id']}: {[node['html'][:200] for node in one['nodes']]}" for one in found["violations"]]


def failed(services: Services, message: str = "No space.", **changes: Any) -> UUID:
    work = running(services, **changes)
    assert finish(services, [End.by_result(work.fence, Outcome.failed(message, ErrorCode.STALLED), 0)])
    return work.run_id


def ids(page: Page) -> list[str]:
    titles: list[str] = page.locator("#runs a.id").evaluate_all("all => all.map(one => one.title)")
    return titles


def end_of(run: UUID) -> str:
    return str(run).rsplit("-", 1)[-1]


def a_busy_fleet(services: Services) -> tuple[UUID, UUID]:
    """Some of everything, with names as strangers choose them; returns a run that prints, and one that was reaped."""
    for number in range(3):
        failed(
            services, "The disk is full: 0 bytes are left of 40 GB, and nothing was written.", labels={"team": "data"}
        )
        new_run(services, lane="night", labels={"n": str(number)})
    lively = running(services, lane="night", labels={"team": "web", "a-very-long-name": "x" * 200, "rtl": "\u202eabc"})
    age(services, running(services, adapter="remote").run_id, 280)
    ingest(services, [chunk(lively, 1, b"\x1b[32mhello\x1b[0m\n")])
    services.workers.seen(UUID(int=1), "runs@here", a_node("here"), Presence(places=5, runs=2))
    services.workers.drain("here")
    services.notices.put_rule(
        checked_rule("ops", "https://hooks.example.com/T0/secret", ["failed"], {"team": "data"}, None)
    )
    services.lanes.put("night", 1, paused=True)
    watch_for(services, 3600)
    dead = in_process(services, labels={"team": "data"}, max_attempts=2)
    ingest(services, [chunk(dead, 1, b"hello\n")])
    age(services, dead.run_id, 400)
    assert sweep(services)["reaped"] == 1
    settle(services, dead)
    again = claim(services, dead.run_id, "worker@nowhere")
    assert again is not None
    assert finish(services, [End.by_result(again.fence, Outcome.of_exit(3), 0)])
    return lively.run_id, dead.run_id


def test_failures_are_counted_and_a_click_shows_them(services: Services, page: Page) -> None:
    recent, old = failed(services), failed(services)
    age(services, old, 7200, "finished_at")
    new_run(services)
    page.goto("/")
    hour = page.get_by_role("link", name="2 failed in the last hour")
    expect(hour).to_be_visible()
    hour.click()
    expect(page.locator("#runs tr")).to_have_count(1)
    assert ids(page) == [str(recent)]
    expect(page.locator("#runs")).to_contain_text("No space.")
    expect(page.get_by_label("Status")).to_have_value("failed")
    page.get_by_role("link", name="2 failed in the last day").click()
    expect(page.locator("#runs tr")).to_have_count(2)


def test_a_row_says_when_it_began_and_ended_and_how_long_it_took(services: Services, page: Page) -> None:
    run = failed(services)
    began = "UPDATE run_attempts SET started_at = clock_timestamp() - interval '3 h'"
    services.database.run(began)
    age(services, run, 3 * 3600 - 250, "finished_at")
    page.goto("/")
    row = page.get_by_role("row").filter(has_text=end_of(run))
    expect(row.locator("time")).to_have_count(2)
    expect(row).to_contain_text("4 min 10 s")
    exact = row.locator("time").first.get_attribute("title") or ""
    assert str(services.records.now().year) in exact
    # An older one has its date.
    services.database.run("UPDATE run_attempts SET started_at = '2026-01-05T03:12:00Z'")
    page.clock.install()
    page.goto("/")
    expect(page.get_by_role("row").filter(has_text=end_of(run)).locator("time").first).to_contain_text("Jan 5")


def test_runs_are_sorted_and_what_cannot_be_sorted_so_is_not_offered(services: Services, page: Page) -> None:
    first, second = (running(services).run_id for _ in range(2))
    third = new_run(services).id
    for run, began, lives in [(first, 100, 200), (second, 5000, 10)]:
        age(services, run, began, "started_at")
        age(services, run, lives)
    page.goto("/")
    for order, wanted in [
        ("oldest", [first, second, third]),
        ("longest running", [second, first]),
        ("oldest sign of life", [first, second]),
    ]:
        page.get_by_label("Sort by").select_option(order)
        expect(page.locator("#runs tr")).to_have_count(len(wanted))
        expect(page.locator("#runs tr").first).to_contain_text(end_of(wanted[0]))
        assert ids(page) == [str(run) for run in wanted]
    expect(page.get_by_label("Status")).to_have_value("running")
    expect(page).to_have_url(re.compile("sort=silent"))
    page.reload()
    expect(page.locator("#runs tr").first).to_contain_text(end_of(first))
    # Of another status there is no such order.
    page.get_by_label("Status").select_option("queued")
    expect(page.get_by_label("Sort by")).to_have_value("")
    expect(page.locator("#runs tr")).to_have_count(1)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#runs tr")).to_have_count(3)


def test_a_filter_keeps_the_focus_and_the_way_back(services: Services, page: Page) -> None:
    new_run(services, lane="night")
    new_run(services)
    page.goto("/")
    expect(page.locator("#runs tr")).to_have_count(2)
    page.get_by_label("Lane", exact=True).fill("night")
    page.keyboard.press("Tab")
    expect(page.locator("#runs tr")).to_have_count(1)
    expect(page.get_by_label("Asked for since")).to_be_focused()
    page.go_back()
    expect(page.locator("#runs tr")).to_have_count(2)
    expect(page.get_by_label("Lane", exact=True)).to_have_value("")


def test_the_end_of_an_id_opens_its_run_and_anything_else_is_looked_for(services: Services, page: Page) -> None:
    run, other = new_run(services, labels={"team": "beef"}).id, new_run(services).id
    page.goto("/")
    field = page.get_by_label("Search", exact=True)
    field.fill(str(run)[-5:])
    field.press("Enter")
    expect(page.get_by_role("heading", name=f"Run {run}")).to_be_visible()
    page.go_back()
    field.fill("beef")  # An id could end so; none does.
    field.press("Enter")
    expect(page.locator("#runs tr")).to_have_count(1)
    assert ids(page) == [str(run)] != [str(other)]


def test_a_label_that_is_none_is_refused_in_a_sentence_and_the_list_stays(services: Services, page: Page) -> None:
    new_run(services, labels={"team": "data"})
    new_run(services)
    page.goto("/")
    expect(page.locator("#runs tr")).to_have_count(2)
    field = page.get_by_label("Label")
    field.fill("team")
    page.keyboard.press("Tab")
    expect(field).to_be_focused()
    assert field.evaluate("field => field.validationMessage")
    assert "label" not in page.url
    field.fill("team=data")
    page.keyboard.press("Tab")
    expect(page.locator("#runs tr")).to_have_count(1)
    # Of an address, too, nothing is shown that is not asked for.
    page.goto("about:blank")
    page.goto("/#/?label=team")
    expect(page.locator("#runs tr")).to_have_count(2)
    expect(field).to_have_value("")


def test_notices_have_a_view(services: Services, page: Page) -> None:
    services.notices.put_rule(checked_rule("ops", "https://hooks.example.com/T0/secret", None, {"team": "data"}, None))
    run = failed(services, labels={"team": "data"})
    page.goto("/")
    page.get_by_role("link", name="Notices").click()
    expect(page.get_by_role("link", name="Notices")).to_have_attribute("aria-current", "page")
    expect(page.locator("#rules")).to_contain_text("team=data")
    expect(page.locator("#notices")).to_contain_text("failed")
    assert "secret" not in page.locator("main").inner_text()
    page.get_by_label("State").select_option("not delivered")
    expect(page.get_by_text("None.")).to_be_visible()
    page.reload()
    expect(page.get_by_label("State")).to_have_value("undeliverable")
    page.get_by_label("State").select_option("to be sent")
    page.locator("#notices").get_by_role("link", name=end_of(run)).first.click()
    expect(page.get_by_role("heading", name=f"Run {run}")).to_be_visible()


def test_a_paused_lane_says_so_with_its_limit(services: Services, page: Page) -> None:
    new_run(services, lane="night")
    services.lanes.put("night", 3, paused=True)
    page.goto("/")
    row = page.locator("#lanes tr").filter(has_text="night")
    expect(row).to_contain_text("paused")
    expect(row.get_by_role("cell").nth(3)).to_have_text("3")
    row.get_by_role("link").click()
    expect(page.get_by_label("Lane", exact=True)).to_have_value("night")
    assert DEFAULT_LANE != "night"


VIEWS: dict[str, Callable[[UUID, UUID], str]] = {
    "fleet": lambda *_: "/",
    "fleet of nothing": lambda *_: "/#/?text=nothing-fits-this",
    "run": lambda run, _: f"/#/runs/{run}",
    "run that failed": lambda _, run: f"/#/runs/{run}",
    "workers": lambda *_: "/#/workers",
    "notices": lambda *_: "/#/notices",
}


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_nothing_against_any_view(services: Services, page: Page, scheme: Any, width: int) -> None:
    runs = a_busy_fleet(services)
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    found = {}
    for name, address in VIEWS.items():
        page.goto("about:blank")
        page.goto(address(*runs))
        expect(page.locator("#health")).not_to_be_empty()
        with page.expect_response("**/v1/fleet"):
            pass
        if name.startswith("run"):
            expect(page.locator("#lines")).to_contain_text("hello")
            page.get_by_text("What it was asked for with").click()
            expect(page.locator("#config")).to_contain_text("command")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        found[name] = violations(page)
        if folder := os.environ.get("SCREENSHOTS"):
            page.screenshot(path=str(Path(folder) / f"look-{name.replace(' ', '-')}-{scheme}-{width}.png"))
    assert found == {name: [] for name in VIEWS}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_nothing_against_a_refusal_and_the_token_that_is_asked_for(
    services: Services, served: Served, page: Page, scheme: Any
) -> None:
    run = new_run(services).id
    served.app.state.services = services  # These ask everybody.
    reader = services.tokens.create("reader", Scope.READ)
    page.emulate_media(color_scheme=scheme)
    page.goto("/")
    expect(page.get_by_label("Token")).to_be_focused()
    assert violations(page) == []
    page.get_by_label("Token").fill(reader)
    page.get_by_role("button", name="Go on").click()
    page.get_by_label(f"Choose {end_of(run)}").check()
    page.get_by_role("button", name="Cancel 1 run").click()
    assert violations(page) == []
    page.get_by_role("dialog").get_by_role("button", name="Cancel 1 run").click()
    expect(page.get_by_role("alert")).to_contain_text("this needs run")
    assert violations(page) == []


#: As many runs as this, by SQL alone: an event and an attempt of each are not what lists read.
A_MILLION = 1_000_000
SEED = """
WITH made AS (
    INSERT INTO runs (id, adapter, out_of_process_liveness, status, attempt, max_attempts, error_code, error_message,
                      created_at, started_at, updated_at, finished_at, last_proof)
    SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - 1000 * (:many - n)), 12, '0')
            || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
           'process', false, CASE WHEN n % 20 = 0 THEN 'failed' ELSE 'succeeded' END, 1, 1,
           CASE WHEN n % 20 = 0 THEN 'exit_status' END, CASE WHEN n % 20 = 0 THEN 'The command ended.' END,
           at, at, at, at + interval '30 s', 'claim'
    FROM generate_series(1, :many) n, LATERAL (SELECT now() - (:many - n) * interval '1 s' AS at) t
    RETURNING id
)
INSERT INTO run_specs (run_id, config, labels) SELECT id, '{}', '{"team": "data"}' FROM made
"""


@pytest.mark.slow
def test_a_million_runs_are_listed_sorted_and_found_at_once(services: Services, page: Page) -> None:
    with services.database.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL synchronous_commit = off"))
        connection.execute(text(SEED), {"many": A_MILLION})
    services.database.run("ANALYZE runs")
    services.database.run("ANALYZE run_specs")
    page.goto("/")
    expect(page.locator("#runs tr")).to_have_count(50)
    page.get_by_label("Sort by").select_option("oldest")
    expect(page.locator("#runs tr")).to_have_count(50)
    page.get_by_label("Status").select_option("failed")
    expect(page.locator("#runs .chip.failed")).to_have_count(50)
    page.get_by_label("Ended since").select_option("an hour ago")
    page.get_by_label("Sort by").select_option("newest")
    expect(page.locator("#runs .chip.failed")).to_have_count(50)
    page.get_by_role("button", name="Older runs").click()
    expect(page.locator("#runs .chip.failed")).to_have_count(100)
    (old,) = services.records.page(RunFilter.of(until=services.records.now() - timedelta(days=5)), limit=1).runs
    field = page.get_by_label("Search", exact=True)
    field.fill(str(old.id)[-10:])
    field.press("Enter")
    expect(page.get_by_role("heading", name=f"Run {old.id}")).to_be_visible()
