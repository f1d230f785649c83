"""What the `kubernetes` adapter does when the cluster, its API server or the way to it misbehaves; see the stand-in."""

import asyncio
import builtins
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reprieve.adapters.kubernetes.adapter import KubernetesAdapter
from reprieve.adapters.kubernetes.answers import ApiError
from reprieve.adapters.kubernetes.config import KubernetesConfig
from reprieve.adapters.kubernetes.connection import NotConnected
from reprieve.adapters.kubernetes.ending import NotGone
from reprieve.adapters.kubernetes.job import manifest
from reprieve.adapters.loops import Loop
from reprieve.models.errors import Released
from reprieve.models.status import ErrorCode, Probe
from reprieve.models.work import Outcome, Work
from reprieve.testing.contexts import AsyncRecordingContext, Following, carry_out, follow_on
from tests.contract.clusters import FAST, Scripted, scripted_cluster
from tests.support.waiting import eventually

STOPPED = Outcome.failed("Stopped.")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Scripted]:
    with scripted_cluster(tmp_path) as cluster:
        yield cluster


@contextmanager
def followed(cluster: Scripted, run: Work, *, adapter: KubernetesAdapter | None = None) -> Iterator[Following]:
    context = cluster.context(run)
    with ThreadPoolExecutor(1) as pool:
        try:
            yield Following(context, pool.submit(carry_out, adapter or cluster.adapter, run, context))
        finally:
            cluster.fake.behave()
            cluster.fake.holds_deletions = False
            context.stop()


@contextmanager
def attached(cluster: Scripted, run: Work, cursor: str | None = None) -> Iterator[Following]:
    context = cluster.context(run, cursor)
    with ThreadPoolExecutor(1) as pool:
        try:
            yield Following(context, pool.submit(follow_on, cluster.adapter, run, cluster.handle(run), context))
        finally:
            cluster.fake.behave()
            context.stop()


def begun(cluster: Scripted, following: Following) -> dict[str, Any]:
    """The Pod of the only Job, once it runs."""
    eventually(lambda: cluster.fake.of_kind("pods") or following.result.done())
    pod = cluster.fake.only_pod()
    cluster.fake.start(pod)
    return pod


def heartbeats_more(following: Following, more: int = 2) -> None:
    """Wait until there are as many heartbeats more than now."""
    least = following.context.heartbeats + more
    eventually(lambda: following.context.heartbeats >= least, interval=0.01)


def requests(cluster: Scripted, method: str, ending: str) -> int:
    return sum(1 for one, path, _ in cluster.fake.requests if one == method and path.endswith(ending))


# -- creating


def test_a_handle_is_recorded_before_the_job_is_created(cluster: Scripted) -> None:
    run = cluster.work("true")
    seen: list[int] = []
    context = cluster.context(run)
    record = context.on_dispatch

    def recording(handle: dict[str, Any], host: str | None = None) -> None:
        seen.append(len(cluster.fake.of_kind("jobs")))
        record(handle, host)

    context.on_dispatch = recording  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(carry_out, cluster.adapter, run, context)
        eventually(lambda: cluster.fake.of_kind("jobs"))
        context.stop()
        result.result(30)
    assert seen == [0] + [1] * (len(seen) - 1)
    assert [handle["uid"] is None for handle, _ in context.dispatched] == [True] + [False] * (len(seen) - 1)


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        (403, "Forbidden", 'jobs.batch is forbidden: User "worker" cannot create resource "jobs"'),
        (403, "Forbidden", "failed quota: small: must specify limits.cpu for: run"),
        (422, "Invalid", "Job.batch is invalid: spec.template.spec.containers[0].image: Required value"),
    ],
)
def test_a_refused_creation_fails_the_run_with_the_platforms_reason(
    cluster: Scripted, status: int, reason: str, message: str
) -> None:
    cluster.fake.misbehave("POST", "/jobs", status=status, reason=reason, message=message)
    run = cluster.work("true")
    outcome = carry_out(cluster.adapter, run, cluster.context(run))
    assert outcome.error_code is ErrorCode.ADAPTER_ERROR
    told = f"The Job could not be created: the API server refused it ({status} {reason}): {message}."
    assert outcome.error_message == told
    assert outcome.detail == {"reason": reason, "http_status": status}
    assert requests(cluster, "POST", "/jobs") == 1


@pytest.mark.parametrize(
    "how",
    [
        {"status": 500, "reason": "InternalError"},
        {"status": 503, "body": b"<html>no upstream</html>"},
        {"status": 429, "reason": "TooManyRequests", "headers": {"Retry-After": "1"}},
        {"status": 401, "reason": "Unauthorized"},
        {"how": "reset"},
        {"how": "hang"},
        {"how": "truncate"},
        {"how": "lose"},
    ],
    ids=lambda how: str(how.get("status", how.get("how"))),
)
def test_a_creation_that_was_not_answered_is_tried_again_and_creates_one_job(
    cluster: Scripted, how: dict[str, Any]
) -> None:
    cluster.fake.misbehave("POST", "/jobs", **how)
    with followed(cluster, cluster.work("true")) as following:
        pod = begun(cluster, following)
        cluster.fake.finish(pod)
        assert following.outcome().error_code is None
    assert requests(cluster, "POST", "/jobs") == 2
    assert len(cluster.fake.of_kind("jobs")) == 1
    assert [note for note in following.context.notes if note.startswith("The Job could not be created yet")]


def test_a_quota_that_our_own_job_fills_is_no_refusal_of_it(cluster: Scripted) -> None:
    with cluster.fake.changed:
        cluster.fake.misbehave("POST", "/jobs", how="lose")
        cluster.fake.misbehave("POST", "/jobs", status=403, reason="Forbidden", message="exceeded quota: small")
    with followed(cluster, cluster.work("true")) as following:
        pod = begun(cluster, following)
        cluster.fake.finish(pod)
        assert following.outcome().error_code is None


def test_told_to_stop_while_the_creation_is_not_answered_nothing_is_left(cluster: Scripted) -> None:
    cluster.fake.misbehave("POST", "/jobs", times=float("inf"), how="lose")
    cluster.fake.misbehave("GET", "/jobs/", times=float("inf"), status=500)
    with followed(cluster, cluster.work("true")) as following:
        eventually(lambda: requests(cluster, "POST", "/jobs") >= 2)
        cluster.fake.behave()
        following.context.stop()
        assert following.outcome() == STOPPED
    assert cluster.fake.of_kind("jobs") == cluster.fake.of_kind("pods") == []


def test_without_the_client_the_run_fails_with_what_to_install(
    cluster: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    importing = builtins.__import__

    def without_client(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "kubernetes":
            raise ImportError(name)
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_client)
    run = cluster.work("true")
    adapter, context = cluster.another(FAST), cluster.context(run)
    outcome = carry_out(adapter, run, context)
    assert "install reprieve[kubernetes]" in str(outcome.error_message)
    assert context.dispatched == []
    assert adapter.probe([cluster.handle(run)]) == [Probe.UNKNOWN]
    with pytest.raises(NotConnected, match="install"):
        adapter.terminate(cluster.handle(run))


def test_without_a_cluster_the_run_fails_with_what_to_set(
    cluster: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    run = cluster.work("true")
    outcome = carry_out(cluster.another(FAST), run, cluster.context(run))
    assert "nothing says how to reach a cluster" in str(outcome.error_message)
    assert "KUBECONFIG" in str(outcome.error_message)


# -- following


@pytest.mark.parametrize("how", [{"how": "hang"}, {"how": "reset"}, {"status": 500}, {"how": "cut", "after": 0}])
def test_whatever_the_log_does_the_platforms_word_keeps_the_run_alive(cluster: Scripted, how: dict[str, Any]) -> None:
    cluster.fake.misbehave("GET", "/log", times=float("inf"), **how)
    with followed(cluster, cluster.work("true")) as following:
        pod = begun(cluster, following)
        cluster.fake.write(pod, b"late\n")
        eventually(lambda: requests(cluster, "GET", "/log"))
        heartbeats_more(following, 5)
        assert following.context.output() == b""
        cluster.fake.behave()
        following.wait_for(b"late\n")
        cluster.fake.finish(pod)
        assert following.outcome().error_code is None
    assert following.context.output() == b"late\n"


def test_a_full_buffer_that_holds_the_log_back_does_not_hold_the_heartbeats_back(cluster: Scripted) -> None:
    run = cluster.work("true")
    context = cluster.context(run)
    full, waiting = threading.Event(), threading.Event()

    class Full(AsyncRecordingContext):
        async def on_log(self, stream: str, chunk: bytes | str, cursor: str | None = None) -> None:
            waiting.set()
            await asyncio.to_thread(full.wait, 30)
            await super().on_log(stream, chunk, cursor)

    async def execute() -> Outcome:
        return await cluster.adapter.execute(run, Full(context))

    with ThreadPoolExecutor(1) as pool:
        loop = Loop("follow")
        following = Following(context, pool.submit(lambda: loop.run(execute()).result()))
        pod = begun(cluster, following)
        cluster.fake.write(pod, b"one\n")
        eventually(waiting.is_set)
        heartbeats_more(following, 5)
        full.set()
        cluster.fake.finish(pod)
        assert following.outcome().error_code is None
    assert context.output() == b"one\n"


def test_a_stream_that_stays_open_after_the_end_does_not_keep_the_run_open(cluster: Scripted) -> None:
    # It does not end by being silent for too long either.
    patient = cluster.another(replace(FAST, log=replace(FAST.log, silence=600.0)))
    with followed(cluster, cluster.work("true"), adapter=patient) as following:
        pod = begun(cluster, following)
        cluster.fake.write(pod, b"one\n")
        following.wait_for(b"one\n")
        log = cluster.fake.logs[pod["metadata"]["uid"]]
        with cluster.fake.changed:
            cluster.fake.finish(pod)
            log.ended = False
        assert following.outcome().error_code is None
    assert following.context.output() == b"one\n"


def test_what_is_written_last_is_read_before_the_end_is_reported(cluster: Scripted) -> None:
    with followed(cluster, cluster.work("true")) as following:
        pod = begun(cluster, following)
        with cluster.fake.changed:
            # As when the way from the API server to the node breaks: to the client, the log is over.
            cluster.fake.misbehave("GET", "/log", how="end", after=2000)
            cluster.fake.misbehave("GET", "/log", how="end", after=9000)
            cluster.fake.write(pod, b"".join(b"line %d\n" % number for number in range(500)))
            cluster.fake.finish(pod, 1)
        assert following.outcome().detail["exit_status"] == 1
    assert following.context.output() == b"".join(b"line %d\n" % number for number in range(500))


def test_a_log_that_cannot_be_had_any_more_is_told_and_does_not_hold_the_end_up_for_ever(cluster: Scripted) -> None:
    with followed(cluster, cluster.work("true")) as following:
        pod = begun(cluster, following)
        cluster.fake.misbehave("GET", "/log", times=float("inf"), status=500, message="dial tcp: no route to host")
        cluster.fake.finish(pod, 137, reason="OOMKilled")
        outcome = following.outcome()
    assert outcome.detail["reason"] == "OOMKilled"
    assert "could not be read" in outcome.detail["log"]
    assert outcome.detail["log"] in following.context.notes


def test_the_end_of_the_log_is_waited_for_while_nobody_answers(cluster: Scripted) -> None:
    with followed(cluster, cluster.work("true")) as following:
        pod = begun(cluster, following)
        heartbeats_more(following)
        with cluster.fake.changed:
            cluster.fake.misbehave("GET", "/pods/", times=float("inf"), status=503)
            cluster.fake.write(pod, b"last words\n")
            cluster.fake.finish(pod)
        tries = requests(cluster, "GET", "/log")
        # Longer than the patience with a log that alone is not to be had.
        eventually(
            lambda: requests(cluster, "GET", "/log") > tries + 1.5 * FAST.log.end_patience / FAST.log.longest_pause
        )
        assert not following.result.done()
        cluster.fake.behave()
        assert "log" not in following.outcome().detail
    assert following.context.output() == b"last words\n"


def test_a_job_that_has_ended_is_not_waited_for_for_ever_when_its_node_does_not_say_so(cluster: Scripted) -> None:
    with followed(cluster, cluster.work("true")) as following:
        pod = begun(cluster, following)
        cluster.fake.write(pod, b"one\n")
        following.wait_for(b"one\n")
        cluster.fake.end_job(pod, "Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
        outcome = following.outcome()
    assert (outcome.detail["reason"], following.context.output()) == ("DeadlineExceeded", b"one\n")
    assert "log" not in outcome.detail
    assert not outcome.work_ended


def test_a_job_that_has_failed_before_its_pods_grace_was_over_is_read_until_then(cluster: Scripted) -> None:
    """Before Kubernetes 1.31, a Job is `Failed` as soon as its Pod is to go; the command may still say its last."""
    with followed(cluster, cluster.work("true")) as following:
        pod = begun(cluster, following)
        with cluster.fake.changed:
            pod["metadata"] |= {"deletionTimestamp": "2027-01-15T08:00:00Z", "deletionGracePeriodSeconds": 30}
            cluster.fake.disrupt(pod, "EvictionByEvictionAPI", "Eviction API: evicting")
            cluster.fake.end_job(pod, "Failed", "BackoffLimitExceeded")
        time.sleep(cluster.timings.end_grace + 0.5)
        assert not following.result.done()
        cluster.fake.write(pod, b"checkpoint written\n")
        following.wait_for(b"checkpoint written\n")
        cluster.fake.finish(pod, 143)
        outcome = following.outcome()
    assert (outcome.detail["reason"], outcome.work_ended) == ("Evicted", True)
    assert following.context.output() == b"checkpoint written\n"


@pytest.mark.row("B15")
@pytest.mark.parametrize("grace", [0.3, 2.0])
def test_a_pod_that_never_goes_from_a_lost_node_does_not_keep_its_run_for_ever(cluster: Scripted, grace: float) -> None:
    """Since Kubernetes 1.31 the Job fails once its Pods are gone, which on a node that is away they never are."""
    with followed(cluster, cluster.work("true")) as following:
        pod = begun(cluster, following)
        cluster.fake.write(pod, b"one\n")
        following.wait_for(b"one\n")
        cluster.fake.holds_deletions, cluster.fake.grace = True, grace
        begin = time.monotonic()
        cluster.fake.taint("node-1")
        cluster.fake.misbehave("GET", "/log", times=float("inf"), status=500, reason="InternalError")
        heartbeats_more(following)
        outcome = following.outcome()
    assert outcome.error_code is ErrorCode.ADAPTER_ERROR
    assert (outcome.detail["reason"], outcome.detail["node"]) == ("NodeLost", "node-1")
    assert not outcome.work_ended, "another attempt would begin beside it"
    assert time.monotonic() - begin >= grace + cluster.timings.end_grace
    assert following.context.output() == b"one\n"


def test_a_node_is_not_taken_for_lost_while_nobody_can_say_how_its_pod_is(cluster: Scripted) -> None:
    """The API server is away for longer than the Pod has to end in, which then has ended as it should."""
    with followed(cluster, cluster.work("true")) as following:
        pod = begun(cluster, following)
        cluster.fake.holds_deletions, cluster.fake.grace = True, 0.3
        cluster.fake.evict(pod)
        eventually(lambda: any("evicted" in note for note in following.context.notes))
        cluster.fake.go_away()
        time.sleep(cluster.fake.grace + cluster.timings.end_grace + 0.5)
        cluster.fake.finish(pod, 143)
        cluster.fake.come_back()
        outcome = following.outcome()
    assert (outcome.detail["reason"], outcome.work_ended) == ("Evicted", True)


def test_a_pod_that_is_deleted_and_whose_job_does_not_fail_for_that_is_waited_for(cluster: Scripted) -> None:
    """Nothing says that the attempt is over: the Job may be one that is to have another Pod."""
    with followed(cluster, cluster.work("true")) as following:
        pod = begun(cluster, following)
        cluster.fake.holds_deletions = True
        pod["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
        heartbeats_more(following, 40)
        assert not following.result.done()
        cluster.fake.finish(pod, 3)
        assert following.outcome().detail["exit_status"] == 3


def test_a_pod_that_is_deleted_at_the_end_leaves_a_sentence_about_its_log(cluster: Scripted) -> None:
    with followed(cluster, cluster.work("true")) as following:
        pod = begun(cluster, following)
        cluster.fake.write(pod, b"one\n")
        following.wait_for(b"one\n")
        with cluster.fake.changed:
            cluster.fake.end_job(pod, "Failed", "DeadlineExceeded")
            cluster.fake.remove(pod)
            # Its stream stays open, as it does when the node is gone.
            cluster.fake.logs[pod["metadata"]["uid"]].ended = False
        outcome = following.outcome()
    assert outcome.detail["reason"] == "DeadlineExceeded"
    assert "could not be read" in outcome.detail["log"]


def test_the_job_alone_is_proof_of_life_when_its_pods_may_not_be_listed(cluster: Scripted) -> None:
    cluster.fake.misbehave("GET", "/pods", times=float("inf"), status=403, reason="Forbidden")
    with followed(cluster, cluster.work("true")) as following:
        heartbeats_more(following, 4)
        assert "403 Forbidden" in following.context.notes[0]


def test_a_pod_that_replaces_another_is_read_after_it_and_its_end_counts(cluster: Scripted) -> None:
    with followed(cluster, cluster.work("true")) as following:
        first = begun(cluster, following)
        cluster.fake.write(first, b"first\n")
        following.wait_for(b"first\n")
        cursor = following.context.chunks[-1][2]
        (job,) = cluster.fake.of_kind("jobs")
        with cluster.fake.changed:
            second = cluster.fake.create_pod(job)
            cluster.fake.start(second)
            cluster.fake.remove(first)
        cluster.fake.write(second, b"second\n")
        following.wait_for(b"second\n")
        with attached(cluster, Work(following.context.run_id, 1, 1, "", {}, {}), cursor) as another:
            another.wait_for(b"second\n")
        eventually(another.result.done)
        # Told to stop, the second follower has ended the Job, as it should.
        assert cluster.fake.of_kind("jobs") == []
    assert following.context.output() == b"first\nsecond\n"
    assert another.context.output() == b"second\n"


def test_a_job_that_has_vanished_gives_no_heartbeat_and_no_end_until_told_to_stop(cluster: Scripted) -> None:
    with followed(cluster, cluster.work("true")) as following:
        begun(cluster, following)
        heartbeats_more(following)
        for thing in [*cluster.fake.of_kind("jobs"), *cluster.fake.of_kind("pods")]:
            cluster.fake.remove(thing)
        eventually(lambda: any("not there any more" in note for note in following.context.notes))
        asked, heartbeats = len(cluster.fake.requests), following.context.heartbeats
        eventually(lambda: len(cluster.fake.requests) > asked + 10)
        assert (following.context.heartbeats, following.result.done()) == (heartbeats, False)
        following.context.stop()
        assert following.outcome() == STOPPED


def test_who_attaches_to_a_job_that_has_vanished_waits_to_be_told(cluster: Scripted) -> None:
    run = cluster.work("true")
    with attached(cluster, run) as following:
        eventually(lambda: requests(cluster, "GET", cluster.handle(run)["name"]) > 10)
        assert (following.context.heartbeats, following.result.done()) == (0, False)
        following.context.stop()
        assert following.outcome() == STOPPED


def test_a_404_that_is_not_the_api_servers_is_no_absence(cluster: Scripted) -> None:
    with followed(cluster, cluster.work("true")) as following:
        pod = begun(cluster, following)
        heartbeats_more(following)
        cluster.fake.misbehave("GET", "/jobs/", times=3, status=404, body=b"<html>not found</html>")
        heartbeats_more(following, 4)
        cluster.fake.finish(pod)
        assert following.outcome().error_code is None
    assert not any("not there any more" in note for note in following.context.notes)


@pytest.mark.parametrize("call", ["heartbeat", "on_log", "wait"])
def test_released_wherever_it_is_raised_passes_through_and_leaves_the_job_alone(cluster: Scripted, call: str) -> None:
    run = cluster.work("true")
    context = cluster.context(run)
    go = threading.Event()
    original: Callable[..., Any] = getattr(context, call)

    def released(*given: Any) -> Any:
        if go.is_set():
            raise Released("leave it")
        return original(*given)

    setattr(context, call, released)
    with ThreadPoolExecutor(1) as pool:
        following = Following(context, pool.submit(carry_out, cluster.adapter, run, context))
        pod = begun(cluster, following)
        eventually(lambda: requests(cluster, "GET", "/log"))
        go.set()
        if call == "wait":
            context.release()
        cluster.fake.write(pod, b"one\n")
        with pytest.raises(Released):
            following.outcome()
    assert len(cluster.fake.of_kind("jobs")) == len(cluster.fake.of_kind("pods")) == 1
    # With it ends what reads its log.
    eventually(cluster.is_idle)


# -- what cannot begin


def test_a_pod_that_cannot_begin_is_noted_once_and_fails_the_run_after_the_limit(cluster: Scripted) -> None:
    adapter = cluster.another(replace(FAST, blocked_limit=0.5))
    with followed(cluster, cluster.work("true"), adapter=adapter) as following:
        eventually(lambda: cluster.fake.of_kind("pods"))
        cluster.fake.wait(cluster.fake.only_pod(), "CreateContainerConfigError", 'secret "deploy" not found')
        outcome = following.outcome()
    told = "The container 'run' cannot be started: CreateContainerConfigError: secret \"deploy\" not found."
    assert outcome == Outcome.failed(f"It could not begin within 0.5 s. {told}", reason="CreateContainerConfigError")
    assert following.context.notes == [told]
    assert following.context.heartbeats >= 2
    assert cluster.fake.of_kind("jobs") == cluster.fake.of_kind("pods") == []


def test_a_quota_that_keeps_the_pod_from_being_created_is_noted(cluster: Scripted) -> None:
    cluster.fake.creates_pods = False
    with followed(cluster, cluster.work("true")) as following:
        eventually(lambda: cluster.fake.of_kind("jobs"))
        (job,) = cluster.fake.of_kind("jobs")
        cluster.fake.misbehave("GET", "/events", times=2, status=403, reason="Forbidden")
        cluster.fake.tell(job, "FailedCreate", 'pods "x" is forbidden: exceeded quota: small')
        eventually(lambda: following.context.notes)
        told = 'The Job\'s Pod cannot be created: pods "x" is forbidden: exceeded quota: small.'
        assert following.context.notes == [told]
        assert not following.result.done()


def test_a_pod_that_begins_after_all_is_not_failed_by_the_time_it_had_to_wait(cluster: Scripted) -> None:
    adapter = cluster.another(replace(FAST, blocked_limit=0.5))
    with followed(cluster, cluster.work("true"), adapter=adapter) as following:
        eventually(lambda: cluster.fake.of_kind("pods"))
        pod = cluster.fake.only_pod()
        cluster.fake.wait(pod, "ImagePullBackOff")
        eventually(lambda: following.context.notes)
        cluster.fake.start(pod)
        heartbeats_more(following, 15)
        assert not following.result.done()
        cluster.fake.finish(pod)
        assert following.outcome().error_code is None


def test_the_time_that_an_attempt_may_be_kept_from_beginning_counts_anew_after_each_step(cluster: Scripted) -> None:
    adapter = cluster.another(replace(FAST, blocked_limit=0.5))
    with followed(cluster, cluster.work("true"), adapter=adapter) as following:
        context, heartbeats = following.context, []
        note = context.note

        def noting(sentence: str) -> None:
            note(sentence)
            heartbeats.append(context.heartbeats)

        context.note = noting  # type: ignore[method-assign]
        eventually(lambda: cluster.fake.of_kind("pods"))
        pod = cluster.fake.only_pod()
        cluster.fake.wait(pod, "CreateContainerConfigError")
        eventually(lambda: heartbeats)
        cluster.fake.wait(pod, "ContainerCreating")
        heartbeats_more(following, 15)
        assert not following.result.done()
        cluster.fake.wait(pod, "ImagePullBackOff")
        assert following.outcome().detail["reason"] == "ImagePullBackOff"
        assert context.heartbeats > heartbeats[-1]


# -- ending


def test_ending_waits_until_the_pods_are_gone(cluster: Scripted) -> None:
    run = cluster.work("true")
    with followed(cluster, run) as following:
        begun(cluster, following)
        heartbeats_more(following)
        cluster.fake.holds_deletions = True
        with ThreadPoolExecutor(1) as pool:
            ending = pool.submit(cluster.adapter.terminate, cluster.handle(run))
            listed = requests(cluster, "GET", "/pods")
            eventually(lambda: cluster.fake.deleted and requests(cluster, "GET", "/pods") > listed + 4)
            assert not ending.done()
            cluster.fake.let_go()
            ending.result(30)
        assert cluster.fake.of_kind("pods") == []


def test_ending_what_does_not_go_is_an_error_and_is_no_second_deletion(cluster: Scripted) -> None:
    run = cluster.work("true")
    impatient = cluster.another(replace(FAST, termination_limit=0.3))
    with followed(cluster, run) as following:
        pod = begun(cluster, following)
        cluster.fake.holds_deletions = True
        for _ in range(2):
            with pytest.raises(NotGone, match=r"still there 0\.3 s after it was deleted"):
                impatient.terminate(cluster.handle(run))
        assert cluster.fake.deleted == [cluster.handle(run)["name"], pod["metadata"]["name"]]
        cluster.fake.let_go()


def test_pods_that_their_job_has_left_behind_are_deleted_too(cluster: Scripted) -> None:
    run = cluster.work("true")
    with followed(cluster, run) as following:
        begun(cluster, following)
        (job,) = cluster.fake.of_kind("jobs")
        cluster.fake.remove(job)
        cluster.adapter.terminate(cluster.handle(run))
        assert cluster.fake.of_kind("pods") == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_an_end_that_is_not_answered_is_not_confirmed(cluster: Scripted, method: str, status: int) -> None:
    run = cluster.work("true")
    with followed(cluster, run) as following:
        begun(cluster, following)
        cluster.fake.misbehave(method, "/jobs/", times=float("inf"), status=status)
        with pytest.raises(ApiError):
            cluster.adapter.terminate(cluster.handle(run))
        assert cluster.exists(run)


def test_a_handle_of_another_kind_ends_nothing(cluster: Scripted) -> None:
    run = cluster.work("true")
    with followed(cluster, run) as following:
        begun(cluster, following)
        with pytest.raises(ValueError, match="not the name of a Job of Reprieve"):
            cluster.adapter.terminate({"namespace": "default", "name": "everything"})
        assert cluster.fake.deleted == []


def test_stopping_when_nobody_answers_returns_and_leaves_the_end_to_be_asked_again(cluster: Scripted) -> None:
    with followed(cluster, cluster.work("true")) as following:
        begun(cluster, following)
        heartbeats_more(following)
        cluster.fake.misbehave("GET", "/jobs/", times=float("inf"), status=503)
        following.context.stop()
        assert following.outcome() == STOPPED
        assert len(cluster.fake.of_kind("jobs")) == 1


# -- probing


def test_a_list_of_several_pages_is_read_to_its_end(tmp_path: Path) -> None:
    with scripted_cluster(tmp_path, max_page=2) as cluster:
        runs = [cluster.work("true") for _ in range(5)]
        for run in runs:
            cluster.fake.create_job("default", _job_of(cluster, run))
        handles = [cluster.handle(run) for run in runs]
        assert cluster.adapter.probe(handles) == [Probe.ALIVE] * 5
        # The second page fails: of none of them may it be said that it is not there.
        cluster.fake.misbehave("GET", "%3A2", status=410, reason="Expired")
        assert cluster.adapter.probe(handles) == [Probe.UNKNOWN] * 5


def test_each_namespace_is_asked_once_and_one_that_fails_costs_no_other(cluster: Scripted) -> None:
    run, elsewhere = cluster.work("true"), cluster.work("true")
    cluster.fake.create_job("default", _job_of(cluster, run))
    cluster.fake.visible = {"default"}
    there = {**cluster.handle(elsewhere), "namespace": "other"}
    cluster.fake.requests.clear()
    said = cluster.adapter.probe([there, cluster.handle(run), cluster.handle(run)])
    assert said == [Probe.UNKNOWN, Probe.ALIVE, Probe.ALIVE]
    assert len(cluster.fake.requests) == 2


def test_very_many_handles_are_asked_about_by_one_list_as_well(cluster: Scripted) -> None:
    runs = [cluster.work("true") for _ in range(60)]
    for run in runs[:-1]:
        cluster.fake.create_job("default", _job_of(cluster, run))
    said = cluster.adapter.probe([cluster.handle(run) for run in runs])
    assert said == [Probe.ALIVE] * 59 + [Probe.DEAD]
    assert requests(cluster, "GET", "/jobs") == 1


def _job_of(cluster: Scripted, run: Work) -> dict[str, Any]:
    return manifest(run, KubernetesConfig.model_validate(run.config))
