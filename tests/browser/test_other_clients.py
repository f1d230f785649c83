"""Live output for clients that are not ours: a browser's own `EventSource`, and a service in JavaScript."""

import os
import subprocess
from pathlib import Path

import playwright
import pytest
from playwright.sync_api import Page

from reprieve.models.access import Scope
from reprieve.models.work import End, Outcome
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from tests.support.rows import chunk, ingest, running
from tests.support.served import Served
from tests.support.waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

#: Playwright brings a Node of its own.
NODE = Path(playwright.__file__).parent / "driver" / "node"
FOLLOW = Path(__file__).parents[2] / "docs" / "examples" / "follow.mjs"

#: Keeps what comes in the order in which it comes, and does nothing about a cut: `EventSource` does.
LISTEN = """
run => {
  window.seen = []; window.cuts = 0; window.ended = false;
  const source = new EventSource(`/v1/runs/${run}/log/live`);
  source.addEventListener("output", event => {
    for (const chunk of JSON.parse(event.data).chunks) window.seen.push(chunk.seq);
  });
  source.addEventListener("error", () => { window.cuts += 1; window.state = source.readyState; });
  source.addEventListener("end", () => { window.ended = true; });
}
"""


def becomes(page: Page, expression: str, value: object) -> None:
    eventually(lambda: page.evaluate(expression) == value, timeout=60, what=lambda: f"{expression} to be {value}")


def test_an_event_source_and_a_client_in_javascript_follow_a_run_across_restarts_without_gap_or_repeat(
    services: Services, served: Served, page: Page
) -> None:
    work = running(services)
    page.goto("/")
    page.evaluate(LISTEN, str(work.run_id))
    command = [NODE, FOLLOW, served.url, str(work.run_id)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as node:
        try:
            said = iter(range(1, 61))

            def say(count: int) -> None:
                for _ in range(count):
                    seq = next(said)
                    ingest(services, [chunk(work, seq, b"line %d \xe2\x9c\x93\n" % seq)])

            for cut in range(1, 3):
                say(10)
                becomes(page, "window.seen.length", 20 * cut - 10)
                served.stop()
                eventually(lambda cut=cut: page.evaluate("window.cuts") >= cut)
                say(10)
                served.start()
                becomes(page, "window.seen.length", 20 * cut)
            say(20)
            finish(services, [End.by_result(work.fence, Outcome(), 60)])
            becomes(page, "window.ended", True)
            out, err = node.communicate(timeout=60)
        finally:
            node.kill()
    assert page.evaluate("window.seen") == list(range(1, 61))
    assert out.decode().splitlines() == [f"line {number} ✓" for number in range(1, 61)]
    assert (node.returncode, err) == (0, b"")
    # It comes back after the end, as it always does, and is told to stay away.
    becomes(page, "window.state === EventSource.CLOSED", True)


def test_the_client_in_javascript_says_why_it_is_refused_and_shows_bytes_that_are_no_text(
    services: Services, served: Served
) -> None:
    served.app.state.services = services  # These ask everybody.
    work, token = running(services), services.tokens.create("reader", Scope.READ)
    ingest(services, [chunk(work, 1, b"\xff\xfe\n")])
    finish(services, [End.by_result(work.fence, Outcome(), 1)])
    command = [NODE, FOLLOW, served.url, str(work.run_id)]
    refused = subprocess.run(command, capture_output=True, timeout=60)
    assert refused.returncode == 1
    assert b"token" in refused.stderr
    known = subprocess.run(command, env={**os.environ, "REPRIEVE_TOKEN": token}, capture_output=True, timeout=60)
    assert (known.returncode, known.stdout) == (0, b"\xff\xfe\n")
