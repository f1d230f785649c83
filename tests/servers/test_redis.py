"""Redis as it is run in production: behind Sentinels, which name another master when one dies, and with TLS."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from redis import Redis

from reprieve.stores.embedded import EmbeddedPostgres
from reprieve.stores.embedded.address import choose_port
from tests.servers.conftest import answers, program, redis_process
from tests.servers.fleet import keeps_its_promises, prints_once, running_fleet, wrong
from tests.support.processes import Process
from tests.support.waiting import eventually

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

PASSWORD = "pass/word"


class Watched:
    """A master and its replica, watched by three Sentinels that call a master dead after a second."""

    def __init__(self, folder: Path) -> None:
        master, replica, *sentinels = (choose_port() for _ in range(5))
        common = ("appendonly yes", f"requirepass {PASSWORD}", f"masterauth {PASSWORD}", "maxmemory-policy noeviction")
        self.master = redis_process("master", folder, f"port {master}", *common)
        follow = f"replicaof 127.0.0.1 {master}"
        self.processes = [self.master, redis_process("replica", folder, f"port {replica}", follow, *common)]
        watch = (
            f"sentinel monitor main 127.0.0.1 {master} 2",
            f"sentinel auth-pass main {PASSWORD}",
            "sentinel down-after-milliseconds main 1000",
            "sentinel failover-timeout main 5000",
        )
        self._sentinels = sentinels
        self.processes += [
            redis_process(f"sentinel-{port}", folder, f"port {port}", *watch, sentinel=True) for port in sentinels
        ]
        hosts = ",".join(f"127.0.0.1:{port}" for port in sentinels)
        self.url = f"sentinel://:{quote(PASSWORD, safe='')}@{hosts}/0?master=main"

    @property
    def is_watched(self) -> bool:
        """Whether every Sentinel knows the replica and the two others."""
        return all(
            answers(port=port, decode_responses=True) and self._known(port) == ("1", "2") for port in self._sentinels
        )

    @staticmethod
    def _known(port: int) -> tuple[str, str]:
        with Redis(port=port, decode_responses=True) as sentinel:
            told = sentinel.execute_command("SENTINEL", "MASTER", "main")
        return str(told["num-slaves"]), str(told["num-other-sentinels"])


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path)
    try:
        eventually(lambda: made.is_watched, timeout=40, what=lambda: made.processes[-1].output)
        yield made
    finally:
        for process in made.processes:
            process.stop()


def test_reprieve_keeps_its_promises_behind_sentinels_and_goes_on_when_they_name_another_master(
    postgres: EmbeddedPostgres, watched: Watched, tmp_path: Path
) -> None:
    with running_fleet(tmp_path, postgres.url, watched.url) as fleet:
        keeps_its_promises(fleet)
        watched.master.kill()
        run = fleet.run("echo", "hello", adapter="process")
        fleet.becomes(run, "succeeded")
        prints_once(fleet)
        assert wrong(fleet) == []
        assert PASSWORD not in fleet.told()
        assert quote(PASSWORD, safe="") not in fleet.told()


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[str]:
    """The URL of a Redis that speaks TLS only, with a certificate of its own authority."""
    port, key, certificate = choose_port(), tmp_path / "key.pem", tmp_path / "certificate.pem"
    asked = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    asked += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([program("openssl"), *asked], check=True, capture_output=True)
    lines = ["port 0", f"tls-port {port}", f"tls-cert-file {certificate}", f"tls-key-file {key}", "tls-auth-clients no"]
    lines += ["appendonly yes", f"requirepass {PASSWORD}"]
    # The wheel's Redis is built without TLS.
    process: Process = redis_process("secure", tmp_path, *lines, binary=program("redis-server"))
    how = {"port": port, "password": PASSWORD, "ssl": True, "ssl_ca_certs": str(certificate)}
    try:
        eventually(lambda: answers(**how), timeout=20, what=lambda: process.output)
        password, file = quote(PASSWORD, safe=""), quote(str(certificate), safe="")
        yield f"rediss://:{password}@127.0.0.1:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={file}"
    finally:
        process.stop()


def test_reprieve_keeps_its_promises_over_tls(postgres: EmbeddedPostgres, secure: str, tmp_path: Path) -> None:
    with running_fleet(tmp_path, postgres.url, secure) as fleet:
        keeps_its_promises(fleet)
        assert wrong(fleet) == []
