"""A way to a server that can be cut for whoever takes it, and for nobody else."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Self
from urllib.parse import urlsplit


class Way(Enum):
    """What becomes of the bytes that come."""

    OPEN = "open"
    """They are passed on."""
    REFUSED = "refused"
    """Connections are closed, and new ones as soon as they are made."""
    SILENT = "silent"
    """Connections stay, new ones are taken, and nothing is passed on in either direction."""
    NO_ANSWER = "no answer"
    """What the client says is passed on; what the server answers is not."""


class Gateway:
    """Listens at an address of this machine and passes on to another port, as its `way` says at that moment.

    Bytes that come while they are not to be passed on are kept, as a network's retransmission would, until the way is
    open again.
    """

    def __init__(self, url: str, at: str = "127.0.0.1") -> None:
        self._to = urlsplit(url)
        self._listener = socket.create_server((at, 0))
        self._changed = threading.Condition()
        self._way = Way.OPEN
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def url(self) -> str:
        """The server's URL, by this way."""
        login = self._to.netloc.rpartition("@")[0]
        address, port = self._listener.getsockname()
        return self._to._replace(netloc=f"{login}@{address}:{port}").geturl()

    def turn(self, way: Way) -> None:
        with self._changed:
            self._way = way
            self._changed.notify_all()
        if way is Way.REFUSED:
            self._drop_all()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.turn(Way.REFUSED)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _drop_all(self) -> None:
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._way is Way.REFUSED:
                    client.close()
                else:
                    self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection((self._to.hostname or "", self._to.port or 0))
        except OSError:
            client.close()
            return
        self._open |= {client, server}
        self._start(self._pass_on, client, server, {Way.SILENT})
        self._start(self._pass_on, server, client, {Way.SILENT, Way.NO_ANSWER})

    def _pass_on(self, source: socket.socket, target: socket.socket, held: set[Way]) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                with self._changed:
                    self._changed.wait_for(lambda: self._way not in held)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()
