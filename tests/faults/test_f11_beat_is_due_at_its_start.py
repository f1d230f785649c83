"""F11: a beat that is restarted more often than an entry's interval sends all the same."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery import Celery
from celery.beat import Scheduler
from celery.schedules import crontab

from reprieve.models.liveness import Timing
from reprieve.workers.bootstrap import Services
from reprieve.workers.pulse import be_due
from tests.support.processes import Process, celery, spawn

pytestmark = pytest.mark.row("F11")

SWEEP = "Sending due task reaper.sweep"
EXPIRE = "Sending due task logs.expire"


@pytest.fixture
def life_of_beat(services: Services, environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts a beat at the real timings, by whatever scheduler, in the test's own folder."""
    started: list[Process] = []

    def start(*options: str) -> Process:
        command = celery("beat", "-l", "INFO", "--pidfile=", *options)
        real = environment | {"REPRIEVE_TIME_SCALE": "1"}
        started.append(spawn(f"beat-{len(started)}", command, real, tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.stop(timeout=0)


def test_each_life_of_beat_sends_every_entry_however_short_it_is(life_of_beat: Callable[..., Process]) -> None:
    for _ in range(3):
        beat = life_of_beat("-S", "reprieve.workers.pulse:Scheduler")
        beat.wait_for(EXPIRE)
        beat.wait_for(SWEEP)
        beat.kill()


def test_so_does_a_beat_with_another_scheduler(life_of_beat: Callable[..., Process], tmp_path: Path) -> None:
    for _ in range(2):
        beat = life_of_beat("--schedule", str(tmp_path / "kept"))
        beat.wait_for(EXPIRE)
        beat.wait_for(SWEEP)
        beat.kill()


def test_an_entry_is_sent_once_at_the_start_and_then_waits_for_its_interval() -> None:
    app = Celery("of-f11", set_as_current=False)
    app.conf.beat_schedule = {"ours": {"task": "ours", "schedule": Timing().sweep_interval}}
    app.conf.timezone = "UTC"
    scheduler = Scheduler(app)
    assert not scheduler.schedule["ours"].is_due().is_due
    be_due(SimpleNamespace(app=app, scheduler=scheduler))
    assert scheduler.schedule["ours"].is_due().is_due
    sent = scheduler.reserve(scheduler.schedule["ours"])
    due, left = sent.is_due()
    assert not due
    assert 59 < left <= Timing().sweep_interval.total_seconds()


def test_what_somebody_else_has_added_to_the_schedule_waits_for_its_time() -> None:
    app = Celery("of-f11", set_as_current=False)
    app.conf.beat_schedule = {"ours": {"task": "ours", "schedule": timedelta(hours=1)}}
    app.conf.timezone = "UTC"
    scheduler = Scheduler(app)
    of_next_month = crontab(minute="0", hour="0", day_of_month="1", month_of_year=str(datetime.now().month % 12 + 1))
    scheduler.add(name="theirs", task="theirs", schedule=of_next_month)
    be_due(SimpleNamespace(app=app, scheduler=scheduler))
    assert scheduler.schedule["ours"].is_due().is_due
    assert not scheduler.schedule["theirs"].is_due().is_due
