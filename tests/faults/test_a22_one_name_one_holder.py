"""A22: a name has one live holder. Who comes second is told, and takes nobody's work for gone."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import text

from reprieve import enqueue_run
from reprieve.adapters import host
from reprieve.adapters.slots import Slots
from reprieve.api.metrics import Facts
from reprieve.cli import doctor
from reprieve.models.errors import NoIdentity
from reprieve.models.nodes import Node
from reprieve.models.status import Probe
from reprieve.models.work import Work
from reprieve.workers.asking import answer_questions, ask
from reprieve.workers.bootstrap import Services, build
from reprieve.workers.lifecycle import NO_IDENTITY
from reprieve.workers.naming import take_name
from reprieve.workers.supervision import vouching
from reprieve.workers.supervisor import Supervisor
from tests.faults.helpers_cdeg import bury, reap
from tests.support.containers import Containers, containers, needs_namespaces
from tests.support.nodes import a_node
from tests.support.processes import processes_of, sleeping_process
from tests.support.rows import (
    claim,
    in_process,
    kinds,
    pass_the_wait,
    record_handle,
    record_process,
    running,
    status_of,
)
from tests.support.shipping import direct_shipper
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("A22")

FIRST_STAYS = {
    "command": [sys.executable, "-c", "import os, time; os.environ['REPRIEVE_ATTEMPT'] == '1' and time.sleep(600)"]
}
STAYS = {"command": [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]}


@pytest.fixture
def engine(tmp_path: Path, environment: dict[str, str]) -> Iterator[Containers]:
    with containers(tmp_path, environment) as started:
        yield started


@contextmanager
def on_another_folder(services: Services, tmp_path: Path, name: str | None) -> Iterator[Services]:
    """The same system as a process has it whose data folder is another one."""
    changes = {"data_dir": tmp_path / "another", "node_name": name}
    there = build(services.settings.model_copy(update=changes))
    try:
        yield there
    finally:
        there.identity.let_go()
        there.database.dispose()


def seen(services: Services, node: Node, worker_id: UUID | None = None) -> None:
    services.workers.seen(worker_id or uuid4(), f"runs@{node.slot}", node)


def was_seen(services: Services, ago: float) -> None:
    """All workers so far were seen so many seconds ago, and not since."""
    with services.database.begin() as connection:
        statement = "UPDATE workers SET started_at = started_at - :ago, seen_at = clock_timestamp() - :ago"
        connection.execute(text(statement), {"ago": timedelta(seconds=ago)})


# -- real workers


@needs_namespaces
def test_a_second_holder_of_a_name_set_by_hand_does_not_start_and_says_who_holds_it(
    services: Services, engine: Containers, tmp_path: Path
) -> None:
    first = engine.start("c1", tmp_path / "one", REPRIEVE_NODE_NAME="twin")
    run = enqueue_run("process", STAYS, max_attempts=2)
    eventually(lambda: "spawned" in kinds(services, run.id))
    second = engine.start("c2", tmp_path / "two", wait=False, REPRIEVE_NODE_NAME="twin")
    assert second.popen.wait(timeout=90) == NO_IDENTITY, second.output
    assert "The name twin (REPRIEVE_NODE_NAME) is held by the worker c1-0@container" in second.output
    assert "Give each host a name of its own" in second.output
    assert first.popen.poll() is None
    assert status_of(services, run.id) == "running"
    assert len(processes_of(run.id)) >= 1


@needs_namespaces
def test_two_hosts_of_one_name_have_two_names_and_neither_takes_the_others_work_for_gone(
    services: Services, engine: Containers, tmp_path: Path
) -> None:
    first = engine.start("twin", tmp_path / "one")
    run = enqueue_run("process", FIRST_STAYS, max_attempts=2)
    eventually(lambda: "spawned" in kinds(services, run.id))
    engine.start("twin", tmp_path / "two").wait_for("This node is twin-2,")
    # The first stalls, its child does not: the attempt is lost, and the retry waits for the first alone.
    [worker] = psutil.Process(first.pid).children()
    worker.suspend()
    try:
        assert reap(services, run.id)["reaped"] == 1
        pass_the_wait(services, run.id)
        for _ in range(4):
            eventually(_seen_anew(services, "twin-2"))
        assert services.runs.get_attempt(run.id, 1).termination == "owed"
        assert claim(services, run.id, "worker@test") is None
        assert processes_of(run.id)
    finally:
        worker.resume()
    eventually(lambda: status_of(services, run.id) == "succeeded")
    assert kinds(services, run.id).count("claimed") == 2
    assert services.nodes.held_twice(services.timing.worker_gone_after) == []


def _seen_anew(services: Services, name: str) -> Callable[[], bool]:
    """Whether a worker of this node was seen since now: it has had its turns."""

    def seen_at() -> object:
        with services.database.begin() as connection:
            return connection.execute(text("SELECT seen_at FROM nodes WHERE name = :name"), {"name": name}).scalar()

    before = seen_at()
    return lambda: seen_at() != before


# -- never the other's work


def test_a_holder_of_the_same_name_ends_adopts_and_answers_for_nothing_of_another_folder(
    services: Services, tmp_path: Path
) -> None:
    with on_another_folder(services, tmp_path, services.host) as twin, sleeping_process() as process:
        assert twin.host == services.host
        work = in_process(services, max_attempts=2)
        record_process(services, work.fence, services.host, process, services.node.slot)
        assert reap(services, work.run_id)["reaped"] == 1
        bury(twin)
        assert host.is_alive(process)
        assert services.runs.get_attempt(work.run_id, 1).termination == "owed"
        assert claim(services, work.run_id, "worker@test") is None

        detached = _detached(services, services.node)
        services.adoptions.hand_over([detached.fence])
        assert twin.adoptions.to_adopt(twin.node, ["detached"], 10) == []
        assert services.adoptions.to_adopt(services.node, ["detached"], 10) != []
        services.questions.ask(services.questions.handles([detached.fence]))
        assert answer_questions(twin) == 0
        assert answer_questions(services) == 1
        bury(services)
        assert not host.is_alive(process)


def test_a_sweep_beside_a_holder_of_the_same_name_does_not_speak_for_the_other(
    services: Services, tmp_path: Path
) -> None:
    detached = _detached(services, services.node)
    assert ask(services, [detached.fence]) == {detached.run_id: Probe.DEAD}
    with on_another_folder(services, tmp_path, services.host) as twin:
        assert twin.host == services.host
        assert ask(twin, [detached.fence]) == {detached.run_id: Probe.UNKNOWN}


def _detached(services: Services, node: Node) -> Work:
    """A detached run of this node, whose process is not there."""
    work = running(services, adapter="detached")
    gone = {"pid": 2**22 + 1, "process_group_id": 2**22 + 1, "started_at": 1.0, "namespace": node.namespace}
    handle = gone | {"host": node.name, "folder": f"{work.run_id}/1"}
    record_handle(services, work.fence, node.name, handle, node.slot)
    return work


# -- at the start


def test_a_name_held_elsewhere_is_left_to_its_holder_and_another_taken(services: Services, tmp_path: Path) -> None:
    with on_another_folder(services, tmp_path, None) as there:
        name = there.host
        there.identity.let_go()
        with _kept_alive(services, a_node(name)):
            assert take_name(there).name == f"{name}-2"
        # It is kept: the other may come back.
        assert there.host == f"{name}-2"


def test_a_name_set_by_hand_is_refused_while_it_is_held_elsewhere(services: Services, tmp_path: Path) -> None:
    with on_another_folder(services, tmp_path, "twin") as there, _kept_alive(services, a_node("twin")):
        with pytest.raises(NoIdentity, match="is held by the worker runs@slot-of-twin, which was seen 0 s ago"):
            take_name(there)


@pytest.mark.parametrize("ago", [4.0, 6.0])
def test_a_holder_that_was_killed_a_moment_ago_is_not_taken_for_a_live_one(
    services: Services, tmp_path: Path, ago: float
) -> None:
    """Its folder is gone, and its name set by hand, as in a Pod: it was seen less, or more, than five seconds ago."""
    settings = services.settings.model_copy(update={"time_scale": 30})
    quick = replace(services, settings=settings, timing=settings.timing)
    with on_another_folder(quick, tmp_path, "pod") as there:
        seen(services, a_node("pod"))
        was_seen(services, ago)
        assert take_name(there).name == "pod"


def test_the_predecessor_on_the_same_folder_is_not_waited_for(services: Services, tmp_path: Path) -> None:
    with on_another_folder(services, tmp_path, "pod") as there:
        node = there.node
        there.identity.let_go()
        with _kept_alive(services, replace(node, namespace=f"{node.boot}/pid:[1]")):
            assert take_name(there) == node


def test_a_copy_of_the_machine_with_its_folder_is_another_holder(services: Services, tmp_path: Path) -> None:
    with on_another_folder(services, tmp_path, "vm") as there:
        node = there.node
        there.identity.let_go()
        with _kept_alive(services, replace(node, namespace="another-boot/pid:[1]")), pytest.raises(NoIdentity):
            take_name(there)


def test_a_worker_of_a_release_without_slots_keeps_nobody_from_starting(services: Services, tmp_path: Path) -> None:
    with on_another_folder(services, tmp_path, "host") as there:
        seen(services, a_node("host"))
        with services.database.begin() as connection:
            connection.execute(text("UPDATE workers SET slot = NULL, namespace = NULL"))
        assert take_name(there).name == "host"


def test_a_database_that_is_away_keeps_nobody_from_starting(services: Services, tmp_path: Path) -> None:
    with on_another_folder(services, tmp_path, "host") as there:
        with services.database.begin() as connection:
            connection.execute(text("ALTER TABLE workers RENAME TO workers_away"))
        try:
            assert take_name(there).name == "host"
        finally:
            with services.database.begin() as connection:
                connection.execute(text("ALTER TABLE workers_away RENAME TO workers"))


@contextmanager
def _kept_alive(services: Services, node: Node) -> Iterator[None]:
    """A worker of this node, which is seen again and again."""
    worker_id, ended = uuid4(), threading.Event()
    seen(services, node, worker_id)

    def go_on() -> None:
        while not ended.wait(0.1):
            seen(services, node, worker_id)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# -- told, where it cannot be refused any more


def both_at_once(services: Services) -> tuple[UUID, UUID]:
    one, two = uuid4(), uuid4()
    for worker_id, slot in ((one, "first"), (two, "second"), (one, "first")):
        seen(services, a_node("twin", slot), worker_id)
    return one, two


def test_two_that_came_at_once_are_told_by_health_doctor_and_a_metric(services: Services) -> None:
    assert services.nodes.complaints(services.timing) == []
    both_at_once(services)
    [told] = services.nodes.complaints(services.timing)
    assert told.startswith("The name twin is held twice, by runs@first and runs@second")
    assert doctor.hosts(services) == (False, told)
    registry = CollectorRegistry()
    registry.register(Facts(services))
    assert b"reprieve_names_held_twice 1.0" in generate_latest(registry)
    health = [sys.executable, "-c", "import sys; sys.argv[1:] = ['health', '--json']; import cli.main as m; m.main()"]
    done = subprocess.run(health, capture_output=True, timeout=60, check=False)
    assert told in json.loads(done.stdout)["reasons"]


def test_a_successor_is_no_second_holder_although_both_were_seen_lately(services: Services) -> None:
    seen(services, a_node("host", "slot", "boot/pid:[1]"))
    seen(services, a_node("host", "slot", "boot/pid:[2]"))
    assert services.nodes.held_twice(services.timing.worker_gone_after) == []


@pytest.mark.parametrize(("ago", "twice"), [(55, True), (65, False)])
def test_a_second_holder_that_was_not_seen_lately_is_gone(services: Services, ago: float, twice: bool) -> None:
    both_at_once(services)
    was_seen(services, ago)
    assert bool(services.nodes.held_twice(services.timing.worker_gone_after)) is twice


def test_a_worker_whose_name_is_held_twice_says_so_in_its_log(
    services: Services, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Supervisor(services, direct_shipper(services))
    ours.supervise()
    assert "held twice" not in caplog.text
    seen(services, replace(services.node, slot="another"))
    ours._vouching._heartbeat._due_at = 0.0
    ours.supervise()
    assert f"The name {services.host} is held twice" in caplog.text
    assert vouching.logger.name in {record.name for record in caplog.records}


# -- who looks


def test_a_control_worker_beside_the_hosts_workers_speaks_for_the_host_and_holds_nothing(
    services: Services, tmp_path: Path
) -> None:
    control = build(services.settings)
    try:
        assert control.identity.seen() == services.node
        other = Slots(services.settings.data_dir / "nodes", "boot/pid:[9]").hold("test-host", "test-host")
        other.let_go()
        assert control.identity.seen() == services.node
    finally:
        control.database.dispose()
