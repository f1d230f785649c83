"""`enqueue_run`: the row is the fact, what cannot work is refused at once, and a message that is lost is sent again."""

import math
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import reduce
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from sqlalchemy import text

from reprieve import RunRequest, cancel_run, enqueue_run, enqueue_runs
from reprieve.client import link as linking
from reprieve.client import sending
from reprieve.client.sending import Hints
from reprieve.models.errors import IdempotencyConflict, InvalidRequest, RunNotFound, UnknownAdapter
from reprieve.models.liveness import RESEND_DOUBLINGS
from reprieve.stores import cache
from reprieve.stores.cache import connect
from reprieve.workers.bootstrap import Services
from reprieve.workers.sweep import sweep
from tests.conftest import Servers
from tests.support.rows import age, claim, in_process, kinds, new_run, pass_the_wait, running, status_of, watch_for
from tests.support.waiting import eventually

TRUE = {"command": ["true"]}
MINUTE = timedelta(seconds=60)
pytestmark = pytest.mark.usefixtures("services")


def count_runs(services: Services) -> int:
    with services.database.begin() as connection:
        return int(connection.execute(text("SELECT count(*) FROM runs")).scalar_one())


def messages(redis: Redis) -> int:
    return redis.llen("runs")


# -- a run is asked for


def test_a_run_is_queued_with_what_was_asked_for_and_its_message_is_sent(services: Services, redis: Redis) -> None:
    run = enqueue_run("process", TRUE, labels={"team": "data"}, max_runtime=90, max_attempts=3)
    assert (run.status, run.adapter, run.attempt, run.epoch) == ("queued", "process", 0, 0)
    assert (run.labels, services.runs.get(run.id).spec.config) == ({"team": "data"}, TRUE)
    assert (run.max_runtime_seconds, run.max_attempts) == (90, 3)
    assert run == services.records.get(run.id)
    assert kinds(services, run.id) == ["enqueued"]
    assert messages(redis) == 1


def test_the_row_knows_whose_word_is_the_proof_of_life() -> None:
    assert [enqueue_run(adapter, TRUE).out_of_process_liveness for adapter in ("process", "detached")] == [False, True]


def test_by_default_a_run_has_no_labels_no_limit_and_one_attempt() -> None:
    run = enqueue_run("process", TRUE)
    assert (run.labels, run.max_runtime_seconds, run.max_attempts) == ({}, None, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"labels": {f"label {number}": "x" * 128 for number in range(16)}},
        {"labels": {"n" * 128: ""}},
        {"max_attempts": 1},
        {"max_attempts": 100},
        {"max_runtime": 0.001},
        {"max_runtime": timedelta(days=3650)},
        {"idempotency_key": "k"},
        {"idempotency_key": "ä" * 255},
    ],
)
def test_arguments_up_to_their_limits_are_taken(services: Services, arguments: dict[str, Any]) -> None:
    assert enqueue_run("process", TRUE, **arguments).status == "queued"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("labels", {f"label {number}": "x" for number in range(17)}),
        ("labels", {"n" * 129: "x"}),
        ("labels", {"n": "x" * 129}),
        ("labels", {"n": 1}),
        ("labels", {1: "x"}),
        ("labels", {"n": "a\0b"}),
        ("labels", {"n": "\ud800"}),
        ("labels", ["n"]),
        ("max_attempts", 0),
        ("max_attempts", -1),
        ("max_attempts", 101),
        ("max_attempts", 1.5),
        ("max_attempts", "2"),
        ("max_attempts", True),
        ("max_attempts", None),
        ("max_runtime", 0),
        ("max_runtime", -1),
        ("max_runtime", timedelta(0)),
        ("max_runtime", "60"),
        ("max_runtime", math.nan),
        ("max_runtime", math.inf),
        ("max_runtime", 1e-9),
        ("max_runtime", timedelta(days=3650, microseconds=1)),
        ("idempotency_key", ""),
        ("idempotency_key", "k" * 256),
        ("idempotency_key", "a\0b"),
        ("idempotency_key", "\ud800"),
        ("idempotency_key", 1),
        ("config", {}),
        ("config", {"command": "ls"}),
        ("config", {"command": ["ls"], "shell": True}),
        ("config", {"command": ["\ud800"]}),
        ("config", None),
        ("config", "ls"),
        pytest.param("max_attempts", 10**5000, id="max_attempts-of-5000-digits"),
        pytest.param("max_runtime", 10**5000, id="max_runtime-of-5000-digits"),
        ("adapter", None),
        ("adapter", ["process"]),
    ],
)
def test_an_argument_that_cannot_work_is_refused_by_name_and_leaves_nothing(
    services: Services, redis: Redis, field: str, value: Any
) -> None:
    arguments = {"adapter": "process", "config": TRUE} | {field: value}
    with pytest.raises(InvalidRequest, match=field):
        enqueue_run(**arguments)
    assert (count_runs(services), messages(redis)) == (0, 0)


def in_itself() -> dict[str, Any]:
    circle: dict[str, Any] = {}
    circle["circle"] = circle
    return circle


@pytest.mark.parametrize(
    "anything",
    [reduce(lambda inner, _: {"deeper": inner}, range(500), {}), in_itself(), {"own": object()}, {"bytes": b"\xff"}],
    ids=["deep", "in a circle", "a type of its own", "bytes"],
)
def test_where_a_config_may_be_anything_what_is_no_json_is_refused(services: Services, anything: Any) -> None:
    config = {"image": "busybox", "patch": anything}
    with pytest.raises(InvalidRequest, match=r"^Adapter 'kubernetes': config cannot be kept as JSON: "):
        enqueue_run("kubernetes", config)
    with pytest.raises(InvalidRequest, match="Run 1: Adapter 'kubernetes': config cannot"):
        enqueue_runs([RunRequest("process", TRUE), RunRequest("kubernetes", config)])
    assert count_runs(services) == 0


def test_an_error_repeats_so_much_of_what_was_given_and_no_more() -> None:
    long = "x" * 100_000
    for wrong in ({"idempotency_key": long}, {"labels": {long: "x"}}, {long: 1}):
        with pytest.raises(InvalidRequest) as refused:
            enqueue_runs([{"adapter": "process", "config": TRUE}, {"adapter": "process", "config": TRUE, **wrong}])
        assert len(str(refused.value)) < 1000


def test_an_adapter_that_is_not_installed_is_refused_with_those_that_are(services: Services) -> None:
    with pytest.raises(UnknownAdapter, match=r"installed: .*detached.*process"):
        enqueue_run("proces", TRUE)
    assert count_runs(services) == 0


@pytest.mark.parametrize("limit", [timedelta(days=3650), timedelta(days=300_000 * 365), timedelta.max])
def test_no_limit_that_is_accepted_keeps_the_reaper_from_other_runs(services: Services, limit: timedelta) -> None:
    with suppress(InvalidRequest):
        claim(services, enqueue_run("process", TRUE, max_runtime=limit).id, "worker@nowhere")
    dead = running(services)
    watch_for(services, 3600)
    age(services, dead.run_id, 301)
    assert sweep(services, by_hand=True)["reaped"] == 1
    assert status_of(services, dead.run_id) == "failed"


# -- the same again


def test_the_same_key_and_work_give_the_same_run_and_no_second_message(services: Services, redis: Redis) -> None:
    first = enqueue_run("process", TRUE, idempotency_key="k")
    again = enqueue_run("process", TRUE, idempotency_key="k", labels={"other": "label"})
    assert (again.id, again.labels) == (first.id, {})
    assert (count_runs(services), messages(redis)) == (1, 1)


def test_a_known_key_gives_its_run_whatever_it_is_by_now(services: Services) -> None:
    run = enqueue_run("process", TRUE, idempotency_key="k")
    cancel_run(run.id)
    assert enqueue_run("process", TRUE, idempotency_key="k").status == "cancelled"


@pytest.mark.parametrize(("adapter", "config"), [("process", {"command": ["false"]}), ("detached", TRUE)])
def test_a_known_key_with_other_work_is_a_conflict_that_names_key_and_run(
    services: Services, adapter: str, config: dict[str, Any]
) -> None:
    run = enqueue_run("process", TRUE, idempotency_key="k")
    with pytest.raises(IdempotencyConflict, match=f"'k' belongs to run {run.id}"):
        enqueue_run(adapter, config, idempotency_key="k")
    assert count_runs(services) == 1


@pytest.mark.parametrize(
    "number", [1e23, 1.7e18 + 256, 0.1, 1e-7, 5e-324, -0.0, 1.0, 2**64 + 1, 1.7976931348623157e308]
)
def test_a_known_key_with_the_same_number_is_no_conflict(monkeypatch: pytest.MonkeyPatch, number: float) -> None:
    """PostgreSQL keeps digits: 1e23 comes back as a whole number, and Python tells it from the float."""
    monkeypatch.setattr("reprieve.client.enqueue.validate_config", lambda _, config: dict(config))
    first = enqueue_run("process", {"numbers": [number]}, idempotency_key="k")
    assert enqueue_run("process", {"numbers": [number]}, idempotency_key="k") == first
    with pytest.raises(IdempotencyConflict):
        enqueue_run("process", {"numbers": [number + 1 if abs(number) < 1e15 else number / 2]}, idempotency_key="k")


def test_another_key_or_none_gives_another_run(services: Services) -> None:
    keys = ("a", "b", None, None)
    assert len({enqueue_run("process", TRUE, idempotency_key=key).id for key in keys}) == 4


def test_twenty_who_ask_at_once_with_one_key_get_one_run_and_send_one_message(services: Services, redis: Redis) -> None:
    def ask(_: int) -> Any:
        return enqueue_run("process", TRUE, idempotency_key="k").id

    with ThreadPoolExecutor(20) as pool:
        ids = set(pool.map(ask, range(20)))
    assert len(ids) == 1
    assert (count_runs(services), messages(redis)) == (1, 1)


def test_two_threads_that_send_at_once_share_one_client_of_the_broker(
    servers: Servers, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second client, dropped, took the first thread's connection and message with it."""
    both, made = threading.Barrier(2), []

    def connect_when_both_do(url: str) -> Redis:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        made.append(connect(url))
        return made[-1]

    monkeypatch.setattr(cache, "connect", connect_when_both_do)
    hints = Hints(servers.redis.url)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run_id: hints.announce([run_id]), [uuid4(), uuid4()]))
    assert len(made) == 1
    assert messages(redis) == 2


# -- the broker is away


@pytest.fixture
def no_broker(services: Services, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Our settings, but for a broker at an address where nobody listens; the result brings the real one back."""
    with socket.create_server(("127.0.0.1", 0)) as closing:
        port = closing.getsockname()[1]
    away = replace(linking.link(), hints=Hints(f"redis://127.0.0.1:{port}/0"))
    monkeypatch.setattr(linking, "_link", away)
    return monkeypatch.undo


@pytest.mark.usefixtures("no_broker")
def test_without_a_broker_the_run_is_queued_all_the_same(services: Services, caplog: pytest.LogCaptureFixture) -> None:
    run = enqueue_run("process", TRUE)
    assert (run.status, status_of(services, run.id)) == ("queued", "queued")
    assert f"run {run.id} is queued, and the sweep sends it" in caplog.text


def test_a_run_whose_message_no_broker_took_is_brought_by_the_sweep(
    services: Services, no_broker: Callable[[], None], start_worker: Callable[..., Any]
) -> None:
    run = enqueue_run("process", TRUE)
    no_broker()
    age(services, run.id, 61)
    # Before there is a worker: each looks at the rows by itself, too.
    assert sweep(services)["resent"] == 1
    start_worker("runs,logs")
    eventually(lambda: status_of(services, run.id) == "succeeded")
    assert kinds(services, run.id) == ["enqueued", "resent", "claimed", "spawned", "succeeded"]


@pytest.mark.parametrize("scheme", ["redis", "sentinel"])
def test_a_broker_that_hangs_is_waited_for_once_and_then_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, scheme: str
) -> None:
    """What a client of Sentinels says then is that there is no master, and nothing of the time that it took."""
    monkeypatch.setattr(cache, "SOCKET_TIMEOUT", 0.3)
    monkeypatch.setattr(sending, "LATE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hints = Hints(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/0" + "?master=m" * (scheme == "sentinel"))
        for _ in range(3):
            hints.announce([uuid4()])
    assert caplog.text.count("The broker took no message") == 1


def test_a_broker_that_refuses_is_asked_each_time(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closing:
        hints = Hints(f"redis://127.0.0.1:{closing.getsockname()[1]}/0")
    for _ in range(3):
        hints.announce([uuid4()])
    assert caplog.text.count("The broker took no message") == 3


# -- sending again


def resend(services: Services) -> list[Any]:
    return services.resends.unclaimed(MINUTE, RESEND_DOUBLINGS)


@pytest.mark.parametrize("sends", range(8))
def test_the_gap_before_a_run_is_sent_again_doubles_up_to_64_minutes(services: Services, sends: int) -> None:
    gap = 60 * 2 ** min(sends, 6)
    due, not_yet = new_run(services), new_run(services)
    with services.database.begin() as connection:
        connection.execute(text("UPDATE runs SET sends = :sends"), {"sends": sends})
    age(services, due.id, gap + 1)
    age(services, not_yet.id, gap - 5)
    assert resend(services) == [due.id]
    assert [services.runs.get(run.id).sends for run in (due, not_yet)] == [sends + 1, sends]
    assert (kinds(services, due.id), kinds(services, not_yet.id)) == (["enqueued", "resent"], ["enqueued"])


def test_a_run_that_was_just_sent_again_is_not_sent_at_once_a_third_time(services: Services) -> None:
    run = new_run(services)
    age(services, run.id, 61)
    assert resend(services) == [run.id]
    assert resend(services) == []
    age(services, run.id, 61)
    assert resend(services) == []
    age(services, run.id, 121)
    assert resend(services) == [run.id]


def test_only_queued_runs_that_wait_for_nothing_are_sent_again(services: Services) -> None:
    waiting, claimed, cancelled = new_run(services), in_process(services), new_run(services)
    cancel_run(cancelled.id)
    owing = owing_retry(services)
    for run_id in (waiting.id, claimed.run_id, cancelled.id, owing):
        age(services, run_id, 3600)
    assert resend(services) == [waiting.id]
    services.terminations.settle(owing, 1)
    assert resend(services) == []
    pass_the_wait(services, owing)
    assert resend(services) == [owing]


def owing_retry(services: Services) -> Any:
    """A run that was reaped and waits for its second attempt until the work of the first is gone."""
    work = in_process(services, max_attempts=2)
    watch_for(services, 3600)
    age(services, work.run_id, 301)
    sweep(services, by_hand=True)
    assert status_of(services, work.run_id) == "queued"
    return work.run_id


# -- cancel


def test_a_run_can_be_cancelled_by_its_id_or_a_part_of_it_that_is_its_own(services: Services) -> None:
    first, second = enqueue_run("process", TRUE), enqueue_run("process", TRUE)
    assert cancel_run(first.id).status == "cancelled"
    assert cancel_run(str(second.id)[-12:]).id == second.id
    assert status_of(services, second.id) == "cancelled"


def test_cancelling_what_has_ended_leaves_it_as_it_is(services: Services) -> None:
    run = enqueue_run("process", TRUE)
    ended_at = cancel_run(run.id).finished_at
    assert cancel_run(run.id).finished_at == ended_at
    assert kinds(services, run.id) == ["enqueued", "cancelled"]


@pytest.mark.parametrize("run_id", ["ffffffff", "", "abc", "%", "no-such-run", "00000000-0000-7000-8000-000000000000"])
def test_cancelling_a_run_that_does_not_exist_is_refused(run_id: str) -> None:
    with pytest.raises(RunNotFound):
        cancel_run(run_id)
