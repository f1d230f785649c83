"""C08: whoever ends a run does all that an end does, since one function does it."""

import signal
from collections.abc import Callable
from datetime import timedelta

import pytest
from redis import Redis

from reprieve import cancel_run, enqueue_run
from reprieve.models.status import Proof
from reprieve.models.work import End, Outcome, Work
from reprieve.stores.hints import STOPS
from reprieve.stores.throttle import proof_key
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from reprieve.workers.refresh import give_proof
from reprieve.workers.sweep import sweep
from tests.faults.helpers_cdeg import forget_watch, image, no_process_left, nobody_to_ask, reap
from tests.support.processes import processes_of
from tests.support.rows import age, claim, in_process, kinds, running, settle, status_of, watch_for
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("C08")


def _result(services: Services, work: Work) -> None:
    finish(services, [End.by_result(work.fence, Outcome.of_exit(3), 7)])


def _silence(services: Services, work: Work) -> None:
    assert reap(services, work.run_id)["reaped"] == 1


def _overdue(services: Services, work: Work) -> None:
    watch_for(services, 400)
    age(services, work.run_id, 3601, "started_at")
    assert sweep(services, by_hand=True)["reaped"] == 1


def _cancel(services: Services, work: Work) -> None:
    cancel_run(work.run_id)


#: How a run ends: the event, what becomes of the attempt's work, and what of the outcome is on the attempt.
ENDS = [
    (_result, "failed", None, {"exit_status": 3}),
    (_silence, "reaped", "owed", {"error_code": "adapter_liveness_lost"}),
    (_overdue, "reaped", "owed", {"error_code": "timed_out"}),
    (_cancel, "cancelled", "owed", {}),
]


@pytest.mark.parametrize(
    ("end", "kind", "termination", "outcome"), ENDS, ids=["result", "silence", "overdue", "cancel"]
)
def test_every_end_does_all_that_an_end_does(
    services: Services,
    redis: Redis,
    end: Callable[[Services, Work], None],
    kind: str,
    termination: str | None,
    outcome: dict,
) -> None:
    work, neighbour = (running(services, max_runtime=timedelta(hours=1)) for _ in range(2))
    give_proof(services, [work.fence, neighbour.fence], Proof.HEARTBEAT)
    before = image(services, neighbour)
    end(services, work)
    run = services.runs.get(work.run_id)
    attempt = run.attempts[0]
    assert kinds(services, work.run_id)[-1] == kind
    assert run.finished_at is not None
    assert attempt.finished_at is not None
    assert outcome.items() <= attempt.outcome.items()
    assert attempt.termination == termination
    assert redis.exists(proof_key(work.run_id)) == 0
    assert services.stops.received([work.fence, neighbour.fence]) == {work.fence}
    assert redis.exists(proof_key(neighbour.run_id)) == 1
    assert image(services, neighbour) == before


def test_a_reap_for_a_retry_ends_the_attempt_like_every_other(services: Services, redis: Redis) -> None:
    work = in_process(services, max_attempts=2)
    give_proof(services, [work.fence], Proof.KEEPALIVE)
    _silence(services, work)
    attempt = services.runs.get_attempt(work.run_id, 1)
    assert status_of(services, work.run_id) == "queued"
    assert attempt.finished_at is not None
    assert attempt.outcome == {"error_code": "process_lost"}
    assert attempt.termination == "owed"
    assert redis.exists(proof_key(work.run_id)) == 0
    assert services.stops.received([work.fence]) == {work.fence}


def test_the_stop_signal_of_one_attempt_does_not_stop_the_next(services: Services) -> None:
    first = in_process(services, max_attempts=2)
    _silence(services, first)
    settle(services, first)
    second = claim(services, first.run_id, "worker@test")
    assert second is not None
    assert services.stops.received([first.fence, second.fence]) == {first.fence}


def test_after_a_reap_the_real_follower_and_its_work_end(services: Services, redis: Redis, start_worker) -> None:
    worker = start_worker()
    runs = [enqueue_run(adapter, {"command": ["sleep", "120"]}) for adapter in ("process", "detached")]
    with no_process_left(*[run.id for run in runs]):
        for run in runs:
            eventually(lambda run=run: "spawned" in kinds(services, run.id) or "dispatched" in kinds(services, run.id))
        worker.send(signal.SIGSTOP)
        for run in runs:
            redis.set(proof_key(run.id), "the follower's", ex=60)
            age(services, run.id, 400)
        forget_watch(services)
        watch_for(services, 400)
        with nobody_to_ask():
            assert sweep(services, by_hand=True)["reaped"] == 2
        assert redis.exists(*[proof_key(run.id) for run in runs]) == 0
        worker.send(signal.SIGCONT)
        for run in runs:
            eventually(lambda run=run: services.runs.get_attempt(run.id, 1).termination == "done")
            eventually(
                lambda run=run: f"Run {run.id} attempt 1: not followed here any more: superseded." in worker.output
            )
            assert processes_of(run.id) == []
            assert kinds(services, run.id)[-2:] == ["reaped", "terminated"]
            assert status_of(services, run.id) == "failed"


def test_a_follower_that_missed_its_stop_signal_learns_it_from_the_database(
    services: Services, redis: Redis, start_worker
) -> None:
    worker = start_worker()
    run = enqueue_run("process", {"command": ["sleep", "120"]})
    with no_process_left(run.id):
        eventually(lambda: "spawned" in kinds(services, run.id) and processes_of(run.id))
        worker.send(signal.SIGSTOP)
        work = Work(run.id, 1, 1, "process", {}, {})
        _silence(services, work)
        assert redis.delete(STOPS) == 1
        # Its work is nobody's to end but the follower's own.
        services.terminations.settle(run.id, 1)
        worker.send(signal.SIGCONT)
        worker.wait_for("attempt 1: not followed here any more: superseded.")
        assert processes_of(run.id) == []
