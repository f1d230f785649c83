"""B03, B04, B07, B09: a dead run ends, whatever it left behind and whatever stands beside it."""

from datetime import timedelta

import pytest
from redis import Redis

from reprieve import enqueue_run
from reprieve.stores.throttle import proof_key
from reprieve.workers.bootstrap import Services
from reprieve.workers.sweep import sweep
from tests.faults.helpers_abf import (
    BROKEN_WORKER,
    CHATTY,
    DIE_AFTER_CLAIM,
    SILENT,
    enqueueing,
    impatient_services,
    last_completed_at,
    lengthen_watch,
    locked,
    one_turn,
    poisoned,
    reap_event,
    supervised,
    sweep_in_another_process,
    swept_again,
)
from tests.support.processes import processes_of
from tests.support.rows import (
    age,
    chunk,
    claim,
    ingest,
    kinds,
    new_run,
    record_handle,
    running,
    status_of,
    updated_at,
    watch_for,
)
from tests.support.waiting import eventually

# -- B03


@pytest.mark.row("B03")
@pytest.mark.parametrize("adapter", ["process", "detached"])
def test_the_worker_ends_a_run_that_logs_for_ever_when_its_max_runtime_has_passed(
    services: Services, start_worker, adapter: str
) -> None:
    start_worker()
    with enqueueing(services) as enqueue:
        limited = enqueue(adapter, {"command": CHATTY}, max_runtime=2)
        unlimited = enqueue(adapter, {"command": CHATTY})
        eventually(lambda: status_of(services, limited) == "failed")
        assert services.runs.get(limited).error_code == "timed_out"
        eventually(lambda: services.runs.get_attempt(limited, 1).termination == "done")
        assert processes_of(limited) == []
        assert services.logs.last_seq(limited, 1) > 0
        assert status_of(services, unlimited) == "running"
    assert "reaped" not in kinds(services, limited)


@pytest.mark.row("B03")
def test_a_sweep_ends_a_run_that_logs_for_ever_after_its_worker_was_killed(
    services: Services, start_worker, start_beat
) -> None:
    worker = start_worker("runs,logs", name="old")
    with enqueueing(services) as enqueue:
        limited = enqueue("detached", {"command": CHATTY}, max_runtime=5)
        eventually(lambda: services.logs.last_seq(limited, 1) > 0)
        worker.kill()
        assert status_of(services, limited) == "running"
        assert processes_of(limited)

        start_worker(name="new")
        start_beat()
        eventually(lambda: status_of(services, limited) == "failed")
        assert reap_event(services, limited)["judgement"] == "reap_timed_out"
        eventually(lambda: processes_of(limited) == [])


@pytest.mark.row("B03")
def test_a_sweep_ends_an_overdue_run_however_fresh_and_spares_one_just_below_its_limit(services: Services) -> None:
    hour = timedelta(hours=1)
    overdue, within, unlimited = (running(services, max_runtime=limit) for limit in (hour, hour, None))
    for work, seconds in ((overdue, 3601), (within, 3590), (unlimited, 36_000)):
        age(services, work.run_id, seconds, "started_at")
        assert ingest(services, [chunk(work, 1)])["refreshed"] == 1
    sweep(services)
    assert services.runs.get(overdue.run_id).error_code == "timed_out"
    assert services.runs.get_attempt(overdue.run_id, 1).termination == "owed"
    assert [status_of(services, work.run_id) for work in (within, unlimited)] == ["running", "running"]


# -- B04


@pytest.mark.row("B04")
def test_a_claim_stamps_updated_at_so_the_run_is_spared_within_the_window_and_reaped_after_it(
    services: Services,
) -> None:
    run_id = new_run(services).id
    age(services, run_id, 600)
    before = services.database.now()
    assert claim(services, run_id, "worker@nowhere") is not None
    claimed = services.runs.get(run_id)
    assert before < claimed.updated_at <= services.database.now()
    assert claimed.last_proof == "claim"

    watch_for(services, 3600)
    sweep(services)
    assert status_of(services, run_id) == "running"
    for silence, status in ((290, "running"), (301, "failed")):
        age(services, run_id, silence)
        watch_for(services, 3600)
        sweep(services)
        assert status_of(services, run_id) == status


@pytest.mark.row("B04")
def test_a_worker_killed_between_claim_and_first_chunk_leaves_a_run_that_a_sweep_ends(
    services: Services, environment: dict[str, str], start_worker
) -> None:
    queued_at = services.database.now()
    worker = start_worker("runs", application=BROKEN_WORKER, extra={DIE_AFTER_CLAIM: "1"})
    run_id = enqueue_run("detached", {"command": SILENT}).id
    eventually(lambda: worker.popen.poll() is not None)
    assert status_of(services, run_id) == "running"
    assert services.runs.get_attempt(run_id, 1).work is None
    assert updated_at(services, run_id) > queued_at

    for silence, status in ((290, "running"), (301, "failed")):
        age(services, run_id, silence)
        watch_for(services, 3600)
        sweep_in_another_process(environment)
        assert status_of(services, run_id) == status
    assert services.runs.get(run_id).error_code == "adapter_liveness_lost"


@pytest.mark.row("B04")
def test_a_throttle_key_from_before_the_claim_does_not_hold_back_the_first_proof_of_life(
    services: Services, redis: Redis, start_worker, start_beat
) -> None:
    with enqueueing(services) as enqueue:
        run_id = enqueue("detached", {"command": CHATTY})
        redis.set(proof_key(run_id), "an attempt of before", ex=600)
        start_worker()
        eventually(lambda: services.runs.get(run_id).last_proof in {"output", "heartbeat"})
        assert status_of(services, run_id) == "running"


@pytest.mark.row("B04")
def test_a_throttle_key_from_before_does_not_save_a_run_without_any_proof_of_life(
    services: Services, redis: Redis
) -> None:
    work = running(services)
    redis.set(proof_key(work.run_id), "an attempt of before")
    age(services, work.run_id, 301)
    watch_for(services, 3600)
    sweep(services)
    assert status_of(services, work.run_id) == "failed"
    assert redis.get(proof_key(work.run_id)) is None


# -- B07


@pytest.mark.row("B07")
@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_poisoned_row_does_not_keep_its_neighbours_alive(services: Services, position: int) -> None:
    dead = [running(services).run_id for _ in range(3)]
    for run_id in dead:
        age(services, run_id, 600)
    watch_for(services, 3600)
    with poisoned(services, dead[position]):
        report = sweep(services)
    assert (report["judged"], report["reaped"]) == (3, 2)
    expected = ["failed"] * 3
    expected[position] = "running"
    assert [status_of(services, run_id) for run_id in dead] == expected
    assert last_completed_at(services) is not None

    watch_for(services, 3600)
    assert sweep(services)["reaped"] == 1


@pytest.mark.row("B07")
def test_a_sparing_that_cannot_be_written_costs_no_other_verdict(services: Services) -> None:
    in_doubt = [running(services) for _ in range(3)]
    handle = {"pid": 1, "process_group_id": 1, "started_at": 1.0, "namespace": "n", "folder": "f", "host": "gone"}
    for work in in_doubt:
        record_handle(services, work.fence, "gone", handle)
    dead = running(services)
    for work in (*in_doubt, dead):
        age(services, work.run_id, 600)
    watch_for(services, 3600)
    refuse = f"ALTER TABLE sparings ADD CONSTRAINT poisoned CHECK (run_id <> '{in_doubt[0].run_id}') NOT VALID"
    with services.database.begin() as connection:
        connection.exec_driver_sql(refuse)
    try:
        assert sweep(services)["judgements"] == {"spare_unknown": 3, "reap_silent": 1}
    finally:
        with services.database.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE sparings DROP CONSTRAINT poisoned")
    assert [len(services.sweeps.sparings(work.run_id)) for work in in_doubt] == [0, 1, 1]
    assert status_of(services, dead.run_id) == "failed"


@pytest.mark.row("B07")
def test_a_row_that_a_stalled_transaction_holds_does_not_keep_its_neighbour_alive(services: Services) -> None:
    held, dead = running(services).run_id, running(services).run_id
    for run_id in (held, dead):
        age(services, run_id, 600)
    watch_for(services, 3600)
    with impatient_services(services) as impatient, locked(services, held):
        sweep(impatient)
        assert status_of(services, dead) == "failed"
    assert status_of(services, held) == "running"


@pytest.mark.row("B07")
def test_a_max_runtime_beyond_the_calendar_does_not_keep_the_others_alive(services: Services) -> None:
    boundless = running(services, max_runtime=timedelta.max).run_id
    dead = running(services).run_id
    age(services, dead, 600)
    watch_for(services, 3600)
    assert sweep(services)["reaped"] == 1
    assert status_of(services, boundless) == "running"
    assert status_of(services, dead) == "failed"


@pytest.mark.row("B07")
def test_an_overdue_run_that_cannot_be_ended_does_not_cost_the_others_their_keepalive(services: Services) -> None:
    overdue, other = running(services, max_runtime=timedelta(microseconds=1)), running(services)
    age(services, other.run_id, 290)
    before = updated_at(services, other.run_id)
    with poisoned(services, overdue.run_id), supervised(services, overdue) as (supervisor, _):
        with supervisor.follow(other) as context:
            context.heartbeat()
            one_turn(supervisor)
            assert updated_at(services, other.run_id) > before
    assert status_of(services, overdue.run_id) == "running"


@pytest.mark.row("B07")
def test_an_overdue_run_that_cannot_be_ended_does_not_keep_other_overdue_ones_alive(services: Services) -> None:
    stuck, other = (running(services, max_runtime=timedelta(microseconds=1)) for _ in range(2))
    with poisoned(services, stuck.run_id), supervised(services, stuck) as (supervisor, _), supervisor.follow(other):
        one_turn(supervisor)
        assert status_of(services, other.run_id) == "failed"
    assert status_of(services, stuck.run_id) == "running"


# -- B09


@pytest.mark.row("B09")
def test_a_run_is_reaped_whose_worker_was_killed_after_the_new_one_had_booted(
    services: Services, start_worker, start_beat
) -> None:
    old = start_worker("runs", name="old")
    with enqueueing(services) as enqueue:
        run_id = enqueue("process", {"command": SILENT})
        eventually(lambda: processes_of(run_id))
        start_worker(name="new")
        start_beat()
        lengthen_watch(services)
        swept_again(services)
        assert status_of(services, run_id) == "running"

        old.kill()
        eventually(lambda: status_of(services, run_id) == "failed")
        assert services.runs.get(run_id).error_code == "process_lost"
        assert reap_event(services, run_id)["worker_node"] == "old@test"
