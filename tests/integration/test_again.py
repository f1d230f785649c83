"""A run that is done again: a new run with all that the first was asked for with."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from reprieve import IdempotencyConflict, RunNotFound, enqueue_run, run_again
from reprieve.client.enqueue import again_each
from reprieve.models.status import EventKind
from reprieve.models.work import End, Outcome
from reprieve.workers.bootstrap import Services
from reprieve.workers.explaining import explain
from reprieve.workers.finish import finish
from tests.faults.helpers_abf import enqueueing
from tests.support.rows import claim, new_run, running

ASKED: dict[str, Any] = {
    "labels": {"team": "data", "quote": '"'},
    "max_runtime": 3600.5,
    "max_attempts": 3,
    "lane": "night",
    "priority": -5,
    "start_within": timedelta(hours=2),
    "retry_on": {"exit_status": [75], "reason": ["Evicted"]},
    "retry_delay": 30,
    "notify": ["https://example.com/told"],
    "quiet_after": 60,
    "max_silence": 600,
    "max_memory": 2**30,
}
#: What belongs to one run, and not to what it was asked for with.
ITS_OWN = {"id", "run_id", "created_at", "updated_at", "started_at", "finished_at", "start_by", "again_of"}
ITS_OWN |= {"idempotency_key", "not_before", "status", "attempt", "epoch", "error_code", "error_message"}
ITS_OWN |= {"last_proof", "sends", "trace_parent", "asked_by", "output_at", "quiet_at"}
ITS_OWN |= {"snoozed_until", "longest_silence"}


def asked_with(services: Services, run_id: UUID) -> dict[str, Any]:
    """Every column that says what a run was asked for with; also those that are yet to come."""
    found: dict[str, Any] = {}
    for table, key in (("runs", "id"), ("run_specs", "run_id")):
        (row,) = services.database.run(f"SELECT * FROM {table} WHERE {key} = :id", {"id": str(run_id)})
        found |= {name: value for name, value in row._mapping.items() if name not in ITS_OWN}
    return found


def test_all_that_a_run_was_asked_for_with_is_asked_for_again_but_its_key_and_its_start(services: Services) -> None:
    with enqueueing(services):
        start_at = services.database.now() + timedelta(hours=1)
        config = {"command": ["true"], "secrets": {"KEY": "env:THE_KEY"}, "env": {"N": "1e400"}}
        first = enqueue_run("process", config, idempotency_key=str(uuid4()), start_at=start_at, **ASKED)
        again = run_again(first)
    ours = asked_with(services, first.id)
    assert asked_with(services, again.id) == ours
    assert not [name for name, value in ours.items() if value is None], "each of them must be asked for here"
    assert again.not_before is None
    assert again.again_of == first.id
    assert again.start_by is not None
    assert abs(again.start_by - again.created_at - ASKED["start_within"]) < timedelta(seconds=5)
    assert services.records.get(again.id) == again


def test_a_run_that_was_tried_again_and_failed_is_done_again_from_its_first_attempt(services: Services) -> None:
    work = running(services, max_attempts=2, start_within=timedelta(hours=1))
    assert finish(services, [End.by_result(work.fence, Outcome.failed("No."), 0)])
    with enqueueing(services):
        again = run_again(work.run_id)
    assert (again.status, again.attempt, again.max_attempts, again.error_code) == ("queued", 0, 2, None)
    taken = claim(services, again.id, "worker@nowhere")
    assert taken is not None
    assert (taken.attempt, taken.config) == (1, {"command": ["true"]})
    assert services.records.get(work.run_id).status == "failed"


def test_both_runs_tell_of_each_other(services: Services) -> None:
    first = new_run(services)
    with enqueueing(services):
        second, third = run_again(first.id), run_again(first.id)
    told = explain(services, first.id)
    assert [event.detail for event in told.events if event.kind == EventKind.AGAIN] == [
        {"run": str(second.id)},
        {"run": str(third.id)},
    ]
    assert f"Run {third.id} does it again, the last of 2 that do." in told.sentences
    assert f"It does run {first.id} again." in explain(services, third.id).sentences
    assert not [line for line in explain(services, third.id).sentences if line.endswith("does it again.")]


def test_the_same_key_gives_the_same_run_however_often_and_by_whomever_it_is_asked_at_once(services: Services) -> None:
    first = new_run(services)
    with enqueueing(services), ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(run_again, first.id, idempotency_key="once") for _ in range(16)]
        assert len({one.result().id for one in asked}) == 1
    assert len([event for event in services.runs.events(first.id) if event.kind == EventKind.AGAIN]) == 1


def test_a_key_of_another_run_gives_no_run_that_does_not_do_this_one_again(services: Services) -> None:
    """Else a run that was asked for with that key, and does the same, would stand for one that never begins."""
    first, other = (new_run(services, idempotency_key=key) for key in ("first", "other"))
    with enqueueing(services):
        with pytest.raises(IdempotencyConflict, match="does no other run again"):
            run_again(first, idempotency_key="first")
        run_again(other, idempotency_key="again")
        with pytest.raises(IdempotencyConflict, match=f"does run {other.id} again"):
            run_again(first, idempotency_key="again")


def test_of_many_all_are_done_again_or_none(services: Services) -> None:
    runs = [new_run(services).id for _ in range(3)]
    with enqueueing(services):
        with pytest.raises(RunNotFound):
            again_each(dict.fromkeys([*runs, uuid4()]), services.database)
        assert len(services.records.newest()) == 3
        made = again_each({run_id: f"key-{run_id}" for run_id in runs}, services.database)
        assert [run.again_of for run, is_new in made if is_new] == runs
        repeated = again_each({run_id: f"key-{run_id}" for run_id in runs}, services.database)
    assert [(run.id, is_new) for run, is_new in repeated] == [(run.id, False) for run, _ in made]
