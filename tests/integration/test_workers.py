"""Workers of runs: what they say of themselves, and what becomes of one that is drained."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from reprieve import cancel_run, enqueue_run
from reprieve.cli.main import app
from reprieve.models.errors import InvalidRequest
from reprieve.models.nodes import Node
from reprieve.models.places import Room
from reprieve.models.workers import Presence
from reprieve.workers.bootstrap import Services
from reprieve.workers.supervisor import TAKE_AGAIN_AFTER, Supervisor
from reprieve.workers.sweep import sweep
from tests.support.nodes import a_node
from tests.support.rows import new_run, record_handle, running, status_of, watch_for
from tests.support.shipping import direct_shipper
from tests.support.waiting import eventually

StartWorker = Callable[..., Any]
SLEEP = {"command": ["sleep", "1000"]}
ROOM = [Room(("process", "detached"), 5)]


def told(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def listed(services: Services) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in json.loads(told("workers", "--json"))}


def a_worker(
    services: Services, name: str = "runs@here", node: Node | None = None, presence: Presence | None = None
) -> UUID:
    """A worker that has just been seen."""
    worker_id = uuid4()
    services.workers.seen(worker_id, name, node or a_node("here"), presence)
    return worker_id


# -- listed


def test_a_worker_says_what_it_is_and_what_it_has(services: Services, start_worker: StartWorker) -> None:
    start_worker("runs,logs", concurrency=7)
    run = enqueue_run("process", {"command": ["sh", "-c", "echo on; exec sleep 1000"]})
    eventually(lambda: listed(services).get("worker@test", {}).get("runs") == 1)
    eventually(lambda: "process" in listed(services)["worker@test"]["adapters"])
    eventually(lambda: listed(services)["worker@test"]["spool_bytes"] > 0)
    one = listed(services)["worker@test"]
    assert (one["host"], one["roles"], one["places"], one["lanes"]) == ("test-host", ["logs", "runs"], 7, None)
    assert (one["version"], one["draining"], one["is_gone"]) == (Presence().version, False, False)
    assert "logs,runs" in told("workers")
    cancel_run(run.id)
    eventually(lambda: services.runs.get_attempt(run.id, 1).termination == "done")


def test_a_worker_that_left_is_not_listed_one_that_is_missed_is_gone_and_both_have_an_end(services: Services) -> None:
    assert "No workers of runs." in told("workers")
    left, missed = a_worker(services, "runs@left"), a_worker(services, "runs@missed")
    a_worker(services, "runs@there")
    services.workers.leave(left)
    with services.database.begin() as connection:
        statement = "UPDATE workers SET seen_at = clock_timestamp() - interval '61 s' WHERE id = :id"
        connection.execute(text(statement), {"id": missed})
    assert {name: one["is_gone"] for name, one in listed(services).items()} == {
        "runs@missed": True,
        "runs@there": False,
    }
    watch_for(services, 3600)
    sweep(services, by_hand=True)
    assert list(listed(services)) == ["runs@there"]


def test_a_worker_of_an_earlier_release_is_listed_without_what_it_does_not_say(services: Services) -> None:
    with services.database.begin() as connection:
        connection.execute(
            text("INSERT INTO workers (id, node, host) VALUES (:id, 'runs@old', 'old')"), {"id": uuid4()}
        )
    one = listed(services)["runs@old"]
    assert (one["version"], one["roles"], one["runs"], one["draining"]) == (None, None, None, False)
    assert "runs@old" in told("workers")


def test_a_name_does_nothing_to_a_terminal(services: Services) -> None:
    a_worker(services, "runs@\x1b[31mred\n")
    assert "\x1b" not in told("workers")
    with pytest.raises(InvalidRequest, match=r"There is no worker or host '.x1b.31m'"):
        services.workers.drain("\x1b[31m")


# -- drained


@pytest.mark.parametrize("name", ["runs@here", "here"], ids=["by its name", "by its host"])
def test_a_drained_worker_claims_nothing_from_that_moment_and_another_one_does(services: Services, name: str) -> None:
    drained, other = a_worker(services), a_worker(services, "runs@there", a_node("there", "slot-2"))
    new_run(services)
    services.workers.drain(name)
    services.workers.drain(name)  # Once more changes nothing.
    assert services.claims.claim(ROOM, "runs@here", drained).works == []
    assert len(services.claims.claim(ROOM, "runs@there", other).works) == 1
    new_run(services)
    services.workers.undrain(name)
    assert len(services.claims.claim(ROOM, "runs@here", drained).works) == 1


def test_only_what_is_there_can_be_drained_and_only_what_is_drained_undrained(services: Services) -> None:
    a_worker(services)
    with pytest.raises(InvalidRequest, match="There is no worker or host 'runs@nowhere'; `reprieve workers` shows"):
        services.workers.drain("runs@nowhere")
    services.workers.drain("here")
    with pytest.raises(InvalidRequest, match="'runs@here' is not drained, by this name"):
        services.workers.undrain("runs@here")
    assert services.workers.drains()[0].name == "here"


def test_a_host_without_a_worker_can_be_drained_before_it_comes_back(services: Services) -> None:
    services.workers.leave(a_worker(services))
    watch_for(services, 3600)
    sweep(services, by_hand=True)
    assert "takes nothing new" in told("drain", "here")
    assert "here is drained since" in told("workers")
    assert "and not there" in told("workers")
    again = a_worker(services)
    new_run(services)
    assert services.claims.claim(ROOM, "runs@here", again).works == []
    assert listed(services)["runs@here"]["draining"] is True


def test_drains_of_hosts_that_are_forgotten_are_forgotten(services: Services) -> None:
    a_worker(services)
    a_worker(services, "runs@there", a_node("there", "slot-2"))
    for name in ("here", "there"):
        services.workers.drain(name)
    with services.database.begin() as connection:
        connection.execute(text("UPDATE drains SET since = since - interval '31 days'"))
        connection.execute(text("UPDATE nodes SET seen_at = seen_at - interval '31 days' WHERE name = 'here'"))
    watch_for(services, 3600)
    sweep(services, by_hand=True)
    assert [one.name for one in services.workers.drains()] == ["there"]


def test_a_run_that_waits_since_all_are_drained_says_so(services: Services) -> None:
    run = new_run(services)
    sentence = "No worker takes runs: drained, or asked to stop, are all, runs@here."
    assert sentence not in told("explain", run.id)
    a_worker(services)
    services.workers.drain("here")
    assert sentence in told("explain", run.id)
    a_worker(services, "runs@there", a_node("there", "slot-2"))
    assert sentence not in told("explain", run.id)


# -- what it leaves to others


@pytest.fixture
def supervisor(services: Services) -> Supervisor:
    """Not started: it has no turn by itself."""
    return Supervisor(services, direct_shipper(services), "runs@ours")


def another(services: Services, node: Node, **said: Any) -> UUID:
    usual: dict[str, Any] = {"adapters": ["detached", "process", "remote"]}
    return a_worker(services, "runs@other", node, Presence(**usual | said))


def followed_handle(services: Services, supervisor: Supervisor, *, lives_here: bool) -> Any:
    work = running(services, adapter="detached" if lives_here else "remote")
    node = services.node
    record_handle(services, work.fence, node.name if lives_here else None, {"a": 1}, node.slot if lives_here else None)
    context = supervisor._followed.begin(work)
    context.lives_here = lives_here
    context.has_dispatched()
    return context


@pytest.mark.parametrize(
    ("lives_here", "other", "is_left"),
    [
        (True, "the same node", True),
        (True, "another node", False),
        (False, "another node", True),
        (False, "without the adapter", False),
        (False, "drained", False),
        (False, "asked to stop", False),
        (False, "missed", False),
        (False, None, False),
    ],
)
def test_a_drained_worker_leaves_what_another_would_follow_and_goes_on_with_the_rest(
    services: Services, supervisor: Supervisor, lives_here: bool, other: str | None, is_left: bool
) -> None:
    supervisor.be_seen()
    context = followed_handle(services, supervisor, lives_here=lives_here)
    node = services.node if other == "the same node" else a_node("elsewhere", "slot-9")
    if other is not None:
        said = {"without the adapter": {"adapters": ["process"]}, "asked to stop": {"stopping": True}}.get(other, {})
        worker_id = another(services, node, **said)
        if other == "missed":
            with services.database.begin() as connection:
                statement = "UPDATE workers SET seen_at = clock_timestamp() - interval '61 s' WHERE id = :id"
                connection.execute(text(statement), {"id": worker_id})
    supervisor.heed()
    assert not context.is_told
    services.workers.drain("runs@ours")
    if other == "drained":
        services.workers.drain("elsewhere")
    supervisor.heed()
    assert context.is_told is is_left
    assert not context.stopping


def test_a_child_of_a_drained_worker_is_left_alone(services: Services, supervisor: Supervisor) -> None:
    supervisor.be_seen()
    another(services, services.node)
    context = supervisor._followed.begin(running(services, adapter="process", out_of_process_liveness=False))
    services.workers.drain("runs@ours")
    supervisor.heed()
    assert not context.is_told


def test_a_drained_worker_rests_between_two_looks_whether_it_may_take_runs_again(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, rests = [], []
    supervisor._draining.is_drained = True

    def look() -> None:
        looks.append(1)
        if len(looks) == 3:
            supervisor._ended.set()

    monkeypatch.setattr(supervisor._taking, "wait", look)
    monkeypatch.setattr(supervisor._ended, "wait", rests.append)
    supervisor._take()
    assert rests == [TAKE_AGAIN_AFTER] * 3


def test_a_worker_that_is_drained_in_the_middle_hands_over_and_takes_again_when_it_is_undrained(
    services: Services, start_worker: StartWorker
) -> None:
    first = start_worker("runs", name="first")
    child, detached = (enqueue_run(adapter, SLEEP) for adapter in ("process", "detached"))
    for run in (child, detached):
        eventually(lambda run=run: status_of(services, run.id) == "running")
        eventually(lambda run=run: services.runs.get_attempt(run.id, 1).work)
    start_worker("runs", name="second")
    eventually(lambda: "detached" in listed(services).get("second@test", {}).get("adapters", ()))
    told("drain", "first@test")
    eventually(lambda: services.runs.get_attempt(detached.id, 1).worker_node == "second@test")
    assert services.runs.get_attempt(child.id, 1).worker_node == "first@test"
    cancel_run(child.id)
    eventually(lambda: services.runs.get_attempt(child.id, 1).termination == "done")
    told("drain", "second@test")
    waiting = enqueue_run("process", {"command": ["true"]})
    # It is drained still after a restart, and says so.
    first.stop()
    start_worker("runs", name="first")
    eventually(lambda: listed(services).get("first@test", {}).get("is_gone") is False)
    assert listed(services)["first@test"]["draining"] is True
    assert status_of(services, waiting.id) == "queued"
    assert status_of(services, detached.id) == "running"
    told("undrain", "first@test")
    eventually(lambda: status_of(services, waiting.id) == "succeeded")
    assert services.runs.get_attempt(waiting.id, 1).worker_node == "first@test"
    cancel_run(detached.id)
    eventually(lambda: services.runs.get_attempt(detached.id, 1).termination == "done")
