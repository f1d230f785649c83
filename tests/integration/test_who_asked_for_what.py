"""Who asked for a run, who ended it, and what it runs: for whoever is woken, and may know."""

import getpass
import socket
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from reprieve import cancel_run, enqueue_run, enqueue_runs
from reprieve.api.app import create_app
from reprieve.models.access import Scope
from reprieve.models.asker import MAX_ASKER, named
from reprieve.models.what_runs import MAX_SHOWN, what_runs
from reprieve.workers.bootstrap import Services
from reprieve.workers.cancel import cancel_each
from tests.support.rows import new_run

RUN = {"adapter": "process", "config": {"command": ["make", "a report"], "env": {"KEY": "hunter2"}}}
ME = f"{getpass.getuser()}@{socket.gethostname()}"


def ended_by(services: Services, run: object) -> Any:
    (event,) = [event for event in services.runs.events(UUID(str(run))) if event.kind == "cancelled"]
    return event.detail.get("by")


def test_a_run_says_which_user_of_which_host_asked_for_it(services: Services) -> None:
    run = enqueue_run(**RUN)
    assert run.asked_by == ME
    assert services.records.get(run.id).asked_by == ME
    assert [each.asked_by for each in enqueue_runs([RUN, RUN])] == [ME, ME]


def test_a_service_that_has_a_name_asks_by_it(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "billing")
    assert enqueue_run(**RUN).asked_by == "billing"
    assert named({"OTEL_SERVICE_NAME": " "}, "ann", "web-1") == "ann@web-1"
    assert named({"OTEL_SERVICE_NAME": "a\n\x1b[2J"}, "", "") == "a\\n\\x1b[2J"
    assert len(named({}, "u" * 500, "h")) == MAX_ASKER


def test_over_http_it_is_the_token_that_asks_and_ends(services: Services) -> None:
    client = TestClient(create_app(services))
    headers = {"Authorization": f"Bearer {services.tokens.create('ann', Scope.RUN)}"}
    first, second = (client.post("/v1/runs", json=RUN, headers=headers).json() for _ in range(2))
    assert first["asked_by"] == "ann"
    assert client.get(f"/v1/runs/{first['id']}", headers=headers).json()["asked_by"] == "ann"
    batch = client.post("/v1/runs/batch", json={"runs": [RUN]}, headers=headers).json()
    assert batch["runs"][0]["run"]["asked_by"] == "ann"
    client.post(f"/v1/runs/{first['id']}/cancel", headers=headers)
    wanted = {"runs": [second["id"]], "idempotency_key": "one"}
    client.post("/v1/runs/cancel", json=wanted, headers=headers)
    assert [ended_by(services, first["id"]), ended_by(services, second["id"])] == ["ann", "ann"]


def test_what_is_done_again_was_asked_for_by_whoever_asked_again(services: Services) -> None:
    client = TestClient(create_app(services))
    run = enqueue_run(**RUN)
    cancel_run(run)
    assert ended_by(services, run.id) == ME
    headers = {"Authorization": f"Bearer {services.tokens.create('ann', Scope.RUN)}"}
    again = client.post(f"/v1/runs/{run.id}/again", headers=headers).json()
    assert (again["asked_by"], again["again_of"]) == ("ann", str(run.id))


def test_many_that_are_ended_at_once_say_by_whom(services: Services) -> None:
    runs = [new_run(services).id for _ in range(2)]
    cancel_each(services, runs)
    assert [ended_by(services, run) for run in runs] == [ME, ME]


def test_a_run_of_an_older_release_was_asked_for_by_nobody_known(services: Services) -> None:
    assert services.records.get(new_run(services).id).asked_by is None


def test_what_a_run_runs_is_told_to_whoever_may_run_it(services: Services) -> None:
    client = TestClient(create_app(services))
    run = enqueue_run(**RUN, idempotency_key="tuesday", notify=["https://example.com/told"], start_within=60)
    reader, runner = (
        {"Authorization": f"Bearer {services.tokens.create(one, one)}"} for one in (Scope.READ, Scope.RUN)
    )
    refused = client.get(f"/v1/runs/{run.id}/request", headers=reader)
    assert refused.status_code == 403
    assert "hunter2" not in client.get(f"/v1/runs/{run.id}", headers=reader).text
    told = client.get(f"/v1/runs/{run.id}/request", headers=runner).json()
    assert told == {
        "what": "make 'a report'",
        "config": services.runs.get(run.id).spec.config,
        "idempotency_key": "tuesday",
        "start_within_seconds": 60,
        "notify": ["https://example.com/told"],
    }
    missing = client.get(f"/v1/runs/{UUID(int=7)}/request", headers=runner)
    assert (missing.status_code, "There is no run" in missing.text) == (404, True)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"command": ["echo", "it's"], "cwd": "/srv"}, "echo 'it'\"'\"'s' in /srv"),
        ({"image": "alpine:3"}, "in alpine:3"),
        ({"image": "alpine:3", "command": ["sh"], "args": ["-c", "true"]}, "sh -c true in alpine:3"),
        ({"steps": 3}, None),
        ({"command": "not a list", "image": 3}, None),
        ({}, None),
    ],
)
def test_what_a_run_runs_is_said_as_it_would_be_typed(config: dict[str, Any], what: str | None) -> None:
    assert what_runs(config) == what


def test_a_long_command_is_cut() -> None:
    assert what_runs({"command": ["x" * MAX_SHOWN]}) == "x" * MAX_SHOWN
    assert what_runs({"command": ["x" * (MAX_SHOWN + 1)]}) == "x" * MAX_SHOWN + " …"
