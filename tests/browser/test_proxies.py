"""The page below a path of a proxy, as a person uses it there."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from reprieve.models.access import networks_of
from reprieve.workers.bootstrap import Services
from tests.support.http import TOKEN, with_token
from tests.support.proxy import Proxy
from tests.support.rows import chunk, ingest, running, status_of
from tests.support.served import Served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]


@pytest.fixture
def proxy(services: Services) -> Iterator[Proxy]:
    wired = with_token(services)
    trusting = wired.settings.model_copy(update={"api_trusted_proxies": networks_of("127.0.0.1")})
    served = Served(replace(wired, settings=trusting))
    served.start()
    made = Proxy(served.url, "/tools/reprieve")
    made.start()
    yield made
    made.stop()
    served.stop()


def test_the_page_works_below_a_path_of_a_proxy(services: Services, proxy: Proxy, page: Page) -> None:
    work = running(services, labels={"team": "data"})
    ingest(services, [chunk(work, 1, b"one\n")])
    page.goto(f"{proxy.url}/?token={TOKEN}")
    expect(page).to_have_url(f"{proxy.url}/")
    expect(page.locator("#runs tr")).to_have_count(1)
    (cookie,) = page.context.cookies()
    assert cookie["path"] == "/tools/reprieve/"
    page.locator("#runs").get_by_role("link").click()
    expect(page.locator("#lines")).to_contain_text("one")
    ingest(services, [chunk(work, 2, b"two\n")])
    expect(page.locator("#lines .row")).to_have_text(["one", "two"])
    page.get_by_role("button", name="Cancel the run").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    expect(page.locator("#run-state")).to_contain_text("cancelled")
    assert status_of(services, work.run_id) == "cancelled"
    page.get_by_role("button", name="Forget the token").click()
    expect(page.get_by_label("Token")).to_be_visible()
    assert page.context.cookies() == []
