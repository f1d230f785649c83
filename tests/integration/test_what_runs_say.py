"""What runs say of themselves, from the file or the call to the rows: once each, whoever dies, and at little cost."""

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from reprieve import enqueue_run, get_run
from reprieve.adapters.protocol import Work
from reprieve.models.errors import InvalidRequest, Released
from reprieve.models.records import Run
from reprieve.models.saying import MOST_NAMES, NOTHING_SAID, Said
from reprieve.models.status import Status
from reprieve.models.used import Used
from reprieve.models.work import End, Outcome
from reprieve.stores.runs.usage import UsageStore
from reprieve.testing.waiting import eventually
from reprieve.workers import sayings
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from reprieve.workers.explaining import explain
from reprieve.workers.finish import finish
from reprieve.workers.supervision.followed import Followed
from reprieve.workers.supervision.saying import Saying
from tests.support.following import follow_to_the_end
from tests.support.processes import Process
from tests.support.rows import kinds, new_run, record_handle, running, status_of
from tests.support.shipping import direct_shipper

StartWorker = Callable[..., Process]


def followed_by(services: Services, work: Work) -> tuple[Followed, RunContext]:
    followed = Followed(services, direct_shipper(services))
    return followed, followed.begin(work)


def said(services: Services, run_id: UUID) -> Any:
    return services.records.get(run_id).report


def writes(services: Services, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many attempts each write of reports has."""
    seen: list[int] = []
    write = services.reports.write
    monkeypatch.setattr(type(services.reports), "write", lambda self, news: seen.append(len(news)) or write(news))
    return seen


# -- written now and then


def test_what_is_said_is_written_at_once_and_then_once_in_ten_seconds(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed, context = followed_by(services, running(services))
    seen, saying = writes(services, monkeypatch), Saying(services.reports, followed)
    saying.turn()
    assert (seen, said(services, context.run_id)) == ([], None)
    context.report(progress=0.1, say="one", usage={"calls": 1})
    saying.turn()
    for number in range(100):
        context.report(progress=number / 100, usage={"calls": 1})
        saying.turn()
    assert seen == [1]
    assert said(services, context.run_id).usage == {"calls": 1}
    context.sayings._written_at -= sayings.WRITE_INTERVAL
    saying.turn()
    saying.turn()
    assert seen == [1, 1]
    report = said(services, context.run_id)
    assert (report.progress, report.sentence, report.usage) == (0.99, "one", {"calls": 101})


def test_what_many_runs_say_is_written_by_one_statement(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    followed = Followed(services, direct_shipper(services))
    contexts = [followed.begin(running(services)) for _ in range(5)]
    for number, context in enumerate(contexts):
        context.report(usage={"calls": number})
    seen = writes(services, monkeypatch)
    Saying(services.reports, followed).turn()
    assert seen == [5]
    assert [said(services, one.run_id).usage["calls"] for one in contexts] == [0, 1, 2, 3, 4]


def test_what_could_not_be_written_is_in_what_is_written_next(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed, context = followed_by(services, running(services))
    saying, write = Saying(services.reports, followed), services.reports.write
    answers = iter(["before", "after"])

    def failing(_: Any, news: Any) -> None:
        if next(answers) == "after":
            write(news)
        raise ConnectionError

    context.report(result={"a": 1}, usage={"calls": 1})
    with monkeypatch.context() as patched:
        patched.setattr(type(services.reports), "write", failing)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                saying.turn()
    context.report(usage={"calls": 1})
    saying.turn()
    assert said(services, context.run_id).usage == {"calls": 2}
    assert services.records.result(context.run_id) == '{"a":1}'


def test_one_that_cannot_be_written_keeps_back_no_other(
    services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    followed = Followed(services, direct_shipper(services))
    contexts = [followed.begin(running(services)) for _ in range(3)]
    for context in contexts:
        context.report(usage={"calls": 1})
    # As nothing that `report_of` lets pass can be: what the database refuses.
    broken = contexts[1].sayings
    broken._said = Said(2**70, broken._said.report)
    saying = Saying(services.reports, followed)
    saying.turn()
    saying.turn()
    assert [said(services, one.run_id) is None for one in contexts] == [False, True, False]
    assert [record.message for record in caplog.records] == [
        f"What run {contexts[1].run_id} said of itself cannot be written."
    ]


def test_one_that_another_transaction_holds_is_tried_again_and_keeps_back_no_other(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed = Followed(services, direct_shipper(services))
    contexts = [followed.begin(running(services)) for _ in range(2)]
    saying = Saying(services.reports, followed)
    for number in (1, 2):
        for context in contexts:
            context.report(usage={"calls": 1})
            context.sayings._written_at = float("-inf")
        if number == 1:
            saying.turn()
            continue
        with services.database.begin() as holder:
            hold = text("SELECT FROM run_reports WHERE run_id = :id FOR UPDATE")
            holder.execute(hold, {"id": contexts[0].run_id})
            saying.turn()
        assert [said(services, one.run_id).usage["calls"] for one in contexts] == [1, 2]
    assert not contexts[0].sayings.is_due
    contexts[0].sayings._written_at = float("-inf")
    saying.turn()
    assert said(services, contexts[0].run_id).usage == {"calls": 2}


def test_a_result_is_written_once_and_stays_when_more_is_said(services: Services) -> None:
    followed, context = followed_by(services, running(services))
    saying = Saying(services.reports, followed)
    context.report(result="x" * 60_000)
    saying.turn()
    context.sayings._written_at = 0.0
    context.report(progress=0.5)
    news = context.sayings.news()
    assert news is not None
    assert news.said.report.result is None
    saying.turn()
    assert said(services, context.run_id).result_bytes == 60_002


def test_to_say_something_writes_no_run_and_no_attempt(services: Services) -> None:
    followed, context = followed_by(services, running(services))
    where = "SELECT CAST(xmin AS text), CAST(xmax AS text) FROM run_attempts"
    runs = "SELECT CAST(xmin AS text) FROM runs"
    before = services.database.run(where), services.database.run(runs)
    saying = Saying(services.reports, followed)
    for number in range(3):
        context.report(progress=number / 10)
        context.sayings._written_at = 0.0
        saying.turn()
    assert (services.database.run(where), services.database.run(runs)) == before


def test_a_report_that_is_wrong_is_refused_and_changes_nothing(services: Services) -> None:
    _, context = followed_by(services, running(services))
    with pytest.raises(InvalidRequest, match="give a number from 0 to 1"):
        context.report(progress=40)
    context.report(usage={f"n{number}": 1 for number in range(MOST_NAMES)})
    with pytest.raises(InvalidRequest, match="more than 50 names"):
        context.report(usage={"another": 1})
    assert context.reported == 1
    for number in (0, -1, True, 2**63, "2"):
        with pytest.raises(InvalidRequest, match="give a whole number from 1 to"):
            context.report(progress=1, number=number)  # type: ignore[arg-type]
    context.release()
    with pytest.raises(Released):
        context.report(progress=1)


# -- the end


def test_what_was_said_last_is_there_when_the_end_is(services: Services) -> None:
    work = running(services)
    context = RunContext(services, direct_shipper(services), work)

    def act(_: object, __: Work) -> Outcome:
        context.report(progress=0.5)
        context.report(progress=1, result=[1, 2], usage={"calls": 3})
        return Outcome()

    assert follow_to_the_end(services, context, act) == "succeeded"
    run = get_run(work.run_id)
    assert run.status is Status.SUCCEEDED
    assert run.report is not None
    assert (run.report.progress, run.report.usage, run.report.result_bytes) == (1.0, {"calls": 3}, 5)


def test_an_end_is_recorded_where_what_was_said_cannot_be(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    work = running(services)
    context = RunContext(services, direct_shipper(services), work)

    def failing(*_: object) -> None:
        raise LookupError("no such table")

    def act(_: object, __: Work) -> Outcome:
        context.report(progress=0.5)
        return Outcome()

    monkeypatch.setattr(type(services.reports), "write", failing)
    assert follow_to_the_end(services, context, act) == "succeeded"
    assert status_of(services, work.run_id) == "succeeded"


# -- another follower


def test_who_adopts_goes_on_from_what_was_written_and_who_was_before_writes_nothing_more(services: Services) -> None:
    work = running(services)
    record_handle(services, work.fence, None, {})
    old = RunContext(services, direct_shipper(services), work)
    old.report(progress=0.3, usage={"calls": 3}, result=[1], number=3)
    first = old.sayings.news()
    assert first is not None
    services.reports.write([first])
    old.report(progress=0.4, usage={"calls": 1}, number=4)
    late = old.sayings.news()
    assert late is not None
    adoption = services.adoptions.adopt(work.run_id, work.attempt, work.epoch, "other", uuid4())
    assert adoption is not None
    assert (adoption.said.number, adoption.said.report.usage) == (3, {"calls": 3})
    services.reports.write([late])
    assert said(services, work.run_id).usage == {"calls": 3}
    new = RunContext(services, direct_shipper(services), adoption.work, adoption.resumed, adoption.said)
    for number in range(1, 6):
        new.report(usage={"calls": 1}, number=number)
    news = new.sayings.news()
    assert news is not None
    services.reports.write([news, news])
    assert (said(services, work.run_id).usage, said(services, work.run_id).progress) == ({"calls": 5}, 0.3)
    assert services.records.result(work.run_id) == "[1]"


def test_what_an_attempt_says_after_its_run_was_reaped_counts_for_that_attempt(services: Services) -> None:
    work = running(services, max_attempts=2)
    context = RunContext(services, direct_shipper(services), work)
    context.report(progress=0.9, say="almost", usage={"calls": 2})
    services.database.run(
        text(
            "WITH r AS (UPDATE runs SET attempt = 2, epoch = epoch + 1 RETURNING id, epoch) INSERT INTO run_attempts "
            "(run_id, attempt, epoch, worker_node) SELECT id, 2, epoch, 'other' FROM r"
        )
    )
    news = context.sayings.news()
    assert news is not None
    services.reports.write([news])
    report = said(services, work.run_id)
    assert (report.progress, report.sentence, report.usage) == (None, None, {"calls": 2})


def test_what_is_said_of_a_run_that_is_gone_is_let_go(services: Services) -> None:
    gone, here = running(services), running(services)
    contexts = [RunContext(services, direct_shipper(services), work) for work in (gone, here)]
    for context in contexts:
        context.report(progress=0.5)
    services.database.run(text("DELETE FROM runs WHERE id = :id"), {"id": gone.run_id})
    services.reports.write([news for one in contexts if (news := one.sayings.news())])
    assert said(services, here.run_id).progress == 0.5
    services.database.run(text("DELETE FROM runs WHERE id = :id"), {"id": here.run_id})
    assert services.database.run("SELECT FROM run_reports") == []


# -- whole workers


@pytest.fixture
def system(start_worker: StartWorker, start_beat: Callable[[], Process]) -> None:
    """Everything but workers of runs."""
    start_worker("logs,control", name="control")
    start_beat()


COUNTING = """
import json, os, pathlib, sys, time
file = open(os.environ["REPRIEVE_REPORT"], "a", buffering=1)
for number in range(1, 1001):
    print(json.dumps({"progress": number / 1000, "usage": {"calls": 1}}), file=file)
    time.sleep(0.003)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.05)
print(json.dumps({"result": {"done": True}, "usage": {"cost": 0.5}}), file=file)
"""


def counting(adapter: str, stop: Path) -> Run:
    return enqueue_run(adapter, {"command": [sys.executable, "-I", "-S", "-c", COUNTING, str(stop)]})


@pytest.mark.parametrize("adapter", ["process", "detached"])
def test_a_command_is_heard_while_it_runs_and_to_its_end(
    services: Services, start_worker: StartWorker, tmp_path: Path, adapter: str
) -> None:
    start_worker("runs")
    run = counting(adapter, tmp_path / "stop")
    eventually(lambda: (report := get_run(run.id).report) is not None and report.progress, timeout=60)
    (tmp_path / "stop").touch()
    eventually(lambda: get_run(run.id).status is Status.SUCCEEDED, timeout=60)
    report = get_run(run.id).report
    assert report is not None
    assert (report.progress, report.usage, report.result_bytes) == (1.0, {"calls": 1000, "cost": 0.5}, 13)
    told = explain(services, run.id).sentences
    assert "By its own account it used: calls 1,000, cost 0.5." in told


@pytest.mark.usefixtures("system")
def test_a_worker_that_is_killed_and_another_that_goes_on_count_each_line_once(
    services: Services, start_worker: StartWorker, tmp_path: Path
) -> None:
    first = start_worker("runs", name="first")
    run = counting("detached", tmp_path / "stop")
    eventually(lambda: get_run(run.id).report is not None, timeout=60)
    first.kill()
    (tmp_path / "stop").touch()
    start_worker("runs", name="second")
    eventually(lambda: get_run(run.id).status.is_final, timeout=90)
    report = get_run(run.id).report
    assert report is not None
    assert report.usage == {"calls": 1000, "cost": 0.5}
    assert "attached" in kinds(services, run.id)


def test_an_export_has_what_a_run_has_said(services: Services) -> None:
    work = running(services)
    context = RunContext(services, direct_shipper(services), work)

    def act(_: object, __: Work) -> Outcome:
        context.report(say="all done", result=[1], usage={"calls": 3})
        return Outcome()

    follow_to_the_end(services, context, act)
    (exported,) = services.export.runs(services.database.now() + timedelta(seconds=1))
    (report,) = exported["reports"]
    assert (report["sentence"], json.loads(report["result"]), report["usage"]) == ("all done", [1], {"calls": 3})


# -- what was used


def used(services: Services, usage: dict[str, float], **changes: Any) -> UUID:
    work = running(services, **changes)
    context = RunContext(services, direct_shipper(services), work, said=NOTHING_SAID)
    context.report(usage=usage)
    news = context.sayings.news()
    assert news is not None
    services.reports.write([news])
    return work.run_id


def test_usage_adds_up_by_what_runs_have_in_common(services: Services) -> None:
    for number in range(3):
        used(services, {"tokens": 100 + number, "cost": 0.1}, labels={"team": "data"}, lane="a")
    used(services, {"tokens": 1}, labels={"team": "web"}, lane="a")
    new_run(services, labels={"team": "web"}, lane="b")
    used(services, {"tokens": 7})
    since = services.database.now() - timedelta(days=1)
    found = services.usage.since(since, "label:team")
    sums = {one.group: (one.runs, one.attempts, one.usage) for one in found.groups}
    assert sums == {
        "data": (3, 3, {"tokens": 303, "cost": 0.3}),
        "web": (2, 1, {"tokens": 1}),
        None: (1, 1, {"tokens": 7}),
    }
    assert (found.complete, found.since, found.unlisted_groups) == (True, since, 0)
    by_lane = {one.group: one.usage for one in services.usage.since(since, "lane").groups}
    assert by_lane["a"] == {"tokens": 304, "cost": 0.3}
    assert [one.group for one in services.usage.since(since, "status").groups] == ["running", "queued"]
    (adapter,) = services.usage.since(since, "adapter").groups
    assert (adapter.group, adapter.usage["tokens"]) == ("detached", 311)
    assert adapter.wall_seconds > 0
    assert services.usage.since(services.database.now() + timedelta(days=1), "lane").groups == []


def test_what_was_measured_of_ended_attempts_adds_up_and_the_largest_peak_stands(services: Services) -> None:
    for lane, measured in (
        ("a", Used(1.5, 300)),
        ("a", Used(2.0, 100)),
        ("a", Used(None, None, 50)),
        ("b", None),
    ):
        work = running(services, lane=lane)
        assert finish(services, [End.by_result(work.fence, Outcome(used=measured), 0)])
    running(services, lane="a")
    found = services.usage.since(services.database.now() - timedelta(days=1), "lane")
    sums = {one.group: (one.runs, one.cpu_seconds, one.peak_memory_bytes) for one in found.groups}
    assert sums == {"a": (4, 3.5, 300), "b": (1, None, None)}


def test_usage_of_more_runs_than_are_read_says_so(services: Services) -> None:
    for _ in range(3):
        used(services, {"calls": 1})
    since = services.database.now() - timedelta(days=1)
    assert UsageStore(services.database, most_runs=3).since(since, "adapter").complete
    found = UsageStore(services.database, most_runs=2).since(since, "adapter")
    assert not found.complete
    assert [(one.runs, one.usage) for one in found.groups] == [(2, {"calls": 2})]
    assert found.since > since


def test_what_runs_cannot_be_put_by_is_refused(services: Services) -> None:
    for by in ("team", "label:", "id", "adapter; DROP TABLE runs", "label:a\0"):
        with pytest.raises(InvalidRequest, match="give adapter, lane, status, or label:NAME"):
            services.usage.since(services.database.now(), by)
    assert services.usage.since(services.database.now(), "label:it's").groups == []
