"""F03, F05, F07, F10: two of everything, an empty Redis, clocks that differ, and the evidence of a reap."""

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
from sqlalchemy import text

from reprieve.models.liveness import WINDOW, Timing
from reprieve.models.status import Proof
from reprieve.stores.leases import Lease
from reprieve.stores.sweeps import SWEEP
from reprieve.workers.bootstrap import Services
from reprieve.workers.refresh import give_proof
from reprieve.workers.sweep import sweep
from tests.faults.helpers_abf import (
    BROKEN_WORKER,
    CLOCK_SHIFT,
    SILENT,
    database_time_after,
    enqueueing,
    interrupted,
    lengthen_watch,
    reap_event,
    shifted_beat,
    sweep_in_another_process,
    swept_again,
)
from tests.support.processes import READY, Process
from tests.support.rows import age, chunk, in_process, ingest, kinds, running, status_of, watch_for
from tests.support.waiting import eventually

# -- F03


@pytest.mark.row("F03")
def test_a_sweep_is_skipped_while_another_process_makes_one(services: Services, environment: dict[str, str]) -> None:
    dead = running(services).run_id
    age(services, dead, 600)
    watch_for(services, 3600)
    with services.sweeps.single_flight() as ours:
        assert ours
        assert "skipped" in sweep_in_another_process(environment)
        assert "skipped" in sweep(services)
        assert status_of(services, dead) == "running"
    assert sweep(services)["reaped"] == 1


@pytest.mark.row("F03")
def test_a_sweep_that_failed_gives_its_lock_back(services: Services) -> None:
    def fail(page: object) -> None:
        raise ZeroDivisionError

    dead = running(services).run_id
    age(services, dead, 600)
    watch_for(services, 3600)
    with pytest.raises(ZeroDivisionError):
        sweep(interrupted(services, fail))
    watch_for(services, 3600)
    assert sweep(services)["reaped"] == 1


@pytest.mark.row("F03")
def test_no_transaction_of_ours_is_idle_for_longer_than_a_window(services: Services) -> None:
    with services.database.begin() as connection:
        query = "SELECT setting::bigint FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'"
        milliseconds = connection.execute(text(query)).scalar_one()
    assert 0 < milliseconds <= WINDOW.total_seconds() * 1000


@pytest.mark.row("F03")
def test_two_sweeps_that_both_saw_a_suspect_reap_it_once(services: Services) -> None:
    dead = running(services).run_id
    age(services, dead, 600)
    watch_for(services, 3600)
    others = []
    report = sweep(interrupted(services, lambda page: others.append(sweep(without_lock(services), by_hand=True))))
    assert others[0]["reaped"] == 1
    assert report["reaped"] == 0
    assert kinds(services, dead).count("reaped") == 1


def without_lock(services: Services) -> Services:
    """Services whose sweep believes that it is the only one."""

    class Lockless:
        def __getattr__(self, name: str) -> object:
            return getattr(services.sweeps, name)

        @contextmanager
        def single_flight(self) -> Iterator[Lease]:
            with services.database.begin() as connection:
                token = connection.execute(text("SELECT token FROM leases")).scalar_one()
            yield Lease(services.database, SWEEP, token, services.timing.sweep_lease)

    return replace(services, sweeps=Lockless())


@pytest.mark.row("F03")
def test_two_beats_and_two_workers_reap_once_and_one_beat_goes_on_alone(
    services: Services, start_worker, start_beat
) -> None:
    workers = [start_worker(name=name, wait=False) for name in ("one", "two")]
    for worker in workers:
        worker.wait_for(READY)
    first, _ = start_beat(), start_beat()
    with enqueueing(services) as enqueue:
        alive = enqueue("detached", {"command": SILENT})
        eventually(lambda: status_of(services, alive) == "running")
        dead = [running(services).run_id for _ in range(20)]
        for run_id in dead:
            age(services, run_id, 600)
        lengthen_watch(services)
        eventually(lambda: all(status_of(services, run_id) == "failed" for run_id in dead))
        swept_again(services)
        assert [kinds(services, run_id).count("reaped") for run_id in dead] == [1] * 20
        first.kill()
        swept_again(services)
        assert status_of(services, alive) == "running"


# -- F05


@pytest.fixture
def empty_redis(servers) -> Iterator[object]:
    """A function that stops Redis, deletes all it ever knew, and starts it again."""

    def restart() -> None:
        servers.redis.stop()
        for data in servers.redis.folder.glob("appendonly*"):
            shutil.rmtree(data) if data.is_dir() else data.unlink()
        servers.redis.start()

    yield restart
    servers.redis.start()


@pytest.mark.row("F05")
def test_after_redis_came_back_empty_queued_runs_run_and_running_ones_end_right(
    services: Services, servers, start_worker, start_beat, empty_redis, tmp_path: Path
) -> None:
    url = servers.redis.url
    workers = [start_worker("runs", name="one", concurrency=2, wait=False), start_worker("logs,control", wait=False)]
    for worker in workers:
        worker.wait_for(READY)
    start_beat()
    gate = tmp_path / "gate"
    held = {"command": ["sh", "-c", f"until [ -e {gate} ]; do sleep 0.1; done; echo done"]}
    with enqueueing(services) as enqueue:
        under_way = [enqueue(adapter, held) for adapter in ("process", "detached")]
        eventually(lambda: all(status_of(services, run_id) == "running" for run_id in under_way))
        waiting = [enqueue("process", {"command": ["true"]}) for _ in range(5)]

        empty_redis()
        assert servers.redis.url == url
        assert [status_of(services, run_id) for run_id in under_way] == ["running"] * 2
        waiting.append(enqueue("process", {"command": ["true"]}))
        gate.touch()

        eventually(lambda: {status_of(services, run_id) for run_id in under_way + waiting} == {"succeeded"}, timeout=90)
        for run_id in under_way:
            output = eventually(lambda run_id=run_id: services.logs.read(run_id, 1))
            assert b"".join(piece.data for piece in output) == b"done\n"
    assert [services.runs.get(run_id).attempt for run_id in under_way + waiting] == [1] * 8


# -- F07


@pytest.mark.row("F07")
@pytest.mark.parametrize("minutes", [10, -10])
def test_a_sweep_whose_clock_is_ten_minutes_off_reaps_the_dead_and_nobody_else(
    services: Services, minutes: int
) -> None:
    fresh, live, dead = (running(services) for _ in range(3))
    overdue, within = (running(services, max_runtime=timedelta(hours=1)) for _ in range(2))
    age(services, live.run_id, 280)
    age(services, dead.run_id, 310)
    age(services, overdue.run_id, 3610, "started_at")
    age(services, within.run_id, 3580, "started_at")
    watch_for(services, 310)
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=minutes)):
        report = sweep(services)
    assert report["judgements"] == {"reap_silent": 1, "reap_timed_out": 1}
    assert [status_of(services, work.run_id) for work in (dead, overdue)] == ["failed", "failed"]
    assert [status_of(services, work.run_id) for work in (fresh, live, within)] == ["running"] * 3


@pytest.mark.row("F07")
@pytest.mark.parametrize("minutes", [10, -10])
def test_a_proof_of_life_from_a_worker_whose_clock_is_ten_minutes_off_has_the_databases_time(
    services: Services, minutes: int
) -> None:
    before = services.database.now()
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=minutes)):
        work = running(services)
        claimed_at = services.runs.get(work.run_id).updated_at
        ingest(services, [chunk(work, 1)])
    refreshed_at = services.runs.get(work.run_id).updated_at
    assert before < claimed_at < refreshed_at <= services.database.now()


@pytest.mark.row("F07")
@pytest.mark.parametrize("minutes", [10, -10])
def test_a_worker_and_a_beat_whose_clocks_differ_by_twenty_minutes_sweep_on_and_reap_the_dead_alone(
    services: Services, environment: dict[str, str], start_worker, tmp_path: Path, minutes: int
) -> None:
    worker = start_worker(application=BROKEN_WORKER, extra={CLOCK_SHIFT: str(60 * minutes)})
    assert abs(clock_of(worker) - time.time() - 60 * minutes) < 300
    with shifted_beat(environment, tmp_path, -60 * minutes), enqueueing(services) as enqueue:
        alive = [enqueue(adapter, {"command": SILENT}) for adapter in ("process", "detached")]
        eventually(lambda: all(status_of(services, run_id) == "running" for run_id in alive))
        dead = running(services).run_id
        swept_again(services)
        assert status_of(services, dead) == "running"

        eventually(database_time_after(services, 1.2 * Timing.scaled(30).window.total_seconds()))
        eventually(lambda: status_of(services, dead) == "failed")
        assert [status_of(services, run_id) for run_id in alive] == ["running", "running"]
        assert reap_event(services, dead)["silent_seconds"] < 60


def clock_of(process: Process) -> float:
    """What its log says about the time of day."""
    stamps = re.findall(r"^\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),", process.output, re.MULTILINE)
    return datetime.fromisoformat(stamps[-1]).timestamp()


# -- F10


@pytest.mark.row("F10")
@pytest.mark.parametrize("proof", list(Proof))
def test_a_reap_tells_the_last_proof_and_its_kind_the_silence_and_what_it_was_measured_by(
    services: Services, proof: Proof
) -> None:
    work = running(services)
    if proof is not Proof.CLAIM:
        assert give_proof(services, [work.fence], proof) == {work.fence}
    age(services, work.run_id, 400)
    age(services, work.run_id, 1000, "started_at")
    last_proof_at = services.runs.get(work.run_id).updated_at
    watch_for(services, 3600)
    sweep(services)

    told = reap_event(services, work.run_id)
    judged_at = datetime.fromisoformat(told["judged_at"])
    assert told["last_proof"] == proof.value
    assert datetime.fromisoformat(told["last_proof_at"]) == last_proof_at
    assert told["silent_seconds"] == pytest.approx((judged_at - last_proof_at).total_seconds(), abs=0.001)
    assert 400 <= told["silent_seconds"] < 460
    assert 1000 <= told["running_seconds"] < 1060
    assert datetime.fromisoformat(told["cutoff"]) == judged_at - timedelta(seconds=300)
    assert told["window_seconds"] == 300
    assert 3600 <= (judged_at - datetime.fromisoformat(told["watching_since"])).total_seconds() < 3660
    assert (told["worker_node"], told["attempt"]) == ("worker@nowhere", 1)
    assert (told["judgement"], told["error_code"]) == ("reap_silent", "adapter_liveness_lost")
    assert told["retry"] is False


@pytest.mark.row("F10")
def test_a_reap_says_explicitly_what_was_not_asked(services: Services) -> None:
    work = in_process(services)
    age(services, work.run_id, 400)
    watch_for(services, 3600)
    sweep(services)
    told = reap_event(services, work.run_id)
    assert told["probe"] is None
    assert told["brake"] == {"fleet": 1, "convicted": 1, "allowed": 10, "on": False}


@pytest.mark.row("F10")
def test_the_message_on_the_row_names_silence_window_proof_and_worker(services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1)])
    age(services, work.run_id, 400)
    watch_for(services, 3600)
    sweep(services)
    message = services.runs.get(work.run_id).error_message or ""
    assert re.search(r"No proof of life for 4\d\d s \(window 300 s\)", message)
    assert "output" in message
    assert "worker@nowhere" in message


@pytest.mark.row("F10")
def test_the_reap_of_an_attempt_that_is_retried_keeps_its_evidence_too(services: Services) -> None:
    work = in_process(services, max_attempts=2)
    age(services, work.run_id, 400)
    watch_for(services, 3600)
    sweep(services)
    assert status_of(services, work.run_id) == "queued"
    told = reap_event(services, work.run_id)
    assert (told["error_code"], told["retry"], told["attempt"]) == ("process_lost", True, 1)
    assert told["last_proof"] == "claim"
