"""C05: a reaped attempt's Job and Pods are deleted, as often as it takes, and the retry's Job stays."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reprieve.adapters.kubernetes.api import Api
from reprieve.adapters.kubernetes.config import KubernetesConfig
from reprieve.adapters.kubernetes.job import job_name, manifest
from reprieve.models.work import Work
from reprieve.workers.bootstrap import Services
from tests.contract.clusters import Scripted, scripted_cluster
from tests.faults.helpers_cdeg import bury, judge_silent
from tests.support.rows import kinds, record_handle, running, status_of

pytestmark = pytest.mark.row("C05")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Scripted]:
    with scripted_cluster(tmp_path) as cluster:
        yield cluster


def dispatched(services: Services, cluster: Scripted, work: Work) -> dict[str, Any]:
    """The attempt's Job, there and recorded."""
    handle = {"namespace": "default", "name": job_name(work.run_id, work.attempt)}
    record_handle(services, work.fence, None, handle)
    return cluster.fake.create_job("default", manifest(work, KubernetesConfig.model_validate(work.config)))


def claimed(services: Services, cluster: Scripted, **changes: Any) -> Work:
    return running(services, adapter="kubernetes", config=cluster.work("true").config, **changes)


def termination(services: Services, work: Work) -> str | None:
    return services.runs.get_attempt(work.run_id, work.attempt).termination


def reaped(services: Services, cluster: Scripted, work: Work) -> None:
    """Found dead by a sweep that did not see its Job."""
    cluster.fake.misbehave("GET", "/jobs", status=200, body=b'{"kind": "JobList", "items": []}')
    assert judge_silent(services, work.run_id)["reaped"] == 1
    assert termination(services, work) == "owed"


def names(cluster: Scripted) -> set[str]:
    """Of the Jobs that are there, and of those whose Pods are."""
    pods = {pod["metadata"]["labels"]["job-name"] for pod in cluster.fake.of_kind("pods")}
    return pods | {job["metadata"]["name"] for job in cluster.fake.of_kind("jobs")}


def test_the_job_of_a_reaped_run_is_deleted_with_its_pods_and_no_other(services: Services, cluster: Scripted) -> None:
    run, other = claimed(services, cluster), claimed(services, cluster)
    dispatched(services, cluster, run)
    kept = dispatched(services, cluster, other)
    reaped(services, cluster, run)
    bury(services)
    assert names(cluster) == {kept["metadata"]["name"]}
    assert termination(services, run) == "done"
    assert kinds(services, run.run_id)[-2:] == ["reaped", "terminated"]
    assert status_of(services, other.run_id) == "running"


def test_an_end_that_the_platform_does_not_confirm_stays_owed_until_it_does(
    services: Services, cluster: Scripted
) -> None:
    run = claimed(services, cluster)
    dispatched(services, cluster, run)
    reaped(services, cluster, run)
    cluster.fake.misbehave("GET", "/jobs/", status=500)
    bury(services)
    assert (termination(services, run), len(names(cluster))) == ("owed", 1)
    assert "termination_failed" in kinds(services, run.run_id)
    bury(services)
    assert (termination(services, run), names(cluster)) == ("done", set())


def test_ending_the_first_attempt_late_and_twice_leaves_the_retrys_job(services: Services, cluster: Scripted) -> None:
    first = claimed(services, cluster)
    dispatched(services, cluster, first)
    config = KubernetesConfig.model_validate(first.config)
    retry = cluster.fake.create_job("default", manifest(replace(first, attempt=2), config))
    reaped(services, cluster, first)
    bury(services)
    handle = services.runs.get_attempt(first.run_id, 1).work
    assert handle is not None
    for _ in range(2):
        services.adapters.get("kubernetes").terminate(handle)
    assert names(cluster) == {retry["metadata"]["name"]} == {job_name(first.run_id, 2)}
    assert "deletionTimestamp" not in retry["metadata"]
    assert termination(services, first) == "done"


def test_a_job_that_took_the_name_in_between_is_not_deleted_in_its_place(
    services: Services, cluster: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = claimed(services, cluster)
    job = dispatched(services, cluster, run)
    # Between the look and the deletion, the Job is replaced: what was looked at is not what would be deleted.
    key = ("jobs", "default", job["metadata"]["name"])
    delete = Api.delete
    replaced = {**job, "metadata": {**job["metadata"], "uid": "another", "labels": {"owner": "somebody"}}}

    async def replacing(api: Api, path: str, uid: str) -> None:
        if path.endswith(job["metadata"]["name"]):
            cluster.fake.things[key] = replaced
        await delete(api, path, uid)

    monkeypatch.setattr(Api, "delete", replacing)
    with pytest.raises(Exception, match="is not ours to delete"):
        cluster.adapter.terminate(services.runs.get_attempt(run.run_id, 1).work or {})
    assert cluster.fake.things[key] is replaced
    assert cluster.fake.deleted == []
