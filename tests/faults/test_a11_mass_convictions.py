"""A11: what looks like the death of many is mostly a fault of the one who looks: a window to warm up, and a brake."""

import logging
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from reprieve.models.work import Work
from reprieve.workers.bootstrap import Services
from reprieve.workers.sweep import sweep
from tests.faults.helpers_cdeg import nobody_to_ask
from tests.support.rows import age, in_process, running, status_of, watch_for

pytestmark = pytest.mark.row("A11")


def stale(services: Services, count: int, **changes: Any) -> list[Work]:
    """So many runs that are silent for longer than the window, each a second longer than the one before."""
    works = [in_process(services, **changes) for _ in range(count)]
    for number, work in enumerate(works):
        age(services, work.run_id, 301 + number)
    return works


def test_a_hundred_stale_at_once_after_an_outage_are_all_spared(services: Services) -> None:
    works = stale(services, 100)
    watch_for(services, 3600)
    with services.database.begin() as connection:
        connection.execute(text("UPDATE reaper_watch SET last_sweep_at = clock_timestamp() - interval '181 s'"))
    for _ in range(2):
        report = sweep(services, by_hand=True)
        assert (report["reaped"], report["judgements"]) == (0, {"spare_warming_up": 100})
    assert {status_of(services, work.run_id) for work in works} == {"running"}


def test_a_hundred_stale_at_once_without_an_outage_are_reaped_a_fifth_at_a_time_and_said_aloud(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    works = stale(services, 100)
    watch_for(services, 3600)
    with caplog.at_level(logging.ERROR):
        report = sweep(services)
    assert report["judgements"] == {"reap_process_lost": 20, "spare_braked": 80}
    assert "100 of 100 running runs look dead at once: the 20 longest silent are reaped now" in caplog.text
    ended = [work for work in works if status_of(services, work.run_id) == "failed"]
    assert ended == works[80:]
    # What waits for the brake may still speak up.
    for work in works[:80]:
        age(services, work.run_id, 0)
    assert sweep(services, by_hand=True)["judged"] == 0


def test_ten_in_a_small_fleet_are_reaped_at_once(services: Services, caplog: pytest.LogCaptureFixture) -> None:
    stale(services, 10)
    watch_for(services, 3600)
    assert sweep(services)["reaped"] == 10
    assert "at once" not in caplog.text


def test_a_platform_that_has_forgotten_everything_ends_a_fifth_at_the_most(services: Services) -> None:
    """Not found, for all of them: a wrong cluster, say."""
    for work in [running(services) for _ in range(60)]:
        age(services, work.run_id, 400)
    watch_for(services, 3600)
    with nobody_to_ask():
        assert sweep(services)["reaped"] == 12


def test_the_time_limit_is_no_guess_and_ends_all_that_are_over_it(services: Services) -> None:
    works = [in_process(services, max_runtime=timedelta(hours=1)) for _ in range(30)]
    for work in works:
        age(services, work.run_id, 3601, "started_at")
    watch_for(services, 3600)
    assert sweep(services)["judgements"] == {"reap_timed_out": 30}
