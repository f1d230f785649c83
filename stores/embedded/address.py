"""What a server's folder remembers: the port and the password, so that its URL survives restarts."""

import json
import os
import random
import secrets
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from reprieve.stores.embedded.errors import EmbeddedServerError
from reprieve.stores.files import write_private

LOOPBACK = "127.0.0.1"

#: Below the range from which Linux (32768) and macOS (49152) take ports for outgoing connections. A client that
#: retries a closed port inside that range can end up connected to itself, and then keeps the port from the server.
PORTS = range(20_000, 32_768)


@dataclass(frozen=True)
class Address:
    """Where one server answers, with which password, and the process that started it last."""

    port: int
    password: str
    starter_pid: int

    @classmethod
    def new(cls) -> "Address":
        """An address on a free port with a fresh password (256 bits, safe in URLs, SQL and configuration files)."""
        return cls(port=choose_port(), password=secrets.token_urlsafe(32), starter_pid=os.getpid())

    @classmethod
    def load(cls, file: Path) -> "Address | None":
        """The remembered address, None if there is none; raises EmbeddedServerError if the file is damaged."""
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            return cls(int(known["port"]), str(known["password"]), int(known["starter_pid"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EmbeddedServerError(f"cannot read {file}: {error!r}; restore it, or remove its folder") from error

    def save(self, file: Path) -> None:
        """Write the file (mode 0600) so that a reader, or a crash, meets the old or the new one, never half of it."""
        write_private(file, json.dumps(asdict(self), indent=2) + "\n")

    def for_this_start(self) -> "Address":
        """The same address, on another port if a stranger has taken ours, with us as the starter."""
        port = self.port if port_is_free(self.port) else choose_port()
        return replace(self, port=port, starter_pid=os.getpid())


def port_is_free(port: int) -> bool:
    """Whether a server could listen here now; leftovers of closed connections do not count as taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def choose_port() -> int:
    """A free port, picked at random so that servers starting at once do not all try the same one."""
    for port in _ports_in_random_order():
        if port_is_free(port):
            return port
    raise EmbeddedServerError(f"no TCP port between {PORTS.start} and {PORTS.stop - 1} is free on {LOOPBACK}")


def _ports_in_random_order() -> Iterator[int]:
    # The system's own randomness: a seed set by a test runner must not make two processes pick the same port.
    yield from random.SystemRandom().sample(PORTS, len(PORTS))
