"""How attempts end that their worker gives up, with and without another attempt left."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from reprieve.models.draining import end_of_cut_off, end_of_drained, end_of_given_up
from reprieve.models.liveness import Timing
from reprieve.models.retrying import retry_delay
from reprieve.models.status import EventKind, Status
from reprieve.models.work import End, Work

TIMING = Timing()
WORK = Work(run_id=UUID(int=7), attempt=2, epoch=5, adapter="process", config={}, labels={}, max_attempts=3)
LAST = replace(WORK, attempt=3)

DRAINED = "Its worker was asked to stop, and the work had not ended 600 s later."
CUT_OFF = "Its worker was cut off from the database for 3 h, and has ended the work."


GIVE_UP = pytest.mark.parametrize(
    ("give_up", "sentence"),
    [
        (lambda work: end_of_drained(work, 600.0, TIMING), DRAINED),
        (lambda work: end_of_cut_off(work, TIMING), CUT_OFF),
        (lambda work: end_of_given_up(work, "It broke.", TIMING), "It broke."),
    ],
    ids=["drained", "cut off", "in trouble"],
)


@GIVE_UP
def test_the_last_attempt_that_a_worker_gives_up_fails_the_run_with_a_sentence(
    give_up: Callable[[Work], End], sentence: str
) -> None:
    end = give_up(LAST)
    assert (end.fence, end.status, end.kind) == (LAST.fence, Status.FAILED, EventKind.FAILED)
    assert (end.error_code, end.error_message) == ("process_lost", sentence)
    assert end.outcome == {"error_code": "process_lost"}
    assert end.detail == {"error_code": "process_lost", "error_message": sentence}
    assert (end.retry_after, end.work_ended, end.silent_before) == (timedelta(0), False, None)


@GIVE_UP
def test_while_attempts_are_left_the_run_is_queued_for_the_next_after_its_delay(
    give_up: Callable[[Work], End], sentence: str
) -> None:
    end = give_up(WORK)
    assert (end.fence, end.status, end.kind) == (WORK.fence, Status.QUEUED, EventKind.RETRIED)
    assert (end.error_code, end.error_message) == (None, None)
    assert end.detail == {"error_code": "process_lost", "error_message": sentence}
    assert end.retry_after == retry_delay(WORK, TIMING) > timedelta(0)


def test_the_last_number_of_the_log_is_named_where_it_is_known() -> None:
    assert end_of_given_up(WORK, "It broke.", TIMING, 41).last_seq == 41
    assert end_of_given_up(WORK, "It broke.", TIMING).last_seq is None
