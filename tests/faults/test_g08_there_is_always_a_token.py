"""G08, G09: who may come in is said by a token that is always there, or by a choice; never by what is absent."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from reprieve.api.app import create_app
from reprieve.cli.serve import serve
from reprieve.models.access import Caller, Scope
from reprieve.models.errors import SettingsError
from reprieve.stores.embedded.address import choose_port
from reprieve.stores.tokens import OWN_TOKEN, make_own_token, own_token
from reprieve.workers.bootstrap import Services
from tests.api.conftest import served
from tests.support.forking import REPRIEVE
from tests.support.http import LOCAL, bearer, with_token
from tests.support.processes import Process, run_command, spawn
from tests.support.rows import new_run
from tests.support.served import Served
from tests.support.waiting import answers, eventually

__all__ = ["served"]

PROGRAMS = Path(sys.executable).parent
#: What changes nothing, and tells only what everybody may know.
OPEN_PATHS = {"/": 200, "/openapi.json": 200, "/health/live": 200, "/session": 200}
CLOSED_PATHS = ("/v1/runs", "/v1/fleet", "/v1/adapters", "/metrics")


def _asked(port: int, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, headers=headers or {})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.row("G08")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "evil.example"])
def test_without_a_token_nobody_is_let_in_whatever_name_the_request_has(services: Services, host: str) -> None:
    run = new_run(services).id
    with TestClient(create_app(services), base_url=LOCAL, client=("127.0.0.1", 1)) as client:
        for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE"):
            for path in (*CLOSED_PATHS, f"/v1/runs/{run}", f"/v1/runs/{run}/cancel", f"/v1/runs/{run}/log/live"):
                answer = client.request(method, path, headers={"Host": host}, json={})
                assert answer.status_code in (401, 405), (method, path)
                assert "access-control-allow-origin" not in answer.headers
        for path, status in OPEN_PATHS.items():
            assert client.get(path, headers={"Host": host}).status_code == status
    assert services.runs.get(run).status == "queued"


@pytest.mark.row("G09")
def test_revoking_the_last_token_closes_the_door(services: Services) -> None:
    with TestClient(create_app(services), base_url=LOCAL, client=("127.0.0.1", 1)) as client:
        token = services.tokens.create("the only one", Scope.ADMIN)
        assert client.get("/v1/runs", headers=bearer(token)).status_code == 200
        services.tokens.revoke("the only one")
        for headers in (bearer(token), {}):
            assert client.get("/v1/runs", headers=headers).status_code == 401


@pytest.mark.row("G08")
def test_an_open_api_lets_its_own_user_in_and_no_page_of_another_site(served: Served, services: Services) -> None:
    run = f"/v1/runs/{new_run(services).id}"
    assert _asked(served.port, run) == 200
    other_pages = [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"{LOCAL}:{served.port + 1}"},
        {"Host": "evil.example"},
        {"Host": "10.0.0.1"},
        {"Host": f"127.0.0.1.evil.example:{served.port}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ]
    for headers in other_pages:
        assert _asked(served.port, run, headers) == 403
        assert _asked(served.port, f"{run}/cancel", headers, "POST") == 403
    token = services.tokens.create("someone", Scope.RUN)
    assert _asked(served.port, f"{run}/cancel", {"Origin": served.url, "Host": served.url[7:]}, "POST") == 200
    assert _asked(served.port, run, {"Host": "evil.example"} | bearer(token)) == 200
    assert _asked(served.port, run, bearer(token + "x")) == 401


@pytest.mark.row("G08")
@pytest.mark.parametrize(
    "header", ["X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Via", "X-Real-IP", "X-Original-Forwarded-For"]
)
def test_what_came_through_a_proxy_needs_a_token_like_any_other(
    served: Served, services: Services, header: str
) -> None:
    token = services.tokens.create("someone", Scope.READ)
    assert _asked(served.port, "/v1/runs", {header: "127.0.0.1"}) == 401
    assert _asked(served.port, "/v1/runs", {header: "127.0.0.1"} | bearer(token)) == 200


@pytest.mark.row("G08")
def test_a_bare_proxy_pass_is_known_by_its_http_version(served: Served) -> None:
    for version, status in ((b"1.0", b" 401 "), (b"1.1", b" 200 ")):
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as proxy:
            host = b"Host: 127.0.0.1:%d" % served.port
            proxy.sendall(b"GET /v1/runs HTTP/" + version + b"\r\n" + host + b"\r\nConnection: close\r\n\r\n")
            assert status in proxy.recv(65536).partition(b"\r\n")[0]


@pytest.mark.row("G08")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_this_machine_needs_a_token(served: Served) -> None:
    ask = f"import urllib.request as u; print(u.urlopen('{served.url}/v1/runs').status)"
    for user, told in ((65534, "HTTP Error 401"), (os.geteuid(), "200")):
        done = subprocess.run(
            ["python3", "-c", ask], user=user, cwd="/", env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
        )
        assert told in done.stdout + done.stderr


#: Cancels a run, and hangs up: the system then lists the socket as root's.
HANG_UP = """
import socket, sys
for _ in range(5):
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as api:
        api.sendall(f"POST {sys.argv[2]} HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nContent-Length: 0\\r\\n\\r\\n".encode())
        if sys.argv[3] == "half":
            api.shutdown(socket.SHUT_WR)
            api.recv(65536)
"""


@pytest.mark.row("G08")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("how", ["half", "whole"])
def test_another_user_who_hangs_up_is_not_taken_for_root(served: Served, services: Services, how: str) -> None:
    run_id = new_run(services).id
    words = ["python3", "-c", HANG_UP, str(served.port), f"/v1/runs/{run_id}/cancel", how]
    subprocess.run(words, user=65534, cwd="/", env={"PATH": os.environ["PATH"]}, check=True, timeout=60)
    assert _asked(served.port, f"/v1/runs/{run_id}") == 200
    assert services.runs.get(run_id).status == "queued"


@pytest.mark.row("G08")
@pytest.mark.parametrize(
    ("caller", "needs"),
    [
        (Caller(True, True, "1.1", {"host", "accept"}), False),
        (Caller(True, None, "1.1", set()), False),
        (Caller(True, False, "1.1", set()), True),
        (Caller(False, None, "1.1", set()), True),
        (Caller(True, True, "1.0", set()), True),
        (Caller(True, True, "1.1", {"x-forwarded-proto"}), True),
    ],
)
def test_whoever_is_not_known_to_be_this_user_here_needs_a_token(caller: Caller, needs: bool) -> None:
    assert (caller.why_a_token() is not None) is needs


@pytest.mark.row("G09")
@pytest.mark.parametrize("address", ["0.0.0.0:8000", "[::]:8000", "10.1.2.3:8000", "reprieve.example.com:8000"])
def test_open_is_refused_with_anything_but_loopback(services: Services, address: str) -> None:
    services.tokens.create("someone", Scope.ADMIN)
    changed = services.settings.model_copy(update={"api_address": address, "api_open": True})
    with pytest.raises(SettingsError, match=r"REPRIEVE_API_OPEN is set.*loopback only"):
        serve(replace(services, settings=changed))


@pytest.mark.row("G08")
def test_an_address_with_a_token_becomes_a_cookie_and_an_address_without(services: Services) -> None:
    with TestClient(create_app(with_token(services)), base_url=LOCAL) as client:
        for token, status in (("a guess", 401), (bearer()["Authorization"].split()[1], 200)):
            moved = client.get("/", params={"token": token}, follow_redirects=False)
            assert (moved.status_code, moved.headers["location"]) == (303, "./")
            assert (moved.headers["referrer-policy"], moved.headers["cache-control"]) == ("no-referrer", "no-store")
            assert client.get("/v1/runs").status_code == status
        kept = moved.headers["set-cookie"].lower()
        assert "httponly" in kept
        assert "samesite=strict" in kept


@pytest.mark.row("G08")
def test_the_token_of_a_data_folder_is_its_owners_alone_and_stays(tmp_path: Path) -> None:
    assert own_token(tmp_path / "data") is None
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(make_own_token(tmp_path / "data"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), set(made)) == (8, {own_token(tmp_path / "data")})
    file = tmp_path / "data" / OWN_TOKEN
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]
    for content in (b"", b"short", b"\xff" * 50):
        file.write_bytes(content)
        with pytest.raises(SettingsError, match="api_token"):
            make_own_token(tmp_path / "data")


@pytest.fixture
def api(environment: dict[str, str], tmp_path: Path) -> Iterator[tuple[int, Process]]:
    """`reprieve api` as a process: its port, and the process."""
    port = choose_port()
    extra = {"REPRIEVE_API_ADDRESS": f"127.0.0.1:{port}"}
    process = spawn("api", [REPRIEVE, "api"], environment | extra, tmp_path)
    try:
        eventually(lambda: answers(f"{LOCAL}:{port}/health/live"), timeout=60, what=lambda: process.output)
        yield port, process
    finally:
        process.stop()


@pytest.mark.row("G08")
def test_an_api_that_has_no_token_makes_one_that_the_same_user_finds(
    api: tuple[int, Process], environment: dict[str, str], tmp_path: Path
) -> None:
    port, process = api
    shown = run_command([REPRIEVE, "token", "show"], env={**os.environ, **environment}, text=True)
    token = shown.stdout.strip()
    assert token == own_token(Path(environment["REPRIEVE_DATA_DIR"]))
    assert _asked(port, "/v1/runs") == 401
    assert _asked(port, "/v1/runs", bearer(token)) == 200
    assert _asked(port, f"/?token={token}") == 303
    # Nobody sits there: what it writes is a log, and no log has a token.
    assert "reprieve token show" in process.output
    assert token not in process.output
