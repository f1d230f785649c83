"""C03: the first final state wins, whoever comes late, and the database itself refuses every other transition."""

import random
from collections import defaultdict
from collections.abc import Callable
from itertools import product
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from reprieve import cancel_run
from reprieve.models.status import TRANSITIONS, ErrorCode, EventKind, Status
from reprieve.models.work import End, Outcome, Work
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from reprieve.workers.sweep import sweep
from tests.faults.helpers_cdeg import all_at_once, final_kinds, image, reap
from tests.support.rows import age, claim, kinds, new_run, running, settle, watch_for

pytestmark = pytest.mark.row("C03")

STATUS_AFTER = {
    EventKind.SUCCEEDED: Status.SUCCEEDED,
    EventKind.FAILED: Status.FAILED,
    EventKind.REAPED: Status.FAILED,
    EventKind.CANCELLED: Status.CANCELLED,
}


def _succeeds(services: Services, work: Work) -> None:
    finish(services, [End.by_result(work.fence, Outcome(detail={"exit_status": 0}), 7)])


def _fails(services: Services, work: Work) -> None:
    finish(services, [End.by_result(work.fence, Outcome.of_exit(3), 8)])


def _times_out(services: Services, work: Work) -> None:
    outcome = Outcome.failed("Ran for too long.", ErrorCode.TIMED_OUT)
    finish(services, [End.by_result(work.fence, outcome, 9, work_ended=False)])


def _is_reaped(services: Services, work: Work) -> None:
    reap(services, work.run_id)


def _is_cancelled(services: Services, work: Work) -> None:
    cancel_run(work.run_id)


ENDS = [_succeeds, _fails, _times_out, _is_reaped, _is_cancelled]


def test_however_finish_reap_and_cancel_race_a_run_ends_once(services: Services) -> None:
    for _ in range(15):
        works = [running(services) for _ in range(3)]
        watch_for(services, 400)
        for work in works:
            age(services, work.run_id, 400)
        racers: list[Callable[[], object]] = [
            lambda end=end, work=work: end(services, work)
            for end, work in product((_succeeds, _fails, _is_cancelled), works)
        ]
        racers += [lambda: sweep(services, by_hand=True)] * 2
        random.shuffle(racers)
        all_at_once(racers)
        for work in works:
            _assert_ended_once(services, work)


def _assert_ended_once(services: Services, work: Work) -> None:
    run = services.runs.get(work.run_id)
    (kind,) = final_kinds(services, work.run_id)
    assert run.status == STATUS_AFTER[EventKind(kind)]
    assert run.finished_at is not None
    assert run.attempts[0].finished_at is not None
    assert (run.attempts[0].termination == "owed") == (kind in ("reaped", "cancelled"))
    last_seqs = {"succeeded": 7, "failed": 8}
    assert run.attempts[0].last_seq == last_seqs.get(kind)


@pytest.mark.parametrize("first", ENDS, ids=lambda end: end.__name__.strip("_"))
def test_a_late_end_changes_nothing_of_a_run_that_has_ended(services: Services, first) -> None:
    work = running(services)
    first(services, work)
    before = image(services, work)
    for late in ENDS:
        if late is not _is_reaped:
            late(services, work)
    watch_for(services, 400)
    assert sweep(services, by_hand=True)["judged"] == 0
    assert image(services, work) == before


def test_cancelling_a_run_that_is_being_claimed_ends_it_cancelled(services: Services) -> None:
    for _ in range(15):
        run = new_run(services)
        all_at_once([lambda run=run: cancel_run(run.id), lambda run=run: claim(services, run.id, "worker@test")])
        ended = services.runs.get(run.id)
        assert ended.status == "cancelled"
        assert final_kinds(services, run.id) == ["cancelled"]
        assert all(attempt.termination == "owed" for attempt in ended.attempts)


def test_the_result_of_a_lost_attempt_does_not_end_the_attempt_that_followed(services: Services) -> None:
    first = running(services, adapter="process", out_of_process_liveness=False, max_attempts=2)
    reap(services, first.run_id)
    settle(services, first)
    second = claim(services, first.run_id, "worker@test")
    assert second is not None
    before = image(services, first, second)
    for late in (_succeeds, _fails, _times_out):
        late(services, first)
    finish(services, [End.by_cancel(first.fence, Status.RUNNING)])
    assert image(services, first, second) == before


def test_two_ends_of_one_run_in_one_statement_tell_one_event(services: Services) -> None:
    work = running(services)
    success = End.by_result(work.fence, Outcome(detail={"exit_status": 0}), 7)
    failure = End.by_result(work.fence, Outcome.of_exit(3), 8)
    assert len(finish(services, [success, failure])) == 1
    _assert_ended_once(services, work)


def test_the_end_of_an_old_epoch_in_the_same_statement_leaves_no_trace(services: Services) -> None:
    first = running(services, adapter="process", out_of_process_liveness=False, max_attempts=2)
    reap(services, first.run_id)
    settle(services, first)
    second = claim(services, first.run_id, "worker@test")
    assert second is not None
    late = End.by_result(first.fence, Outcome.of_exit(3), 8)
    current = End.by_result(second.fence, Outcome(detail={"exit_status": 0}), 7)
    assert len(finish(services, [late, current])) == 1
    assert kinds(services, first.run_id)[-2:] == ["claimed", "succeeded"]
    assert services.runs.get_attempt(first.run_id, 2).outcome == {"exit_status": 0}


def test_the_database_allows_exactly_the_transitions_of_the_table(services: Services) -> None:
    allowed = defaultdict(set)
    for before, after in product(Status, Status):
        if _update_is_accepted(services, before, after):
            allowed[before].add(after)
    assert allowed == {status: {*TRANSITIONS[status], status} for status in Status}


def _update_is_accepted(services: Services, before: Status, after: Status) -> bool:
    """Whether a run that has the one status can be given the other, with all that the other asks of its row."""
    run_id = new_run(services).id
    with services.database.begin() as connection:
        connection.execute(text("ALTER TABLE runs DISABLE TRIGGER runs_check_transition"))
        _set_status(connection, run_id, before)
        connection.execute(text("ALTER TABLE runs ENABLE TRIGGER runs_check_transition"))
    try:
        with services.database.begin() as connection:
            _set_status(connection, run_id, after)
    except IntegrityError as refused:
        return f"cannot go from {before} to {after}" not in str(refused)
    return True


def _set_status(connection, run_id: UUID, status: Status) -> None:
    statement = text(
        "UPDATE runs SET status = :status, error_code = :code, started_at = clock_timestamp(), "
        "finished_at = CASE WHEN :final THEN clock_timestamp() END WHERE id = :id"
    )
    code = ErrorCode.EXIT_STATUS.value if status is Status.FAILED else None
    connection.execute(statement, {"status": status.value, "code": code, "final": status.is_final, "id": run_id})
