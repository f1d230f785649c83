"""`enqueue_runs`: many at once, all of them or none, told to the broker by few messages."""

import json
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import text

from reprieve import IdempotencyConflict, InvalidRequest, RunRequest, enqueue_run, enqueue_runs
from reprieve.client.enqueue import enqueue_each
from reprieve.client.link import link
from reprieve.models.requests import MOST_AT_ONCE
from reprieve.stores.runs import insertion
from reprieve.workers.bootstrap import Services
from tests.conftest import StartWorker
from tests.support.rows import kinds, status_of
from tests.support.waiting import eventually

TRUE = {"command": ["true"]}
pytestmark = pytest.mark.usefixtures("services")


def asked(**named: Any) -> RunRequest:
    return RunRequest("process", TRUE, **named)


def count_runs(services: Services) -> int:
    with services.database.begin() as connection:
        return int(connection.execute(text("SELECT count(*) FROM runs")).scalar_one())


def announced(redis: Redis) -> list[list[str]]:
    """The runs of each message that a control worker gets."""
    bodies = [json.loads(b64decode(json.loads(message)["body"])) for message in redis.lrange("control", 0, -1)]
    return [arguments[0] for arguments, _, _ in bodies]


def test_many_runs_are_written_in_their_order_and_told_of_in_one_message(services: Services, redis: Redis) -> None:
    runs = enqueue_runs([asked(labels={"number": str(number)}, max_runtime=number + 1) for number in range(300)])
    assert [run.labels["number"] for run in runs] == [str(number) for number in range(300)]
    assert [run.max_runtime_seconds for run in runs] == [number + 1 for number in range(300)]
    assert sorted(run.id for run in runs) == [run.id for run in runs]
    assert services.records.get(runs[7].id) == runs[7]
    assert kinds(services, runs[299].id) == ["enqueued"]
    assert announced(redis) == [[str(run.id) for run in runs]]
    assert redis.llen("runs") == 0


def test_a_worker_sends_the_message_of_each_and_all_of_them_run(services: Services, start_worker: StartWorker) -> None:
    start_worker()
    runs = enqueue_runs([{"adapter": "process", "config": TRUE}, asked(), asked(idempotency_key="k")])
    for run in runs:
        eventually(lambda run=run: status_of(services, run.id) == "succeeded", timeout=60)


def test_none_is_asked_for_by_an_empty_list(services: Services, redis: Redis) -> None:
    assert enqueue_runs([]) == []
    assert (count_runs(services), redis.keys("*")) == (0, [])


def test_a_known_key_gives_its_run_and_the_others_are_new(services: Services, redis: Redis) -> None:
    first = enqueue_run("process", TRUE, idempotency_key="known")
    runs = enqueue_runs([asked(), asked(idempotency_key="known"), asked(idempotency_key="new")])
    assert runs[1].id == first.id
    assert count_runs(services) == 3
    assert announced(redis) == [[str(runs[0].id), str(runs[2].id)]]


def test_a_key_that_comes_twice_in_one_call_gives_one_run(services: Services) -> None:
    runs = enqueue_runs([asked(idempotency_key="k"), asked(), asked(idempotency_key="k")])
    assert runs[0].id == runs[2].id != runs[1].id
    assert count_runs(services) == 2


@pytest.mark.parametrize("known_before", [True, False])
def test_a_key_with_other_work_is_a_conflict_that_names_it_and_nothing_is_written(
    services: Services, redis: Redis, known_before: bool
) -> None:
    other = RunRequest("process", {"command": ["false"]}, idempotency_key="k")
    requests = [asked(), asked(idempotency_key="k")]
    if known_before:
        enqueue_runs([other])
    else:
        requests.append(other)
    before = count_runs(services)
    with pytest.raises(IdempotencyConflict, match="'k' belongs to run"):
        enqueue_runs(requests)
    assert count_runs(services) == before
    assert announced(redis) == []


def test_what_cannot_work_is_named_by_place_and_key_and_nothing_is_written(services: Services, redis: Redis) -> None:
    bad = [
        asked(),
        RunRequest("process", {}, idempotency_key="empty"),
        RunRequest("proces", TRUE),
        asked(max_attempts=0),
        RunRequest("process", {"command": ["a\0b"]}),
    ]
    with pytest.raises(InvalidRequest) as refused:
        enqueue_runs(bad)
    said = str(refused.value)
    assert said.startswith(
        "None of the 5 runs was enqueued. Run 1 (idempotency_key 'empty'): Adapter 'process': config"
    )
    assert all(part in said for part in ("Run 2: There is no adapter 'proces'", "Run 3: max_attempts is 0", "Run 4:"))
    assert (count_runs(services), redis.keys("*")) == (0, [])


def test_of_many_mistakes_the_first_ten_are_named_and_the_rest_counted() -> None:
    with pytest.raises(InvalidRequest, match=r"Run 9: Adapter 'process': config.command: field required. And 2 more.$"):
        enqueue_runs([RunRequest("process", {}) for _ in range(12)])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (None, "Run 0: it is of type NoneType; give a RunRequest, or a mapping"),
        ({"adapter": "process"}, "Run 0: config is missing"),
        (
            {"adapter": "process", "config": TRUE, "prio": 1},
            "Run 0: prio is not known of a run; known are adapter,",
        ),
    ],
)
def test_what_is_no_request_is_refused(given: Any, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        enqueue_runs([given])


def test_more_than_ten_thousand_at_once_are_refused(services: Services) -> None:
    with pytest.raises(InvalidRequest, match="More than 10,000 runs"):
        enqueue_runs(asked() for _ in range(MOST_AT_ONCE + 1))
    assert count_runs(services) == 0


@pytest.mark.slow
def test_more_than_postgresql_takes_at_once_is_refused_and_a_callers_transaction_goes_on(services: Services) -> None:
    large = RunRequest("process", {"command": ["ä" * 4_000_000]})
    with services.database.begin() as connection:
        with pytest.raises(
            InvalidRequest, match=r"None of the 34 runs was enqueued: together they are 272 MB.*in parts"
        ):
            enqueue_runs([large] * 34, within=connection)
        kept = enqueue_run("process", TRUE, within=connection)
    with pytest.raises(InvalidRequest, match=r"The run is 270 MB with config and labels.*elsewhere"):
        enqueue_run("process", {"command": ["ä" * 135_000_000]})
    assert [run.id for run in services.records.newest()] == [kept.id]


def test_what_nobody_would_take_is_not_sent(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(insertion, "MOST_ASKED", 1000)
    with pytest.raises(InvalidRequest, match="None of the 10 runs was enqueued: together they are 0 MB"):
        enqueue_runs([asked()] * 10)
    assert enqueue_run("process", TRUE)
    assert count_runs(services) == 1


def test_who_asks_with_the_same_keys_in_another_order_waits_and_gets_the_same_runs(services: Services) -> None:
    def waits() -> bool:
        with services.database.begin() as connection:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            return bool(connection.execute(text(waiting)).scalar_one())

    a, b = asked(idempotency_key="a"), asked(idempotency_key="b")
    with ThreadPoolExecutor(1) as pool:
        with link().connections.together() as transaction:
            ((first, _),) = enqueue_each([a], transaction)
            other = pool.submit(enqueue_runs, [b, a])
            eventually(waits)
            ((second, _),) = enqueue_each([b], transaction)
        assert [run.id for run in other.result(30)] == [second.id, first.id]
    assert count_runs(services) == 2


@pytest.mark.parametrize(
    "value", ["\0", "\ud800", float("nan"), float("inf"), {"deep": ["x\0"]}, {"a\0": 1}, b"bytes"], ids=repr
)
def test_a_config_that_no_database_can_hold_is_refused_and_costs_no_other_run(
    services: Services, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    monkeypatch.setattr("reprieve.client.enqueue.validate_config", lambda _, config: dict(config))
    with pytest.raises(InvalidRequest, match="config"):
        enqueue_run("process", {"value": value})
    kept = enqueue_run("process", {"value": "\\u0000 and \\\\u0000 are text", "ümläut": "\x7f\u2028"})
    assert services.runs.get(kept.id).spec.config["value"] == "\\u0000 and \\\\u0000 are text"
