"""A05: only a not-found or a terminal phase is death; any other answer of the platform, or none, is doubt."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from reprieve.adapters.kubernetes.config import KubernetesConfig
from reprieve.adapters.kubernetes.job import job_name, manifest
from reprieve.models.status import Probe
from reprieve.models.work import Work
from reprieve.testing.contexts import Following, carry_out
from reprieve.workers.bootstrap import Services
from tests.contract.clusters import Scripted, scripted_cluster
from tests.faults.helpers_cdeg import judge_silent
from tests.support.rows import record_handle, running, status_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("A05")

NO_ANSWERS: list[dict[str, Any]] = [
    {"status": 401, "reason": "Unauthorized"},
    {"status": 403, "reason": "Forbidden"},
    {"status": 404, "body": b"<html>no such page</html>"},
    {"status": 410, "reason": "Expired"},
    {"status": 429, "reason": "TooManyRequests", "headers": {"Retry-After": "60"}},
    {"status": 500, "reason": "InternalError"},
    {"status": 502, "body": b""},
    {"status": 503, "reason": "ServiceUnavailable", "headers": {"Retry-After": "60"}},
    {"status": 504, "reason": "Timeout"},
    {"status": 200, "body": b"<html>please log in</html>"},
    {"status": 200, "body": b"{}"},
    {"status": 200, "body": b'{"kind": "JobList", "items": [{}]}'},
    {"status": 200, "body": b'{"kind": "JobList", "items": {"a": 1}}'},
    {"how": "truncate"},
    {"how": "reset"},
    {"how": "hang"},
]


def named(how: dict[str, Any]) -> str:
    return f"{how.get('status', '')}{how.get('how', '')}{(how.get('body') or b'')[:8].decode()}"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Scripted]:
    with scripted_cluster(tmp_path) as cluster:
        yield cluster


def created(cluster: Scripted, run: Work) -> dict[str, Any]:
    return cluster.fake.create_job("default", manifest(run, KubernetesConfig.model_validate(run.config)))


@pytest.mark.parametrize("how", NO_ANSWERS, ids=named)
def test_an_answer_that_is_none_says_nothing_of_any_run(cluster: Scripted, how: dict[str, Any]) -> None:
    there, gone = cluster.work("true"), cluster.work("true")
    created(cluster, there)
    handles = [cluster.handle(there), cluster.handle(gone)]
    cluster.fake.misbehave("GET", "/jobs", **how)
    assert cluster.adapter.probe(handles) == [Probe.UNKNOWN, Probe.UNKNOWN]
    cluster.fake.behave()
    assert cluster.adapter.probe(handles) == [Probe.ALIVE, Probe.DEAD]


def test_when_nobody_listens_nothing_is_said(cluster: Scripted, tmp_path: Path, monkeypatch: Any) -> None:
    config = cluster.fake.kubeconfig(tmp_path)
    config.write_text(config.read_text().replace(cluster.fake.url, "http://127.0.0.1:9"))
    adapter = cluster.another(cluster.timings)
    assert adapter.probe([cluster.handle(cluster.work("true"))]) == [Probe.UNKNOWN]


def test_a_job_that_has_ended_is_told_from_one_that_is_gone(cluster: Scripted) -> None:
    ended, gone = cluster.work("true"), cluster.work("true")
    job = created(cluster, ended)
    cluster.fake.finish(cluster.fake.only_pod(), 1)
    assert job["status"]["conditions"][0]["type"] == "Failed"
    assert cluster.adapter.probe([cluster.handle(ended), cluster.handle(gone)]) == [Probe.ENDED, Probe.DEAD]


@pytest.mark.parametrize("how", NO_ANSWERS, ids=named)
def test_a_follower_that_gets_no_answer_gives_no_heartbeat_and_no_end_and_goes_on_afterwards(
    cluster: Scripted, how: dict[str, Any]
) -> None:
    run = cluster.work("true")
    context = cluster.context(run)
    with ThreadPoolExecutor(1) as pool:
        following = Following(context, pool.submit(carry_out, cluster.adapter, run, context))
        try:
            eventually(lambda: context.heartbeats >= 2)
            fault = cluster.fake.misbehave("GET", "/jobs", times=float("inf"), **how)
            cluster.fake.cut_watches()
            noted = "does not answer"
            eventually(lambda: any(noted in note for note in context.notes), what="a note that nobody answers")
            heartbeats, asked = context.heartbeats, len(cluster.fake.requests)
            eventually(lambda: len(cluster.fake.requests) > asked + 5)
            assert (context.heartbeats, following.result.done()) == (heartbeats, False)
            cluster.fake.behave()
            assert fault not in cluster.fake.faults
            eventually(lambda: context.heartbeats > heartbeats)
            pod = cluster.fake.only_pod()
            cluster.fake.start(pod)
            cluster.fake.write(pod, b"still here\n")
            cluster.fake.finish(pod)
            assert following.outcome().error_code is None
        finally:
            cluster.fake.behave()
            context.stop()
    assert context.output() == b"still here\n"


def silent(services: Services, cluster: Scripted) -> Work:
    """A claimed run whose handle is recorded, and which nobody follows."""
    claimed = running(services, adapter="kubernetes", config=cluster.work("true").config)
    handle = {"namespace": "default", "name": job_name(claimed.run_id, claimed.attempt)}
    record_handle(services, claimed.fence, None, handle)
    return claimed


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_silent_run_is_not_reaped_on_an_error_of_its_platform(
    services: Services, cluster: Scripted, status: int
) -> None:
    run = silent(services, cluster)
    cluster.fake.misbehave("GET", "/jobs", times=float("inf"), status=status)
    assert judge_silent(services, run.run_id)["reaped"] == 0
    assert status_of(services, run.run_id) == "running"


def test_a_silent_run_whose_platform_says_that_it_is_gone_is_reaped(services: Services, cluster: Scripted) -> None:
    gone, there = silent(services, cluster), silent(services, cluster)
    created(cluster, Work(there.run_id, there.attempt, 1, "kubernetes", there.config, {}))
    assert judge_silent(services, there.run_id)["reaped"] == 0
    assert judge_silent(services, gone.run_id)["reaped"] == 1
    assert (status_of(services, gone.run_id), status_of(services, there.run_id)) == ("failed", "running")
