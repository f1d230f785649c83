"""A23: work that is not created yet is not gone: who waits to create it is its proof of life, and whoever comes next
creates it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from reprieve.adapters.kubernetes.config import KubernetesConfig
from reprieve.adapters.kubernetes.job import job_name, manifest
from reprieve.models.errors import Released, Superseded
from reprieve.models.status import Probe
from reprieve.models.work import Work
from reprieve.testing.contexts import Following, RecordingContext, carry_out, follow_on
from reprieve.workers.bootstrap import Services
from tests.contract.clusters import Scripted, scripted_cluster
from tests.faults.helpers_abf import enqueueing
from tests.faults.helpers_cdeg import judge_silent
from tests.support.kubernetes_api import FakeCluster
from tests.support.processes import Process
from tests.support.rows import kinds, record_handle, running, since_started, status_of, whole_log
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("A23")

#: Seconds: longer than the window of workers at time scale 30.
LONGER_THAN_THE_WINDOW = 15

Start = Callable[[], Process]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Scripted]:
    with scripted_cluster(tmp_path) as cluster:
        yield cluster


@contextmanager
def doing(cluster: Scripted, act: Callable[[RecordingContext], Any], run: Work) -> Iterator[Following]:
    """While the block lasts, `execute` or `attach` on another thread."""
    context = cluster.context(run)
    with ThreadPoolExecutor(1) as pool:
        try:
            yield Following(context, pool.submit(act, context))
        finally:
            cluster.fake.behave()
            context.stop()


def pending(cluster: Scripted, run: Work) -> dict[str, Any]:
    return cluster.handle(run) | {"uid": None}


def made(cluster: Scripted, run: Work, **labels: str) -> dict[str, Any]:
    job = manifest(run, KubernetesConfig.model_validate(run.config))
    job["metadata"]["labels"] |= labels
    return cluster.fake.create_job("default", job)


def creations(cluster: Scripted) -> int:
    return sum(1 for method, _, _ in cluster.fake.requests if method == "POST")


def finish(cluster: Scripted) -> None:
    pod = cluster.fake.only_pod()
    cluster.fake.start(pod)
    cluster.fake.finish(pod)


# -- what a probe may say


def test_until_its_creation_is_recorded_a_job_that_is_not_there_is_unknown_and_one_that_is_there_is_alive(
    cluster: Scripted,
) -> None:
    run = cluster.work("true")
    assert cluster.adapter.probe([pending(cluster, run)]) == [Probe.UNKNOWN]
    job = made(cluster, run)
    recorded = cluster.handle(run) | {"uid": job["metadata"]["uid"]}
    assert cluster.adapter.probe([pending(cluster, run), recorded]) == [Probe.ALIVE, Probe.ALIVE]
    cluster.fake.finish(cluster.fake.only_pod())
    assert cluster.adapter.probe([pending(cluster, run), recorded]) == [Probe.ENDED, Probe.ENDED]
    cluster.fake.remove(job)
    assert cluster.adapter.probe([pending(cluster, run), recorded]) == [Probe.UNKNOWN, Probe.DEAD]


def test_a_job_of_that_name_that_is_not_the_recorded_one_is_not_alive_for_the_attempt(cluster: Scripted) -> None:
    run = cluster.work("true")
    recorded = cluster.handle(run) | {"uid": "the-first"}
    again = made(cluster, run)
    assert cluster.adapter.probe([recorded]) == [Probe.DEAD]
    # Nor is it ours to end, with its Pod.
    cluster.adapter.terminate(recorded)
    assert (cluster.fake.of_kind("jobs"), len(cluster.fake.of_kind("pods"))) == ([again], 1)
    with doing(cluster, lambda context: follow_on(cluster.adapter, run, recorded, context), run) as following:
        eventually(lambda: any("not there any more" in note for note in following.context.notes))
        assert (following.context.heartbeats, following.result.done()) == (0, False)


def test_a_handle_of_the_release_before_is_still_read_and_gets_its_uid(cluster: Scripted) -> None:
    there, gone = cluster.work("true"), cluster.work("true")
    job = made(cluster, there)
    assert cluster.adapter.probe([cluster.handle(there), cluster.handle(gone)]) == [Probe.ALIVE, Probe.DEAD]
    with doing(
        cluster, lambda context: follow_on(cluster.adapter, there, cluster.handle(there), context), there
    ) as one:
        eventually(lambda: one.context.dispatched)
        assert one.context.dispatched[0][0]["uid"] == job["metadata"]["uid"]
        finish(cluster)
        assert one.outcome().error_code is None
    # It says nothing of a creation that is still to come: nobody starts that work a second time.
    with doing(cluster, lambda context: follow_on(cluster.adapter, gone, cluster.handle(gone), context), gone) as other:
        eventually(lambda: other.context.notes)
    assert (creations(cluster), other.context.dispatched) == (0, [])


# -- who waits, and who comes next


def away(cluster: Scripted, **how: Any) -> None:
    cluster.fake.misbehave("POST", "/jobs", times=float("inf"), **how)


QUOTA = 'jobs.batch "x" is forbidden: exceeded quota: small, requested: count/jobs.batch=1, used: {}, limited: 5'


@pytest.mark.parametrize(
    "how",
    [
        {"status": 500, "reason": "InternalError"},
        {"status": 429, "reason": "TooManyRequests", "headers": {"Retry-After": "1"}},
        {"status": 401, "reason": "Unauthorized"},
        {"status": 403, "body": b"<html>the proxy says no</html>"},
        {"status": 404, "body": b"<html>no such page</html>"},
        {"status": 403, "reason": "Forbidden", "message": QUOTA.format(5)},
        {"status": 403, "reason": "Forbidden", "message": "status unknown for quota: small, resources: count/jobs"},
        {"status": 200, "body": b"{}"},
        {"how": "reset"},
        {"how": "hang"},
    ],
    ids=lambda how: f"{how.get('status', how.get('how'))}-{how.get('reason', '')}",
)
def test_who_waits_to_create_the_job_gives_proof_of_life_until_it_can(cluster: Scripted, how: dict[str, Any]) -> None:
    run = cluster.work("true")
    away(cluster, **how)
    with doing(cluster, lambda context: carry_out(cluster.adapter, run, context), run) as following:
        context = following.context
        eventually(lambda: creations(cluster) >= 2 and context.heartbeats >= 10, timeout=60)
        assert not following.result.done()
        assert all(handle == pending(cluster, run) for handle, _ in context.dispatched)
        assert len(context.notes) == 1
        cluster.fake.behave()
        eventually(lambda: cluster.fake.of_kind("pods"))
        finish(cluster)
        assert following.outcome().error_code is None
    (job,) = cluster.fake.of_kind("jobs")
    eventually(lambda: context.dispatched[-1][0]["uid"] == job["metadata"]["uid"])


def test_a_quota_that_is_full_for_long_is_told_once_and_waited_for(cluster: Scripted) -> None:
    run = cluster.work("true")
    for used in range(30):
        cluster.fake.misbehave("POST", "/jobs", status=403, reason="Forbidden", message=QUOTA.format(used))
    with doing(cluster, lambda context: carry_out(cluster.adapter, run, context), run) as following:
        eventually(lambda: cluster.fake.of_kind("pods"), timeout=60)
        finish(cluster)
        assert following.outcome().error_code is None
    assert len([note for note in following.context.notes if "exceeded quota" in note]) == 1
    assert creations(cluster) == 31


@pytest.mark.parametrize("attach", [False, True])
def test_a_namespace_that_is_missing_ends_the_run_with_the_platforms_words(cluster: Scripted, attach: bool) -> None:
    cluster.fake.visible = None
    run = cluster.work("true", namespace="none")
    handle = pending(cluster, run) | {"namespace": "none"}
    context = cluster.context(run)
    outcome = follow_on(cluster.adapter, run, handle, context) if attach else carry_out(cluster.adapter, run, context)
    assert 'namespaces "none" not found' in str(outcome.error_message)
    assert cluster.adapter.probe([handle]) == [Probe.UNKNOWN]


def test_who_attaches_creates_the_job_that_nobody_has_created(cluster: Scripted) -> None:
    run = cluster.work("true")
    away(cluster, status=500)
    with doing(cluster, lambda context: carry_out(cluster.adapter, run, context), run) as first:
        eventually(lambda: creations(cluster))
        first.context.release()
        with pytest.raises(Released):
            first.outcome()
        cluster.fake.behave()
        handle = first.context.dispatched[-1][0]
        with doing(cluster, lambda context: follow_on(cluster.adapter, run, handle, context), run) as second:
            eventually(lambda: cluster.fake.of_kind("pods"))
            (job,) = cluster.fake.of_kind("jobs")
            assert job["metadata"]["name"] == job_name(run.run_id, run.attempt)
            finish(cluster)
            assert second.outcome().error_code is None
            assert second.context.dispatched[-1][0]["uid"] == job["metadata"]["uid"]


def test_who_attaches_finds_the_job_whose_creation_was_not_recorded(cluster: Scripted) -> None:
    run = cluster.work("true")
    job = made(cluster, run)
    finish(cluster)
    context = cluster.context(run)
    assert follow_on(cluster.adapter, run, pending(cluster, run), context).error_code is None
    assert cluster.fake.of_kind("jobs") == [job]
    assert context.dispatched[-1][0]["uid"] == job["metadata"]["uid"]


def test_our_own_job_that_fills_the_quota_is_found_by_whoever_attaches(cluster: Scripted) -> None:
    run = cluster.work("true")
    made(cluster, run)
    finish(cluster)
    away(cluster, status=403, reason="Forbidden", message=QUOTA.format(5))
    assert follow_on(cluster.adapter, run, pending(cluster, run), cluster.context(run)).error_code is None


@pytest.mark.parametrize("how", [{"how": "lose"}, {"how": "truncate"}, {"how": "hang"}])
def test_a_creation_whose_answer_was_lost_is_recorded_when_the_job_is_found(
    cluster: Scripted, how: dict[str, Any]
) -> None:
    run = cluster.work("true")
    cluster.fake.misbehave("POST", "/jobs", **how)
    with doing(cluster, lambda context: carry_out(cluster.adapter, run, context), run) as following:
        eventually(lambda: cluster.fake.of_kind("pods"), timeout=60)
        (job,) = cluster.fake.of_kind("jobs")
        eventually(lambda: following.context.dispatched[-1][0]["uid"] == job["metadata"]["uid"])
        finish(cluster)
        assert following.outcome().error_code is None


def test_two_workers_that_create_at_once_follow_one_job(cluster: Scripted) -> None:
    run = cluster.work("true")
    with (
        doing(cluster, lambda context: carry_out(cluster.adapter, run, context), run) as one,
        doing(cluster, lambda context: follow_on(cluster.adapter, run, pending(cluster, run), context), run) as other,
    ):
        eventually(lambda: creations(cluster) == 2)
        (job,) = cluster.fake.of_kind("jobs")
        for following in (one, other):
            eventually(lambda: following.context.dispatched and following.context.dispatched[-1][0]["uid"])  # noqa: B023
            assert following.context.dispatched[-1][0]["uid"] == job["metadata"]["uid"]
        finish(cluster)
        assert one.outcome().error_code is other.outcome().error_code is None


def test_an_attempt_that_has_ended_while_its_worker_waited_is_not_begun(cluster: Scripted) -> None:
    run = cluster.work("true")
    away(cluster, status=500)
    with doing(cluster, lambda context: carry_out(cluster.adapter, run, context), run) as following:
        eventually(lambda: creations(cluster))
        # The run is cancelled, and its worker is not told of it yet.
        following.context.refusal = Superseded("the attempt has ended")
        cluster.fake.behave()
        with pytest.raises(Superseded):
            following.outcome()
    context = cluster.context(run)
    context.refusal = Superseded("the attempt has ended")
    with pytest.raises(Superseded):
        follow_on(cluster.adapter, run, pending(cluster, run), context)
    assert cluster.fake.of_kind("jobs") == cluster.fake.of_kind("pods") == []


def test_a_job_that_is_being_created_while_its_attempt_ends_is_ended(cluster: Scripted) -> None:
    run = cluster.work("true")
    create, contexts = cluster.fake.create_job, []

    def execute(context: RecordingContext) -> Any:
        contexts.append(context)
        return carry_out(cluster.adapter, run, context)

    def ending(namespace: str, job: dict[str, Any]) -> dict[str, Any]:
        contexts[0].refusal = Superseded("the attempt has ended")
        return create(namespace, job)

    cluster.fake.create_job = ending  # type: ignore[method-assign]
    with doing(cluster, execute, run) as following:
        context = following.context
        eventually(lambda: cluster.fake.of_kind("jobs"))
        # Which of the two it is, that it has ended or that another follows, it is told: until then, it looks on.
        eventually(lambda: context.heartbeats >= 3)
        context.stop()
        following.outcome()
    assert cluster.fake.of_kind("jobs") == cluster.fake.of_kind("pods") == []


# -- the row


def test_a_handle_that_is_recorded_again_is_one_dispatch_and_holds_for_its_epoch_only(services: Services) -> None:
    work = running(services, adapter="kubernetes")
    record_handle(services, work.fence, None, {"uid": None})
    record_handle(services, work.fence, None, {"uid": "a"})
    assert services.runs.get_attempt(work.run_id, 1).handle == {"uid": "a"}
    assert kinds(services, work.run_id).count("dispatched") == 1
    with pytest.raises(Superseded):
        record_handle(services, work.fence._replace(epoch=work.epoch + 1), None, {"uid": "b"})
    assert services.runs.get_attempt(work.run_id, 1).handle == {"uid": "a"}


def test_a_silent_run_whose_creation_is_not_recorded_is_not_reaped_and_one_whose_job_is_gone_is(
    services: Services, cluster: Scripted
) -> None:
    waits, gone = (running(services, adapter="kubernetes", config=cluster.work("true").config) for _ in range(2))
    for work, uid in ((waits, None), (gone, "was-there")):
        handle = {"namespace": "default", "name": job_name(work.run_id, work.attempt), "uid": uid}
        record_handle(services, work.fence, None, handle)
    assert judge_silent(services, waits.run_id)["reaped"] == 0
    assert judge_silent(services, gone.run_id)["reaped"] == 1
    assert (status_of(services, waits.run_id), status_of(services, gone.run_id)) == ("running", "failed")


# -- with real workers and a real reaper


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    with FakeCluster(runs=True) as fake:
        yield fake


@pytest.fixture
def start(
    services: Services, fake: FakeCluster, tmp_path: Path, start_worker: Callable[..., Process]
) -> Callable[[str, str], Process]:
    environment = {"KUBECONFIG": str(fake.kubeconfig(tmp_path))}
    return lambda queues, name: start_worker(queues, name=name, extra=environment)


def is_away_for_longer_than_the_window(services: Services, run_id: UUID) -> None:
    eventually(lambda: since_started(services, run_id) > LONGER_THAN_THE_WINDOW, timeout=90)
    assert status_of(services, run_id) == "running", services.runs.events(run_id)


def config(script: str) -> dict[str, Any]:
    return {"image": "busybox:1", "command": ["sh", "-c", script]}


def test_a_run_whose_platform_was_away_when_it_was_to_be_created_starts_and_succeeds(
    services: Services, fake: FakeCluster, start: Callable[[str, str], Process], start_beat: Start
) -> None:
    start("runs,logs,control", "all")
    start_beat()
    with enqueueing(services) as enqueue:
        fake.go_away()
        run_id = enqueue("kubernetes", config("echo at last"))
        is_away_for_longer_than_the_window(services, run_id)
        fake.come_back()
        eventually(lambda: status_of(services, run_id) != "running", timeout=120)
    assert status_of(services, run_id) == "succeeded"
    assert whole_log(services, run_id) == b"at last\n"
    assert len(fake.of_kind("jobs")) == 1


def test_a_run_whose_worker_was_killed_while_it_waited_is_created_by_the_next(
    services: Services, fake: FakeCluster, start: Callable[[str, str], Process], start_beat: Start
) -> None:
    start("logs,control", "others")
    first = start("runs", "first")
    start_beat()
    with enqueueing(services) as enqueue:
        fake.go_away()
        run_id = enqueue("kubernetes", config("echo at last"))
        eventually(lambda: "dispatched" in kinds(services, run_id))
        first.kill()
        start("runs", "second")
        is_away_for_longer_than_the_window(services, run_id)
        eventually(lambda: "attached" in kinds(services, run_id), timeout=60)
        fake.come_back()
        eventually(lambda: status_of(services, run_id) != "running", timeout=120)
    assert status_of(services, run_id) == "succeeded"
    assert whole_log(services, run_id) == b"at last\n"
    assert len(fake.of_kind("jobs")) == 1
