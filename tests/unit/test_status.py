"""The states of a run and the one table of transitions between them."""

import pytest

from reprieve.models.status import TRANSITIONS, Status

FINAL = {Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}
ACTIVE = {Status.QUEUED, Status.RUNNING}


def test_every_status_has_its_line_in_the_table() -> None:
    assert set(TRANSITIONS) == set(Status)


@pytest.mark.parametrize("status", sorted(FINAL))
def test_a_final_status_has_no_way_out(status: Status) -> None:
    assert not TRANSITIONS[status]
    assert status.is_final


@pytest.mark.parametrize("status", sorted(ACTIVE))
def test_an_active_status_is_not_final_and_can_be_cancelled(status: Status) -> None:
    assert not status.is_final
    assert Status.CANCELLED in TRANSITIONS[status]


def test_a_queued_run_can_only_start_fail_for_not_having_started_or_be_cancelled() -> None:
    assert TRANSITIONS[Status.QUEUED] == {Status.RUNNING, Status.FAILED, Status.CANCELLED}


def test_a_running_run_can_end_in_every_way_or_wait_for_a_retry() -> None:
    assert TRANSITIONS[Status.RUNNING] == FINAL | {Status.QUEUED}


@pytest.mark.parametrize("status", list(Status))
def test_no_status_follows_itself(status: Status) -> None:
    assert status not in TRANSITIONS[status]
