"""A host of its own for a test: a network namespace on this machine, whose cable can be cut without anybody noticing.

Needs root and `ip`; `available` says whether they are there. The traffic stays on this machine.
"""

import os
import secrets
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache

#: A network card that there is not: what is sent to it is thrown away.
NOBODY = "02:00:00:00:00:01"


@dataclass(frozen=True)
class Host:
    """A namespace and its cable: `here` is this machine's address on it, `there` its own."""

    name: str
    cable: str
    here: str
    there: str

    def command(self, *words: str) -> list[str]:
        """These words as a command that runs on that host."""
        return ["ip", "netns", "exec", self.name, *words]

    def cut(self, *, to: bool = True, fro: bool = True) -> None:
        """From now on nothing reaches that host, and nothing comes from it. Packets vanish: no reset says so."""
        if to:
            _ip("neigh", "replace", self.there, "lladdr", NOBODY, "dev", self.cable, "nud", "permanent")
        if fro:
            _ip("-n", self.name, "neigh", "replace", self.here, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent")

    def mend(self) -> None:
        """All passes again."""
        for words in (("neigh", "flush", "dev", self.cable), ("-n", self.name, "neigh", "flush", "dev", "eth0")):
            _ip(*words, "nud", "permanent")


@contextmanager
def slow_link(port: int, seconds: float) -> Iterator[int]:
    """A port of loopback that leads to another one, where all takes so long on its way, in either direction."""
    ended = threading.Event()

    def carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                ended.wait(seconds)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def accept(listening: socket.socket) -> None:
        with suppress(OSError), ExitStack() as open_ones:
            while not ended.is_set():
                near = open_ones.enter_context(listening.accept()[0])
                far = open_ones.enter_context(socket.create_connection(("127.0.0.1", port)))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepting = threading.Thread(target=accept, args=(listening,), daemon=True)
        accepting.start()
        try:
            yield listening.getsockname()[1]
        finally:
            ended.set()
            listening.shutdown(socket.SHUT_RDWR)
            accepting.join(10)


@cache
def available() -> bool:
    """Whether namespaces can be made here."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"reprieve-{secrets.token_hex(3)}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return False
    _ip("netns", "del", name)
    return True


@contextmanager
def another_host() -> Iterator[Host]:
    """A host that can reach this machine by one cable, for as long as the block lasts."""
    mark = secrets.token_bytes(2)
    name, cable = f"reprieve-{mark.hex()}", f"rp{mark.hex()}"
    # Of the block that is meant for tests of networks (RFC 2544): nobody's traffic goes there.
    net = f"198.18.{mark[0]}.{mark[1] & 0xFC}"
    base, _, last = net.rpartition(".")
    host = Host(name, cable, f"{base}.{int(last) + 1}", f"{base}.{int(last) + 2}")
    _ip("netns", "add", name)
    try:
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("addr", "add", f"{host.here}/30", "dev", cable)
        _ip("link", "set", cable, "up")
        for words in (("addr", "add", f"{host.there}/30", "dev", "eth0"), ("link", "set", "eth0", "up")):
            _ip("-n", name, *words)
        _ip("-n", name, "link", "set", "lo", "up")
        yield host
    finally:
        for words in (("link", "del", cable), ("netns", "del", name)):
            subprocess.run(["ip", *words], capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
