"""What remote work says of itself: posted with its run's token, by `reprieve exec` or by anything else; once each."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from reprieve import cancel_run
from reprieve.adapters import registry, reporter
from reprieve.adapters.remote import RemoteAdapter
from reprieve.adapters.reporter import HttpTransport, Reporter
from reprieve.adapters.spool import Spool
from reprieve.cli.exec import TOKEN_VARIABLE
from reprieve.models.errors import InvalidRequest, TokenRefused
from reprieve.models.saying import report_of
from reprieve.models.work import Outcome
from reprieve.workers.bootstrap import Services
from reprieve.workers.reporting import say
from tests.support import processes
from tests.support.forking import REPRIEVE
from tests.support.remote import remote_with_token, waiting_with_token
from tests.support.report_server import ReportServer, report_server
from tests.support.rows import status_of
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter is known, whichever others are installed here."""
    monkeypatch.setattr(registry, "adapter_classes", lambda: {"remote": RemoteAdapter})


@pytest.fixture
def server(services: Services) -> Iterator[ReportServer]:
    with report_server(services) as server:
        yield server


def said(services: Services, run_id: Any) -> Any:
    return services.records.get(run_id).report


# -- the protocol


def test_a_report_that_is_repeated_counts_once_and_its_answer_says_how_far_it_is(services: Services) -> None:
    work, token = remote_with_token(services)
    assert say(services, work.run_id, token, {}) == {"number": 0, "stop": False}
    assert said(services, work.run_id) is None
    first = {"number": 1, "progress": 0.4, "say": "epoch 3", "usage": {"tokens": 5}, "result": [1]}
    for _ in range(3):
        assert say(services, work.run_id, token, first) == {"number": 1, "stop": False}
    assert say(services, work.run_id, token, {"number": 7, "usage": {"tokens": 1}})["number"] == 7
    assert say(services, work.run_id, token, {"number": 3, "usage": {"tokens": 1}})["number"] == 7
    assert say(services, work.run_id, token, {})["number"] == 7
    report = said(services, work.run_id)
    assert (report.progress, report.sentence, report.usage, report.result_bytes) == (0.4, "epoch 3", {"tokens": 6}, 3)


def test_a_report_without_a_number_counts_each_time(services: Services) -> None:
    work, token = remote_with_token(services)
    for number in (1, 2, 3):
        assert say(services, work.run_id, token, {"usage": {"tokens": 5}})["number"] == number
    assert said(services, work.run_id).usage == {"tokens": 15}


def test_a_report_is_proof_of_life(services: Services) -> None:
    work, token = remote_with_token(services)
    services.database.run("UPDATE runs SET updated_at = updated_at - interval '100 s'")
    say(services, work.run_id, token, {"progress": 0.5})
    run = services.runs.get(work.run_id)
    assert run.last_proof == "heartbeat"
    assert (services.database.now() - run.updated_at).total_seconds() < 60


def test_nothing_is_taken_before_the_run_is_claimed(services: Services) -> None:
    run_id, token = waiting_with_token(services)
    assert say(services, run_id, token, {"number": 1, "progress": 0.5}) == {"number": 0, "stop": False}
    assert said(services, run_id) is None


def test_what_is_said_of_a_run_that_was_cancelled_before_it_was_claimed_is_let_go(services: Services) -> None:
    run_id, token = waiting_with_token(services)
    cancel_run(run_id)
    assert say(services, run_id, token, {}) == {"number": 0, "stop": True}
    assert say(services, run_id, token, {"number": 1, "progress": 0.5}) == {"number": 1, "stop": True}
    assert said(services, run_id) is None


def test_what_comes_after_the_end_is_kept_and_answered_with_stop(services: Services) -> None:
    work, token = remote_with_token(services)
    cancel_run(work.run_id)
    assert say(services, work.run_id, token, {"number": 1, "usage": {"tokens": 5}}) == {"number": 1, "stop": True}
    assert said(services, work.run_id).usage == {"tokens": 5}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"number": 0, "progress": 0.5}, "number is 0"),
        ({"number": 1}, "says something"),
        ({"number": True, "progress": 0.5}, "number is True"),
        ({"progress": 40}, "progress is 40"),
        ({"progres": 0.4}, "no 'progres'"),
        ({"usage": {"tokens": "5"}}, "of type str"),
    ],
)
def test_a_report_that_is_wrong_is_refused_and_changes_nothing(
    services: Services, given: dict[str, Any], why: str
) -> None:
    work, token = remote_with_token(services)
    with pytest.raises(InvalidRequest, match=why):
        say(services, work.run_id, token, given)
    assert said(services, work.run_id) is None


def test_a_report_with_another_token_is_refused(services: Services) -> None:
    work, _ = remote_with_token(services)
    with pytest.raises(TokenRefused):
        say(services, work.run_id, str(uuid4()), {"progress": 0.5})
    assert said(services, work.run_id) is None


# -- reprieve exec


def executed(server: ReportServer, folder: Path, run_id: Any, token: str, *command: str) -> Any:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REPRIEVE_")}
    given = environment | {"NO_PROXY": "127.0.0.1", "TMPDIR": str(folder), TOKEN_VARIABLE: token}
    arguments = [REPRIEVE, "exec", "--run", str(run_id), "--server", server.url, "--", *command]
    with (folder / "stderr").open("wb") as stderr:
        return processes.start(arguments, env=given, cwd=folder, stdout=stderr, stderr=stderr, session=False)


SPEAKING = """
import json, os
file = open(os.environ["REPRIEVE_REPORT"], "a", buffering=1)
for number in range(1, 101):
    print(json.dumps({"progress": number / 100, "usage": {"calls": 1}}), file=file)
print("nonsense", file=file)
print(json.dumps({"say": "done", "result": {"answer": 42}}), file=file)
"""


def test_what_a_command_says_comes_with_its_end_though_answers_are_lost_and_all_comes_twice(
    services: Services, server: ReportServer, tmp_path: Path
) -> None:
    server.twice, server.lose_reply = True, lambda number: number % 2 == 0
    work, token = remote_with_token(services)
    done = executed(server, tmp_path, work.run_id, token, sys.executable, "-I", "-S", "-c", SPEAKING)
    assert done.wait(60) == 0, (tmp_path / "stderr").read_text()
    assert status_of(services, work.run_id) == "succeeded"
    report = said(services, work.run_id)
    assert (report.progress, report.sentence, report.usage) == (1.0, "done", {"calls": 100})
    assert services.records.result(work.run_id) == '{"answer":42}'
    assert "Line 101 of its reports was passed over" in (tmp_path / "stderr").read_text()
    assert list(tmp_path.glob("reprieve-exec-*")) == []


def test_reports_are_sent_while_the_work_goes_on_and_once_in_ten_seconds(
    services: Services, server: ReportServer, tmp_path: Path
) -> None:
    work, token = remote_with_token(services)
    spool = Spool.create(tmp_path, limit=1024 * 1024)
    one = Reporter(HttpTransport(server.url, work.run_id, token), spool, work.run_id)
    one.start()
    one.say(report_of({"usage": {"calls": 1}}))
    eventually(lambda: said(services, work.run_id) is not None)
    for _ in range(50):
        one.say(report_of({"usage": {"calls": 1}}))
    one.add("stdout", b"more\n")
    eventually(lambda: services.logs.last_seq(work.run_id, 1) == 1)
    assert said(services, work.run_id).usage == {"calls": 1}
    assert one.send_result(Outcome(detail={"exit_status": 0})) is None
    assert said(services, work.run_id).usage == {"calls": 51}
    # Each was asked once where it goes on.
    assert [bool(body) for body in server.bodies("report")] == [False, True, False, True]
    spool.close()


@pytest.mark.parametrize("status", ["away", "an older release"])
def test_a_server_that_takes_no_reports_holds_up_neither_output_nor_the_end(
    services: Services, server: ReportServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setattr(reporter, "SAY_INTERVAL", 0.1)
    work, token = remote_with_token(services)
    answer = server.answer

    def without_reports(path: str, headers: Any, body: dict[str, Any]) -> Any:
        if path.endswith("/report"):
            # The first says that it is not the time; an older release knows of none.
            return (503, {"detail": "later"}) if status == "away" and len(server.seen) < 4 else (404, {"detail": "no"})
        return answer(path, headers, body)

    monkeypatch.setattr(server, "answer", without_reports)
    spool = Spool.create(tmp_path, limit=1024 * 1024)
    one = Reporter(HttpTransport(server.url, work.run_id, token), spool, work.run_id)
    one.start()
    one.say(report_of({"usage": {"calls": 1}}))
    one.add("stdout", b"one\n")
    eventually(lambda: services.logs.last_seq(work.run_id, 1) == 1)
    assert one.send_result(Outcome(detail={"exit_status": 0})) is None
    assert status_of(services, work.run_id) == "succeeded"
    spool.close()
