"""B14: whatever `execute` or `attach` does, the attempt ends at once, as `adapter_error` with a cause that names it."""

from uuid import UUID

import pytest
from sqlalchemy import text

from reprieve.models.results import MAX_DETAIL, understood
from reprieve.models.status import ErrorCode, Probe
from reprieve.models.work import Outcome, Work
from reprieve.workers import following
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from reprieve.workers.hints import send_execute
from tests.conftest import StartWorker
from tests.support.following import follow_to_the_end
from tests.support.odd_worker import KINDS
from tests.support.rows import kinds, new_run, record_handle, running, status_of
from tests.support.shipping import direct_shipper
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("B14")

ODD = {"ODD_WORKER": "1"}


def odd(services: Services, what: str, adapter: str = "odd-inside") -> UUID:
    outside = adapter == "odd-outside"
    return new_run(services, adapter=adapter, out_of_process_liveness=outside, config={"what": what}, max_attempts=3).id


def assert_ended_once(services: Services, ended: dict[UUID, str], worker: str) -> None:
    eventually(
        lambda: all(status_of(services, run_id) == "failed" for run_id in ended),
        timeout=60,
        what=lambda: str([what for run_id, what in ended.items() if status_of(services, run_id) != "failed"]),
    )
    for run_id, what in ended.items():
        run = services.runs.get(run_id)
        assert (run.error_code, run.attempt, what) == ("adapter_error", 1, what)
        assert run.error_message is not None
        assert repr(run.adapter) in run.error_message, what
        assert KINDS[what][1] in run.error_message, what
        assert len(run.error_message) < 2000
        assert kinds(services, run_id).count("claimed") == 1, what


def test_an_attempt_ends_at_once_whatever_its_adapter_returns_or_raises(
    services: Services, start_worker: StartWorker
) -> None:
    worker = start_worker("runs,logs", application="tests.support.odd_worker", extra=ODD)
    adapters = ("odd-inside", "odd-outside", "odd-loop")
    ended = {odd(services, what, adapter): what for what in KINDS for adapter in adapters}
    for run_id in ended:
        send_execute(run_id)
    assert_ended_once(services, ended, worker.output)
    assert worker.popen.poll() is None
    for adapter in adapters:
        well = odd(services, "exception", adapter)
        send_execute(well)
        eventually(lambda well=well: status_of(services, well) == "failed", what="a worker that goes on")


def test_so_it_does_where_a_worker_follows_on(services: Services, start_worker: StartWorker) -> None:
    worker = start_worker("runs,logs", application="tests.support.odd_worker", extra=ODD)
    ended: dict[UUID, str] = {}
    for what in KINDS:
        work = running(
            services, adapter="odd-outside", out_of_process_liveness=True, config={"what": what}, max_attempts=3
        )
        record_handle(services, work.fence, None, {})
        assert services.adoptions.hand_over([work.fence])
        ended[work.run_id] = what
    assert_ended_once(services, ended, worker.output)
    assert all("attached" in kinds(services, run_id) for run_id in ended)
    assert worker.popen.poll() is None


def follow(services: Services, work: Work, answer: object) -> str:
    shipper = direct_shipper(services)
    return follow_to_the_end(services, RunContext(services, shipper, work), lambda *_: answer)


@pytest.mark.parametrize("answer", [None, 0, "done"])
def test_what_is_no_outcome_does_not_say_that_the_work_has_ended(services: Services, answer: object) -> None:
    work = running(services)
    assert follow(services, work, answer) == "adapter_error"
    assert services.runs.get_attempt(work.run_id, 1).termination == "owed"


def test_trouble_in_sending_the_last_output_outranks_no_result(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, shipper = running(services), direct_shipper(services)

    def broken(timeout: float) -> bool:
        raise ValueError("broken")

    monkeypatch.setattr(shipper, "flush", broken)
    context = RunContext(services, shipper, work)
    assert follow_to_the_end(services, context, lambda *_: Outcome.of_exit(3)) == "exit_status"
    assert services.runs.get(work.run_id).error_code == "exit_status"


def test_an_end_that_cannot_be_stored_is_recorded_without_its_content(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, finish = running(services), following.finish

    def picky(wired: Services, ends: list[following.End]) -> object:
        if "exit_status" in ends[0].detail:
            with services.database.begin() as connection:
                connection.execute(text("SELECT CAST('\\u0000' AS jsonb)"))  # 22P05 or 22P02: content
        return finish(wired, ends)

    monkeypatch.setattr(following, "finish", picky)
    assert follow(services, work, Outcome.of_exit(3)) == "exit_status"
    assert services.runs.get(work.run_id).error_code == "exit_status"


@pytest.mark.parametrize(("length", "kept"), [(MAX_DETAIL - 100, True), (MAX_DETAIL + 1, False)])
def test_a_detail_is_kept_up_to_a_size(length: int, kept: bool) -> None:
    outcome = understood("odd", Outcome(detail={"is": "x" * length}))
    assert (outcome.error_code is None) is kept


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(),
        Outcome.of_exit(3),
        Outcome(ErrorCode.TIMED_OUT),
        Outcome(detail={"nested": [1, 2.5, None, {"a": "ä"}], "probe": Probe.ALIVE}),
    ],
)
def test_a_result_that_is_one_stays_what_it_is(outcome: Outcome) -> None:
    assert understood("odd", outcome) == outcome
