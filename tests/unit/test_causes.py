"""The first sentence on a run: what ended it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reprieve.models.causes import FAILED, NEXT, cause, look_next
from reprieve.models.status import ErrorCode

NOW = datetime(2026, 11, 30, 3, 0, tzinfo=UTC)
SILENT = {"silent_seconds": 312.0, "window_seconds": 300.0}


@dataclass(frozen=True)
class Over:
    status: str = "failed"
    error_code: str | None = None
    error_message: str | None = None
    attempt: int = 1
    started_at: datetime | None = NOW - timedelta(minutes=2)
    finished_at: datetime | None = NOW


@dataclass(frozen=True)
class Seen:
    kind: str
    detail: dict[str, Any] = field(default_factory=dict)
    attempt: int = 1
    at: datetime = NOW


REAPED = Seen("reaped", SILENT)
MEMORY = "The command used more than its 64 MB."


@pytest.mark.parametrize(
    ("run", "events", "sentence"),
    [
        (Over("succeeded"), [Seen("succeeded")], "Succeeded, after 2 min 0 s."),
        (Over("cancelled"), [Seen("cancelled", {"by": "ann"})], "Cancelled by ann, after 2 min 0 s."),
        (Over("cancelled", started_at=None), [Seen("cancelled", {"by": "ann"})],
         "Cancelled by ann, before it had begun."),
        (Over("cancelled"), [Seen("cancelled")], "Cancelled, after 2 min 0 s."),
        (Over(error_code="exit_status", error_message="The command ended with exit status 3."), [Seen("failed")],
         "Failed: The command ended with exit status 3."),
        (Over(error_code="oom_killed", error_message=MEMORY), [Seen("failed")], f"Killed for memory: {MEMORY}"),
        (Over(error_code="timed_out", error_message="Ran for longer than its max_runtime of 60 s."),
         [Seen("reaped", {"running_seconds": 1})],
         "Out of time: Ran for longer than its max_runtime of 60 s."),
        (Over(error_code="process_lost"), [REAPED],
         "Lost with its worker: no proof of life for 5 min 12 s, where 5 min 0 s are allowed, after 2 min 0 s."),
        (Over(error_code="process_lost", error_message="Its worker was asked to stop."), [Seen("failed")],
         "Lost with its worker: Its worker was asked to stop."),
        (Over(error_code="adapter_liveness_lost"), [REAPED],
         "Reaped: no proof of life for 5 min 12 s, where 5 min 0 s are allowed, after 2 min 0 s."),
        (Over(error_code="adapter_error"), [], "Its adapter failed."),
        (Over(error_code="of_a_newer_release", error_message="x"), [], "Failed: x"),
    ],
)  # fmt: skip
def test_the_first_sentence_says_what_ended_the_run(run: Over, events: list[Seen], sentence: str) -> None:
    assert cause(run, events) == sentence


def test_every_error_has_its_own_beginning_and_a_place_to_look_next() -> None:
    assert set(FAILED) == set(NEXT) == {code.value for code in ErrorCode}
    assert len(set(FAILED.values())) == len(FAILED)


def test_where_to_look_next_names_the_worker_and_the_host() -> None:
    lost = Over(error_code="process_lost")
    assert look_next(lost, "runs@{0}", "db-1") == (
        "Look next: what became of runs@{0} on db-1: its own log, and whether the host was started again."
    )
    assert "its worker on its host" in (look_next(lost, None, None) or "")
    assert look_next(Over("succeeded"), None, None) is None
    assert look_next(Over(error_code="of_a_newer_release"), None, None) is None
