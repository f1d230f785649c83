"""What others have written, on the page: it stands there and does nothing, as on a terminal."""

import unicodedata
from uuid import UUID

import pytest
from playwright.sync_api import Page, expect

from reprieve.models.notice_rules import checked_rule
from reprieve.models.text import shown
from reprieve.models.workers import Presence
from reprieve.workers.bootstrap import Services
from tests.browser.views import open_run
from tests.support.nodes import a_node
from tests.support.text_of_others import ACTS, HOSTILE, rows_with

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240), pytest.mark.row("G11")]

#: Blanks in a page, and no more than that.
BLANKS = {"\t", "\n"}


def acts_on(page: Page) -> list[str]:
    """What acts in all that the view says, and says where one points."""
    said: str = page.evaluate(
        "[document.body.innerText, ...[...document.querySelectorAll('[title]')].map(one => one.title)].join(' ')"
    )
    found: list[str] = ACTS.findall(said.replace("\t", " "))
    return found


def test_a_page_shows_each_character_as_a_terminal_does(page: Page) -> None:
    characters = [
        character
        for number in [*range(0x3200), *range(0xD7F0, 0xF0000, 7), *range(0xFE00, 0x10000), *range(0xE0000, 0xE0200)]
        # What has no meaning yet may have one in the other's newer Unicode.
        if not 0xD800 <= number < 0xE000 and unicodedata.category(character := chr(number)) != "Cn"
    ]
    page.goto("/")
    told = page.evaluate("all => import('/page/words.js').then(words => all.map(words.shown))", characters)
    wanted = [character if character in BLANKS else shown(character) for character in characters]
    assert [pair for pair in zip(characters, told, wanted, strict=True) if pair[1] != pair[2]] == []


@pytest.mark.parametrize("name", HOSTILE)
def test_what_others_have_written_does_nothing_in_any_view(services: Services, page: Page, name: str) -> None:
    evil = HOSTILE[name]
    run = UUID(rows_with(services, evil, 1))
    services.workers.seen(UUID(int=1), evil, a_node(evil[:60]), Presence(places=5, runs=2))
    services.notices.put_rule(checked_rule("ops", "https://hooks.example.com/T0", None, {"team": evil}, None))
    (waits,) = [one.id for one in services.records.newest(limit=9) if one.status == "queued"]
    page.goto("/")
    expect(page.locator("#runs tr")).to_have_count(2)
    assert acts_on(page) == []
    for one in (run, waits):
        open_run(page, one)
        expect(page.locator("#run-why")).not_to_be_empty()
        page.get_by_text("What it was asked for with").click()
        expect(page.locator("#config")).to_contain_text("command")
        assert acts_on(page) == []
    for view, holds in (("workers", "#workers"), ("notices", "#rules")):
        page.goto(f"/#/{view}")
        expect(page.locator(f"{holds} tr")).to_have_count(1)
        assert acts_on(page) == []
    assert page.evaluate("document.querySelectorAll('main b, main link, main [style*=color]').length") == 0
