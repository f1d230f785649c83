"""F01, F04, F09: when the reaper neither looks nor hears, it is seen; what it counts is what the rows say."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import text

from reprieve.adapters.metrics import REGISTRY
from reprieve.models.health import ailments
from reprieve.workers.bootstrap import Services
from reprieve.workers.sweep import sweep
from tests.support.forking import REPRIEVE
from tests.support.processes import Process, run_command
from tests.support.rows import age, chunk, in_process, ingest, running, watch_for
from tests.support.waiting import eventually

StartWorker = Callable[..., Process]


def reasons(services: Services) -> list[str]:
    return ailments(services.sweeps.pulse(), services.timing)


def completed(services: Services, seconds_ago: float) -> None:
    sweep(services, by_hand=True)
    with services.database.begin() as connection:
        statement = (
            "UPDATE reaper_watch SET last_completed_at = clock_timestamp() - make_interval(secs => :s), "
            "heard_at = clock_timestamp()"
        )
        connection.execute(text(statement), {"s": seconds_ago})


def health(environment: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """What `reprieve health` says to a program, at the real timings."""
    done = run_command([REPRIEVE, "health", "--json"], env={**os.environ, **environment, "REPRIEVE_TIME_SCALE": "1"})
    return done.returncode, json.loads(done.stdout)


@pytest.mark.row("F01")
@pytest.mark.parametrize(("ago", "well"), [(140, True), (185, False)])
def test_a_beat_that_died_is_seen_when_the_last_completed_sweep_is_three_minutes_old(
    services: Services, environment: dict[str, str], ago: float, well: bool
) -> None:
    completed(services, ago)
    status, told = health(environment)
    assert (status == 0, told["healthy"]) == (well, well)
    assert ago <= told["sweep_age_seconds"] < ago + 40
    assert [reason.startswith("The last completed sweep is ") for reason in told["reasons"]] == [True] * (not well)


@pytest.mark.row("F01")
def test_a_system_that_never_swept_is_not_well(services: Services, environment: dict[str, str]) -> None:
    status, told = health(environment)
    assert (status, told["sweep_age_seconds"]) == (1, None)
    assert told["reasons"][0].startswith("No sweep was ever completed")


@pytest.mark.row("F01")
def test_a_sweep_that_does_not_come_to_its_end_is_not_completed(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    completed(services, 200)
    monkeypatch.setattr("reprieve.workers.sweep._resend", lambda services: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sweep(services, by_hand=True)
    assert len(reasons(services)) == 1


@pytest.mark.row("F04")
def test_a_worker_whose_sockets_were_reset_consumes_again_and_its_absence_is_seen_until_it_does(
    services: Services, redis: Redis, start_worker: StartWorker
) -> None:
    start_worker("logs", name="logs")
    sweep(services, by_hand=True)
    first = eventually(lambda: services.sweeps.heard_at())
    redis.client_kill_filter(_type="normal", skipme=True)
    redis.client_kill_filter(_type="pubsub", skipme=True)

    def heard_again() -> bool:
        sweep(services, by_hand=True)
        return services.sweeps.heard_at() != first

    eventually(heard_again, timeout=60, interval=1)


@pytest.mark.row("F04")
@pytest.mark.parametrize(("ago", "well"), [(175, True), (185, False)])
def test_a_worker_that_is_up_and_consumes_nothing_is_seen_by_its_canaries(
    services: Services, ago: float, well: bool
) -> None:
    completed(services, 0)
    with services.database.begin() as connection:
        statement = text("UPDATE reaper_watch SET heard_at = clock_timestamp() - make_interval(secs => :s)")
        connection.execute(statement, {"s": ago})
    assert [reason.startswith("Canaries do not come back") for reason in reasons(services)] == [True] * (not well)


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.row("F09")
def test_what_is_counted_is_what_the_rows_say(services: Services) -> None:
    names = {"detached": "adapter_liveness_lost", "process": "process_lost"}
    before = {name: counted("reprieve_reaps_total", adapter=name, code=code) for name, code in names.items()}
    suspected = counted("reprieve_suspected_false_reaps_total", adapter="detached")
    spoke, *_ = works = [running(services), running(services), in_process(services)]
    for work in works:
        age(services, work.run_id, 400)
    running(services)
    watch_for(services, 3600)
    assert sweep(services)["reaped"] == 3
    for seq in (1, 2):
        ingest(services, [chunk(spoke, seq)])
    account = {one.adapter: (one.reaped, one.suspected_false) for one in services.sweeps.account()}
    assert account == {"detached": (2, 1), "process": (1, 0)}
    after = {name: counted("reprieve_reaps_total", adapter=name, code=code) for name, code in names.items()}
    assert {name: after[name] - before[name] for name in names} == {"detached": 2, "process": 1}
    assert counted("reprieve_suspected_false_reaps_total", adapter="detached") - suspected == 1


@pytest.mark.row("F09")
def test_nothing_here_asks_flower() -> None:
    """Flower shows what passed by; no decision, count or state of ours may come from it."""
    root = Path(__file__).parents[2]
    rooms = [path for room in ("models", "stores", "workers", "adapters") for path in (root / room).rglob("*.py")]
    assert rooms
    asking = [path.name for path in rooms if "import flower" in path.read_text() or "from flower" in path.read_text()]
    assert asking == []
