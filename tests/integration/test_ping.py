"""A healthy sweep is told to whoever watches the watchman, and waits for nobody."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from pydantic import SecretStr

from reprieve.models.errors import SettingsError
from reprieve.workers import posting
from reprieve.workers import sweep as sweeping
from reprieve.workers.bootstrap import Services
from reprieve.workers.ping import _under_way, ping
from reprieve.workers.settings import load_settings
from reprieve.workers.sweep import sweep_task
from tests.support.receiver import Receiver, answering, receiving
from tests.support.rows import watch_for
from tests.support.waiting import eventually


@pytest.fixture
def watchman() -> Iterator[Receiver]:
    with receiving() as made:
        yield made
    eventually(lambda: not _under_way.locked())


@pytest.fixture
def pinging(services: Services, watchman: Receiver) -> Services:
    """Services of a fleet that has been watched and heard for an hour, and tells this address."""
    watch_for(services, 3600)
    url = SecretStr(f"{watchman.url}/hunter2")
    return replace(services, settings=services.settings.model_copy(update={"ping_url": url}))


def make_sweep(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "services", lambda: services)
    monkeypatch.setattr(sweeping, "is_due", lambda *_: True)
    assert "judged" in sweep_task.run()


def test_each_healthy_sweep_is_told(pinging: Services, watchman: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        make_sweep(pinging, monkeypatch)
        eventually(lambda: len(watchman.received) == number and not _under_way.locked())  # noqa: B023 - at once
    assert {one.path for one in watchman.received} == {"/hook/hunter2"}


def test_a_sweep_that_does_not_hear_and_one_that_was_skipped_are_not_told(
    pinging: Services, watchman: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pinging.database.begin() as connection:
        connection.exec_driver_sql("UPDATE reaper_watch SET heard_at = clock_timestamp() - interval '1 hour'")
    make_sweep(pinging, monkeypatch)
    eventually(lambda: not _under_way.locked())
    monkeypatch.setattr(sweeping, "is_due", lambda *_: False)
    assert "skipped" in sweep_task.run()
    assert not _under_way.locked()
    assert watchman.received == []


def test_one_who_hangs_delays_no_sweep_and_is_asked_once_at_a_time(
    pinging: Services, watchman: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(posting, "WHOLE_TIMEOUT", 1.0)
    watchman.answer = watchman.hang
    for _ in range(3):
        make_sweep(pinging, monkeypatch)
    eventually(lambda: not _under_way.locked())
    assert len(watchman.received) == 1
    assert "was not answered within 1 s" in caplog.text
    assert "hunter2" not in caplog.text


def test_one_who_refuses_is_a_line_in_the_log(
    pinging: Services, watchman: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watchman.answer = answering(500)
    make_sweep(pinging, monkeypatch)
    eventually(lambda: "answered with 500" in caplog.text)


def test_without_an_address_nothing_is_begun(services: Services) -> None:
    before = threading.active_count()
    ping(services)
    assert threading.active_count() == before


@pytest.mark.parametrize("name", ["ping_url", "page_url"])
def test_an_address_that_is_none_is_refused_with_the_settings_and_not_quoted(name: str) -> None:
    with pytest.raises(SettingsError, match=f"REPRIEVE_{name.upper()}: must be of the form") as refused:
        load_settings(**{name: "hunter2.example/x"})
    assert "hunter2" not in str(refused.value)
