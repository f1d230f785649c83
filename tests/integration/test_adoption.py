"""Work that outlives its worker: who takes it over, from where its log goes on, and what a worker that stops leaves."""

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from reprieve import cancel_run, enqueue_run
from reprieve.models.errors import Released
from reprieve.models.judging import Judgement
from reprieve.models.status import EventKind, Probe
from reprieve.models.work import Fence, Work
from reprieve.stores.runs.attempts import Standing
from reprieve.workers import sweep as module
from reprieve.workers.bootstrap import Services
from reprieve.workers.supervision.adopting import Adopting
from reprieve.workers.supervisor import Supervisor
from reprieve.workers.sweep import sweep
from tests.faults.helpers_cdeg import all_at_once
from tests.support.nodes import a_node
from tests.support.processes import Process, processes_of
from tests.support.rows import (
    age,
    chunk,
    in_process,
    ingest,
    kinds,
    new_run,
    record_handle,
    running,
    status_of,
    updated_at,
    watch_for,
    whole_log,
)
from tests.support.shipping import direct_shipper
from tests.support.waiting import eventually

StartWorker = Callable[..., Process]

#: Prints numbered lines, ten a second, until a file is there; says how many there were.
PRINTER = """
import pathlib, sys, time
n = 0
while not pathlib.Path(sys.argv[1]).exists():
    print("line", n, flush=True); n += 1
    time.sleep(0.1)
print("last", n, flush=True)
"""


def printer(stop: Any) -> dict[str, Any]:
    return {"command": [sys.executable, "-I", "-S", "-c", PRINTER, str(stop)]}


def output(services: Services, run_id: UUID, attempt: int = 1) -> str:
    chunks = services.logs.read(run_id, attempt, limit=100_000)
    assert [one.seq for one in chunks] == list(range(1, len(chunks) + 1))
    return b"".join(one.data for one in chunks).decode()


def is_whole(printed: str) -> bool:
    """Whether these are all lines from the first to the last, each once and in order."""
    lines = printed.splitlines()
    count = len(lines) - 1
    return lines == [*(f"line {n}" for n in range(count)), f"last {count}"]


# -- who is to follow what


def dispatched(services: Services, *, worker_id: UUID | None = None, host: str | None = None) -> Work:
    work = running(services)
    record_handle(services, work.fence, host, {"name": "job"})
    if worker_id is not None:
        with services.database.begin() as connection:
            values = {"worker": worker_id, "id": work.run_id}
            connection.execute(text("UPDATE run_attempts SET worker_id = :worker WHERE run_id = :id"), values)
    return work


def to_adopt(services: Services, host: str | None = None) -> list[UUID]:
    node = a_node(host) if host else services.node
    return [run_id for run_id, _, _ in services.adoptions.to_adopt(node, ["detached"], 100)]


def not_seen_for(services: Services, worker_id: UUID, seconds: float) -> None:
    services.workers.seen(worker_id, "runs@here", a_node("here"))
    with services.database.begin() as connection:
        statement = text("UPDATE workers SET seen_at = clock_timestamp() - make_interval(secs => :s) WHERE id = :id")
        connection.execute(statement, {"s": seconds, "id": worker_id})


@pytest.mark.parametrize(("unseen", "orphaned"), [(59, False), (61, True)])
def test_work_is_orphaned_when_its_worker_was_not_seen_for_a_minute(
    services: Services, unseen: float, orphaned: bool
) -> None:
    work = dispatched(services, worker_id=uuid4())
    worker_id = services.runs.get_attempt(work.run_id, 1).worker_id
    assert worker_id is not None
    not_seen_for(services, worker_id, unseen)
    watch_for(services, 3600)
    assert sweep(services)["orphaned"] == orphaned
    assert to_adopt(services) == ([work.run_id] if orphaned else [])


@pytest.mark.row("A23")
@pytest.mark.parametrize("taken", ["claimed", "adopted"])
def test_work_of_a_worker_that_was_killed_before_its_first_turn_is_orphaned(
    taken: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Adopting, "_begin_to_follow", lambda *_: None)
    watch_for(services, 3600)
    supervisor = Supervisor(services, direct_shipper(services))  # It is not started, and so has no turn by itself.
    if taken == "claimed":
        new_run(services)
        works: list[Work] = []
        monkeypatch.setattr(supervisor._followers, "begin", works.append)
        supervisor.take()
        (work,) = works
        record_handle(services, work.fence, None, {"name": "job"})
    else:
        work = dispatched(services)
        services.adoptions.hand_over([work.fence])
        supervisor.adopt()
    with services.database.begin() as connection:
        connection.execute(text("UPDATE workers SET seen_at = clock_timestamp() - interval '61 s'"))
    assert sweep(services, by_hand=True)["orphaned"] == 1
    assert to_adopt(services) == [work.run_id]


def test_work_that_no_worker_could_go_on_with_is_not_orphaned(services: Services) -> None:
    worker_id = uuid4()
    nothing_started = running(services)
    child, other = in_process(services), dispatched(services, worker_id=uuid4())
    with services.database.begin() as connection:
        ids = [str(work.run_id) for work in (nothing_started, child)]
        connection.execute(
            text("UPDATE run_attempts SET worker_id = :worker WHERE run_id = ANY(CAST(:ids AS uuid[]))"),
            {"worker": worker_id, "ids": ids},
        )
    not_seen_for(services, worker_id, 3600)
    watch_for(services, 3600)
    assert sweep(services)["orphaned"] == 0
    assert to_adopt(services) == []
    assert status_of(services, other.run_id) == "running"


def test_after_a_sweep_was_missed_no_worker_counts_as_gone(services: Services) -> None:
    """The database may have been away: nobody could be seen."""
    worker_id = uuid4()
    dispatched(services, worker_id=worker_id)
    not_seen_for(services, worker_id, 100)
    watch_for(services, 3600)
    with services.database.begin() as connection:
        connection.execute(text("UPDATE reaper_watch SET last_sweep_at = clock_timestamp() - interval '120 s'"))
    assert sweep(services)["orphaned"] == 0


def test_being_followed_is_no_proof_of_life(services: Services) -> None:
    work = dispatched(services)
    age(services, work.run_id, 200)
    before = updated_at(services, work.run_id)
    services.adoptions.hand_over([work.fence])
    assert services.adoptions.adopt(work.run_id, 1, work.epoch, "runs@here", uuid4()) is not None
    assert updated_at(services, work.run_id) == before


def test_of_many_workers_that_look_one_adopts(services: Services) -> None:
    work = dispatched(services)
    services.adoptions.hand_over([work.fence])
    adopt = lambda: services.adoptions.adopt(work.run_id, 1, work.epoch, "runs@here", uuid4())  # noqa: E731
    adoptions = [one for one in all_at_once([adopt] * 8) if one is not None]
    assert [one.work.epoch for one in adoptions] == [work.epoch + 1]
    assert to_adopt(services) == []
    assert kinds(services, work.run_id).count("attached") == 1


def test_work_of_a_host_is_adopted_by_its_own_workers_only(services: Services) -> None:
    far, anywhere = dispatched(services, host="far"), dispatched(services)
    services.adoptions.hand_over([far.fence, anywhere.fence])
    assert to_adopt(services) == [anywhere.run_id]
    assert set(to_adopt(services, "far")) == {far.run_id, anywhere.run_id}


def test_work_that_ended_in_the_meantime_is_not_adopted_and_its_log_stays_as_it_is(services: Services) -> None:
    work = dispatched(services)
    ingest(services, [chunk(work, 1), chunk(work, 2)])
    services.adoptions.hand_over([work.fence])
    cancel_run(work.run_id)
    assert services.adoptions.adopt(work.run_id, 1, work.epoch, "runs@here", uuid4()) is None
    assert services.logs.last_seq(work.run_id, 1) == 2
    assert to_adopt(services) == []


def test_the_old_follower_learns_that_it_is_to_leave_and_not_to_end_the_work(services: Services) -> None:
    work, ended = dispatched(services), dispatched(services)
    services.adoptions.hand_over([work.fence])
    services.adoptions.adopt(work.run_id, 1, work.epoch, "runs@here", uuid4())
    cancel_run(ended.run_id)
    new = Fence(work.run_id, work.epoch + 1)
    assert services.attempts.standings([work.fence, new, ended.fence]) == {
        work.fence: Standing.ADOPTED,
        new: Standing.CURRENT,
        ended.fence: Standing.ENDED,
    }


def test_what_the_old_follower_still_sends_is_refused_and_refreshes_nothing(services: Services) -> None:
    work = dispatched(services)
    services.adoptions.hand_over([work.fence])
    services.adoptions.adopt(work.run_id, 1, work.epoch, "runs@here", uuid4())
    age(services, work.run_id, 200)
    assert ingest(services, [chunk(work, 1, b"old")]) == {"chunks": 1, "new": 0, "refreshed": 0, "refused": 0}
    adopted = Fence(work.run_id, work.epoch + 1)
    assert ingest(services, [chunk(adopted, 1, b"new")])["refreshed"] == 1
    assert output(services, work.run_id) == "new"


# -- what the platform says of the silent


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Callable[[Probe], None]:
    def says(answer: Probe) -> None:
        monkeypatch.setattr(module, "ask", lambda services, fences: {fence.run_id: answer for fence in fences})

    return says


def silent(services: Services, seconds: float = 301) -> Work:
    work = dispatched(services)
    age(services, work.run_id, seconds)
    watch_for(services, 3600)
    return work


def sparing(services: Services, work: Work) -> tuple[str, int]:
    (one,) = services.sweeps.sparings(work.run_id)
    return one.judgement, one.times


def test_work_that_its_platform_sees_alive_is_refreshed_and_followed_anew(
    services: Services, platform: Callable[[Probe], None]
) -> None:
    work = silent(services)
    platform(Probe.ALIVE)
    report = sweep(services, by_hand=True)
    assert (report["reaped"], report["judgements"]) == (0, {"spare_alive": 1})
    assert services.runs.get(work.run_id).last_proof == "probe"
    assert to_adopt(services) == [work.run_id]
    assert sparing(services, work) == (Judgement.SPARE_ALIVE, 1)
    assert sweep(services, by_hand=True)["judged"] == 0


def test_work_that_has_ended_waits_for_somebody_to_read_how(
    services: Services, platform: Callable[[Probe], None]
) -> None:
    work = silent(services)
    platform(Probe.ENDED)
    for _ in range(2):
        assert sweep(services, by_hand=True)["reaped"] == 0
    assert to_adopt(services) == [work.run_id]
    assert sparing(services, work) == (Judgement.SPARE_ENDED, 2)


def test_work_that_is_gone_is_reaped_with_what_the_platform_said(
    services: Services, platform: Callable[[Probe], None]
) -> None:
    work = silent(services)
    platform(Probe.DEAD)
    assert sweep(services, by_hand=True)["reaped"] == 1
    (reap,) = [event for event in services.runs.events(work.run_id) if event.kind == EventKind.REAPED]
    assert (reap.detail["probe"], reap.detail["judgement"]) == ("dead", "reap_gone")
    assert to_adopt(services) == []


# -- real workers


@pytest.fixture
def system(start_worker: StartWorker, start_beat: Callable[[], Process]) -> None:
    """Everything but workers of runs."""
    start_worker("logs,control", name="control")
    start_beat()


def prints(services: Services, run_id: UUID, more_than: int) -> Callable[[], bool]:
    return lambda: services.logs.last_seq(run_id, 1) > more_than


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "asked to stop"])
def test_work_goes_on_under_another_worker_with_its_log_whole(
    services: Services, start_worker: StartWorker, tmp_path: Any, end: signal.Signals
) -> None:
    first = start_worker("runs", name="first")
    run = enqueue_run("detached", printer(tmp_path / "stop"))
    eventually(prints(services, run.id, 5))
    first.send(end)
    first.popen.wait(timeout=30)
    printed = services.logs.last_seq(run.id, 1)
    start_worker("runs", name="second")
    eventually(prints(services, run.id, printed + 10), timeout=60)
    (tmp_path / "stop").touch()
    eventually(lambda: status_of(services, run.id) == "succeeded")
    assert is_whole(whole_log(services, run.id).decode())
    assert kinds(services, run.id).count("attached") == 1
    assert services.runs.get(run.id).attempt == 1


@pytest.mark.usefixtures("system")
def test_a_result_that_came_while_no_worker_was_there_is_read_by_the_next(
    services: Services, start_worker: StartWorker, tmp_path: Any
) -> None:
    first = start_worker("runs", name="first")
    run = enqueue_run("detached", printer(tmp_path / "stop"))
    eventually(prints(services, run.id, 5))
    first.kill()
    (tmp_path / "stop").touch()
    eventually(lambda: not processes_of(run.id))
    start_worker("runs", name="second")
    eventually(lambda: status_of(services, run.id) == "succeeded", timeout=60)
    assert is_whole(whole_log(services, run.id).decode())


@pytest.mark.usefixtures("system")
def test_a_worker_that_is_stopped_and_comes_back_leaves_its_work_to_whoever_has_it(
    services: Services, start_worker: StartWorker, tmp_path: Any
) -> None:
    first = start_worker("runs", name="first")
    run = enqueue_run("detached", printer(tmp_path / "stop"))
    eventually(prints(services, run.id, 5))
    first.send(signal.SIGSTOP)
    start_worker("runs", name="second")
    eventually(lambda: "attached" in kinds(services, run.id), timeout=60)
    first.send(signal.SIGCONT)
    first.wait_for("not followed here any more")
    assert processes_of(run.id)
    (tmp_path / "stop").touch()
    eventually(lambda: status_of(services, run.id) == "succeeded")
    assert is_whole(whole_log(services, run.id).decode())


@pytest.mark.usefixtures("system")
def test_a_worker_that_is_asked_to_stop_waits_for_its_children_but_not_for_what_others_can_follow(
    services: Services, start_worker: StartWorker, tmp_path: Any
) -> None:
    worker = start_worker("runs", name="first")
    child, elsewhere = (enqueue_run(name, printer(tmp_path / name)) for name in ("process", "detached"))
    for run in (child, elsewhere):
        eventually(prints(services, run.id, 2))
    worker.send(signal.SIGTERM)
    eventually(lambda: to_adopt(services) == [elsewhere.id])
    assert worker.popen.poll() is None
    (tmp_path / "process").touch()
    worker.popen.wait(timeout=30)
    assert status_of(services, child.id) == "succeeded"
    assert status_of(services, elsewhere.id) == "running"
    assert processes_of(elsewhere.id)
    cancel_run(elsewhere.id)
    start_worker("runs", name="second")
    eventually(lambda: not processes_of(elsewhere.id))


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize(("attempts", "status"), [(1, "failed"), (2, "succeeded")])
def test_a_child_that_outlasts_the_drain_is_ended_and_tried_again_while_attempts_are_left(
    services: Services, start_worker: StartWorker, tmp_path: Any, attempts: int, status: str
) -> None:
    worker = start_worker("runs", name="first", extra={"REPRIEVE_DRAIN_SECONDS": "1"})
    run = enqueue_run("process", printer(tmp_path / "stop"), max_attempts=attempts)
    eventually(prints(services, run.id, 2))
    assert processes_of(run.id)
    worker.send(signal.SIGTERM)
    worker.popen.wait(timeout=30)
    assert processes_of(run.id) == []
    (tmp_path / "stop").touch()
    start_worker("runs", name="second")
    eventually(lambda: status_of(services, run.id) == status, timeout=60)
    ended = services.runs.get(run.id)
    assert ended.attempt == attempts
    assert ended.error_code == ("process_lost" if attempts == 1 else None)


def test_a_run_that_has_ended_is_not_left_when_its_worker_drains_but_stopped_so_that_its_last_words_are_read(
    services: Services,
) -> None:
    supervisor = Supervisor(services, direct_shipper(services))
    works = running(services), running(services)
    with supervisor.follow(works[0]) as ended, supervisor.follow(works[1]) as current:
        for context in (ended, current):
            context.on_dispatch({"name": "job"})
        cancel_run(ended.run_id)
        draining = threading.Thread(target=supervisor.drain)
        draining.start()
        eventually(lambda: ended.stopping)
        ended.on_log("stdout", b"a last word")
        with pytest.raises(Released):
            eventually(lambda: current.wait(0.01), timeout=20)
    draining.join(timeout=30)
    assert not draining.is_alive()


def test_a_worker_that_drains_begins_nothing_and_adopts_nothing(services: Services) -> None:
    supervisor = Supervisor(services, direct_shipper(services))
    supervisor.drain()
    work = dispatched(services)
    services.adoptions.hand_over([work.fence])
    supervisor.adopt()
    assert supervisor.is_draining
    assert to_adopt(services) == [work.run_id]
