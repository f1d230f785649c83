"""Who may: tokens with scopes, the page's cookie, and nothing that is told of a token."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from typer.testing import CliRunner

from reprieve.api.app import create_app
from reprieve.api.limits import LARGEST_BODY
from reprieve.cli.main import app
from reprieve.cli.serve import serve
from reprieve.models.access import Holder, Scope
from reprieve.models.errors import InvalidRequest, SettingsError
from reprieve.workers.bootstrap import Services
from reprieve.workers.settings import load_settings
from tests.support.http import LOCAL, bearer
from tests.support.remote import lines, remote_with_token
from tests.support.rows import new_run

RUN = {"adapter": "process", "config": {"command": ["true"]}}


@pytest.fixture
def stranger(services: Services) -> Iterator[TestClient]:
    """A caller without a token."""
    with TestClient(create_app(services), base_url=LOCAL, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(params=["database", "settings"])
def tokens(services: Services, request: pytest.FixtureRequest) -> Iterator[tuple[TestClient, dict[str, str]]]:
    """A client, and a token of each scope, wherever they are kept."""
    given = {scope: f"a-token-in-the-settings-{scope}" for scope in Scope}
    if request.param == "database":
        given = {scope: services.tokens.create(f"of {scope}", scope) for scope in Scope}
        wired = services
    else:
        pairs = tuple((scope, SecretStr(token)) for scope, token in given.items())
        wired = replace(services, settings=services.settings.model_copy(update={"api_tokens": pairs}))
    with TestClient(create_app(wired), base_url=LOCAL, raise_server_exceptions=False) as client:
        yield client, {scope.value: token for scope, token in given.items()}


@pytest.mark.parametrize(
    ("scope", "may"),
    [("read", {"read"}), ("run", {"read", "run"}), ("admin", {"read", "run", "admin"})],
)
def test_a_scope_includes_those_before_it_and_no_other(
    tokens: tuple[TestClient, dict[str, str]], services: Services, scope: str, may: set[str]
) -> None:
    client, given = tokens
    remote = new_run(services, adapter="remote").id
    answers = {
        "read": client.get("/v1/runs", headers=bearer(given[scope])),
        "run": client.post("/v1/runs", json=RUN, headers=bearer(given[scope])),
        "admin": client.post(f"/v1/runs/{remote}/token", headers=bearer(given[scope])),
    }
    assert {name for name, answer in answers.items() if answer.status_code in (200, 201)} == may
    assert {answer.status_code for name, answer in answers.items() if name not in may} <= {403}


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), bearer(""), {"Authorization": "Basic YTpi"}])
def test_without_a_token_that_is_known_nothing_is_told(
    tokens: tuple[TestClient, dict[str, str]], services: Services, headers: dict[str, str]
) -> None:
    client, _ = tokens
    run = new_run(services).id
    for path in ("/v1/runs", f"/v1/runs/{run}", f"/v1/runs/{run}/log", f"/v1/runs/{run}/log/live", "/v1/fleet"):
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert str(run) not in answer.text
    assert client.get("/health/live").status_code == 200


def test_every_route_asks_who_it_is_but_for_health_and_reports(services: Services) -> None:
    services.tokens.create("someone", Scope.READ)
    with TestClient(create_app(services), base_url=LOCAL, raise_server_exceptions=False) as client:
        paths = client.get("/openapi.json").json()["paths"]
        run = new_run(services, adapter="remote").id
        open_to_all = set()
        for path, methods in paths.items():
            for method in methods:
                filled = path.format(run_id=run, attempt=1, stream="stdout", name="a", notice_id=run, pattern="a")
                if client.request(method, filled, json={}).status_code not in (401, 422):
                    open_to_all.add(path)
    assert open_to_all == {"/health/live", "/health/ready"}


def test_a_token_that_was_revoked_is_refused_at_once(services: Services, client: TestClient) -> None:
    kept, gone = services.tokens.create("kept", Scope.READ), services.tokens.create("gone", Scope.READ)
    assert client.get("/v1/runs", headers=bearer(gone)).status_code == 200
    assert services.tokens.revoke("gone")
    assert client.get("/v1/runs", headers=bearer(gone)).status_code == 401
    assert client.get("/v1/runs", headers=bearer(kept)).status_code == 200
    assert not services.tokens.revoke("gone")


@pytest.mark.parametrize("host", ["0.0.0.0:8000", "[::]:8000", "reprieve.example.com:8000"])
def test_without_a_token_the_api_is_not_served_to_a_network(services: Services, host: str) -> None:
    wired = replace(services, settings=services.settings.model_copy(update={"api_address": host}))
    with pytest.raises(SettingsError, match="there is no token"):
        serve(wired)


def test_tokens_are_made_listed_and_revoked_by_command(services: Services) -> None:
    def reprieve(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["token", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout.strip()

    token = reprieve("create", "grafana", "--scope", "read")
    assert services.tokens.holder_of(token) == Holder("grafana", Scope.READ)
    assert reprieve("list").startswith("grafana  read  ")
    assert token not in reprieve("list")
    with pytest.raises(InvalidRequest, match="already"):
        services.tokens.create("grafana", Scope.ADMIN)
    reprieve("revoke", "grafana")
    assert reprieve("list") == ""


@pytest.mark.parametrize("name", ["", "  ", "a" * 65, "a\0b"])
def test_a_token_has_a_name_that_a_person_can_read(services: Services, name: str) -> None:
    with pytest.raises(InvalidRequest, match="will not do"):
        services.tokens.create(name, Scope.READ)


@pytest.mark.parametrize("value", ["read", "read=short", "write=a-token-that-is-long-enough", "=a-token-long-enough"])
def test_a_setting_of_tokens_that_cannot_work_is_refused_without_being_quoted(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("REPRIEVE_API_TOKENS", value)
    with pytest.raises(SettingsError, match="REPRIEVE_API_TOKENS: must be SCOPE=TOKEN") as refused:
        load_settings()
    assert "long-enough" not in str(refused.value)


def test_tokens_of_the_settings_are_read_with_their_scopes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRIEVE_API_TOKENS", "read=abcdefghijklmnop, admin=qrstuvwxyz=123456,")
    found = [(scope, secret.get_secret_value()) for scope, secret in load_settings().api_tokens]
    assert found == [(Scope.READ, "abcdefghijklmnop"), (Scope.ADMIN, "qrstuvwxyz=123456")]


def test_no_log_line_and_no_answer_holds_a_token(
    services: Services, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token = services.tokens.create("someone", Scope.READ)
    answers = [
        client.get("/v1/runs", headers=bearer(token)),
        client.post("/v1/runs", json=RUN, headers=bearer(token)),
        client.get("/v1/runs?limit=x", headers=bearer(token)),
        client.get("/v1/runs", headers=bearer(token + "x")),
    ]
    assert [answer.status_code for answer in answers] == [200, 403, 422, 401]
    assert token not in caplog.text
    assert not any(token in answer.text or token in str(answer.headers) for answer in answers)


def test_a_token_of_a_run_is_good_for_nothing_else(services: Services, client: TestClient) -> None:
    services.tokens.create("someone", Scope.READ)
    work, token = remote_with_token(services)
    other, _ = remote_with_token(services)
    body = {"first_seq": 1, "chunks": lines(b"a")}
    assert client.post(f"/v1/runs/{work.run_id}/output", json=body, headers=bearer(token)).status_code == 200
    assert client.post(f"/v1/runs/{other.run_id}/output", json=body, headers=bearer(token)).status_code == 401
    assert client.get(f"/v1/runs/{work.run_id}", headers=bearer(token)).status_code == 401
    assert client.post(f"/v1/runs/{work.run_id}/cancel", headers=bearer(token)).status_code == 401


def test_a_body_that_is_too_large_is_refused_whatever_it_says_of_its_size(client: TestClient) -> None:
    whole = b'{"adapter": "' + b"a" * LARGEST_BODY + b'"}'
    json_type = {"Content-Type": "application/json"}
    in_pieces = (whole[start : start + 65536] for start in range(0, len(whole), 65536))
    for body in (whole, in_pieces):
        answer = client.post("/v1/runs", content=body, headers=json_type)
        assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")


# -- the page


def test_a_cookie_is_good_for_reading_and_for_changes_only_from_a_page_of_ours(
    services: Services, stranger: TestClient
) -> None:
    run = new_run(services).id
    wrong = stranger.post("/session", json={"token": "a guess"})
    assert (wrong.status_code, wrong.cookies) == (401, {})
    kept = stranger.post("/session", json={"token": services.tokens.create("runner", Scope.RUN)})
    told = kept.headers["set-cookie"].lower()
    assert (kept.status_code, "httponly" in told, "samesite=strict" in told) == (204, True, True)
    assert stranger.get(f"/v1/runs/{run}").status_code == 200
    for headers in ({}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        assert stranger.post(f"/v1/runs/{run}/cancel", headers=headers).status_code == 403
    assert services.runs.get(run).status == "queued"
    from_a_port_beside_us = {"Origin": LOCAL, "Sec-Fetch-Site": "same-site"}
    assert stranger.post(f"/v1/runs/{run}/cancel", headers=from_a_port_beside_us).status_code == 403
    assert stranger.get(f"/v1/runs/{run}", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    ours = {"Origin": LOCAL, "Sec-Fetch-Site": "same-origin"}
    assert stranger.post(f"/v1/runs/{run}/cancel", headers=ours).status_code == 200
    assert stranger.get("/session").json() == {"kept": True}
    assert stranger.delete("/session").status_code == 204
    assert stranger.get("/session").json() == {"kept": False}
    assert stranger.get(f"/v1/runs/{run}").status_code == 401


def test_the_page_loads_nothing_from_elsewhere_and_no_other_file(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http-equiv", "")
    for name in ("page.js", "log.js", "terminal.js", "page.css", "icon.svg"):
        assert client.get(f"/page/{name}").headers["x-content-type-options"] == "nosniff"
    for path in ("/page/app.py", "/page/..%2Fapp.py", "/page/%2e%2e/app.py", "/page/"):
        assert client.get(path).status_code == 404
