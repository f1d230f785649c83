"""The API behind a proxy: below a path, behind TLS at another port, and nobody believed who was not to be."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import ValidationError

from reprieve.api.app import create_app
from reprieve.models.access import Scope, is_root_path, networks_of
from reprieve.workers.bootstrap import Services
from reprieve.workers.settings import Settings
from tests.support.http import TOKEN, bearer, with_token

OUTSIDE = "https://jobs.example.com:8443"
SAID = {
    "Host": "api.internal",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "jobs.example.com:8443",
    "X-Forwarded-Prefix": "/reprieve",
    "X-Forwarded-For": "198.51.100.7",
}
OURS = {"Origin": OUTSIDE, "Sec-Fetch-Site": "same-origin"}


@contextmanager
def proxied(services: Services, trusted: str = "10.0.0.0/8", **settings: Any) -> Iterator[TestClient]:
    """A proxy at 10.0.0.5, which takes what is asked of it to the API."""
    changes = {"api_trusted_proxies": networks_of(trusted)} | settings
    wired = replace(with_token(services), settings=with_token(services).settings.model_copy(update=changes))
    with TestClient(create_app(wired), client=("10.0.0.5", 4000), follow_redirects=False) as client:
        yield client


@pytest.mark.parametrize("headers", [{}, {"X-Forwarded-Host": "jobs.example.com", "X-Forwarded-Port": "8443"}])
def test_the_page_works_behind_tls_at_another_port_below_a_path(services: Services, headers: dict[str, str]) -> None:
    with proxied(services) as client:
        said = SAID | headers
        kept = client.post("/session", json={"token": TOKEN}, headers=said | OURS)
        cookie = kept.headers["set-cookie"]
        assert kept.status_code == 204
        assert "Path=/reprieve/;" in cookie
        assert "Secure" in cookie
        bearing = {"Cookie": cookie.partition(";")[0]} | said | OURS
        run = client.post("/v1/runs", json={"adapter": "process", "config": {"command": ["true"]}}, headers=bearing)
        assert run.status_code == 201
        assert run.headers["location"] == f"/reprieve/v1/runs/{run.json()['id']}"
        elsewhere = bearing | {"Origin": "https://jobs.example.com:9443"}
        assert client.post(f"/v1/runs/{run.json()['id']}/cancel", headers=elsewhere).status_code == 403
        assert client.delete("/session", headers=bearing).headers["set-cookie"].count("Path=/reprieve/;") == 1


@pytest.mark.parametrize("trusted", ["", "10.1.0.0/16"])
def test_who_is_not_trusted_is_not_believed(services: Services, trusted: str) -> None:
    with proxied(services, trusted) as client:
        kept = client.post("/session", json={"token": TOKEN}, headers=SAID | OURS)
        assert "Path=/;" in kept.headers["set-cookie"]
        assert "Secure" not in kept.headers["set-cookie"]
        bearing = {"Cookie": kept.headers["set-cookie"].partition(";")[0]} | SAID | OURS
        run = client.post("/v1/runs", json={"adapter": "process", "config": {}}, headers=bearing)
        assert (run.status_code, run.json()["detail"]) == (403, "This came from a page of another site.")


@pytest.mark.parametrize("takes_it_off", [True, False])
def test_a_root_path_holds_whether_the_proxy_takes_it_off_or_not(services: Services, *, takes_it_off: bool) -> None:
    below = "" if takes_it_off else "/reprieve"
    with proxied(services, api_root_path="/reprieve") as client:
        assert 'href="page/page.css"' in client.get(f"{below}/").text
        assert client.get(f"{below}/page/page.js").status_code == 200
        assert client.get(f"{below}/v1/runs", headers=bearer()).json()["runs"] == []
        assert client.post(f"{below}/v1/runs").json()["detail"].startswith("A token is needed")
        there = client.get(f"{below}/", params={"token": TOKEN})
        assert (there.status_code, there.headers["location"]) == (303, "./")
        assert client.get("/elsewhere/v1/runs", headers=bearer()).status_code == 404


def test_it_is_mounted_in_an_application_of_somebody_else(services: Services) -> None:
    theirs = FastAPI()
    theirs.mount("/jobs", create_app(with_token(services)))
    with TestClient(theirs) as client:
        assert client.get("/jobs/").status_code == 200
        assert client.get("/jobs/page/page.js").status_code == 200
        assert client.get("/jobs/v1/runs", headers=bearer()).status_code == 200
        kept = client.post("/jobs/session", json={"token": TOKEN})
        assert "Path=/jobs/;" in kept.headers["set-cookie"]
        client.cookies.clear()
        # The body of a request without a token is not read there either.
        assert client.post("/jobs/v1/runs", content=b"x" * 3_000_000).status_code == 401


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/health/live", "/health/ready"])
def test_head_is_answered_as_get_is_without_the_body(services: Services, path: str) -> None:
    with proxied(services) as client:
        got, head = client.get(path), client.head(path)
        assert head.status_code == got.status_code
        assert head.headers["content-type"] == got.headers["content-type"]
        assert "head" not in client.get("/openapi.json").json()["paths"].get(path, {})


@pytest.mark.parametrize("path", ["reprieve", "/a b", "/v1", "/jobs/page", "/..", "/a//b", "/a;b", "/" + "x" * 200])
def test_a_root_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="api_root_path"):
        Settings(api_root_path=path, database_url="postgresql://x/y", redis_url="redis://x")


def test_a_root_path_and_proxies_are_read_from_settings() -> None:
    assert Settings(api_root_path="/jobs/", api_trusted_proxies="10.0.0.1, fd00::/8").api_root_path == "/jobs"
    with pytest.raises(ValidationError, match=r"10\.0\.0\.5,10\.1\.0\.0/16"):
        Settings(api_trusted_proxies="proxy.internal")
    assert is_root_path("/a/b.c_d~e-f")


def test_without_a_token_a_proxy_is_no_way_in_whatever_it_says(services: Services) -> None:
    services.tokens.create("somebody", Scope.READ)
    with proxied(services, api_open=True) as client:
        said = SAID | {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "localhost"}
        assert client.get("/v1/runs", headers=said).status_code == 401
