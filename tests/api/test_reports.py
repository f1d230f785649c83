"""What runs say of themselves, over HTTP: said with a run's token, read with a result, added up."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from reprieve.workers.bootstrap import Services
from tests.support.remote import remote_with_token


@pytest.fixture
def saying(client: TestClient, services: Services) -> Any:
    """A run, and a way to say something of it."""
    work, token = remote_with_token(services, labels={"team": "data"})

    def say(**said: Any) -> Any:
        bearer = {"Authorization": f"Bearer {token}"}
        return client.post(f"/v1/runs/{work.run_id}/report", json=said, headers=bearer)

    say.address = f"/v1/runs/{work.run_id}"  # type: ignore[attr-defined]
    return say


def test_what_is_said_is_in_the_run_in_lists_and_in_what_explains_it(client: TestClient, saying: Any) -> None:
    assert client.get(saying.address).json()["report"] is None
    answer = saying(number=1, progress=0.4, say="epoch 3 of 8", usage={"tokens": 1200, "cost_usd": 0.25})
    assert (answer.status_code, answer.json()) == (200, {"number": 1, "stop": False})
    report = client.get(saying.address).json()["report"]
    assert report.pop("at") is not None
    assert report == {
        "progress": 0.4,
        "sentence": "epoch 3 of 8",
        "usage": {"tokens": 1200, "cost_usd": 0.25},
        "result_bytes": None,
    }
    (listed,) = client.get("/v1/runs").json()["runs"]
    assert listed["report"]["usage"] == report["usage"]
    told = client.get(f"{saying.address}/explain").json()
    assert told["run"]["report"]["progress"] == 0.4
    assert any("40 %, epoch 3 of 8" in sentence for sentence in told["sentences"])


def test_a_result_is_given_as_it_was_given_and_a_run_without_one_is_404(client: TestClient, saying: Any) -> None:
    none = client.get(f"{saying.address}/result")
    assert (none.status_code, none.headers["content-type"]) == (404, "application/problem+json")
    assert none.json()["detail"].endswith("has given no result.")
    saying(result={"b": [1, 2.5, None], "a": "<script>"})
    given = client.get(f"{saying.address}/result")
    assert (given.status_code, given.headers["content-type"]) == (200, "application/json")
    assert given.text == '{"b":[1,2.5,null],"a":"<script>"}'
    assert given.headers["x-content-type-options"] == "nosniff"
    assert client.get("/v1/runs/00000000-0000-0000-0000-000000000000/result").status_code == 404


def test_the_largest_result_is_taken_and_one_more_byte_is_not(client: TestClient, saying: Any) -> None:
    assert saying(result="x" * 65_534).status_code == 200
    refused = saying(result="x" * 65_535)
    assert refused.status_code == 422
    assert "65537 bytes as JSON" in refused.json()["detail"]
    assert client.get(saying.address).json()["report"]["result_bytes"] == 65_536


def test_usage_is_added_up_by_a_label(client: TestClient, saying: Any) -> None:
    saying(usage={"tokens": 5})
    saying(usage={"tokens": 7})
    found = client.get("/v1/usage", params={"by": "label:team"}).json()
    assert (found["by"], found["complete"], found["unlisted_groups"]) == ("label:team", True, 0)
    (group,) = found["groups"]
    assert group.pop("wall_seconds") >= 0
    assert group == {
        "group": "data",
        "runs": 1,
        "attempts": 1,
        "cpu_seconds": None,
        "peak_memory_bytes": None,
        "usage": {"tokens": 12},
        "unlisted_names": 0,
    }
    early = client.get("/v1/usage", params={"since": "0001-01-02T00:00:00Z"}).json()
    assert early["groups"][0]["group"] == "remote"
    assert client.get("/v1/usage", params={"since": "2999-01-01T00:00:00Z"}).json()["groups"] == []


@pytest.mark.parametrize(
    "wrong", [{"by": "team"}, {"by": "label:"}, {"since": "yesterday"}, {"since": "2026-01-01T00:00:00"}]
)
def test_what_cannot_be_added_up_is_refused(client: TestClient, wrong: dict[str, str]) -> None:
    assert client.get("/v1/usage", params=wrong).status_code == 422
