"""How the tests open what the page shows, and keep a picture of it."""

import os
from pathlib import Path
from uuid import UUID

from playwright.sync_api import Locator, Page, expect


def open_run(page: Page, run_id: UUID) -> None:
    page.goto(f"/#/runs/{run_id}")
    expect(page.get_by_role("heading", name=f"Run {run_id}")).to_be_visible()


def fact(page: Page, name: str) -> Locator:
    """What stands beside this name."""
    return page.locator("#facts div").filter(has=page.get_by_text(name, exact=True)).locator("dd")


def screenshot(page: Page, name: str) -> None:
    """For the documentation, where `SCREENSHOTS` names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"page-{name}.png"))
