"""A21: a host's name lives with its data folder, and is inherited with it; what nobody inherits is settled in time."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from reprieve import enqueue_run
from reprieve.adapters import host
from reprieve.models.liveness import Timing
from reprieve.models.nodes import Node
from reprieve.models.work import Work
from reprieve.stores.database import Database
from reprieve.workers.bootstrap import Services
from reprieve.workers.explaining import explain
from reprieve.workers.supervision import vouching
from reprieve.workers.supervisor import Supervisor
from reprieve.workers.sweep import sweep
from tests.faults.helpers_cdeg import bury, on_another_host, reap
from tests.support.containers import Containers, containers, needs_namespaces
from tests.support.nodes import a_node
from tests.support.processes import Process, processes_of, sleeping_process
from tests.support.rows import (
    age,
    claim,
    in_process,
    kinds,
    pass_the_wait,
    record_handle,
    record_process,
    running,
    status_of,
    watch_for,
)
from tests.support.shipping import direct_shipper
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("A21")

#: The first attempt says so and stays; the second ends.
FIRST_STAYS = "import os, sys, time; print(os.environ['REPRIEVE_ATTEMPT'], flush=True)\n" + (
    "if os.environ['REPRIEVE_ATTEMPT'] == '1': time.sleep(600)"
)
#: Prints a line ten times a second.
PRINTS = "import itertools, time\nfor n in itertools.count(): print('line', n, flush=True); time.sleep(0.1)"


@pytest.fixture
def engine(tmp_path: Path, environment: dict[str, str]) -> Iterator[Containers]:
    with containers(tmp_path, environment) as started:
        yield started


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "volume"


def python(program: str) -> dict[str, Any]:
    return {"command": [sys.executable, "-c", program]}


def log_of(services: Services, run_id: UUID, attempt: int = 1) -> bytes:
    return b"".join(chunk.data for chunk in services.logs.read(run_id, attempt, limit=100_000))


def attempt_of(services: Services, run_id: UUID, attempt: int = 1) -> Any:
    return services.runs.get_attempt(run_id, attempt)


# -- inherited


@needs_namespaces
def test_a_recreated_container_inherits_the_retries_and_the_detached_output_of_its_volume(
    services: Services, engine: Containers, data: Path
) -> None:
    first = engine.start("0a1b2c", data)
    retried = enqueue_run("process", python(FIRST_STAYS), max_attempts=2)
    detached = enqueue_run("detached", python(PRINTS))
    output = data / "adapters" / "detached" / str(detached.id) / "1" / "stdout"
    eventually(lambda: attempt_of(services, retried.id).process if kinds(services, retried.id)[1:] else None)
    eventually(lambda: log_of(services, detached.id).count(b"\n") > 10)
    engine.kill(first)
    assert not processes_of(retried.id) + processes_of(detached.id)
    written = output.read_bytes()
    assert reap(services, retried.id)["reaped"] == 1
    pass_the_wait(services, retried.id)
    services.adoptions.hand_over([_token(services, detached.id)])
    assert attempt_of(services, retried.id).host == "0a1b2c"
    assert attempt_of(services, retried.id).termination == "owed"

    second = engine.start("9f8e7d", data)
    second.wait_for("This node is 0a1b2c")
    eventually(lambda: status_of(services, retried.id) == "succeeded", what=lambda: second.output[-3000:])
    assert attempt_of(services, retried.id, 2).host == "0a1b2c"
    eventually(lambda: log_of(services, detached.id) == written, what="all that the detached work had written")
    assert "attached" in kinds(services, detached.id)


def _token(services: Services, run_id: UUID) -> Any:
    run = services.runs.get(run_id)
    return Work(run.id, run.attempt, run.epoch, run.adapter, {}, {}).fence


@needs_namespaces
def test_three_workers_on_one_volume_have_three_names_and_take_them_up_again(
    services: Services, engine: Containers, data: Path
) -> None:
    started = [engine.start(name, data, queues="runs") for name in ("c1", "c2", "c3")]
    for name, one in zip(("c1", "c2", "c3"), started, strict=True):
        one.wait_for(f"This node is {name},")
    engine.kill(started[1])
    engine.start("c4", data, queues="runs").wait_for("This node is c2,")
    assert services.nodes.held_twice(services.timing.worker_gone_after) == []


def test_whoever_only_looks_or_asks_takes_no_name(services: Services, tmp_path: Path) -> None:
    settings = services.settings.model_copy(update={"data_dir": tmp_path / "none", "node_name": None})
    looking = replace(services, settings=settings, identity=type(services.identity)(settings))
    running(services)
    sweep(looking, by_hand=True)
    assert looking.nodes.complaints(looking.timing) == []
    assert looking.identity.seen() is None
    assert not (tmp_path / "none").exists()


# -- not inherited by anybody


def lost(services: Services, node: str = "gone", slot: str | None = "slot-of-gone", ago: float = 0.0) -> Work:
    """An in-process run of a host that is not there, reaped so many seconds ago, which waits to be tried again."""
    work = in_process(services, max_attempts=2)
    with sleeping_process() as process:
        record_process(services, work.fence, node, process, slot)
    assert reap(services, work.run_id)["reaped"] == 1
    pass_the_wait(services, work.run_id)
    _since(
        services, "UPDATE run_attempts SET finished_at = clock_timestamp() - :ago WHERE run_id = :id", ago, work.run_id
    )
    return work


def last_seen(services: Services, node: Node, ago: float) -> None:
    """A worker of this node was seen so many seconds ago, and none since."""
    services.workers.seen(UUID(int=7), f"runs@{node.name}", node)
    _since(services, "UPDATE nodes SET seen_at = clock_timestamp() - :ago WHERE slot = :id", ago, node.slot)
    _since(services, "UPDATE workers SET seen_at = clock_timestamp() - :ago WHERE slot = :id", ago, node.slot)


def _since(services: Services, statement: str, ago: float, key: object) -> None:
    with services.database.begin() as connection:
        connection.execute(text(statement), {"ago": timedelta(seconds=ago), "id": key})


def swept(services: Services) -> dict[str, Any]:
    watch_for(services, 400)
    return sweep(services, by_hand=True)


LOST = Timing().host_lost_after.total_seconds()


@pytest.mark.parametrize(("beyond", "waived"), [(-30, 0), (30, 1)])
def test_a_retry_waits_for_a_lost_host_until_the_bound_and_no_longer(
    services: Services, beyond: float, waived: int
) -> None:
    last_seen(services, a_node("gone"), LOST + beyond)
    work = lost(services, ago=2 * LOST)
    assert swept(services)["waived"] == waived
    assert (claim(services, work.run_id, "worker@test") is not None) == bool(waived)
    assert attempt_of(services, work.run_id).termination == ("waived" if waived else "owed")


@pytest.mark.parametrize(("beyond", "waived"), [(-30, 0), (30, 1)])
def test_the_bound_begins_no_earlier_than_the_attempts_end(services: Services, beyond: float, waived: int) -> None:
    last_seen(services, a_node("gone"), 2 * LOST)
    lost(services, ago=LOST + beyond)
    assert swept(services)["waived"] == waived


def test_the_event_says_by_what_right_a_retry_no_longer_waits(services: Services) -> None:
    work = lost(services, ago=LOST + 60)
    assert swept(services)["waived"] == 1
    [note] = [event.detail for event in services.runs.events(work.run_id) if event.kind == "noted"]
    assert note["note"].startswith("Host gone was not seen for 6 h. Its work counts as gone")
    assert note["host"] == "gone"
    told = explain(services, work.run_id).text
    assert "was not confirmed by host gone, which is lost" in told
    assert "still to be confirmed gone" not in told
    assert note["unseen_seconds"] == pytest.approx(LOST + 60, abs=60)
    assert swept(services)["waived"] == 0


def test_nobody_is_lost_to_a_reaper_that_has_not_looked_for_a_window(services: Services) -> None:
    lost(services, ago=2 * LOST)
    watch_for(services, 200)
    assert sweep(services, by_hand=True)["waived"] == 0


def test_work_that_its_live_host_cannot_end_is_waited_for_without_bound(services: Services) -> None:
    services.workers.seen(UUID(int=7), "runs@gone", a_node("gone"))
    work = lost(services, ago=5 * LOST)
    assert swept(services)["waived"] == 0
    assert attempt_of(services, work.run_id).termination == "owed"


def test_of_rows_before_there_were_slots_whoever_can_see_the_process_must_be_gone(services: Services) -> None:
    services.workers.seen(UUID(int=7), "runs@gone", a_node("gone", namespace=host.namespace()))
    lost(services, slot=None, ago=5 * LOST)
    assert swept(services)["waived"] == 0
    last_seen(services, a_node("gone"), LOST + 60)
    # The same name, held in another PID namespace, from where that process cannot be seen.
    services.workers.seen(UUID(int=8), "runs@gone", a_node("gone", "another-slot", "boot/pid:[2]"))
    assert swept(services)["waived"] == 1


def test_a_host_that_returns_after_the_bound_still_ends_what_is_left_of_its_work(services: Services) -> None:
    with on_another_host(services, "away") as away, sleeping_process() as process:
        work = in_process(services, max_attempts=2)
        record_process(services, work.fence, "away", process, away.node.slot)
        assert reap(services, work.run_id)["reaped"] == 1
        _since(
            services,
            "UPDATE run_attempts SET finished_at = clock_timestamp() - :ago WHERE run_id = :id",
            LOST + 60,
            work.run_id,
        )
        assert swept(services)["waived"] == 1
        bury(services)
        assert host.is_alive(process)
        bury(away)
        assert not host.is_alive(process)
    assert attempt_of(services, work.run_id).termination == "done"
    assert kinds(services, work.run_id)[-1] == "terminated"


@pytest.mark.parametrize(("ago", "told"), [(290, False), (310, True)])
def test_terminations_of_a_host_that_nobody_sees_are_told(services: Services, ago: float, told: bool) -> None:
    last_seen(services, a_node("gone"), ago)
    lost(services, ago=ago)
    complaints = services.nodes.complaints(services.timing)
    assert [one.startswith("Host gone owes the end of 1 attempts") for one in complaints] == [True] * told


def test_a_detached_run_of_a_lost_host_is_judged_and_waits_for_nothing(services: Services) -> None:
    """Its adoption is owed to a host that is not there: it stays silent, and doubt ends."""
    work = running(services, adapter="detached")
    handle = {"host": "gone", "folder": f"{work.run_id}/1"}
    record_handle(services, work.fence, "gone", handle, "slot-of-gone")
    services.adoptions.hand_over([work.fence])
    assert services.adoptions.to_adopt(services.node, ["detached"], 10) == []
    limit = services.timing.doubt_limit.total_seconds()
    watch_for(services, 4000)
    age(services, work.run_id, limit + 60)
    with services.database.begin() as connection:
        connection.execute(text("UPDATE reaper_watch SET hearing_since = clock_timestamp() - interval '1 hour'"))
        connection.execute(text("UPDATE reaper_watch SET heard_at = clock_timestamp()"))
    assert sweep(services, by_hand=True)["judgements"] == {"spare_unknown": 1}
    with services.database.begin() as connection:
        moved = "UPDATE sparings SET first_at = clock_timestamp() - :limit - interval '1 s'"
        connection.execute(text(moved), {"limit": services.timing.doubt_limit})
    assert sweep(services, by_hand=True)["reaped"] == 1
    assert status_of(services, work.run_id) == "failed"


# -- cut off


@contextmanager
def cut_off(services: Services, limit: float) -> Iterator[Supervisor]:
    """A supervisor whose database is out of reach, with so many seconds until it ends its children."""
    with on_another_host(services, services.host) as here:
        short = replace(services.timing, cut_off_limit=timedelta(seconds=limit))
        cut = replace(here, timing=short, identity=services.identity)
        yield Supervisor(cut, direct_shipper(services))


def _cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(self: Database) -> None:
        raise ConnectionError("out of reach")

    for way in ("begin", "at_once"):
        monkeypatch.setattr(Database, way, connect)


@pytest.mark.parametrize(("limit", "ended"), [(3600, False), (0.05, True)])
def test_a_worker_that_is_cut_off_ends_its_children_at_half_the_bound(
    services: Services, monkeypatch: pytest.MonkeyPatch, limit: float, ended: bool
) -> None:
    ours, elsewhere = in_process(services, max_attempts=2), running(services, adapter="detached")
    with (
        cut_off(services, limit) as supervisor,
        supervisor.follow(ours) as child,
        supervisor.follow(elsewhere) as other,
        monkeypatch.context() as patched,
    ):
        supervisor.supervise()
        assert not child.stopping
        _cut(patched)
        time.sleep(0.1)
        supervisor.supervise()
        assert (child.stopping, other.stopping) == (ended, False)
        if child.given_up:
            assert child.given_up.status == "queued"
            assert "cut off from the database" in child.given_up.detail["error_message"]


def test_a_worker_that_follows_nothing_is_not_cut_off(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    work, clock = in_process(services), [1000.0]
    monkeypatch.setattr(vouching, "_clock", lambda: clock[0])
    with cut_off(services, 60) as supervisor:
        clock[0] += 61
        supervisor.supervise()
        with supervisor.follow(work) as context, monkeypatch.context() as patched:
            _cut(patched)
            clock[0] += 60
            supervisor.supervise()
            assert not context.stopping
            clock[0] += 1
            supervisor.supervise()
            assert context.stopping


# -- the end of a container

COUNTS = "import time\nfor n in range(40): print('line', n, flush=True); time.sleep(0.1)\nprint('whole')"


@needs_namespaces
def test_detached_work_that_ends_with_its_container_is_waited_for_when_that_is_stopped(
    services: Services, engine: Containers, data: Path, start_worker: Any
) -> None:
    start_worker("logs", name="logs")
    container = engine.start("c1", data, queues="runs")
    run = enqueue_run("detached", python(COUNTS))
    eventually(lambda: log_of(services, run.id))
    engine.ask_to_stop(container)
    container.popen.wait(timeout=60)
    assert status_of(services, run.id) == "succeeded"
    eventually(lambda: log_of(services, run.id).endswith(b"line 39\nwhole\n"))
    assert "attached" not in kinds(services, run.id)


@needs_namespaces
def test_a_deployment_may_say_that_detached_work_outlives_its_worker(
    services: Services, engine: Containers, data: Path
) -> None:
    container = engine.start("c1", data, REPRIEVE_ENDS_CONTAINER="false")
    run = enqueue_run("detached", python(PRINTS))
    eventually(lambda: log_of(services, run.id))
    engine.ask_to_stop(container)
    container.popen.wait(timeout=60)
    assert status_of(services, run.id) == "running"
    assert attempt_of(services, run.id).adoption == "owed"


def test_on_a_host_detached_work_is_left_at_once_as_ever(
    services: Services, start_worker: Any, environment: dict[str, str]
) -> None:
    worker: Process = start_worker("runs,logs")
    run = enqueue_run("detached", python(PRINTS))
    try:
        eventually(lambda: log_of(services, run.id))
        worker.send(15)
        worker.popen.wait(timeout=60)
        assert attempt_of(services, run.id).adoption == "owed"
        assert processes_of(run.id)
    finally:
        for process in processes_of(run.id):
            process.kill()
