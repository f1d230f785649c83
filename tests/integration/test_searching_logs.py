"""Lines that match, of many runs: hot logs and closed ones, by command and over HTTP."""

import os
import threading
import time
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from reprieve.api import searching as searching_api
from reprieve.cli.main import app
from reprieve.models.closing import SMALL_BYTES
from reprieve.models.errors import LogUnavailable
from reprieve.models.filters import RunFilter
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.logs import PostgresLogStore
from reprieve.stores.runs import lists
from reprieve.workers import searching
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_log
from reprieve.workers.finish import finish
from reprieve.workers.searching import compiled, search
from tests.support.http import calling
from tests.support.rows import chunk, ingest, new_run, running

ANY = RunFilter()


@pytest.fixture
def client(services: Services) -> Any:
    with calling(services, raising=False) as made:
        yield made


def reprieve(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def that_printed(services: Services, *lines: str, **changes: Any) -> Work:
    work = running(services, **changes)
    ingest(services, [chunk(work, seq, line.encode() + b"\n") for seq, line in enumerate(lines, 1)])
    return work


def of_runs(services: Services, pattern: str, wanted: RunFilter = ANY) -> list[searching.OfRun]:
    return [one for one in search(services, wanted, compiled(pattern)) if isinstance(one, searching.OfRun)]


def found(services: Services, pattern: str, wanted: RunFilter = ANY) -> list[tuple[UUID, int, str]]:
    runs = of_runs(services, pattern, wanted)
    return [(one.run.id, line.number, line.text) for one in runs for line in one.lines]


def test_lines_that_match_are_found_in_all_runs_that_are_chosen_the_newest_first(services: Services) -> None:
    first = that_printed(services, "all well", "disk full", labels={"team": "data"})
    second = that_printed(services, "disk full again", labels={"team": "data"})
    that_printed(services, "disk full", labels={"team": "web"})
    wanted = RunFilter.of(labels={"team": "data"})
    assert found(services, "disk", wanted) == [(second.run_id, 1, "disk full again"), (first.run_id, 2, "disk full")]
    assert found(services, "disk", RunFilter.of(lane="no such")) == []


def test_closed_logs_are_looked_through_like_hot_ones(services: Services) -> None:
    work = that_printed(services, os.urandom(SMALL_BYTES).hex(), "it broke here")
    assert finish(services, [End.by_result(work.fence, Outcome(), 2)])
    close_log(services, work.run_id, 1)
    assert services.closings.state(work.run_id, 1).archive is not None
    assert found(services, "broke") == [(work.run_id, 2, "it broke here")]


def test_more_runs_than_are_looked_at_ahead_come_in_their_order(services: Services) -> None:
    works = [that_printed(services, f"number {number}") for number in range(searching.AHEAD + 5)]
    assert [run for run, _, _ in found(services, "number")] == [work.run_id for work in reversed(works)]


def test_a_run_that_floods_gives_so_many_lines_and_says_that_there_are_more(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "MOST_OF_RUN", 2)
    work = running(services)
    ingest(services, [chunk(work, 1, b"x\nx\n")])
    (one,) = search(services, ANY, compiled("x"))
    assert (len(one.lines), one.more) == (2, False)
    ingest(services, [chunk(work, 2, b"x\n")])
    (one,) = search(services, ANY, compiled("x"))
    assert (len(one.lines), one.more) == (2, True)
    told = reprieve("logs", "--grep", "x")
    assert "more lines match than are given" in told.stderr


def test_a_log_that_cannot_be_read_is_named_and_the_others_are_looked_through(
    services: Services, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    well, ill = that_printed(services, "fine"), that_printed(services, "fine")
    real = PostgresLogStore.read

    def read(self: PostgresLogStore, run_id: UUID, *given: Any) -> Any:
        if run_id == ill.run_id:
            raise LogUnavailable("The archive does not answer.")
        return real(self, run_id, *given)

    monkeypatch.setattr(PostgresLogStore, "read", read)
    told = client.get("/v1/logs", params={"grep": "fine"}).json()
    assert [line["run_id"] for line in told["lines"]] == [str(well.run_id)]
    assert told["not_whole"] == [{"run_id": str(ill.run_id), "why": "The archive does not answer."}]
    said = reprieve("logs", "--grep", "fine")
    assert said.exit_code == 0
    assert f"{ill.run_id} was not looked at as a whole: The archive does not answer." in said.stderr


def test_gaps_are_named(services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1, b"a\n"), chunk(work, 3, b"c\n")])
    finish(services, [End.by_result(work.fence, Outcome(), 3)])
    (one,) = search(services, ANY, compiled("c"))
    assert one.missing is not None
    assert "chunks 2 to 2 of attempt 1" in one.missing


def test_a_search_that_is_given_up_reads_no_further(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(searching.AHEAD * 2):
        that_printed(services, "line")
    reads, goes_on, real = list[UUID](), threading.Event(), PostgresLogStore.read

    def read(self: PostgresLogStore, run_id: UUID, *given: Any) -> Any:
        reads.append(run_id)
        if len(reads) > 1:
            goes_on.wait(30)
        return real(self, run_id, *given)

    monkeypatch.setattr(PostgresLogStore, "read", read)
    runs = search(services, ANY, compiled("line"))
    given_up = threading.Timer(0.2, goes_on.set)
    given_up.start()
    next(runs)
    runs.close()
    at_the_end = len(reads)
    assert at_the_end < searching.AHEAD * 2
    time.sleep(0.2)
    assert len(reads) == at_the_end
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("search")]


def test_a_page_ends_at_a_run_and_the_next_goes_on_from_there(services: Services, client: TestClient) -> None:
    works = [that_printed(services, "one", "two") for _ in range(3)]
    seen, before = [], None
    for _ in range(10):
        asked = {"grep": "o", "limit": 1} | ({"before": before} if before else {})
        page = client.get("/v1/logs", params=asked).json()
        seen += [(line["run_id"], line["number"]) for line in page["lines"]]
        if (before := page["next"]) is None:
            break
    assert seen == [(str(work.run_id), number) for work in reversed(works) for number in (1, 2)]
    assert (page["lines"], page["runs"]) == ([], 0)


def test_a_page_looks_for_so_long_and_says_where_to_go_on(
    services: Services, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = [that_printed(services, "one") for _ in range(2)][-1]
    monkeypatch.setattr(searching_api, "LONGEST_LOOK", 0.0)
    page = client.get("/v1/logs", params={"grep": "nowhere"}).json()
    assert (page["next"], page["runs"], page["bytes"]) == (str(newest.run_id), 1, 4)


@pytest.mark.parametrize(
    "asked",
    [
        {"grep": "("},
        {},
        {"grep": "x", "stream": "../x"},
        {"grep": "x", "limit": 0},
        {"grep": "x", "lanes": "a"},
        {"grep": "x", "sort": "oldest"},
    ],
)
def test_what_cannot_be_looked_for_is_refused(client: TestClient, asked: dict[str, Any]) -> None:
    answer = client.get("/v1/logs", params=asked)
    assert (answer.status_code, bool(answer.json()["detail"])) == (422, True)


def test_a_page_looks_no_longer_where_no_run_is_one_of_those_that_are_chosen(
    services: Services, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many runs in a row that none fits would be looked at by one request, for as long as that takes."""
    monkeypatch.setattr(lists, "LOOKS_FIRST", 10)
    monkeypatch.setattr(lists, "LOOKS_MOST", 20)
    monkeypatch.setattr(searching, "PAGE", 10)
    monkeypatch.setattr(searching, "AHEAD", 1)
    old = that_printed(services, "disk full", labels={"team": "data"})
    for _ in range(120):
        new_run(services)
    asked: dict[str, Any] = {"grep": "disk", "text": "team=data"}
    assert [line["run_id"] for line in client.get("/v1/logs", params=asked).json()["lines"]] == [str(old.run_id)]
    monkeypatch.setattr(searching_api, "LONGEST_LOOK", 0.0)
    pages = [client.get("/v1/logs", params=asked).json()]
    while pages[-1]["next"] is not None:
        pages.append(client.get("/v1/logs", params=asked | {"before": pages[-1]["next"]}).json())
    assert pages[0]["runs"] == 0
    assert len(pages) > 2
    assert [line["run_id"] for page in pages for line in page["lines"]] == [str(old.run_id)]
    assert reprieve("logs", "--grep", "disk", "--text", "team=data").stdout == f"{old.run_id}:1:1: disk full\n"


def test_the_command_prints_the_run_the_attempt_the_line_and_its_text_as_one_line(services: Services) -> None:
    work = that_printed(services, "fine", "ERROR \x1b[31mred\x1b[0m \x07", labels={"team": "data"})
    ingest(services, [chunk(work, 3, b"error on stderr\n", stream="stderr")])
    said = reprieve("logs", "--grep", "error", "-i", "--label", "team=data", "--stream", "stdout", "--since", "1h")
    assert (said.stdout, said.exit_code) == (f"{work.run_id}:1:2: ERROR red \\x07\n", 0)
    assert reprieve("logs", "--grep", "nowhere").exit_code == 1
    stopped = reprieve("logs", "--grep", ".", "--limit", "1")
    assert "Stopped after 3 lines" in stopped.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["abcd", "--grep", "x"], "choose them by --label"),
        (["--grep", "x", "--follow"], "choose them by --label"),
        (["--label", "team=data"], "Give one run, or --grep"),
        ([], "Give one run, or --grep"),
        (["--grep", "["], "no regular expression"),
    ],
)
def test_the_command_says_what_would_do(services: Services, arguments: list[str], said: str) -> None:
    with pytest.raises(Exception, match=said):
        reprieve("logs", *arguments)


def test_runs_that_were_removed_meanwhile_are_passed_over(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    work = that_printed(services, "line")
    page = services.records.page(ANY)
    with services.database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM runs WHERE id = %s", (str(work.run_id),))
    monkeypatch.setattr(searching, "_runs", lambda *_: iter(page.runs))
    (one,) = search(services, ANY, compiled("line"))
    assert one.lines == []
