"""The code of docs/clients.md, as it stands there, with a worker and over the API."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from reprieve.workers.bootstrap import Services
from tests.conftest import StartWorker
from tests.support.http import TOKEN, with_token
from tests.support.served import Served

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()


def code(section: str) -> dict[str, Any]:
    """What the code of a section defines."""
    found = re.search(rf"^## {section}\n.*?^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert found is not None
    defined: dict[str, Any] = {}
    exec(compile(found[1], f"clients.md, {section}", "exec"), defined)
    return defined


def test_runs_are_asked_for_waited_for_and_shown_in_each_way_that_the_page_has(
    services: Services, start_worker: StartWorker, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    start_worker()
    assert asyncio.run(code("For asyncio")["first_words"](["echo", "hello"])) == b"hello\n"
    (said_hello,) = services.records.newest()
    directly, over_http, served = code("Directly"), code("Over HTTP"), Served(with_token(services))
    assert directly["report"]("today") is False  # There is no such target here.
    capfdbinary.readouterr()
    directly["show"](str(said_hello.id))
    assert capfdbinary.readouterr().out == b"hello\n"
    served.start()
    try:
        run_id = over_http["start"](served.url, TOKEN)
        assert asyncio.run(over_http["wait"](served.url, TOKEN, run_id)) == "failed"
    finally:
        served.stop()
