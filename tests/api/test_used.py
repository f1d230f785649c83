"""What runs used, over HTTP; and a limit of their memory."""

from uuid import uuid4

from fastapi.testclient import TestClient

from reprieve.client.http import calls
from reprieve.models.requests import RunRequest
from reprieve.models.samples import Sample, Series
from reprieve.models.used import Used
from reprieve.models.work import End, Outcome
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from tests.support.rows import in_process


def test_an_attempt_says_what_it_used_and_its_samples_are_there_to_be_plotted(
    client: TestClient, services: Services
) -> None:
    work = in_process(services, max_memory=2**30)
    series = Series()
    series.add(Sample(0, 1.5, 2048))
    services.samples.write({work.fence: series})
    assert finish(services, [End.by_result(work.fence, Outcome(used=Used(2.5, 4096, 2**30)), 0)])
    record = client.get(f"/v1/runs/{work.run_id}").json()
    assert record["max_memory_bytes"] == 2**30
    (attempt,) = record["attempts"]
    assert attempt["used"] == {"cpu_seconds": 2.5, "peak_memory_bytes": 4096, "memory_limit_bytes": 2**30}
    (sample,) = client.get(f"/v1/runs/{work.run_id}/attempts/1/samples").json()["samples"]
    assert (sample["cpu_seconds"], sample["memory_bytes"], sample.keys()) == (
        1.5,
        2048,
        {"at", "cpu_seconds", "memory_bytes"},
    )


def test_of_an_attempt_without_samples_there_are_none_and_of_a_run_that_is_not_there_nothing(
    client: TestClient, services: Services
) -> None:
    work = in_process(services)
    for attempt in (1, 2):
        assert client.get(f"/v1/runs/{work.run_id}/attempts/{attempt}/samples").json() == {"samples": []}
    assert client.get(f"/v1/runs/{uuid4()}/attempts/1/samples").status_code == 404
    for attempt in ("0", "-1", "first", "99999999999"):
        assert client.get(f"/v1/runs/{work.run_id}/attempts/{attempt}/samples").status_code == 422


def test_a_limit_is_asked_for_in_bytes_by_the_name_that_clients_send(client: TestClient) -> None:
    sent = calls._content(RunRequest("process", {"command": ["true"]}, max_memory=2**30))
    assert b'"max_memory_bytes": 1073741824' in sent
    answer = client.post("/v1/runs", content=sent, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["max_memory_bytes"]) == (201, 2**30)
    for wrong in (1, 2**60 + 1):
        refused = client.post(
            "/v1/runs", json={"adapter": "process", "config": {"command": ["true"]}, "max_memory_bytes": wrong}
        )
        assert (refused.status_code, "max_memory is" in refused.text) == (422, True)
