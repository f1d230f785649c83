"""Outcomes and ends: what an exit means, and that what is recorded can be recorded."""

import json
import signal
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reprieve.models.status import ErrorCode, EventKind, Status
from reprieve.models.work import MAX_ERROR_MESSAGE, End, Fence, Outcome, storable

TOKEN = Fence(UUID(int=1), 3)


def test_exit_status_0_is_a_success() -> None:
    assert Outcome.of_exit(0) == Outcome(detail={"exit_status": 0})


@pytest.mark.parametrize("status", [1, 2, 127, 255])
def test_any_other_exit_status_is_a_failure_that_names_it(status: int) -> None:
    message = f"The command ended with exit status {status}."
    assert Outcome.of_exit(status) == Outcome(ErrorCode.EXIT_STATUS, message, {"exit_status": status})


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGKILL, "SIGKILL"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP"), (120, "signal 120")],
)
def test_a_signal_is_a_failure_that_names_it(number: int, name: str) -> None:
    message = f"The command was ended by {name}."
    assert Outcome.of_exit(-number) == Outcome(ErrorCode.EXIT_STATUS, message, {"signal": number})


def test_a_failure_is_the_adapters_own_unless_it_says_otherwise() -> None:
    assert Outcome.failed("gone", pod="a-1") == Outcome(ErrorCode.ADAPTER_ERROR, "gone", {"pod": "a-1"})
    assert Outcome.failed("late", ErrorCode.TIMED_OUT).error_code is ErrorCode.TIMED_OUT


def test_a_success_ends_the_run_under_its_token_without_an_error() -> None:
    end = End.by_result(TOKEN, Outcome.of_exit(0), last_seq=9)
    assert (end.fence, end.status, end.kind) == (TOKEN, Status.SUCCEEDED, EventKind.SUCCEEDED)
    assert (end.error_code, end.error_message, end.silent_before) == (None, None, None)
    assert (end.last_seq, end.work_ended, end.from_status) == (9, True, Status.RUNNING)
    assert end.outcome == end.detail == {"exit_status": 0}


def test_a_failure_is_told_in_the_run_the_attempt_and_the_event_alike() -> None:
    end = End.by_result(TOKEN, Outcome.of_exit(3), last_seq=0)
    message = "The command ended with exit status 3."
    assert (end.status, end.kind) == (Status.FAILED, EventKind.FAILED)
    assert (end.error_code, end.error_message) == (ErrorCode.EXIT_STATUS, message)
    told = {"exit_status": 3, "error_code": "exit_status", "error_message": message}
    assert end.outcome == end.detail == told


@pytest.mark.parametrize("outcome", [Outcome.of_exit(0), Outcome.of_exit(1)])
def test_work_that_may_still_run_is_kept_in_mind(outcome: Outcome) -> None:
    assert End.by_result(TOKEN, outcome, 0, work_ended=False).work_ended is False


@pytest.mark.parametrize(
    ("length", "kept"),
    [
        (MAX_ERROR_MESSAGE - 1, MAX_ERROR_MESSAGE - 1),
        (MAX_ERROR_MESSAGE, MAX_ERROR_MESSAGE),
        (99_999, MAX_ERROR_MESSAGE),
    ],
)
def test_a_long_message_is_cut(length: int, kept: int) -> None:
    end = End.by_result(TOKEN, Outcome.failed("x" * length), 0)
    assert end.error_message == end.detail["error_message"] == "x" * kept


def test_a_failure_without_a_message_has_an_empty_one() -> None:
    assert End.by_result(TOKEN, Outcome(ErrorCode.ADAPTER_ERROR), 0).error_message == ""


def test_a_nul_in_a_message_becomes_a_character_that_shows_it() -> None:
    assert End.by_result(TOKEN, Outcome.failed("a\0b"), 0).error_message == "a␀b"


def can_be_stored(end: End) -> bool:
    """PostgreSQL's text and JSON hold neither NUL nor half a surrogate pair, and its JSON no NaN."""
    told = json.dumps([end.error_message, end.outcome, end.detail], ensure_ascii=False, allow_nan=False)
    told.encode()
    return "\\u0000" not in told


@given(st.text(max_size=50))
@example("a\0b")
@example("caf\udce9")  # a file name that is not UTF-8, as Python spells it
def test_every_message_can_be_stored(message: str) -> None:
    assert can_be_stored(End.by_result(TOKEN, Outcome.failed(message), 0))


@pytest.mark.parametrize("value", ["a\0b", "caf\udce9", float("nan")])
@pytest.mark.parametrize("code", [None, ErrorCode.ADAPTER_ERROR])
def test_whatever_an_adapter_says_in_detail_can_be_stored(code: ErrorCode | None, value: object) -> None:
    assert can_be_stored(End.by_result(TOKEN, Outcome(code, "", {"said": value}), 0))


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING])
def test_a_cancel_applies_to_the_status_that_was_seen_and_its_work_is_owed_an_end(status: Status) -> None:
    end = End.by_cancel(TOKEN, from_status=status)
    assert (end.fence, end.from_status, end.status) == (TOKEN, status, Status.CANCELLED)
    assert (end.kind, end.error_code, end.work_ended) == (EventKind.CANCELLED, None, False)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (0.5, 0.5),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
        ("a\0b", "a\N{SYMBOL FOR NULL}b"),
        ("\ud800", "\\ud800"),
        ({1: [("a", b"b")], "n\0": {}}, {"1": [["a", "b'b'"]], "n\N{SYMBOL FOR NULL}": {}}),
    ],
)
def test_a_value_is_stored_as_itself_where_it_can_be_and_as_its_text_where_it_cannot(
    value: object, stored: object
) -> None:
    assert storable(value) == stored


@pytest.mark.parametrize("work_ended", [True, False])
@pytest.mark.parametrize("outcome", [Outcome(), Outcome.failed("no")])
def test_the_followers_end_names_its_fence_the_last_number_and_whether_the_work_has_ended(
    outcome: Outcome, work_ended: bool
) -> None:
    end = End.by_result(Fence(UUID(int=3), 4), outcome, 17, work_ended=work_ended)
    assert (end.fence, end.last_seq, end.work_ended) == (Fence(UUID(int=3), 4), 17, work_ended)


def test_of_an_end_whose_content_cannot_be_stored_the_fact_is_kept() -> None:
    fence, message = Fence(UUID(int=3), 4), "How it ended could not be stored; its worker's log has it."
    failed = End.by_result(fence, Outcome.failed("no", a=1), 17)
    said = {"error_code": "adapter_error", "error_message": message}
    assert failed.bare() == replace(failed, error_message=message, outcome=said, detail=said)
    succeeded = End.by_result(fence, Outcome(detail={"a": 1}), 17)
    assert succeeded.bare() == replace(succeeded, error_message=None, outcome={}, detail={})
