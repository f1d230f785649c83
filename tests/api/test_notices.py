"""Notices and their rules over HTTP, and by command: who may, what is shown, and what is not."""

import json
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from reprieve.api.app import create_app
from reprieve.cli.commands import notices as commands
from reprieve.cli.main import app
from reprieve.models.access import Scope
from reprieve.models.errors import InvalidRequest, NoticeNotFound
from reprieve.models.notice_rules import MAX_RULES
from reprieve.models.notices import NoticeState, checked_secrets
from reprieve.models.work import End, Outcome
from reprieve.workers.bootstrap import Services
from reprieve.workers.explaining import explain
from reprieve.workers.finish import finish
from tests.support.http import LOCAL, bearer
from tests.support.rows import running

URL = "https://user:hunter2@hooks.example/services/hunter2?token=hunter2"
SHOWN = "https://hooks.example/…"


def reprieve(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["notices", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def test_rules_are_put_listed_and_removed_and_show_no_credential(client: TestClient, services: Services) -> None:
    wanted = {"url": URL, "kinds": ["failed"], "labels": {"team": "data"}, "lane": "night"}
    put = client.put("/v1/notices/rules/ops", json=wanted)
    assert put.json() == {
        "name": "ops",
        "address": SHOWN,
        "kinds": ["failed"],
        "labels": {"team": "data"},
        "lane": "night",
    }
    client.put("/v1/notices/rules/all", json={"url": URL})
    client.put("/v1/notices/rules/all", json={"url": "https://other.example/"})
    listed = client.get("/v1/notices/rules")
    assert [(one["name"], one["address"]) for one in listed.json()["rules"]] == [
        ("all", "https://other.example"),
        ("ops", SHOWN),
    ]
    assert "hunter2" not in put.text + listed.text
    assert client.delete("/v1/notices/rules/all").status_code == 204
    assert client.delete("/v1/notices/rules/all").json()["type"] == "urn:reprieve:problem:notice-not-found"
    assert [rule.name for rule in services.notices.rules()] == ["ops"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ops", {"url": "ftp://a.example/"}),
        ("ops", {"url": "https://a.example/", "kinds": ["ended"]}),
        ("ops", {"url": "https://a.example/", "lane": ""}),
        ("ops", {"url": "https://a.example/", "labels": {"x": "\0"}}),
        ("ops", {"url": "https://a.example/", "more": 1}),
        ("o%20s", {"url": "https://a.example/"}),
        ("ops", {}),
    ],
)
def test_a_rule_that_cannot_be_is_refused(
    client: TestClient, services: Services, name: str, wanted: dict[str, Any]
) -> None:
    assert client.put(f"/v1/notices/rules/{name}", json=wanted).status_code == 422
    assert services.notices.rules() == []


@pytest.mark.parametrize("name", ["%00", "a%20b", "x" * 65, "%C3%A9"])
def test_a_name_that_no_rule_can_have_is_of_none(client: TestClient, name: str) -> None:
    assert client.delete(f"/v1/notices/rules/{name}").status_code == 404
    assert client.post(f"/v1/notices/rules/{name}/test").status_code == 404


def test_there_are_so_many_rules_and_no_more(client: TestClient) -> None:
    for number in range(MAX_RULES):
        assert client.put(f"/v1/notices/rules/r{number}", json={"url": "https://a.example/"}).status_code == 200
    refused = client.put("/v1/notices/rules/more", json={"url": "https://a.example/"})
    assert (refused.status_code, "remove one first" in refused.json()["detail"]) == (422, True)
    assert client.put("/v1/notices/rules/r0", json={"url": "https://b.example/"}).status_code == 200


def test_who_may_read_sees_notices_and_only_an_administrator_changes_them(services: Services) -> None:
    tokens = {scope: services.tokens.create(scope.value, scope) for scope in Scope}
    notice = uuid4()
    with TestClient(create_app(services), base_url=LOCAL, raise_server_exceptions=False) as client:
        for scope, token in tokens.items():
            looks = [client.get(path, headers=bearer(token)) for path in ("/v1/notices", "/v1/notices/rules")]
            assert {one.status_code for one in looks} == {200}
            changes = [
                client.put("/v1/notices/rules/a", json={"url": "https://a.example/"}, headers=bearer(token)),
                client.post("/v1/notices/rules/a/test", headers=bearer(token)),
                client.delete("/v1/notices/rules/a", headers=bearer(token)),
                client.post(f"/v1/notices/{notice}/again", headers=bearer(token)),
            ]
            expected = [200, 202, 204, 404] if scope is Scope.ADMIN else [403] * 4
            assert [one.status_code for one in changes] == expected


def test_notices_are_listed_by_state_and_by_run_and_explained(client: TestClient, services: Services) -> None:
    work = running(services, notify=[URL])
    assert finish(services, [End.by_result(work.fence, Outcome(), 0)])
    (owed,) = client.get("/v1/notices").json()["notices"]
    assert (owed["kind"], owed["address"], owed["state"]) == ("succeeded", SHOWN, "owed")
    assert client.get("/v1/notices", params={"state": "sent"}).json()["notices"] == []
    assert client.get("/v1/notices", params={"run": str(work.run_id)}).json()["notices"] == [owed]
    assert client.get(f"/v1/notices/{owed['id']}").json() == owed
    assert client.get(f"/v1/notices/{uuid4()}").status_code == 404
    explained = client.get(f"/v1/runs/{work.run_id}/explain")
    assert explained.json()["notices"] == [owed]
    assert f"to {SHOWN} is to be sent." in explain(services, work.run_id).text
    assert "hunter2" not in explained.text + explain(services, work.run_id).text + reprieve("list", "--json")
    assert json.loads(reprieve("list", "--json")) == [owed]
    assert f"{owed['id']}  run {work.run_id}  The notice" in reprieve("list")


def test_rules_are_added_listed_and_removed_by_command(services: Services) -> None:
    assert reprieve("add", "ops", URL, "--kind", "failed", "--label", "team=data", "--lane", "night") == ""
    assert reprieve("add", "all", "https://a.example/") == ""
    assert reprieve("rules").splitlines() == [
        "all  https://a.example  everything  of all runs",
        f"ops  {SHOWN}  failed  of team=data, lane night",
    ]
    reprieve("remove", "all")
    assert [one["name"] for one in json.loads(reprieve("rules", "--json"))] == ["ops"]
    with pytest.raises(NoticeNotFound):
        reprieve("remove", "all")
    with pytest.raises(NoticeNotFound):
        reprieve("test", "all")
    with pytest.raises(InvalidRequest):
        reprieve("again", "all")
    with pytest.raises(NoticeNotFound):
        reprieve("again", str(uuid4()))


def test_a_secret_is_made_by_command_and_each_is_another() -> None:
    made = {reprieve("secret") for _ in range(2)}
    assert len(made) == 2
    assert all(checked_secrets(one) == (one,) for one in made)


def test_a_test_that_nobody_sends_says_so(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "TEST_TIMEOUT", 0.1)
    reprieve("add", "ops", URL)
    with pytest.raises(InvalidRequest, match="nobody has tried to send it"):
        reprieve("test", "ops")
    (owed,) = services.notices.in_state(NoticeState.OWED)
    assert (owed.kind, owed.run_id, owed.rule) == ("test", None, "ops")
