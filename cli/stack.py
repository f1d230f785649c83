"""Everything on one machine: embedded servers unless addresses are set, and every role as a supervised process.

supervisord keeps the roles running: one that dies is started again. The servers are children of this process, in
sessions of their own, so that Ctrl-C reaches them last; one that dies is started again here, where it was.
"""

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Self

import psutil

from reprieve.cli.extras import need
from reprieve.cli.listening import refuse_taken
from reprieve.cli.roles import ROLES
from reprieve.cli.sentences import say
from reprieve.models.errors import ReprieveError, SettingsError, cannot_be_written
from reprieve.stores.addresses import forget_addresses, write_addresses
from reprieve.stores.database import Database
from reprieve.stores.embedded import EmbeddedPostgres, EmbeddedRedis, EmbeddedServerError
from reprieve.stores.embedded.address import choose_port, port_is_free
from reprieve.stores.migrate import migrate
from reprieve.workers.servers import PARTS, SERVERS, with_schema
from reprieve.workers.settings import Settings

#: Seconds that a role may take to end when asked …
STOP_SECONDS = 10
#: … and how long of that a worker waits for its in-process runs, before it ends them itself.
DRAIN_SECONDS = 4

#: Where Flower and the API are, if the port is free; the API's address may be set.
FLOWER_PORT = 5555
API_PORT = 8000

# supervisord runs in the data folder and names its files from there: what the folder is called is nothing to a language
# in which %, ; and a space mean something.
SUPERVISOR_SECTION = """\
[supervisord]
nodaemon=true
logfile=supervisord.log
pidfile=supervisord.pid
silent={silent}
{user}
"""

PROGRAM_SECTION = """
[program:{name}]
command={command}
autorestart=true
startsecs=2
startretries=1000000
stopwaitsecs={stop_seconds}
killasgroup=true
redirect_stderr=true
stdout_logfile=logs/{name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
environment={environment}
"""


class StackError(ReprieveError):
    """Raised when the processes of one machine cannot be started, or one that all others need has ended."""


class Stack:
    """The servers and roles of one data folder; a context manager that ends what it started."""

    def __init__(
        self,
        settings: Settings,
        *,
        flower_password: str,
        roles: Mapping[str, tuple[str, ...]] = ROLES,
        environment: Mapping[str, str] | None = None,
        quiet: bool = False,
    ) -> None:
        self._settings = settings
        self._folder = settings.data_dir
        self._flower_password = flower_password
        self._roles = roles
        self._extra = environment or {}
        self._quiet = quiet
        self._servers: dict[EmbeddedPostgres | EmbeddedRedis, str] = {}
        self._cleanup = ExitStack()
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._metrics: dict[str, str] = {}
        self.database_url = settings.database_url.get_secret_value() if settings.database_url else None
        self.redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
        self.flower_port = 0
        self.api_address = settings.api_address

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    @property
    def logs(self) -> Path:
        return self._folder / "logs"

    @property
    def settings(self) -> Settings:
        """The settings with the addresses of what runs."""
        return Settings.model_validate(
            self._settings.model_dump() | {"database_url": self.database_url, "redis_url": self.redis_url}
        )

    def check(self) -> None:
        """Raises `StackError` when something that everything needs is gone."""
        for server, url in self._servers.items():
            if not server.is_running():
                self._start_again(server, url)
        if self._supervisor is not None and self._supervisor.poll() is not None:
            raise StackError(f"supervisord has ended; see {self._folder / 'supervisord.log'}.")

    def _start_again(self, server: EmbeddedPostgres | EmbeddedRedis, url: str) -> None:
        """Have a server be back where all know it to be; whatever keeps it from that may be over at the next look."""
        say(f"{server.title} has ended; it is started again.", problem=True)
        try:
            server.start()
        except EmbeddedServerError as error:
            say(f"{server.title} does not start: {error}", problem=True)
            return
        if server.url != url:
            raise StackError(f"{server.title} is at another port, since a program has taken its own: start all anew.")

    def _start(self) -> None:
        need("supervisor", "What runs everything on one machine")
        try:
            self.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._cleanup.enter_context(self._alone())
        except OSError as error:
            raise cannot_be_written(self._folder, error) from None
        self._choose_addresses()
        if self.database_url is None:
            url, schema = self._serve(EmbeddedPostgres(self._folder / "postgres")), self._settings.database_schema
            self.database_url = with_schema(url, schema) if schema else url
        if self.redis_url is None:
            self.redis_url = self._serve(EmbeddedRedis(self._folder / "redis"))
        database = Database(self.database_url)
        migrate(database)
        database.dispose()
        write_addresses(self._folder, self.database_url, self.redis_url, self._settings.time_scale)
        self._cleanup.callback(forget_addresses, self._folder)
        self._supervise()

    def _choose_addresses(self) -> None:
        """Where Flower, the API and each worker's metrics are. What was asked for is had, or nothing is started."""
        if "FLOWER_PORT" in os.environ:
            self.flower_port = flower_port()
        else:
            self.flower_port = FLOWER_PORT if port_is_free(FLOWER_PORT) else choose_port()
        if "api_address" in self._settings.model_fields_set:
            refuse_taken("REPRIEVE_API_ADDRESS", self.api_address)
        else:
            self.api_address = f"127.0.0.1:{API_PORT if port_is_free(API_PORT) else choose_port()}"
        if self._settings.metrics_address is not None:
            host, _, first = self._settings.metrics_address.rpartition(":")
            workers = [name for name in self._roles if name.startswith("worker-")]
            self._metrics = {name: f"{host}:{int(first) + place}" for place, name in enumerate(workers)}
            for address in self._metrics.values():
                refuse_taken("REPRIEVE_METRICS_ADDRESS (of the first worker; each other has the next port)", address)

    def _alone(self) -> IO[str]:
        """A lock that ends with this process: two stacks on one folder would fight over its servers."""
        lock = (self._folder / "up.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise StackError(
                f"Reprieve is already up on {self._folder}. Stop it there (Ctrl-C), or set REPRIEVE_DATA_DIR."
            ) from None
        return lock

    def _serve(self, server: EmbeddedPostgres | EmbeddedRedis) -> str:
        server.start()
        self._servers[server] = server.url
        self._cleanup.callback(server.stop)
        return server.url

    def _supervise(self) -> None:
        configuration = self._folder / "supervisord.conf"
        configuration.write_text(self._configuration())
        self._supervisor = subprocess.Popen(
            [sys.executable, "-P", "-m", "reprieve.cli.supervise", "-c", configuration.name],
            cwd=self._folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._cleanup.callback(_end, self._supervisor)

    def _configuration(self) -> str:
        user = "user=root" if os.geteuid() == 0 else ""
        sections = [SUPERVISOR_SECTION.format(silent=str(self._quiet).lower(), user=user)]
        for name, command in self._roles.items():
            metrics = self._metrics.get(name)
            sections.append(
                PROGRAM_SECTION.format(
                    name=name,
                    command=_escaped(shlex.join(command)),
                    stop_seconds=STOP_SECONDS,
                    environment=f'REPRIEVE_METRICS_ADDRESS="{_escaped(metrics)}"' if metrics else "",
                )
            )
        return "".join(sections)

    def _environment(self) -> dict[str, str]:
        programs = str(Path(sys.executable).parent)
        broker = self._settings.broker_url
        # Put into the URLs already; a name that is set to nothing is as good as not set.
        beside = {f"REPRIEVE_{server}_{part}".upper(): "" for server in SERVERS for part in (*PARTS, "password_file")}
        return {
            **os.environ,
            **beside,
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
            "REPRIEVE_DATABASE_URL": self.database_url or "",
            "REPRIEVE_REDIS_URL": self.redis_url or "",
            # Set in a .env beside us, perhaps, which the processes do not see from the data folder.
            "REPRIEVE_BROKER_URL": broker.get_secret_value() if broker else "",
            "REPRIEVE_DATA_DIR": str(self._folder),
            "REPRIEVE_NODE_NAME": self._settings.node_name or "",
            "REPRIEVE_TIME_SCALE": str(self._settings.time_scale),
            "REPRIEVE_DRAIN_SECONDS": str(min(self._settings.drain_seconds, DRAIN_SECONDS)),
            "REPRIEVE_FLOWER_PASSWORD": self._flower_password,
            "REPRIEVE_API_ADDRESS": self.api_address,
            "REPRIEVE_API_OPEN": str(self._settings.api_open),
            "REPRIEVE_API_TOKENS": ",".join(
                f"{scope}={token.get_secret_value()}" for scope, token in self._settings.api_tokens
            ),
            "FLOWER_PORT": str(self.flower_port),
            **self._extra,
        }


def flower_port() -> int:
    """The port that Flower is asked to listen at; raises `SettingsError` where it cannot."""
    asked = os.environ.get("FLOWER_PORT", str(FLOWER_PORT))
    if not (asked.isdecimal() and 0 < int(asked) < 65536):
        raise SettingsError("FLOWER_PORT is no port; give one from 1 to 65535.")
    refuse_taken("FLOWER_PORT", f"{os.environ.get('FLOWER_ADDRESS') or '127.0.0.1'}:{asked}")
    return int(asked)


def wait_for_end(stack: Stack, sleep: Callable[[float], None] = time.sleep) -> None:
    """Until Ctrl-C or SIGTERM; raises `StackError` when something ends by itself."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        while True:
            stack.check()
            sleep(1)
    except KeyboardInterrupt:
        return


def _end(supervisor: "subprocess.Popen[bytes]") -> None:
    supervisor.terminate()
    try:
        supervisor.wait(STOP_SECONDS + 20)
    except subprocess.TimeoutExpired:
        for process in [*psutil.Process(supervisor.pid).children(recursive=True), psutil.Process(supervisor.pid)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        supervisor.wait()


def _escaped(text: str) -> str:
    """supervisord expands %."""
    return text.replace("%", "%%")
