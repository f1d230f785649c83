"""The page in a real Chromium: as somebody uses it who watches a run, is cut off, and ends it."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from playwright.sync_api import Locator, Page, expect

from reprieve import cancel_run, enqueue_run
from reprieve.models.access import Scope
from reprieve.models.saying import Report, Said
from reprieve.models.status import ErrorCode, EventKind
from reprieve.models.work import End, Outcome
from reprieve.models.workers import Presence
from reprieve.stores.runs import lists
from reprieve.stores.runs.insertion import By
from reprieve.stores.runs.reports import News
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from reprieve.workers.sweep import sweep
from tests.browser.views import open_run, screenshot
from tests.conftest import StartWorker
from tests.faults.helpers_abf import enqueueing
from tests.support.nodes import a_node
from tests.support.rows import age, chunk, claim, happened, ingest, new_run, running, status_of, watch_for
from tests.support.served import Served
from tests.support.waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

#: Prints so many lines, slowly, and ends when a file is there.
PRINTER = """
for number in $(seq 0 19); do echo "line $number"; sleep 0.3; done
while [ ! -e told ]; do sleep 0.1; done
printf '\\033[32mall done\\033[0m\\n'
"""


@pytest.fixture
def work(start_worker: StartWorker) -> None:
    start_worker("runs,logs,control,archive", name="all")


def shown(page: Page) -> list[str]:
    """The lines of the log that can be seen."""
    texts: list[str] = page.locator("#lines .row").all_inner_texts()
    return texts


@pytest.mark.usefixtures("work")
def test_a_run_is_watched_through_a_cut_and_its_lines_are_there_once(
    services: Services, served: Served, page: Page, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    (tmp_path / "train.sh").write_text(PRINTER)
    with enqueueing(services) as enqueue:
        run = enqueue(
            "detached",
            {"command": ["sh", "-c", 'cd "$HERE" && sh train.sh'], "env": {"HERE": str(tmp_path)}},
            labels={"team": "data"},
        )
        page.goto("/")
        row = page.get_by_role("row").filter(has_text="team=data")
        expect(row).to_contain_text("running", timeout=30_000)
        expect(row.get_by_role("progressbar")).to_be_visible()
        row.get_by_role("link").click()
        expect(page.locator("#lines")).to_contain_text("line 3", timeout=30_000)
        served.stop()
        expect(page.locator("#log-state")).to_contain_text("Cut off", timeout=30_000)
        eventually(lambda: services.logs.last_seq(run, 1) >= 20, timeout=60)
        served.start()
        expect(page.locator("#lines")).to_contain_text("line 19", timeout=30_000)
        told.touch()
        expect(page.locator("#log-state")).to_have_text("This is all of it.", timeout=60_000)
        expect(page.locator("#run-state")).to_contain_text("succeeded")
        page.reload()
        expect(page.locator("#run-why")).to_contain_text("Succeeded")
        expect(page.locator("#log-state")).to_have_text("This is all of it.", timeout=60_000)
        screenshot(page, "run")
    assert [line for line in shown(page) if line] == [*(f"line {number}" for number in range(20)), "all done"]
    assert page.locator(".row span", has_text="all done").last.evaluate("it => it.style.color") == "rgb(127, 217, 154)"


@pytest.mark.usefixtures("work")
def test_a_run_is_cancelled_once_that_is_confirmed(services: Services, page: Page) -> None:
    with enqueueing(services) as enqueue:
        run = enqueue("process", {"command": ["sleep", "600"]})
        open_run(page, run)
        expect(page.locator("#run-state")).to_contain_text("running", timeout=30_000)
        page.get_by_role("button", name="Cancel the run").click()
        page.get_by_role("button", name="Let it go on").click()
        assert status_of(services, run) == "running"
        page.get_by_role("button", name="Cancel the run").first.click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
        expect(page.locator("#run-state")).to_contain_text("cancelled", timeout=30_000)
        expect(page.get_by_role("button", name="Cancel the run")).to_be_hidden()
    assert status_of(services, run) == "cancelled"


def test_a_reaped_run_says_why_in_words(services: Services, page: Page) -> None:
    run = new_run(services, By("nightly (run)"), labels={"team": "data", "job": "import"})
    dead = claim(services, run.id, "runs@host-3")
    assert dead is not None
    ingest(services, [chunk(dead, 1, b"connecting to the ledger\nreading 2025-11-29\n")])
    _began(services, dead.run_id, 2400)
    age(services, dead.run_id, 400)
    age(services, dead.run_id, 420, "output_at")
    watch_for(services, 3600)
    assert sweep(services)["reaped"] == 1
    page.goto("/")
    page.get_by_role("row").filter(has_text="adapter_liveness_lost").get_by_role("link").click()
    expect(page.locator("#why")).to_contain_text("was silent for")
    expect(page.locator("#events")).to_contain_text("reaped as adapter_liveness_lost")
    with page.expect_download() as history:
        page.get_by_role("link", name="Download the history").click()
    told = json.loads(history.value.path().read_text())
    assert [event["kind"] for event in told["events"]][-1] == "reaped"
    screenshot(page, "reaped")


def test_a_quiet_run_is_marked_and_snoozed_for_an_hour(services: Services, page: Page) -> None:
    work = running(services, quiet_after=timedelta(hours=1))
    age(services, work.run_id, 7200, "started_at")
    watch_for(services, 36_000)
    assert sweep(services)["quiet"] == 1
    page.goto("/")
    expect(page.get_by_role("row").filter(has_text="running, quiet 2 h")).to_have_count(1)
    open_run(page, work.run_id)
    expect(page.locator("#run-state.quiet")).to_contain_text("running, quiet 2 h")
    expect(page.locator("#why")).to_contain_text("Quiet for 2 h 0 min: it has given no output yet")
    page.get_by_role("button", name="Snooze for an hour").click()
    expect(page.locator("#run-state")).not_to_contain_text("quiet")
    expect(page.locator("#why")).to_contain_text("Snoozed until")
    expect(page.get_by_role("button", name="Snooze for an hour")).to_be_hidden()
    assert services.records.get(work.run_id).snoozed_until is not None


def test_the_workers_of_runs_have_a_view_of_their_own(services: Services, page: Page) -> None:
    services.workers.seen(UUID(int=1), "runs@here", a_node("here"), Presence(places=5, runs=2))
    services.workers.seen(UUID(int=2), "<b>runs@there</b>", a_node("there"))
    services.workers.drain("here")
    page.goto("/")
    page.get_by_role("link", name="Workers").click()
    expect(page.get_by_role("row").filter(has_text="runs@here")).to_contain_text("draining")
    expect(page.get_by_role("row").filter(has_text="<b>runs@there</b>")).to_contain_text("taking")
    expect(page.locator("#drains")).to_contain_text("here is drained since")


def test_the_last_hour_is_a_picture_with_the_same_in_words(services: Services, page: Page) -> None:
    dead, alive = running(services), running(services)
    age(services, dead.run_id, 400)
    watch_for(services, 3600)
    assert sweep(services)["reaped"] == 1
    finish(services, [End.by_result(alive.fence, Outcome(), 0)])
    page.goto("/")
    words = "Last hour: began 2 (above the line), ended 1 (below it), reaped 1 (in red)."
    expect(page.locator("#history-words")).to_have_text(words)
    expect(page.get_by_role("img", name=words)).to_be_visible()
    heights = {
        name: page.locator(f"#history .{name}").evaluate_all("all => all.map(one => one.height.baseVal.value)")
        for name in ("started", "ended", "reaped")
    }
    assert sum(heights["started"]) == pytest.approx(2 * sum(heights["ended"]), abs=1)
    assert sum(heights["ended"]) == pytest.approx(sum(heights["reaped"]), abs=1)


def _some_of_last_night(services: Services) -> None:
    """Runs as they are asked for in the evening, of which some go on still; no sign of life is older than its run."""
    anna, nightly = By("anna@laptop"), By("nightly (run)")
    for asked, (job, outcome, by, began, took) in enumerate(
        [
            ("import", Outcome(), nightly, 14_400, 1260),
            ("train", Outcome.failed("It used more than 4 GiB.", ErrorCode.OOM_KILLED), anna, 9_000, 6_300),
            ("import", Outcome.failed("No space is left on /srv.", ErrorCode.EXIT_STATUS), nightly, 7_400, 4_900),
        ]
    ):
        run = new_run(services, by, labels={"team": "data", "job": job})
        work = claim(services, run.id, f"runs@host-{asked}")
        assert work is not None
        assert finish(services, [End.by_result(work.fence, outcome, 0)])
        _began(services, run.id, began)
        age(services, run.id, began - took, "finished_at")
    for asked, (adapter, job, began, silent, report) in enumerate(
        [
            ("remote", "crawl", 7300, 270, None),
            ("kubernetes", "train", 5400, 31, Report(0.62, "epoch 31 of 50")),
            ("detached", "report", 2400, 55, Report(0.15, "reading the ledger of 2025")),
            ("process", "agent", 660, 12, Report(sentence="tests pass; writing the summary")),
        ]
    ):
        run = new_run(services, anna if asked % 2 else nightly, adapter=adapter, labels={"team": "web", "job": job})
        work = claim(services, run.id, f"runs@host-{asked}")
        assert work is not None
        if report:
            services.reports.write([News(work.fence, 1, Said(1, report), 0.0)])
        _began(services, run.id, began)
        age(services, run.id, silent)
    new_run(services, nightly, labels={"team": "data", "job": "export"})


def _began(services: Services, run: UUID, ago: float) -> None:
    """Have a run, which has one attempt, been asked for and begun so many seconds ago."""
    age(services, run, ago + 2, "created_at")
    age(services, run, ago, "started_at")
    services.database.run(
        "UPDATE run_attempts SET started_at = r.started_at FROM runs r WHERE r.id = run_id AND r.started_at IS NOT NULL"
    )


def test_a_busy_fleet_is_seen_at_a_glance(services: Services, page: Page) -> None:
    _some_of_last_night(services)
    past = new_run(services).id
    cancel_run(past)
    for minute in range(60):
        busy = 2 + round(6 * abs((minute % 20) - 10) / 10)
        happened(services, past, EventKind.CLAIMED, *[60 * minute + 5] * busy)
        happened(services, past, EventKind.SUCCEEDED, *[60 * minute + 5] * (busy - minute % 2))
    happened(services, past, EventKind.REAPED, *[60 * 17 + 5] * 3)
    page.set_viewport_size({"width": 1400, "height": 860})
    watch_for(services, 3600)
    sweep(services)
    page.goto("/#/?status=running")
    expect(page.locator("#runs tr")).to_have_count(4)
    expect(page.locator(".life.old")).to_have_count(1)
    page.goto("/")
    expect(page.locator("#runs tr")).to_have_count(9)
    expect(page.locator("#history .reaped")).to_have_count(1)
    expect(page.locator("#history .started")).to_have_count(60)
    screenshot(page, "fleet")


def test_the_page_asks_for_a_token_and_no_script_can_read_it(services: Services, served: Served, page: Page) -> None:
    served.app.state.services = services  # These ask everybody.
    reader, runner = services.tokens.create("reader", Scope.READ), services.tokens.create("runner", Scope.RUN)
    run = new_run(services).id
    page.goto("/")
    page.get_by_label("Token").fill("a guess")
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("alert")).to_contain_text("not known here")
    page.get_by_label("Token").fill(reader)
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    assert page.evaluate("document.cookie") == ""
    open_run(page, run)
    page.get_by_role("button", name="Cancel the run").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    refusal = page.get_by_role("alert").filter(has_text="this needs run")
    expect(refusal).to_be_visible()
    assert status_of(services, run) == "queued"
    # It stays until somebody has read it, however often the page looks at the run meanwhile.
    for _ in range(2):
        with page.expect_response("**/v1/fleet"):
            pass
    expect(refusal).to_be_visible()
    page.get_by_role("button", name="Dismiss").click()
    expect(refusal).to_be_hidden()
    page.get_by_role("button", name="Forget the token").click()
    page.get_by_label("Token").fill(runner)
    page.get_by_role("button", name="Go on").click()
    page.get_by_role("button", name="Cancel the run").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    expect(page.locator("#run-state")).to_contain_text("cancelled")


def test_runs_are_filtered_and_paged(services: Services, page: Page) -> None:
    for number in range(60):
        enqueue_run("process", {"command": ["true"]}, labels={"number": str(number)})
    page.goto("/")
    expect(page.locator("#runs tr")).to_have_count(50)
    page.get_by_role("button", name="Older runs").click()
    expect(page.locator("#runs tr")).to_have_count(60)
    page.get_by_label("Label").fill("number=7")
    page.get_by_label("Label").press("Enter")
    expect(page.locator("#runs tr")).to_have_count(1)
    page.get_by_label("Label").fill("")
    page.get_by_label("Status").select_option("running")
    expect(page.get_by_text("No run fits.")).to_be_visible()


def test_runs_are_chosen_by_all_that_the_page_asks_for(services: Services, page: Page) -> None:
    night = new_run(services, lane="night", labels={"team": "data"}).id
    other = new_run(services, adapter="remote").id
    work = running(services)
    assert finish(services, [End.by_result(work.fence, Outcome.failed("No space.", ErrorCode.STALLED), 0)])
    old = new_run(services, labels={"team": "data"}).id
    age(services, old, 5000, "created_at")
    page.goto("/")
    expect(page.locator("#runs tr")).to_have_count(4)
    errors = page.locator("#error option").evaluate_all("all => all.map(one => one.value).filter(Boolean)")
    assert errors == list(ErrorCode)
    for label, value, found in [
        ("Lane", "night", {night}),
        ("Adapter", "remote", {other}),
        ("Error", "stalled", {work.run_id}),
        ("Asked for since", "1", {night, other, work.run_id}),
        ("Ended since", "1", {work.run_id}),
        ("Search", "no SPACE", {work.run_id}),
        ("Search", "team=d", {night, old}),
    ]:
        field = page.get_by_label(label, exact=True)
        if label == "Error" or label.endswith("since"):
            field.select_option(value)
        else:
            field.fill(value)
            field.press("Enter")
        expect(page.locator("#runs tr")).to_have_count(len(found))
        ids = page.locator("#runs a").evaluate_all("all => all.map(one => one.title)")
        assert set(ids) == {str(run) for run in found}, label
        page.goto("/#/")
        expect(page.locator("#runs tr")).to_have_count(4)


def test_a_page_that_looked_at_many_runs_and_has_none_is_gone_on_from(
    services: Services, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "LOOKS_FIRST", 10)
    monkeypatch.setattr(lists, "LOOKS_MOST", 60)
    for team in ("data", "web"):
        for _ in range(150):
            new_run(services, labels={"team": team})
    page.goto("/#/?text=team%3Ddata")
    expect(page.get_by_text("None of the newest runs fits.")).to_be_visible()
    expect(page.get_by_text("No runs here.")).to_be_hidden()
    page.get_by_role("button", name="Older runs").click()
    expect(page.locator("#runs tr")).not_to_have_count(0)
    expect(page.get_by_text("None of the newest runs fits.")).to_be_hidden()
    # Pressed by a script, which a button that is not enabled, or not there any more, does not mind.
    press = "document.getElementById('more').click()"
    eventually(lambda: page.evaluate(press) or page.locator("#runs tr").count() == 150)
    expect(page.get_by_role("button", name="Older runs")).to_be_hidden()


def test_runs_that_are_ticked_are_cancelled_or_done_again_together(services: Services, page: Page) -> None:
    queued = [new_run(services).id for _ in range(3)]
    work = running(services)
    assert finish(services, [End.by_result(work.fence, Outcome.failed("No."), 0)])
    page.goto("/")

    def box(run: UUID) -> Locator:
        return page.get_by_label(f"Choose {str(run).rsplit('-', 1)[-1]}")

    box(queued[0]).check()
    box(queued[1]).focus()
    page.keyboard.press("Space")
    box(work.run_id).check()
    # They stay ticked, and the focus stays, when the list is looked at again.
    for _ in range(2):
        with page.expect_response("**/v1/runs?*"):
            pass
    expect(page.locator("#runs input:checked")).to_have_count(3)
    expect(box(work.run_id)).to_be_focused()
    page.get_by_role("button", name="Cancel 2 runs").click()
    page.get_by_role("dialog").get_by_role("button", name="Leave them").click()
    assert {status_of(services, run) for run in queued} == {"queued"}
    page.get_by_role("button", name="Cancel 2 runs").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel 2 runs").click()
    expect(page.locator("#done")).to_have_text("2 runs cancelled.")
    assert [status_of(services, run) for run in queued] == ["cancelled", "cancelled", "queued"]
    expect(page.get_by_role("button", name="Cancel 2 runs")).to_be_hidden()
    page.get_by_label("Choose all that are listed").check()
    page.get_by_role("button", name="Do 3 runs again").click()
    page.get_by_role("dialog").get_by_role("button", name="Do 3 runs again").click()
    expect(page.locator("#done")).to_have_text("3 runs started.")
    expect(page.locator("#runs tr")).to_have_count(7)
    again = {run.again_of for run in services.records.newest(limit=3)}
    assert again == {queued[0], queued[1], work.run_id}


def test_one_run_is_done_again_by_its_button(services: Services, page: Page) -> None:
    first = new_run(services, labels={"team": "data"}).id
    open_run(page, first)
    page.get_by_role("button", name="Do it again").click()
    expect(page.locator("#why")).to_contain_text(f"It does run {first} again.")
    (again,) = services.records.newest(limit=1)
    assert (again.again_of, again.labels) == (first, {"team": "data"})
    expect(page.get_by_role("heading", name=f"Run {again.id}")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_and_is_used_by_keyboard(services: Services, page: Page, scheme: Any) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1, b"x" * 500 + b"\n")])
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 375, "height": 700})
    page.goto("/")
    expect(page.locator("#runs tr")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.get_by_role("link", name=str(work.run_id).rsplit("-", 1)[-1]).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#lines")).to_contain_text("xxx")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.evaluate("document.activeElement.id") == "main"
    unnamed = page.locator("button:visible, input:visible, select:visible").evaluate_all(
        "all => all.filter(one => !one.labels?.length && !one.textContent.trim()).length"
    )
    assert unnamed == 0


def test_a_run_that_is_not_there_is_told(page: Page, services: Services) -> None:
    page.goto("/#/runs/01a20de4-632b-7419-8c06-23dae7e67e68")
    expect(page.get_by_text("There is no run 01a20de4")).to_be_visible()
    page.get_by_role("link", name="To the fleet").click()
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
