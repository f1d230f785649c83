"""Tabs of a browser, hidden and seen as a person does it: a page cannot be hidden by a script of its own."""

from playwright.sync_api import Page

_SET = """hidden => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event('visibilitychange'));
}"""


def hide(page: Page) -> None:
    page.evaluate(_SET, True)


def see(page: Page) -> None:
    page.evaluate(_SET, False)
