"""A19: whoever sweeps need not know the adapter of work that is to be adopted; whoever adopts does."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from reprieve.adapters import registry
from reprieve.models.liveness import Timing
from reprieve.models.status import Probe
from reprieve.models.work import Fence
from reprieve.workers import sweep as sweeping
from reprieve.workers.bootstrap import Services
from reprieve.workers.explaining import explain
from reprieve.workers.supervisor import Supervisor
from reprieve.workers.sweep import sweep
from tests.faults.helpers_abf import BROKEN_WORKER, CHATTY, WITHOUT_ADAPTER, enqueueing, lengthen_watch, swept_again
from tests.support.nodes import a_node
from tests.support.processes import Process, processes_of
from tests.support.rows import age, kinds, record_handle, running, status_of, watch_for
from tests.support.shipping import direct_shipper
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("A19")

StartWorker = Callable[..., Process]


def dispatched(services: Services, adapter: str = "of-tomorrow", **changes: Any) -> Fence:
    """Work of an adapter that this process does not know, followed by a worker that is gone."""
    work, worker_id = running(services, adapter=adapter, **changes), uuid4()
    record_handle(services, work.fence, None, {"name": "job"})
    services.workers.seen(worker_id, "runs@gone", a_node("gone"))
    services.workers.leave(worker_id)
    with services.database.begin() as connection:
        values = {"worker": worker_id, "id": work.run_id}
        connection.execute(text("UPDATE run_attempts SET worker_id = :worker WHERE run_id = :id"), values)
    watch_for(services, 3600)
    return work.fence


def adoptable(services: Services, *adapters: str) -> list[UUID]:
    return [run_id for run_id, _, _ in services.adoptions.to_adopt(a_node("here"), adapters, 100)]


def test_work_of_a_worker_that_is_gone_is_to_be_adopted_whatever_the_sweep_knows(services: Services) -> None:
    run_id = dispatched(services).run_id
    assert sweep(services)["orphaned"] == 1
    assert adoptable(services, "detached") == []
    assert adoptable(services, "detached", "of-tomorrow") == [run_id]
    assert sweep(services, by_hand=True)["orphaned"] == 0


@pytest.mark.parametrize("answer", [Probe.ALIVE, Probe.ENDED])
def test_so_is_silent_work_that_its_platform_sees(
    services: Services, monkeypatch: pytest.MonkeyPatch, answer: Probe
) -> None:
    work = running(services, adapter="of-tomorrow")
    record_handle(services, work.fence, None, {"name": "job"})
    age(services, work.run_id, 301)
    watch_for(services, 3600)
    monkeypatch.setattr(sweeping, "ask", lambda services, fences: {fence.run_id: answer for fence in fences})
    sweep(services)
    assert adoptable(services, "of-tomorrow") == [work.run_id]


def test_what_the_row_says_to_live_in_process_is_nobodys_to_adopt(services: Services) -> None:
    fence = dispatched(services, out_of_process_liveness=False)
    assert sweep(services)["orphaned"] == 0
    assert services.adoptions.hand_over([fence]) == set()
    assert adoptable(services, "of-tomorrow") == []


def test_a_worker_that_lacks_the_adapter_leaves_the_work_says_so_once_and_explain_tells_who_is_missing(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = dispatched(services).run_id
    sweep(services)
    supervisor = Supervisor(services, direct_shipper(services))
    for _ in range(3):
        supervisor.adopt()
    said = [one.message for one in caplog.records if "waits for a worker whose adapter 'of-tomorrow'" in one.message]
    assert said == [
        f"Run {run_id} attempt 1 waits for a worker whose adapter 'of-tomorrow' can attach; this one has none."
    ]
    with services.database.begin() as connection:
        connection.execute(text("UPDATE run_attempts SET adoption_owed_at = clock_timestamp() - interval '125 s'"))
    told = explain(services, run_id).text
    assert "Another worker is to follow attempt 1, for 2 min 5 s now: none that has the adapter 'of-tomorrow'" in told
    services.adoptions.adopt(run_id, 1, 1, "runs@new", uuid4())
    assert "Another worker is to follow" not in explain(services, run_id).text
    assert services.runs.get_attempt(run_id, 1).adoption_owed_at is None


def test_since_when_adoption_is_owed_is_not_forgotten_at_the_next_sweep(services: Services) -> None:
    fence = dispatched(services)
    sweep(services)
    before = services.runs.get_attempt(fence.run_id, 1).adoption_owed_at
    services.adoptions.hand_over([fence])
    sweep(services, by_hand=True)
    assert before is not None
    assert services.runs.get_attempt(fence.run_id, 1).adoption_owed_at == before


def test_work_whose_adapter_cannot_attach_stays_owed_and_is_judged_by_its_silence(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fixed:
        type = "fixed"
        has_out_of_process_liveness = True

    known = {**registry.adapter_classes(), "fixed": Fixed}
    monkeypatch.setattr(registry, "adapter_classes", lambda: known)
    run_id = dispatched(services, "fixed").run_id
    assert sweep(services)["orphaned"] == 1
    supervisor = Supervisor(services, direct_shipper(services))
    for _ in range(2):
        supervisor.adopt()
    assert services.runs.get(run_id).epoch == 1
    age(services, run_id, 301)
    assert sweep(services, by_hand=True)["judgements"] == {"reap_silent": 1}
    assert services.runs.get_attempt(run_id, 1).adoption is None


def test_work_of_an_adapter_that_only_the_newest_worker_knows_is_adopted_by_that_one(
    services: Services, start_worker: StartWorker, start_beat: Callable[[], Process]
) -> None:
    older = {"application": BROKEN_WORKER, "extra": {WITHOUT_ADAPTER: "detached"}}
    start_worker("logs,control", name="control", **older)
    start_beat()
    lengthen_watch(services)
    first = start_worker("runs", name="first")
    with enqueueing(services) as enqueue:
        run_id = enqueue("detached", {"command": CHATTY})
        eventually(lambda: services.logs.last_seq(run_id, 1) > 0)
        old = start_worker("runs", name="old", **older)
        first.kill()
        eventually(lambda: services.runs.get_attempt(run_id, 1).adoption == "owed", timeout=60)
        old.wait_for("waits for a worker whose adapter 'detached' can attach")
        swept_again(services)
        assert status_of(services, run_id) == "running"
        start_worker("runs", name="newest")
        timing = Timing.scaled(30)
        eventually(lambda: "attached" in kinds(services, run_id), timeout=2 * timing.worker_gone_after.total_seconds())
        stored = services.logs.last_seq(run_id, 1)
        eventually(lambda: services.logs.last_seq(run_id, 1) > stored + 5)
        assert processes_of(run_id)
        assert services.runs.get(run_id).attempt == 1
        assert old.output.count("waits for a worker whose adapter") == 1
