"""Servers of other kinds, from Debian's packages: each a child of the tests, on a free port of loopback."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis, RedisError
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from reprieve.stores.database import Database
from reprieve.stores.embedded import EmbeddedPostgres, EmbeddedRedis
from reprieve.stores.embedded.address import choose_port
from reprieve.stores.embedded.redis import find_program
from tests.support.processes import Process, spawn
from tests.support.waiting import eventually

#: Not on the PATH of everybody; and Debian's wrapper on the PATH would become another user.
RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server"


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/lib/rabbitmq/bin")
    if found is None:
        pytest.fail(f"There is no {name} here; `make test-servers` installs it.")
    return found


def let_others_in(folder: Path) -> None:
    """A server that does not run as root must be able to come to its folder."""
    for one in (folder, *folder.parents):
        if one == Path(tempfile.gettempdir()):
            break
        one.chmod(0o755)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    folder = tmp_path_factory.mktemp("postgres")
    let_others_in(folder)
    server = EmbeddedPostgres(folder / "data")
    server.start()
    yield server
    server.stop()
    server.remove()


# -- RabbitMQ


class Rabbit:
    """A broker that can be killed and started again with what it has kept."""

    def __init__(self, folder: Path, configuration: str = "") -> None:
        self._folder = folder
        self._ports = {"RABBITMQ_NODE_PORT": choose_port(), "RABBITMQ_DIST_PORT": choose_port()}
        self._epmd = choose_port()
        (folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{self._ports['RABBITMQ_NODE_PORT']}\n")
        (folder / "advanced.config").write_text(configuration or "[].\n")
        (folder / "plugins").write_text("[].\n")
        self._environment = {
            **{name: str(port) for name, port in self._ports.items()},
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd),
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"test{self._epmd}@localhost",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_LOGS": "-",
        }

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self._ports['RABBITMQ_NODE_PORT']}//"

    def start(self) -> None:
        self.process: Process = spawn("rabbitmq", [program(RABBITMQ)], self._environment, self._folder)
        self.process.wait_for("Server startup complete", timeout=60)

    def kill(self) -> None:
        """With all its processes, at once. Its log is kept apart, so that the next start is waited for."""
        self.process.stop(timeout=0)
        self.process.log.rename(self.process.log.with_suffix(".before"))

    def stop(self) -> None:
        self.process.stop()
        subprocess.run([program("epmd"), "-kill"], env={**os.environ, **self._environment}, capture_output=True)


@pytest.fixture
def start_rabbit(tmp_path: Path) -> Iterator[Callable[..., Rabbit]]:
    started: list[Rabbit] = []

    def start(configuration: str = "") -> Rabbit:
        rabbit = Rabbit(tmp_path, configuration)
        started.append(rabbit)
        rabbit.start()
        return rabbit

    yield start
    for rabbit in started:
        rabbit.stop()


# -- PgBouncer


class Pooler:
    """A PgBouncer in transaction mode before a PostgreSQL, with few connections to it."""

    def __init__(self, postgres: EmbeddedPostgres, folder: Path) -> None:
        behind, port = make_url(postgres.url), choose_port()
        self.url = behind.set(port=port).render_as_string(hide_password=False)
        self._folder = folder
        (folder / "users.txt").write_text(f'"{behind.username}" "{behind.password}"\n')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n{behind.database} = host={behind.host} port={behind.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = plain\nauth_file = {folder / 'users.txt'}\n"
            "pool_mode = transaction\ndefault_pool_size = 8\nmax_client_conn = 200\n"
            "ignore_startup_parameters = extra_float_digits,options\n"
        )
        let_others_in(folder)

    def start(self) -> None:
        # It refuses to be root.
        user = ("-u", "nobody") if os.geteuid() == 0 else ()
        command = [program("pgbouncer"), *user, str(self._folder / "pgbouncer.ini")]
        self.process = spawn("pgbouncer", command, {}, self._folder)
        database = Database(self.url)
        eventually(lambda: _answers(database), timeout=20, what=lambda: self.process.output)
        database.dispose()

    def kill(self) -> None:
        self.process.kill()


@pytest.fixture
def pooler(postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Pooler]:
    made = Pooler(postgres, tmp_path)
    made.start()
    yield made
    made.process.stop()


def _answers(database: Database) -> bool:
    try:
        return bool(database.now())
    except DBAPIError:
        return False


# -- Redis with TLS, and behind Sentinels


def redis_process(name: str, folder: Path, *lines: str, sentinel: bool = False, binary: str | None = None) -> Process:
    """A Redis, or a Sentinel, of these settings; it may take a moment until it answers."""
    home = folder / name
    home.mkdir()
    configuration = home / "redis.conf"
    configuration.write_text("".join(f"{line}\n" for line in ("bind 127.0.0.1", f"dir {home}", *lines)))
    command = [binary or find_program(), str(configuration), *(["--sentinel"] if sentinel else [])]
    return spawn(name, command, {}, folder)


def answers(**how: object) -> bool:
    with Redis(host="127.0.0.1", socket_timeout=2, **how) as client:  # type: ignore[arg-type]
        try:
            return bool(client.ping())
        except RedisError:
            return False
