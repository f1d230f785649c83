"""B15: the end is told from what was seen, not from what is left when somebody looks again."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reprieve.adapters.kinds import validate_config
from reprieve.adapters.kubernetes.adapter import KubernetesAdapter
from reprieve.adapters.kubernetes.config import MIN_TTL_SECONDS, accepted
from reprieve.adapters.kubernetes.job import manifest
from reprieve.adapters.kubernetes.seen import Seen, Weight, later
from reprieve.adapters.kubernetes.state import seen_of
from reprieve.models.errors import InvalidRequest, Released
from reprieve.models.liveness import SWEEP_INTERVAL, WINDOW
from reprieve.models.status import ErrorCode, Probe
from reprieve.models.work import Outcome, Work
from reprieve.testing.contexts import Following, RecordingContext, carry_out, follow_on
from tests.contract.clusters import Scripted, scripted_cluster
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("B15")

Pod = dict[str, Any]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Scripted]:
    with scripted_cluster(tmp_path) as cluster:
        cluster.fake.grace = 30.0
        yield cluster


@contextmanager
def followed(
    cluster: Scripted, run: Work, attach: dict[str, Any] | None = None
) -> Iterator[tuple[Following, RecordingContext]]:
    context = cluster.context(run)
    with ThreadPoolExecutor(1) as pool:
        try:
            if attach is None:
                yield Following(context, pool.submit(carry_out, cluster.adapter, run, context)), context
            else:
                yield Following(context, pool.submit(follow_on, cluster.adapter, run, attach, context)), context
        finally:
            cluster.fake.behave()
            cluster.fake.grace = 0.0
            context.stop()


def begun(cluster: Scripted, node: str = "n1") -> Pod:
    eventually(lambda: cluster.fake.of_kind("pods"))
    pod = cluster.fake.only_pod()
    cluster.fake.start(pod, node)
    return pod


def last_seen(context: RecordingContext) -> str:
    """The sentence that is kept in the newest handle."""
    handle = context.dispatched[-1][0] if context.dispatched else {}
    return str(handle.get("seen", {}).get("sentence"))


def noted(context: RecordingContext, part: str) -> None:
    eventually(lambda: any(part in note for note in context.notes), what=f"a note that says {part!r}")


def vanish(cluster: Scripted) -> None:
    """Job, Pods and log are gone, without anybody having looked."""
    with cluster.fake.changed:
        for thing in [*cluster.fake.of_kind("jobs"), *cluster.fake.of_kind("pods")]:
            cluster.fake.remove(thing)


def lost(cluster: Scripted, pod: Pod) -> None:
    """The Pod is gone, and its Job has failed, between two looks."""
    with cluster.fake.changed:
        cluster.fake.remove(pod)
        cluster.fake.end_job(pod, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")


def kubelet_evicts(cluster: Scripted, pod: Pod) -> None:
    with cluster.fake.changed:
        pod["status"] |= {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}


def killed(cluster: Scripted, pod: Pod, code: int, reason: str) -> None:
    """Its container ends; the Job is not told to have failed yet."""
    ended = {"exitCode": code, "reason": reason, "finishedAt": "2026-11-25T10:00:00Z"}
    with cluster.fake.changed:
        cluster.fake._state(pod, {"terminated": ended}, "Failed" if code else "Succeeded")
        cluster.fake.fail_soon(pod)


def taken_by(reason: str, message: str) -> Callable[[Scripted, Pod], None]:
    return lambda cluster, pod: cluster.fake.disrupt(pod, reason, message)


ENDS = [
    pytest.param(
        kubelet_evicts,
        ErrorCode.ADAPTER_ERROR,
        "Its Pod was evicted from node n1 (The node was low on resource: memory.)",
        {"reason": "Evicted", "node": "n1"},
        id="evicted by its node",
    ),
    pytest.param(
        lambda cluster, pod: cluster.fake.evict(pod),
        ErrorCode.ADAPTER_ERROR,
        "Its Pod was evicted from node n1 (Eviction API: evicting).",
        {"reason": "Evicted", "node": "n1"},
        id="evicted by the API",
    ),
    pytest.param(
        lambda cluster, pod: cluster.fake.taint("n1"),
        ErrorCode.ADAPTER_ERROR,
        "Its Pod was lost with node n1, which went away, was drained or shut down "
        "(Taint manager: deleting due to NoExecute taint).",
        {"reason": "NodeLost", "node": "n1"},
        id="a NoExecute taint",
    ),
    pytest.param(
        taken_by("DeletionByPodGC", "PodGC: node no longer exists"),
        ErrorCode.ADAPTER_ERROR,
        "Its Pod was lost with node n1, which went away, was drained or shut down (PodGC: node no longer exists).",
        {"reason": "NodeLost", "node": "n1"},
        id="lost with its node",
    ),
    pytest.param(
        taken_by("PreemptionByScheduler", "preempting"),
        ErrorCode.ADAPTER_ERROR,
        "Its Pod had to make room on node n1 for one of higher priority (preempting).",
        {"reason": "Preempted", "node": "n1"},
        id="preempted",
    ),
    pytest.param(
        lambda cluster, pod: cluster.fake.delete(pod),
        ErrorCode.ADAPTER_ERROR,
        "Its Pod was deleted from node n1.",
        {"reason": "Deleted", "node": "n1"},
        id="deleted by hand",
    ),
    pytest.param(
        lambda cluster, pod: killed(cluster, pod, 137, "OOMKilled"),
        ErrorCode.OOM_KILLED,
        "The container used more memory than it may and was killed (OOMKilled).",
        {"reason": "OOMKilled", "exit_status": 137, "node": "n1", "at": "2026-11-25T10:00:00Z"},
        id="memory",
    ),
    pytest.param(
        lambda cluster, pod: killed(cluster, pod, 143, "Error"),
        ErrorCode.EXIT_STATUS,
        "The command was ended by SIGTERM.",
        {"signal": 15, "exit_status": 143, "node": "n1"},
        id="signal",
    ),
]


def check(outcome: Outcome, code: ErrorCode, sentence: str, detail: dict[str, Any]) -> None:
    assert (outcome.error_code, outcome.error_message) == (code, sentence)
    assert outcome.detail.items() >= detail.items()


@pytest.mark.parametrize(("end", "code", "sentence", "detail"), ENDS)
def test_a_pod_that_is_gone_when_its_job_fails_ended_by_what_was_seen_of_it(
    cluster: Scripted, end: Callable[[Scripted, Pod], None], code: ErrorCode, sentence: str, detail: dict[str, Any]
) -> None:
    with followed(cluster, cluster.work("true")) as (following, context):
        pod = begun(cluster)
        end(cluster, pod)
        eventually(lambda: last_seen(context) == sentence)
        lost(cluster, pod)
        check(following.outcome(), code, sentence, detail)


@pytest.mark.parametrize(("end", "code", "sentence", "detail"), ENDS)
def test_a_job_that_is_gone_with_its_pod_ended_by_what_was_seen_of_them(
    cluster: Scripted, end: Callable[[Scripted, Pod], None], code: ErrorCode, sentence: str, detail: dict[str, Any]
) -> None:
    with followed(cluster, cluster.work("true")) as (following, context):
        end(cluster, begun(cluster))
        eventually(lambda: last_seen(context) == sentence)
        vanish(cluster)
        outcome = following.outcome()
    check(outcome, code, sentence, detail)
    assert "may lack its end" in outcome.detail["log"]


@pytest.mark.parametrize(("end", "code", "sentence", "detail"), ENDS)
def test_who_attaches_afterwards_tells_the_end_that_another_has_seen(
    cluster: Scripted, end: Callable[[Scripted, Pod], None], code: ErrorCode, sentence: str, detail: dict[str, Any]
) -> None:
    run = cluster.work("true")
    with followed(cluster, run) as (following, context):
        end(cluster, begun(cluster))
        eventually(lambda: last_seen(context) == sentence)
        context.release()
        with pytest.raises(Released):
            following.outcome()
    vanish(cluster)
    handle = context.dispatched[-1][0]
    # It has ended, and its end is still to be told.
    assert cluster.adapter.probe([handle]) == [Probe.ENDED]
    check(follow_on(cluster.adapter, run, handle, cluster.context(run)), code, sentence, detail)


def test_what_is_about_to_end_the_work_is_told_at_once(cluster: Scripted) -> None:
    with followed(cluster, cluster.work("true")) as (_, context):
        pod = begun(cluster)
        cluster.fake.fail_soon(pod, "PodFailurePolicy", "Container run failed")
        noted(context, "The Job is about to fail (PodFailurePolicy: Container run failed).")
        cluster.fake.end_job(pod, "SuccessCriteriaMet", "CompletionsReached")
        noted(context, "The Job is about to be complete (CompletionsReached).")
        cluster.fake.delete(pod)
        noted(context, "Its Pod was deleted from node n1.")


def test_a_job_that_failed_before_it_was_gone_is_told_by_the_condition_that_was_seen(cluster: Scripted) -> None:
    with followed(cluster, cluster.work("true")) as (following, context):
        cluster.fake.fail_soon(begun(cluster), "PodFailurePolicy", "Container run failed")
        noted(context, "about to fail")
        vanish(cluster)
        outcome = following.outcome()
    assert outcome.error_message == "The Job was failing (PodFailurePolicy: Container run failed)."
    assert outcome.detail["reason"] == "PodFailurePolicy"


def test_a_job_that_is_gone_is_the_reapers_to_judge_while_nothing_was_seen_but_that_it_ran(
    cluster: Scripted,
) -> None:
    run = cluster.work("true")
    with followed(cluster, run) as (following, context):
        begun(cluster)
        eventually(lambda: last_seen(context) == "Its Pod was last seen running on node n1.")
        context.release()
        with pytest.raises(Released):
            following.outcome()
    vanish(cluster)
    handle = context.dispatched[-1][0]
    assert cluster.adapter.probe([handle]) == [Probe.DEAD]
    with followed(cluster, run, attach=handle) as (another, its):
        noted(its, "somebody has deleted it. Its Pod was last seen running on node n1.")
        assert not another.result.done()


@pytest.mark.parametrize("complete", [False, True])
def test_a_job_that_is_gone_with_its_log_has_not_succeeded(cluster: Scripted, complete: bool) -> None:
    with followed(cluster, cluster.work("true")) as (following, context):
        pod = begun(cluster)
        # What it printed cannot be read, nor whether its Pod is there.
        cluster.fake.misbehave("GET", "/pods/", times=float("inf"), status=500)
        with cluster.fake.changed:
            killed(cluster, pod, 0, "Completed")
            if complete:
                cluster.fake.end_job(pod, "Complete", "CompletionsReached")
        eventually(lambda: context.dispatched and "exit_status" in str(context.dispatched[-1][0]))
        heartbeats = context.heartbeats
        if complete:
            eventually(lambda: any(query.get("follow") == "false" for _, _, query in cluster.fake.requests))
        else:
            eventually(lambda: context.heartbeats > heartbeats + 5)
        vanish(cluster)
        cluster.fake.behave()
        outcome = following.outcome()
    assert (outcome.error_code, outcome.detail["reason"]) == (ErrorCode.ADAPTER_ERROR, "Gone")
    assert "ended with exit status 0, but its Job was gone" in str(outcome.error_message)


def test_a_job_that_is_complete_and_whose_pod_is_gone_has_succeeded_and_its_log_is_missed(
    cluster: Scripted,
) -> None:
    run = cluster.work("true")
    job = cluster.fake.create_job("default", manifest(run, accepted(run.config)))
    pod = begun(cluster)
    cluster.fake.finish(pod)
    cluster.fake.remove(pod)
    handle = cluster.handle(run) | {"uid": job["metadata"]["uid"]}
    outcome = follow_on(cluster.adapter, run, handle, cluster.context(run))
    assert (outcome.error_code, outcome.detail["exit_status"]) == (None, 0)
    assert outcome.detail["log"] == "The Pod was gone before the end of its log was read."


def test_a_pod_that_its_node_did_not_take_is_told_with_the_nodes_reason(cluster: Scripted) -> None:
    with followed(cluster, cluster.work("true")) as (following, _):
        eventually(lambda: cluster.fake.of_kind("pods"))
        pod = cluster.fake.only_pod()
        with cluster.fake.changed:
            pod["spec"]["nodeName"] = "n1"
            pod["status"] |= {
                "phase": "Failed",
                "reason": "OutOfcpu",
                "message": "Node did not have enough resource: cpu",
            }
            cluster.fake.end_job(pod, "Failed", "BackoffLimitExceeded")
        outcome = following.outcome()
    assert outcome.error_message == "Its Pod failed on node n1 (OutOfcpu: Node did not have enough resource: cpu)."


def test_a_finished_job_is_deleted_with_its_log_when_its_time_is_over_and_not_before(cluster: Scripted) -> None:
    run = cluster.work("true", ttl_seconds_after_finished=MIN_TTL_SECONDS)
    job = cluster.fake.create_job("default", manifest(run, accepted(run.config)))
    pod = begun(cluster)
    cluster.fake.grace = 0.0
    cluster.fake.write(pod, b"all of it\n")
    cluster.fake.finish(pod)
    handle = cluster.handle(run) | {"uid": job["metadata"]["uid"]}
    # As long as the reaper waits for somebody to read it.
    cluster.fake.pass_time(MIN_TTL_SECONDS - 60)
    context = cluster.context(run)
    assert follow_on(cluster.adapter, run, handle, context).error_code is None
    assert context.output() == b"all of it\n"
    cluster.fake.pass_time(120)
    assert cluster.adapter.probe([handle]) == [Probe.DEAD]
    assert cluster.adapter.probe([context.dispatched[-1][0]]) == [Probe.ENDED]


@pytest.mark.parametrize("seconds", [0, 1, 60, MIN_TTL_SECONDS - 1])
def test_a_time_in_which_nobody_may_have_read_the_end_is_refused_by_the_field_with_what_would_do(
    seconds: int,
) -> None:
    given = {"image": "busybox"}
    for field, config in (
        ("config.ttl_seconds_after_finished", given | {"ttl_seconds_after_finished": seconds}),
        ("patch.spec.ttlSecondsAfterFinished", given | {"patch": {"spec": {"ttlSecondsAfterFinished": seconds}}}),
    ):
        with pytest.raises(InvalidRequest, match=rf"{field}.* must be at least 1800 .*give 1800 or more"):
            validate_config(KubernetesAdapter, config)


def test_the_least_time_is_taken_and_outlasts_the_window_and_two_sweeps() -> None:
    config = {"image": "busybox", "ttl_seconds_after_finished": MIN_TTL_SECONDS}
    assert validate_config(KubernetesAdapter, config)["ttl_seconds_after_finished"] == MIN_TTL_SECONDS
    validate_config(KubernetesAdapter, {"image": "x", "patch": {"spec": {"ttlSecondsAfterFinished": None}}})
    assert (WINDOW + 2 * SWEEP_INTERVAL).total_seconds() < MIN_TTL_SECONDS


def test_a_run_that_the_release_before_accepted_is_kept_for_the_least_time() -> None:
    spec = {"ttlSecondsAfterFinished": 0, "activeDeadlineSeconds": 5}
    config = accepted({"image": "x", "ttl_seconds_after_finished": 0, "patch": {"spec": spec}})
    assert config.ttl_seconds_after_finished == MIN_TTL_SECONDS
    assert config.patch["spec"] == {"ttlSecondsAfterFinished": MIN_TTL_SECONDS, "activeDeadlineSeconds": 5}


# -- what is kept of two states


def seen(pod: str, weight: Weight, sentence: str = "") -> Seen:
    return Seen(pod, weight, Outcome.failed(sentence, reason="x"))


def test_more_is_never_given_up_for_less_of_the_same_pod_but_another_pod_counts_anew() -> None:
    cause, ended = seen("a", Weight.CAUSE), seen("a", Weight.ENDED)
    assert later(ended, cause) is later(cause, ended) is later(cause, None) is cause
    assert later(None, ended) is ended
    newer = seen("b", Weight.UNDER_WAY)
    assert later(cause, newer) is newer
    of_job = seen("", Weight.LEAVING)
    leaving = seen("a", Weight.LEAVING)
    assert later(leaving, of_job) is leaving
    assert later(seen("a", Weight.UNDER_WAY), of_job) is of_job


def test_what_is_kept_is_read_again_and_what_is_no_such_thing_is_nothing() -> None:
    for end in (Outcome.failed("Why.", node="n1"), Outcome(detail={"exit_status": 0})):
        kept = Seen("a", Weight.ENDED, end)
        assert Seen.of_json(kept.as_json()) == kept
    for said in (None, {}, [], "x", {"pod": "a", "weight": 9, "error_code": None, "sentence": "", "detail": {}}):
        assert Seen.of_json(said) is None


def test_what_the_platform_says_is_kept_in_a_form_that_the_database_takes() -> None:
    kept = str(Seen("a", Weight.ENDED, Outcome.failed("NUL \0 and half a pair \ud800")).as_json())
    assert "\0" not in kept
    kept.encode()


# -- which of two causes it was


def leaving(code: int, finished: str, **metadata: Any) -> Pod:
    """A Pod that was to be deleted at 10:00:00, with 30 s of grace, and whose container ended."""
    deleted = {"deletionTimestamp": "2026-11-25T10:00:30Z", "deletionGracePeriodSeconds": 30}
    ended = {"exitCode": code, "reason": "Error", "finishedAt": finished}
    return {
        "metadata": {"name": "p", "uid": "u"} | deleted | metadata,
        "spec": {"nodeName": "n1"},
        "status": {"containerStatuses": [{"name": "run", "state": {"terminated": ended}}]},
    }


@pytest.mark.parametrize(
    ("code", "finished", "reason"),
    [
        (143, "2026-11-25T09:59:59Z", "Error"),
        (143, "2026-11-25T10:00:00Z", "Deleted"),
        (1, "2026-11-25T10:00:29Z", "Deleted"),
        (1, "2026-11-25T09:59:59Z", "Error"),
        (137, "", "Deleted"),
    ],
)
def test_a_command_that_ended_after_its_pod_was_to_be_deleted_ended_by_that(
    code: int, finished: str, reason: str
) -> None:
    kept = seen_of({}, [leaving(code, finished)])
    assert kept is not None
    assert (kept.end.detail["reason"], kept.end.detail["exit_status"]) == (reason, code)


def test_a_disruption_for_a_reason_that_is_new_is_told_in_the_platforms_words() -> None:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "Swapped", "message": "Too much of it"}
    pod = leaving(143, "2026-11-25T10:00:01Z")
    pod["status"]["conditions"] = [condition]
    kept = seen_of({}, [pod])
    assert kept is not None
    assert kept.end.error_message == "Its Pod was taken from node n1 (Swapped: Too much of it)."
