"""The log on the page in a real Chromium: its lines, how one finds them and links to them, what a run cannot do."""

import re
from uuid import UUID

import pytest
from playwright.sync_api import Page, Route, expect
from sqlalchemy import text

from reprieve.models.work import End, Outcome, Work
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from tests.support.rows import chunk, claim, ingest, running

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


def shown(page: Page) -> list[str]:
    """The lines of the log that can be seen."""
    texts: list[str] = page.locator("#lines .row").all_inner_texts()
    return texts


def open_log(page: Page, run_id: UUID, query: str = "") -> None:
    page.goto(f"/#/runs/{run_id}{query}")
    expect(page.get_by_role("heading", name=f"Run {run_id}")).to_be_visible()
    is_in_place(page)


def is_in_place(page: Page) -> None:
    """All that is above the log has come: what comes between pressing and letting go has the pointer be elsewhere."""
    for name in ("Attempts", "Why it is as it is"):
        expect(page.get_by_role("region", name=name)).to_be_visible()
    expect(page.get_by_role("term").filter(has_text="Adapter")).to_be_visible()
    expect(page.get_by_role("button", name="Do it again")).to_be_visible()
    expect(page.get_by_role("main").get_by_role("code").first).to_be_visible()


def a_log(services: Services, *texts: bytes, ended: bool = True) -> Work:
    """A run that has printed these, a chunk each."""
    work = running(services)
    if texts:
        ingest(services, [chunk(work, seq, text) for seq, text in enumerate(texts, 1)])
    if ended:
        assert finish(services, [End.by_result(work.fence, Outcome(), len(texts))])
    return work


def numbered(count: int, each: int = 1000) -> list[bytes]:
    """So many lines, in chunks."""
    return [
        b"".join(b"line %d\n" % number for number in range(first, min(first + each, count + 1)))
        for first in range(1, count + 1, each)
    ]


def taken_again(services: Services, work: Work) -> Work:
    """The run's next attempt, once the first has ended."""
    with services.database.begin() as connection:
        statement = "UPDATE runs SET status = 'queued', updated_at = clock_timestamp() WHERE id = :id"
        connection.execute(text(statement), {"id": work.run_id})
        statement = "UPDATE run_attempts SET finished_at = clock_timestamp(), last_seq = 1 WHERE run_id = :id"
        connection.execute(text(statement), {"id": work.run_id})
    again = claim(services, work.run_id, "worker@elsewhere")
    assert again is not None
    return again


def numbers(page: Page) -> list[str]:
    found: list[str] = page.locator("#lines .number[href]").evaluate_all("all => all.map(one => one.dataset.number)")
    return found


def whole(page: Page) -> None:
    """Wait until all of the log is there, and drawn."""
    expect(page.locator("#log-state")).to_contain_text("This is all of it.", timeout=120_000)
    page.evaluate("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")


def test_what_a_run_prints_is_text_and_never_part_of_the_page(services: Services, page: Page) -> None:
    work = running(services, labels={"<b>": "<i>"})
    lines = ["<script>window.hacked = 1</script>", "<img src=x onerror='window.hacked = 1'>", "\x1b]0;title\x07after"]
    ingest(services, [chunk(work, 1, "\n".join(lines).encode() + b"\n")])
    open_log(page, work.run_id)
    expect(page.locator("#lines")).to_contain_text("after")
    assert [line for line in shown(page) if line] == [*lines[:2], "after"]
    assert page.evaluate("window.hacked") is None
    page.goto("/")
    expect(page.get_by_role("row").filter(has_text="<b>=<i>")).to_be_visible()


def test_an_address_can_be_clicked_and_brings_nothing_of_the_page_with_it(services: Services, page: Page) -> None:
    line = "see https://example.org/a?b=<c>, (http://h/x_(y)). javascript:alert(1) data:text/html,x ftp://no https://\n"
    work = a_log(services, line.encode(), b"\x1b[31mhttp://red/\x1b[0mgreen http://\xe2\x80\xaeevil/\n")
    open_log(page, work.run_id)
    whole(page)
    links = page.locator("#lines .text a")
    found = links.evaluate_all("all => all.map(one => [one.getAttribute('href'), one.target, one.rel])")
    assert {tuple(one[1:]) for one in found} == {("_blank", "noopener noreferrer")}
    assert [one[0] for one in found] == [
        "https://example.org/a?b=",
        "http://h/x_(y)",
        *["http://red/green"] * 2,  # A piece for each colour.
    ]
    assert shown(page)[0] == line.rstrip("\n")


def test_what_turns_text_around_is_shown_by_its_number(services: Services, page: Page) -> None:
    work = a_log(services, "access = \u202e\u2066not admin\u2069 \u05d0\u200f\n".encode())
    open_log(page, work.run_id)
    whole(page)
    assert shown(page) == ["access = U+202EU+2066not adminU+2069 \u05d0U+200F"]
    expect(page.locator(".text .hidden")).to_have_count(4)


def test_a_line_of_many_colours_or_of_hidden_characters_is_a_bounded_part_of_the_page(
    services: Services, page: Page
) -> None:
    coloured = b"".join(b"\x1b[3%dmx" % (place % 8) for place in range(390)) + b"\n"
    hidden = "\u202e\u2066".encode() * 4000 + b"end\n"
    work = a_log(services, *[coloured * 20, hidden * 2] * 10)
    open_log(page, work.run_id)
    whole(page)
    assert page.locator("#lines *").count() < 3500
    assert page.locator("#lines .row").count() > 20
    assert not set("\u202e\u2066") & set(page.locator("#lines").inner_text())
    assert "x" * 390 in shown(page)
    assert shown(page)[-1].endswith("\ufffdend")


# -- how much


def test_a_million_lines_are_there_and_few_of_them_in_the_page(services: Services, page: Page) -> None:
    work, each = running(services), 1000
    for first in range(1, 1001, 50):
        chunks = [
            chunk(work, seq, b"".join(b"line %d\n" % (each * (seq - 1) + number) for number in range(each)))
            for seq in range(first, first + 50)
        ]
        ingest(services, chunks)
    finish(services, [End.by_result(work.fence, Outcome(), 1000)])
    open_log(page, work.run_id)
    expect(page.locator("#log-state")).to_have_text("This is all of it.", timeout=120_000)
    expect(page.locator("#lines")).to_contain_text("line 999999")
    assert page.locator("#lines .row").count() < 100
    page.locator("#log").evaluate("log => { log.scrollTop = 0 }")
    expect(page.locator("#lines .row").first).to_have_text("line 0")
    page.get_by_label("Search").fill("line 500000")
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".row.found")).to_have_text("line 500000", timeout=30_000)
    page.get_by_role("button", name="To the end").click()
    expect(page.locator("#lines")).to_contain_text("line 999999")
    # Wrapped, or of one stream alone, or gone to by its number, a line is found as well.
    page.get_by_role("button", name="Wrap").click()
    page.get_by_label("Go to line").fill("123456")
    page.get_by_label("Go to line").press("Enter")
    expect(page.locator(".row.marked")).to_have_text("line 123455")
    expect(page.locator(".row.marked")).to_be_in_viewport()
    page.get_by_label("Search").fill("7")
    expect(page.locator("#log-matches")).to_have_text("468,559 lines", timeout=60_000)


@pytest.mark.row("E12")
def test_a_line_of_50_mb_is_cut_for_showing_and_its_download_is_whole(services: Services, page: Page) -> None:
    work, piece = running(services), b"x" * 62_500
    for first in range(1, 801, 100):
        ingest(services, [chunk(work, seq, piece) for seq in range(first, first + 100)])
    ingest(services, [chunk(work, 801, b"\nand what follows it\n")])
    finish(services, [End.by_result(work.fence, Outcome(), 801)])
    open_log(page, work.run_id)
    whole(page)
    expect(page.locator("#lines .row")).to_have_count(2)
    expect(page.locator("#lines .row").last).to_have_text("and what follows it")
    expect(page.locator("#lines .cut")).to_have_text(" … cut: the line has 50,000,000 characters; download it")
    assert len(page.locator("#lines .row").first.inner_text()) < 10_100
    with page.expect_download() as download:
        page.locator("#lines .cut a").click()
    assert download.value.path().read_bytes() == piece * 800 + b"\nand what follows it\n"


def test_a_page_keeps_as_much_as_it_can_and_says_what_it_let_go_of(services: Services, page: Page) -> None:
    page.goto("/")
    code = """() => import('/page/lines.js').then(({ Lines }) => {
        const lines = new Lines({ lines: 5000, bytes: 1e9 });
        const at = '2026-11-30T03:00:00Z';
        const print = (first, last) => {
            for (let n = first; n <= last; n += 1) lines.feed({ stream: 'stdout', at, text: `line ${n}\\n` });
        };
        lines.feed({ stream: 'stderr', at, text: 'open' });
        print(2, 5000);
        const atMost = [lines.first, lines.placeOf(1, 1)];
        print(5001, 9000);
        lines.feed({ stream: 'stderr', at, text: ' and on\\n' });
        const textOf = number => lines.line(lines.placeOf(1, number)).text;
        const later = [lines.first, lines.placeOf(1, 1), textOf(8000), lines.line(9000).text];
        lines.holdsFrom = 8000;
        print(9002, 20000);
        const small = new Lines({ lines: 1e9, bytes: 30 * 1024 });
        for (let n = 1; n <= 3001; n += 1) small.feed({ stream: 'stdout', at, text: n > 1000 ? 'abcd\\n' : 'äbc→\\n' });
        return [atMost, later, [lines.first, lines.isFull, textOf(8000)], [small.first, small.size]];
    })"""
    at_most, later, held, small = page.evaluate(code)
    assert at_most == [0, 0]
    assert later == [5000, None, "line 8000", " and on"]
    assert held == [5000, True, "line 8000"]
    # 26 KB for the first thousand, whose characters have two bytes, and 21 for each of the others.
    assert small == [2000, 20_999]


def test_a_log_of_which_the_page_let_go_of_the_first_lines_is_shown_from_the_first_on_request(
    services: Services, page: Page
) -> None:
    def keep_less(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("lines: 2_000_000", "lines: 5_000"))

    page.route("**/page/lines.js", keep_less)
    work = a_log(services, *numbered(20_000))
    open_log(page, work.run_id)
    whole(page)
    expect(page.locator("#log-start")).to_contain_text("The first 15,000 lines are not kept here.")
    expect(page.locator("#lines .row").last).to_have_text("line 20000")
    page.get_by_role("button", name="Show them").click()
    expect(page.locator("#lines .row").first).to_have_text("line 1")
    expect(page.locator("#log-start")).to_be_hidden()
    expect(page.locator("#log-rest")).to_contain_text("are as many as can be kept here.")
    page.get_by_role("button", name="Show what follows").click()
    whole(page)
    expect(page.locator("#log-start")).to_be_visible()
    # An address of a line that is not kept brings it back as well.
    page.get_by_label("Go to line").fill("3000")
    page.get_by_label("Go to line").press("Enter")
    expect(page.locator(".row.marked")).to_have_text("line 3000")


def test_what_comes_is_taken_in_turns_that_hold_up_nobody(page: Page) -> None:
    page.goto("/")
    code = """async () => {
        const { Feeder } = await import('/page/feeding.js');
        const { Lines } = await import('/page/lines.js');
        const turns = [0];
        const feeder = new Feeder(new Lines(), { fed: () => turns.push(0), full: () => {} });
        const ended = new Promise(end => feeder.add((function* () {
            for (let step = 0; step < 20; step += 1) {
                for (const until = performance.now() + 5; performance.now() < until;) ;
                turns[turns.length - 1] += 1;
                yield;
            }
            end();
        })()));
        await ended;
        // And a chunk is left off wherever so many of its characters were read, however much each of them moves.
        const lines = new Lines();
        const lengths = [];
        let before = 0;
        for (const _ of lines.taking({ stream: 'stdout', at: '2026-11-30T03:00:00Z', text: 'x'.repeat(10000) })) {
            const { length } = lines.line(0).text;
            lengths.push(length - before);
            before = length;
        }
        return [Math.max(...turns), Math.max(...lengths), before];
    }"""
    most, longest, whole = page.evaluate(code)
    assert most <= 2  # Steps of 5 ms, in turns of 8.
    assert (longest, whole) == (1024, 10_000)


def test_a_run_that_prints_more_than_a_page_can_take_in_waits_at_the_server(services: Services, page: Page) -> None:
    def take_little(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("MUCH = 8 * 1024 * 1024", "MUCH = 50_000"))

    page.route("**/page/output.js", take_little)
    streams: list[str] = []
    page.on("request", lambda request: streams.append(request.url) if "/log/live" in request.url else None)
    work = a_log(services, *numbered(60_000))
    open_log(page, work.run_id)
    whole(page)
    expect(page.locator("#lines .row").last).to_have_text("line 60000")
    assert page.locator("#lines .number").last.get_attribute("data-number") == "60000"
    assert len(streams) > 1


# -- lines and their addresses


def test_a_number_is_clicked_while_more_is_printed(services: Services, page: Page) -> None:
    work = a_log(services, *numbered(10), ended=False)
    open_log(page, work.run_id)
    expect(page.locator("#lines .row").last).to_have_text("line 10")
    page.get_by_label("Line 3", exact=True).hover()
    page.mouse.down()
    ingest(services, [chunk(work, 2, b"line 11\n")])
    expect(page.locator("#lines .row").last).to_have_text("line 11")
    page.mouse.up()
    expect(page.locator(".row.marked")).to_have_text("line 3")


def test_lines_are_numbered_and_a_range_of_them_has_an_address(services: Services, page: Page) -> None:
    work = a_log(services, *numbered(3000))
    open_log(page, work.run_id)
    whole(page)
    page.get_by_label("Go to line").fill("1500")
    page.get_by_label("Go to line").press("Enter")
    marked = page.locator(".row.marked")
    expect(marked).to_have_text("line 1500")
    page.get_by_label("Line 1503", exact=True).click(modifiers=["Shift"])
    expect(marked).to_have_text([f"line {number}" for number in range(1500, 1504)])
    assert page.url.endswith(f"#/runs/{work.run_id}?attempt=1&lines=1500-1503")
    page.reload()
    is_in_place(page)
    expect(marked).to_have_text([f"line {number}" for number in range(1500, 1504)])
    expect(marked.first).to_be_in_viewport()
    page.get_by_label("Line 1505", exact=True).click()
    expect(marked).to_have_text("line 1505")
    # Numbers are not in what is copied.
    page.locator("#lines").evaluate("lines => getSelection().selectAllChildren(lines)")
    copied = page.evaluate("getSelection().toString()").split()
    assert {word for word in copied if word != "line"} <= {str(number) for number in range(1400, 1600)}
    assert copied.count("1505") == 1


@pytest.mark.parametrize("query", ["?lines=1e9", "?attempt=0&lines=-3", "?attempt=%3Cb%3E", "?lines=0-0&x", "?"])
def test_an_address_that_asks_for_no_lines_shows_the_log(services: Services, page: Page, query: str) -> None:
    work = a_log(services, b"one\ntwo\n")
    open_log(page, work.run_id, query)
    whole(page)
    expect(page.locator("#lines .row")).to_have_text(["one", "two"])
    expect(page.locator(".row.marked")).to_have_count(0)


def test_a_line_that_is_not_there_is_told(services: Services, page: Page) -> None:
    work = a_log(services, b"one\ntwo\n")
    open_log(page, work.run_id, "?attempt=1&lines=2-90")
    whole(page)
    expect(page.locator(".row.marked")).to_have_text("two")
    page.get_by_label("Go to line").fill("3")
    page.get_by_label("Go to line").press("Enter")
    expect(page.locator("#log-state")).to_have_text("There is no line 3.")
    open_log(page, work.run_id, "?attempt=1&lines=3")
    expect(page.locator("#log-state")).to_have_text("This is all of it. There is no line 3: it has 2.")


def test_each_attempt_has_its_own_log_its_numbers_and_its_downloads(services: Services, page: Page) -> None:
    work = running(services, max_attempts=2)
    ingest(services, [chunk(work, 1, b"of the first\nhalf")])
    again = taken_again(services, work)
    ingest(services, [chunk(again, 1, b"of the second\n", attempt=2)])
    finish(services, [End.by_result(again.fence, Outcome(), 1)])
    open_log(page, work.run_id)
    whole(page)
    assert shown(page) == ["of the first", "half", "— attempt 2 —", "of the second"]
    assert numbers(page) == ["1", "2", "1"]
    page.get_by_label("Attempt", exact=True).select_option("1")
    expect(page.locator("#log-state")).to_have_text("This is all of attempt 1.")
    expect(page.locator("#lines .row")).to_have_text(["of the first", "half"])
    with page.expect_download() as download:
        page.get_by_role("link", name="Download stdout of attempt 1").click()
    assert download.value.path().read_bytes() == b"of the first\nhalf"
    page.reload()
    expect(page.locator("#lines .row")).to_have_text(["of the first", "half"])
    open_log(page, work.run_id, "?attempt=2&lines=1")
    expect(page.locator(".row.marked")).to_have_text("of the second")
    expect(page.locator("#lines .row")).to_have_count(1)
    expect(page.get_by_role("link", name="Download all with times (JSON) of attempt 2")).to_be_visible()


def test_what_follows_a_gap_is_no_part_of_the_line_before_it(services: Services, page: Page) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1, b"half a line"), chunk(work, 3, b"the end of another\nand one\n")])
    assert finish(services, [End.by_result(work.fence, Outcome(), 3)])
    with services.database.begin() as connection:  # Nobody waits for it any more.
        connection.execute(text("UPDATE run_attempts SET finished_at = finished_at - interval '61 s'"))
    open_log(page, work.run_id)
    rows = page.locator("#lines .row")
    gap = "— chunks 2 to 2 are missing —"
    expect(rows).to_have_text(["half a line", gap, "the end of another", "and one"])
    assert numbers(page) == ["1", "2", "3"]


def test_an_attempt_that_is_not_there_is_told(services: Services, page: Page) -> None:
    open_log(page, running(services).run_id, "?attempt=7")
    expect(page.locator("#log-state")).to_have_text("There is no attempt 7 yet.")


# -- how it is looked at


def test_times_and_wrapping_stay_as_they_were_chosen_and_stderr_is_shown_alone(services: Services, page: Page) -> None:
    work = running(services)
    ingest(
        services,
        [
            chunk(work, 1, b"out " + b"x" * 900 + b"\n"),
            chunk(work, 2, b"err 1\n", stream="stderr"),
            chunk(work, 3, b"out 2\n"),
            chunk(work, 4, b"err 2\n", stream="stderr"),
        ],
    )
    open_log(page, work.run_id)
    rows = page.locator("#lines .row")
    expect(rows).to_have_count(4)
    assert rows.first.bounding_box()["height"] == 18  # type: ignore[index]
    page.get_by_role("button", name="Times").click()
    page.get_by_role("button", name="Wrap").click()
    expect(page.locator("#lines .time")).to_have_count(4)
    expect(rows.last).to_be_in_viewport()
    page.reload()
    expect(page.locator("#lines .time")).to_have_count(4)
    pattern = re.compile(r"^\d\d:\d\d:\d\d\.\d\d\d$")
    assert all(
        pattern.match(time)
        for time in page.locator("#lines .time").evaluate_all("all => all.map(it => it.dataset.time)")
    )
    assert rows.first.bounding_box()["height"] > 18  # type: ignore[index]
    assert page.locator("#log").evaluate("log => log.scrollWidth - log.clientWidth") == 0
    page.get_by_role("button", name="stderr alone").click()
    expect(rows).to_have_text(["err 1", "err 2"])
    assert numbers(page) == ["2", "4"]
    ingest(services, [chunk(work, 5, b"out 3\n"), chunk(work, 6, b"err 3\n", stream="stderr")])
    expect(rows).to_have_text(["err 1", "err 2", "err 3"])
    page.get_by_role("button", name="stderr alone").click()
    expect(rows).to_have_count(6)


def test_a_browser_that_keeps_nothing_shows_a_log_too(services: Services, page: Page) -> None:
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('No.') } })")
    work = a_log(services, b"one\n")
    open_log(page, work.run_id)
    page.get_by_role("button", name="Wrap").click()
    expect(page.locator("#log.wraps .row")).to_have_text("one")


def test_a_log_fills_the_screen_and_is_used_by_its_keys(services: Services, page: Page) -> None:
    work = a_log(services, b"one\ntwo\nTypeError: three\nfour one\n")
    open_log(page, work.run_id)
    whole(page)
    page.locator("#log").focus()
    page.keyboard.press("/")
    expect(page.get_by_label("Search")).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Enter")
    found = page.locator(".row.found")
    expect(found).to_have_text("one")
    page.locator("#log").focus()
    page.keyboard.press("n")
    expect(found).to_have_text("four one")
    page.keyboard.press("Shift+N")
    expect(found).to_have_text("one")
    page.keyboard.press("e")
    expect(page.locator(".row.marked")).to_have_text("TypeError: three")
    page.keyboard.press("w")
    expect(page.get_by_role("button", name="Wrap")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("f")
    expect(page.get_by_role("button", name="Full screen")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#log-part")).to_have_css("flex-direction", "column")
    page.keyboard.press("f")
    expect(page.get_by_role("button", name="Full screen")).to_have_attribute("aria-pressed", "false")
    # Elsewhere, a letter is a letter.
    page.get_by_label("Search").fill("")
    page.get_by_label("Search").press("e")
    expect(page.get_by_label("Search")).to_have_value("e")


def test_a_paused_log_stands_still_and_goes_on_from_there(services: Services, page: Page) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1, b"before\nhalf a line")])
    open_log(page, work.run_id)
    expect(page.locator("#lines")).to_contain_text("before")
    page.get_by_role("button", name="Pause").click()
    ingest(services, [chunk(work, 2, b" meanwhile\nmeanwhile\n")])
    page.wait_for_timeout(1500)
    assert "meanwhile" not in page.locator("#lines").inner_text()
    page.get_by_role("button", name="Go on").click()
    expect(page.locator("#lines .row")).to_have_text(["before", "half a line meanwhile", "meanwhile"])


def test_a_run_that_printed_nothing_says_so(services: Services, page: Page) -> None:
    work = running(services)
    open_log(page, work.run_id)
    expect(page.get_by_text("It has printed nothing yet.")).to_be_visible()
    expect(page.get_by_role("log")).to_be_hidden()
    ingest(services, [chunk(work, 1, b"something\n")])
    expect(page.get_by_role("log")).to_be_visible()
    expect(page.get_by_text("It has printed nothing yet.")).to_be_hidden()
    open_log(page, a_log(services).run_id)
    expect(page.get_by_text("It printed nothing.")).to_be_visible()
    expect(page.get_by_role("log")).to_be_hidden()


# -- what is looked for


def test_matches_are_counted_and_gone_through_in_both_directions(services: Services, page: Page) -> None:
    work = a_log(services, *numbered(3000), ended=False)
    open_log(page, work.run_id)
    expect(page.locator("#lines")).to_contain_text("line 3000")
    matches, found = page.locator("#log-matches"), page.locator(".row.found")
    page.get_by_label("Search").fill("LINE 299")
    expect(matches).to_have_text("11 lines")
    page.get_by_label("Search").press("Enter")
    expect(found).to_have_text("line 299")
    expect(page.locator(".row.found mark")).to_have_text("line 299")
    expect(matches).to_have_text("1 of 11")
    page.get_by_role("button", name="Previous").click()
    expect(found).to_have_text("line 2999")
    expect(matches).to_have_text("11 of 11")
    page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Next").click()
    expect(found).to_have_text("line 2990")
    ingest(services, [chunk(work, 4, b"a line 299 more\n")])
    expect(matches).to_have_text("2 of 12")
    for words, count in [("/^line [12]0{3}$/", "2 lines"), ("/LINE 1.../i", "1,000 lines"), ("299 more", "1 line")]:
        page.get_by_label("Search").fill(words)
        expect(matches).to_have_text(count)
    page.get_by_label("Search").fill("/LINE/")
    expect(matches).to_have_text("“/LINE/” is not in it.")
    page.get_by_label("Search").fill("/(/")
    expect(matches).to_contain_text("That is no expression")
    page.get_by_label("Search").fill("/x/g")
    expect(matches).to_have_text("“g” does not belong behind an expression; only i does.")
    page.get_by_label("Search").fill("")
    expect(matches).to_have_text("")


def test_an_expression_that_takes_for_ever_is_ended_and_blocks_nothing(services: Services, page: Page) -> None:
    work = a_log(services, b"a" * 60 + b"!\n")
    open_log(page, work.run_id)
    whole(page)
    page.get_by_label("Search").fill("/^(a+)+$/")
    page.get_by_role("button", name="Wrap").click()
    expect(page.locator("#log.wraps")).to_be_visible()
    expect(page.locator("#log-matches")).to_have_text("This expression takes too long; a simpler one will do.")
    page.get_by_label("Search").fill("a!")
    expect(page.locator("#log-matches")).to_have_text("1 line")


@pytest.mark.parametrize(
    "line",
    [
        "ERROR could not connect",
        "ValueError: no such thing",
        "java.lang.NullPointerException",
        "Traceback (most recent call last):",
        "panic: runtime error",
        "thread 'main' panicked at src/main.rs",
        "3 errors",
        "make: *** [all] Error 2",
        "Killed",
        '{"level":"error","msg":"x"}',
        "FAILED tests/test_a.py",
        "state: OOMKilled",
    ],
)
def test_the_first_line_that_tells_of_an_error_is_gone_to(services: Services, page: Page, line: str) -> None:
    calm = [
        "no errors found",
        "0 errors, 0 failed",
        "errors: 0",
        '"error": null',
        "Error: none",
        "terror",
        "mirror",
        "failed=0",
        "without error",
        "errorless",
        "skilled",
    ]
    work = a_log(services, "\n".join(calm).encode() + b"\n", line.encode() + b"\nError: the last\n")
    open_log(page, work.run_id)
    whole(page)
    page.get_by_role("button", name="First error").click()
    expect(page.locator(".row.marked")).to_have_text(line)
    assert page.url.endswith(f"attempt=1&lines={len(calm) + 1}")


def test_where_no_line_tells_of_an_error_the_first_of_stderr_is_gone_to(services: Services, page: Page) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1, b"well\n"), chunk(work, 2, b"hm\n", stream="stderr"), chunk(work, 3, b"well\n")])
    open_log(page, work.run_id)
    expect(page.locator("#lines .row")).to_have_count(3)
    page.get_by_role("button", name="First error").click()
    expect(page.locator(".row.marked")).to_have_text("hm")
    open_log(page, a_log(services, b"well\n").run_id)
    whole(page)
    page.get_by_role("button", name="First error").click()
    expect(page.locator("#log-matches")).to_have_text("No line tells of an error, and none is of stderr.")


# -- what one can read


@pytest.mark.parametrize("width", [375, 1200])
def test_a_log_fits_its_page_and_all_of_it_is_named(services: Services, page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    work = a_log(services, b"x" * 3000 + b"\n" + b"\x1b[32mgreen\x1b[0m\n" * 50)
    open_log(page, work.run_id)
    whole(page)
    page.get_by_label("Search").fill("green")
    expect(page.locator("#log-matches")).to_have_text("50 lines")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Wrap").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    expect(page.get_by_role("log")).to_have_accessible_name("Output of the run")
    for button in page.locator("#log-part button:visible").all():
        assert button.get_attribute("aria-label") or button.inner_text()


def test_whatever_colour_a_run_asks_for_can_be_read(page: Page) -> None:
    page.goto("/")
    code = """async () => {
        const { colour, contrast, readable } = await import('/page/colours.js');
        const { DEFAULT, RGB } = await import('/page/terminal.js');
        const all = [...Array(256).keys(), RGB, RGB | 0xffffff, RGB | 0x0000ff, RGB | 0x777777];
        const grounds = [0x101413, 0xffffff, ...all.map((one) => colour(one, true))];
        const worst = Math.min(...grounds.flatMap((ground) => all.map((one) => {
            return contrast(readable(colour(one, false), ground), ground);
        })));
        return [worst, readable(0x123456, 0xffffff), colour(DEFAULT, false), colour(RGB | 0x010203, false)];
    }"""
    worst, untouched, default, exact = page.evaluate(code)
    assert worst >= 4.5
    assert (untouched, default, exact) == (0x123456, None, 0x010203)
