"""Connections have deadlines for their clients, and a maximum number below the limit of descriptors.

A client that sends half a head or half a body, or does not read its answer, costs a descriptor; a few hundred such
of them would exhaust the process, and reports of remote work could no longer be accepted. Which connection is closed,
and when, is decided in `models.connections`.
"""

import asyncio
import socket
import sys
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any, ClassVar

from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from reprieve.models.connections import ConnectionState, Stage, first_to_go

#: Seconds between two checks for overdue connections.
LOOK_INTERVAL = 2.0
#: Connections accepted in one turn of the event loop, before any can be closed …
ACCEPTED_AT_ONCE = 32
#: … and the backlog in the kernel meanwhile, which uses none of our descriptors.
WAITING_AT_MOST = 2048
#: For a client that took too long, if it still reads.
TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Connection(H11Protocol):
    """uvicorn's protocol with deadlines; at most `most` of them at once."""

    most: ClassVar[int]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # The request itself, not its id, which another may have later.
        self._seen: tuple[Stage, Any, int] = (Stage.HEAD, None, 0)
        self._since = 0.0
        self._is_stalled = False
        self._look_later: asyncio.TimerHandle | None = None

    @property
    def state(self) -> ConnectionState:
        """Its current state, and since when it has been observed."""
        stage = self._stage()
        now = (stage, self.cycle, self._unsent() if stage in (Stage.STALLED, Stage.CLOSING) else 0)
        if now != self._seen:
            self._seen, self._since = now, self.loop.time()
        reads = self.scope is not None and self.scope["method"] in ("GET", "HEAD")
        return ConnectionState(stage, self._since, reads)

    def _stage(self) -> Stage:
        if self.transport.is_closing():
            return Stage.CLOSING
        if self._is_stalled:
            return Stage.STALLED
        if self.cycle is None or self.cycle.response_complete:
            return Stage.HEAD
        return Stage.BODY if self.cycle.more_body else Stage.ANSWER

    def _unsent(self) -> int:
        """Bytes in the kernel's send buffer: a slow client drains those long before there is room for ours."""
        try:
            held = ioctl(self.transport.get_extra_info("socket").fileno(), TIOCOUTQ, bytes(4))
        except OSError:
            return 0
        return int.from_bytes(held, sys.byteorder)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        self._look()
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look_later is not None:
            self._look_later.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self._is_stalled = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self._is_stalled = False
        super().resume_writing()

    def _look(self) -> None:
        state = self.state
        if state.is_overdue(self.loop.time()):
            if state.stage in (Stage.STALLED, Stage.CLOSING):
                self.transport.abort()
                return
            self.transport.write(TOO_LATE)
            self.transport.close()
        self._look_later = self.loop.call_later(LOOK_INTERVAL, self._look)

    def _make_room(self) -> None:
        """Keep to the limit: close another connection, or this one if all others take precedence."""
        there = [one for one in self.connections if isinstance(one, Connection) and not one.is_gone]
        if len(there) > self.most:
            (first_to_go(one for one in there if one is not self) or self).transport.abort()

    @property
    def is_gone(self) -> bool:
        """Whether it was closed already; its descriptor is released in the next turn of the loop."""
        return self.transport.is_closing() and self.transport.get_write_buffer_size() == 0


def limited(most: int) -> type[Connection]:
    """At most this many connections."""
    return type("LimitedConnection", (Connection,), {"most": most})


def run(config: Config, listening: socket.socket, most: int) -> None:
    """Serve until the process is asked to end, with at most this many connections."""
    config.http = limited(most)
    config.backlog = ACCEPTED_AT_ONCE
    _Server(config).run(sockets=[listening])


class _Server(Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for one in sockets or []:
            one.listen(WAITING_AT_MOST)  # asyncio uses one number for both.
