"""What the `kubernetes` adapter's watches do when they are cut, out of date, half-open, forbidden, or lie."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from kubernetes.config.exec_provider import ExecProvider

from reprieve.adapters.kubernetes.config import KubernetesConfig
from reprieve.adapters.kubernetes.job import manifest
from reprieve.adapters.loops import Loop
from reprieve.models.errors import Released
from reprieve.models.work import Work
from reprieve.testing.contexts import AsyncRecordingContext, Following, carry_out, follow_on
from tests.contract.clusters import FAST, Scripted, scripted_cluster
from tests.support.waiting import eventually

#: Nothing but the watch itself tells of what happens within a test.
PATIENT = replace(FAST, watch_seconds=60.0, list_interval=600.0)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Scripted]:
    with scripted_cluster(tmp_path, PATIENT) as cluster:
        yield cluster


@contextmanager
def following(
    cluster: Scripted, run: Work | None = None, *, attach: dict[str, Any] | None = None, **config: Any
) -> Iterator[tuple[Following, dict[str, Any]]]:
    """A run that is being followed, with its Pod, which runs."""
    run = run or cluster.work("true", **config)
    context = cluster.context(run)
    with ThreadPoolExecutor(1) as pool:
        try:
            if attach is None:
                result = pool.submit(carry_out, cluster.adapter, run, context)
            else:
                result = pool.submit(follow_on, cluster.adapter, run, attach, context)
            eventually(lambda: pod_of(cluster, run) or result.done())
            pod = pod_of(cluster, run)
            assert pod is not None
            cluster.fake.start(pod)
            one = Following(context, result)
            eventually(lambda: (context.heartbeats and log_requests(cluster, pod)) or result.done())
            yield one, pod
        finally:
            cluster.fake.behave()
            context.stop()


def pod_of(cluster: Scripted, run: Work) -> dict[str, Any] | None:
    name = cluster.handle(run)["name"]
    return next((pod for pod in cluster.fake.of_kind("pods") if pod["metadata"]["labels"]["job-name"] == name), None)


def asked(cluster: Scripted, kind: str, **query: str) -> list[dict[str, str]]:
    """The requests for all of a kind with this in their query."""
    return [
        given
        for method, path, given in list(cluster.fake.requests)
        if method == "GET" and path.endswith(f"/{kind}") and given.items() >= query.items()
    ]


def watches(cluster: Scripted, kind: str = "jobs") -> list[dict[str, str]]:
    return asked(cluster, kind, watch="true")


def lists(cluster: Scripted, kind: str = "jobs") -> int:
    return sum(1 for query in asked(cluster, kind) if "watch" not in query)


def log_requests(cluster: Scripted, pod: dict[str, Any]) -> int:
    return sum(1 for _, path, _ in list(cluster.fake.requests) if path.endswith(f"{pod['metadata']['name']}/log"))


def beats_on(one: Following) -> None:
    heartbeats = one.context.heartbeats
    eventually(lambda: one.context.heartbeats > heartbeats + 2)


def test_a_job_costs_its_creation_and_its_log_and_nothing_while_nothing_happens(cluster: Scripted) -> None:
    with following(cluster) as (one, pod):
        beats_on(one)
        before = len(cluster.fake.requests)
        for _ in range(3):
            beats_on(one)
        assert len(cluster.fake.requests) == before
        cluster.fake.finish(pod)
        assert one.outcome().error_code is None


def test_a_watch_that_is_cut_goes_on_where_it_was_without_a_list(cluster: Scripted) -> None:
    with following(cluster) as (one, pod):
        known, listed = len(watches(cluster)), lists(cluster)
        version = cluster.fake.version
        # Until a bookmark has said so.
        beats_on(one)
        cluster.fake.cut_watches()
        eventually(lambda: len(watches(cluster)) > known)
        assert int(watches(cluster)[-1]["resourceVersion"]) >= version
        beats_on(one)
        cluster.fake.finish(pod, 3)
        assert one.outcome().detail["exit_status"] == 3
        assert lists(cluster) == listed


def test_what_happens_while_a_watch_is_cut_is_seen_when_it_goes_on(cluster: Scripted) -> None:
    with following(cluster) as (one, pod):
        cluster.fake.misbehave("GET", "watch=true", times=4, status=503)
        cluster.fake.cut_watches()
        cluster.fake.evict(pod)
        outcome = one.outcome()
    assert outcome.detail["reason"] == "Evicted"


def test_a_watch_that_ends_by_its_time_is_resumed_from_its_bookmark(tmp_path: Path) -> None:
    with scripted_cluster(tmp_path, replace(PATIENT, watch_seconds=1.0)) as cluster, following(cluster) as (one, _):
        # Changes of what is not ours only: a bookmark says that a watch has passed them.
        for number in range(5):
            with cluster.fake.changed:
                cluster.fake.create_job("other", {"metadata": {"name": f"x-{number}"}, "spec": {"template": TEMPLATE}})
        version, known = cluster.fake.version, len(watches(cluster))
        eventually(lambda: len(watches(cluster)) > known + 1)
        assert int(watches(cluster)[-1]["resourceVersion"]) >= version
        assert lists(cluster) == 1
        beats_on(one)


TEMPLATE: dict[str, Any] = {"metadata": {}, "spec": {"containers": []}}


@pytest.mark.parametrize("sends", [True, False], ids=["bookmarks", "no bookmarks"])
def test_a_watch_proves_itself_with_bookmarks_and_without(tmp_path: Path, sends: bool) -> None:
    with scripted_cluster(tmp_path, replace(PATIENT, watch_seconds=1.0)) as cluster:
        cluster.fake.bookmark_interval = 0.1 if sends else 0.0
        with following(cluster) as (one, _):
            beats_on(one)


def test_a_version_that_is_not_known_any_more_is_answered_by_one_list(cluster: Scripted) -> None:
    with following(cluster) as (one, pod):
        listed = lists(cluster)
        with cluster.fake.changed:
            cluster.fake.write(pod, b"one\n")
            cluster.fake.disrupt(pod, "PreemptionByScheduler", "preempting")
            # The event of it was never told: the watch is cut, and the history gone, before anybody looks.
            cluster.fake.cut_watches()
            cluster.fake.create_job("other", {"metadata": {"name": "x"}, "spec": {"template": TEMPLATE}})
            cluster.fake.forget_history()
        assert one.outcome().error_code is not None
        assert lists(cluster) == listed + 1


def test_an_expired_version_within_the_stream_is_answered_by_a_list(cluster: Scripted) -> None:
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version", "metadata": {}}
    with following(cluster) as (one, pod):
        listed = lists(cluster)
        cluster.fake.send("ERROR", gone | {"metadata": pod["metadata"] | {"ownerReferences": []}})
        cluster.fake.send("ERROR", gone | {"metadata": {"namespace": "default", "name": "x", "labels": OURS}})
        eventually(lambda: lists(cluster) > listed)
        beats_on(one)
        cluster.fake.finish(pod)
        assert one.outcome().error_code is None


OURS = {"app.kubernetes.io/managed-by": "reprieve"}


def test_a_watch_that_is_half_open_gives_no_heartbeat_and_is_noticed(tmp_path: Path) -> None:
    timings = replace(PATIENT, watch_seconds=1.0, watch_grace=1.0)
    with scripted_cluster(tmp_path, timings) as cluster, following(cluster) as (one, pod):
        listed = lists(cluster)
        cluster.fake.misbehave("GET", "/jobs?", how="freeze", after=0)
        cluster.fake.cut_watches()
        cluster.fake.write(pod, b"while it hangs\n")
        eventually(lambda: lists(cluster) > listed)
        beats_on(one)
        cluster.fake.finish(pod)
        assert one.outcome().error_code is None


def test_a_change_that_was_kept_from_the_watch_is_found_by_the_next_list(tmp_path: Path) -> None:
    timings = replace(PATIENT, watch_seconds=1.0, list_interval=2.0)
    with scripted_cluster(tmp_path, timings) as cluster, following(cluster) as (one, _):
        cluster.fake.hides = {"DELETED"}
        for thing in [*cluster.fake.of_kind("jobs"), *cluster.fake.of_kind("pods")]:
            cluster.fake.remove(thing)
        eventually(lambda: any("not there any more" in note for note in one.context.notes))
        heartbeats, before = one.context.heartbeats, len(cluster.fake.requests)
        eventually(lambda: len(cluster.fake.requests) > before + 10)
        assert one.context.heartbeats == heartbeats


def test_a_list_that_lacks_a_job_ends_nothing_and_the_job_is_asked_for_by_name(tmp_path: Path) -> None:
    timings = replace(PATIENT, watch_seconds=1.0, list_interval=1.0)
    with scripted_cluster(tmp_path, timings) as cluster, following(cluster) as (one, pod):
        name = pod["metadata"]["labels"]["job-name"]
        body = b'{"kind": "JobList", "metadata": {"resourceVersion": "100"}, "items": []}'
        # Of Jobs alone: a list of Pods comes just as often.
        lists = [
            (path, query) for _, path, query in cluster.fake.requests if path.endswith("/jobs") and "limit" in query
        ]
        listing = f"{lists[0][0]}?{urlencode(lists[0][1])}"
        cluster.fake.misbehave("GET", listing, times=2, status=200, body=body)
        eventually(lambda: any(path.endswith(f"/jobs/{name}") for _, path, _ in cluster.fake.requests))
        beats_on(one)
        cluster.fake.finish(pod)
        assert one.outcome().error_code is None
    assert not any("not there any more" in note for note in one.context.notes)


def test_events_that_come_twice_or_late_change_nothing(cluster: Scripted) -> None:
    with following(cluster) as (one, pod):
        old = {**pod, "status": {"phase": "Pending"}, "metadata": {**pod["metadata"], "resourceVersion": "101"}}
        failed = {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}
        (job,) = cluster.fake.of_kind("jobs")
        stale = {**job, "status": failed, "metadata": {**job["metadata"], "resourceVersion": "101"}}
        for thing in (old, stale, pod, job):
            for _ in range(2):
                cluster.fake.send("MODIFIED", thing)
        beats_on(one)
        assert not one.result.done()
        cluster.fake.finish(pod)
        assert one.outcome().error_code is None


def test_an_api_server_that_counts_anew_is_listed_anew(cluster: Scripted) -> None:
    with following(cluster) as (one, pod):
        listed = lists(cluster)
        cluster.fake.restart()
        eventually(lambda: lists(cluster) > listed)
        beats_on(one)
        cluster.fake.finish(pod, 4)
        assert one.outcome().detail["exit_status"] == 4


def test_where_we_may_not_watch_lists_take_its_place_and_the_run_says_so(cluster: Scripted) -> None:
    cluster.fake.misbehave("GET", "watch=true", times=float("inf"), status=403, reason="Forbidden")
    with following(cluster) as (one, pod):
        beats_on(one)
        assert any("Grant the verb watch" in note for note in one.context.notes)
        assert not asked(cluster, "jobs", labelSelector="x")
        cluster.fake.finish(pod, 5)
        assert one.outcome().detail["exit_status"] == 5


def test_where_we_may_not_list_jobs_each_is_asked_for_by_its_name(cluster: Scripted) -> None:
    cluster.fake.misbehave("GET", "/jobs?", times=float("inf"), status=403, reason="Forbidden")
    with following(cluster) as (one, pod):
        beats_on(one)
        cluster.fake.finish(pod, 6)
        assert one.outcome().detail["exit_status"] == 6


def test_each_namespace_has_its_own_watches_and_one_that_fails_costs_no_other(cluster: Scripted) -> None:
    with following(cluster) as (one, _), following(cluster, namespace="other") as (two, pod):
        cluster.fake.visible = {"other"}
        cluster.fake.cut_watches()
        eventually(lambda: one.context.notes)
        heartbeats = one.context.heartbeats
        beats_on(two)
        cluster.fake.finish(pod)
        assert two.outcome().error_code is None
        assert one.context.heartbeats <= heartbeats + 1
        cluster.fake.visible = {"default", "other"}
        beats_on(one)


PROGRAM = """#!/bin/sh
printf '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",'
printf '"status": {"token": "%s", "expirationTimestamp": "2020-01-01T00:00:00Z"}}' "$(cat $1)"
"""


def test_a_token_that_is_replaced_is_used_from_the_next_request_on(
    cluster: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a program that the kubeconfig names. It may take its time, so it never runs on the loop."""
    program, token, threads = tmp_path / "program", tmp_path / "token", set()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    token.write_text("a-token")
    config = yaml.safe_load(cluster.fake.kubeconfig(tmp_path).read_text())
    version = "client.authentication.k8s.io/v1"
    named = {"apiVersion": version, "command": str(program), "args": [str(token)], "interactiveMode": "Never"}
    config["users"][0]["user"] = {"exec": named}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    run = ExecProvider.run

    def running(provider: ExecProvider, *given: Any) -> Any:
        threads.add(threading.current_thread().name)
        return run(provider, *given)

    monkeypatch.setattr(ExecProvider, "run", running)
    with following(cluster) as (one, pod):
        token.write_text("another")
        cluster.fake.token = "another"
        cluster.fake.cut_watches()
        beats_on(one)
        cluster.fake.finish(pod)
        assert one.outcome().error_code is None
    assert not any("does not answer" in note for note in one.context.notes)
    assert threads
    assert all(name.startswith("kubernetes-credentials") for name in threads)


def test_who_attaches_while_the_watch_is_running_asks_once_and_then_watches(cluster: Scripted) -> None:
    later = cluster.work("true")
    cluster.fake.create_job("default", manifest(later, KubernetesConfig.model_validate(later.config)))
    with following(cluster):
        handle = cluster.handle(later)
        with following(cluster, later, attach=handle) as (one, pod):
            beats_on(one)
            before = len(cluster.fake.requests)
            for _ in range(3):
                beats_on(one)
            assert len(cluster.fake.requests) == before
            cluster.fake.finish(pod)
            assert one.outcome().error_code is None


def test_many_that_attach_at_once_are_told_by_one_list_and_not_asked_for_one_by_one(cluster: Scripted) -> None:
    runs = [cluster.work("true") for _ in range(60)]
    for run in runs:
        cluster.fake.create_job("default", manifest(run, KubernetesConfig.model_validate(run.config)))
    contexts = [cluster.context(run) for run in runs]

    async def attach() -> list[Any]:
        attached = (
            cluster.adapter.attach(run, cluster.handle(run), AsyncRecordingContext(context))
            for run, context in zip(runs, contexts, strict=True)
        )
        return await asyncio.gather(*attached, return_exceptions=True)

    all_of_them = Loop("follow").run(attach())
    try:
        eventually(lambda: all(context.heartbeats for context in contexts))
        assert len(cluster.fake.requests) < len(runs) / 2
    finally:
        for context in contexts:
            context.release()
    assert all(isinstance(one, Released) for one in all_of_them.result(30))


def test_a_log_that_floods_takes_no_other_jobs_turn(cluster: Scripted) -> None:
    with ExitStack() as stack:
        flooding, its_pod = stack.enter_context(following(cluster))
        quiet, pod = stack.enter_context(following(cluster))
        line = b"x" * 1000 + b"\n"
        done = threading.Event()

        def flood() -> None:
            while not done.is_set():
                cluster.fake.write(its_pod, line * 100)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(flood)
            try:
                eventually(lambda: len(flooding.context.chunks) > 100)
                beats_on(quiet)
                cluster.fake.write(pod, b"heard\n")
                quiet.wait_for(b"heard\n")
            finally:
                done.set()


def test_no_job_has_a_thread_of_its_own(cluster: Scripted) -> None:
    runs = [cluster.work("true") for _ in range(40)]
    before = {thread.name for thread in threading.enumerate()}
    contexts = [cluster.context(run) for run in runs]
    with ThreadPoolExecutor(len(runs), "test") as pool:
        results = [
            pool.submit(carry_out, cluster.adapter, run, context) for run, context in zip(runs, contexts, strict=True)
        ]
        eventually(lambda: len(cluster.fake.of_kind("pods")) == len(runs))
        for pod in cluster.fake.of_kind("pods"):
            cluster.fake.start(pod)
        eventually(lambda: all(context.heartbeats for context in contexts))
        ours = [
            thread.name
            for thread in threading.enumerate()
            if thread.name not in before and not thread.name.startswith(("test", "Thread-", "asyncio"))
        ]
        assert len(ours) <= 2, ours
        for context in contexts:
            context.release()
        for result in results:
            with pytest.raises(Released):
                result.result(30)
