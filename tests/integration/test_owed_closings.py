"""What a sweep's one message does: it goes through all the logs that are owed their closing."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from reprieve.models.work import End, Outcome, Work
from reprieve.workers import closing as module
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_owed, send_owed
from reprieve.workers.finish import finish
from tests.support.rows import chunk, ingest, running
from tests.support.waiting import eventually


@pytest.fixture
def owed(services: Services) -> list[Work]:
    """Three logs, whole, of runs that ended a while ago."""
    works = [running(services) for _ in range(3)]
    for work in works:
        ingest(services, [chunk(work, 1)])
        finish(services, [End.by_result(work.fence, Outcome(), 1)])
    with services.database.begin() as connection:
        connection.execute(text("UPDATE run_attempts SET finished_at = finished_at - interval '10 s'"))
    return works


def test_all_that_is_owed_is_closed(services: Services, owed: list[Work]) -> None:
    assert close_owed(services) == {"done": 3}
    assert services.closings.owed(10) == []
    assert close_owed(services) == {}
    assert send_owed(services) == 0


def test_a_log_that_cannot_be_closed_stops_no_other(
    services: Services, owed: list[Work], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = module.close_log

    def close_log(wired: Services, run_id: UUID, attempt: int) -> Any:
        if run_id == owed[0].run_id:
            raise ZeroDivisionError
        return real(wired, run_id, attempt)

    monkeypatch.setattr(module, "close_log", close_log)
    assert close_owed(services) == {"failed": 1, "done": 2}
    assert services.closings.owed(10) == [(owed[0].run_id, 1)]
    assert "could not be closed" in caplog.text


def test_a_turn_ends_before_the_next_sweep_sends_for_another(
    services: Services, owed: list[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSE_FOR", -1)
    assert close_owed(services) == {}
    assert len(services.closings.owed(10)) == 3


def test_a_real_worker_closes_what_a_message_asks_it_to(
    services: Services, owed: list[Work], start_worker: Any
) -> None:
    start_worker("archive")
    assert send_owed(services) == 3
    eventually(lambda: services.closings.owed(10) == [])


def test_a_broker_that_is_away_leaves_it_to_the_next_sweep(
    services: Services, owed: list[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(app, "send_task", refuse)
    assert send_owed(services) == 3
