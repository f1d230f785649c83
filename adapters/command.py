"""A command of this host: what its config may say, and how it is launched so that nothing runs unrecorded."""

import asyncio
import errno
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from socket import SHUT_WR, socket, socketpair
from typing import IO
from uuid import uuid4

from reprieve.adapters import cgroup, host, kills
from reprieve.adapters.command_config import CommandConfig
from reprieve.adapters.command_files import open_terminal
from reprieve.adapters.launcher import OWN, Asked
from reprieve.adapters.launchers import LAUNCHERS, Server, inherited_environment, is_too_long
from reprieve.adapters.masking import Masker
from reprieve.adapters.ownership import MARKER
from reprieve.adapters.protocol import AsyncContext
from reprieve.adapters.secrets import SecretUnavailable, patterns_of_all, resolve
from reprieve.models.faults import is_unfit
from reprieve.models.killed import was_killed, with_used
from reprieve.models.process import ProcessIdentity
from reprieve.models.saying import VARIABLE
from reprieve.models.used import NOTHING_KNOWN, Used
from reprieve.models.work import Outcome, Work

#: Seconds between two tries to start a command on a host that is short of something.
START_INTERVAL = 1.0
#: Seconds without an answer after which the server that forks launchers is taken for stuck, and ended.
ANSWER_SECONDS = 10.0
#: Seconds between two tries to ask it, while too many ask at once.
ASK_INTERVAL = 0.01
#: How many servers may end before they have answered.
ANSWER_TRIES = 3
READ_SIZE = 4096
TOO_LONG = "its arguments and its environment are longer than the system allows"


class CannotStart(Exception):
    """Raised when the command cannot be started; the text says why."""


@dataclass(frozen=True, slots=True)
class Exited:
    """How a command ended: as `subprocess` says it, and whether something that descends from it is still there."""

    returncode: int
    left: bool


class Channel:
    """The socket to a launcher: what is asked of it, and the lines in which it says what has happened."""

    def __init__(self, socket: socket) -> None:
        self._socket = socket
        self._heard = b""
        socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    async def say(self, data: bytes) -> None:
        """Returns when it has all been taken; that the launcher is gone is heard, not raised."""
        with suppress(BrokenPipeError, ConnectionResetError):
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def line(self) -> str:
        """The next line of the launcher; empty when it is gone."""
        while (line := self._next()) is None:
            with suppress(ConnectionResetError):
                if self._hear(await asyncio.get_running_loop().sock_recv(self._socket, READ_SIZE)):
                    continue
            return ""
        return line

    def line_that_came(self) -> str | None:
        """The next line, where the socket can be read or a line was left (`has_more`); None while it is not whole."""
        with suppress(ConnectionResetError):
            if self.has_more or self._hear(self._socket.recv(READ_SIZE)):
                return self._next()
        return ""

    @property
    def has_more(self) -> bool:
        """Whether another line came with the last one: the socket does not say so any more."""
        return b"\n" in self._heard

    def _hear(self, data: bytes) -> bool:
        self._heard += data
        return bool(data)

    def _next(self) -> str | None:
        line, end, rest = self._heard.partition(b"\n")
        if not end:
            return None
        self._heard = rest
        return line.decode("utf-8", "replace")

    async def end(self) -> str:
        """Let the launcher go, and wait until it is gone or goes on without this worker. Returns its last word."""
        last = ""
        with suppress(OSError):  # It is gone.
            self._socket.shutdown(SHUT_WR)
        try:
            while line := await self.line():
                last = line
        finally:
            self.close()
        return last

    def close(self) -> None:
        self._socket.close()


@dataclass
class Launched:
    """A launcher that waits for `go` before it starts the command, and ends without it. To be closed."""

    identity: ProcessIdentity
    channel: Channel
    """To the launcher. It says there how its command has ended (`exited`), if that is the worker's own."""
    outputs: dict[str, int] = field(default_factory=dict)
    """File descriptors to read the command's output from, by stream; none for what goes to files of the caller."""
    used: Used = NOTHING_KNOWN
    """What its command used; known when this is closed, of one that does not outlive the worker."""
    _patterns: frozenset[bytes] = field(default=frozenset(), repr=False)

    def masker(self) -> Masker:
        """One for a stream of the command: it knows the secrets that the command was given."""
        return Masker(self._patterns)

    async def ready(self) -> None:
        """Returns when the launcher has all that it needs. Raises `CannotStart`, and `OSError` on an unfit host."""
        await self._expect("r")

    async def go(self) -> None:
        """Let the command start; returns when it has. Raises as `ready` does."""
        await self.channel.say(b"g")
        await self._expect("s")

    async def _expect(self, word: str) -> None:
        said, _, rest = (await self.channel.line()).partition(" ")
        if not said:
            raise CannotStart("its launcher was killed before it could begin")
        if said != word:
            raise _problem(rest)

    def exited(self) -> Exited | None:
        """How the command ended; None while that is not known. To be asked when `channel` can be read, or has more.

        A launcher that was killed had its command killed.
        """
        line = self.channel.line_that_came()
        if line is None:
            return None
        if not line:
            return Exited(-SIGKILL, left=True)
        _, status, left = line.split()
        return Exited(os.waitstatus_to_exitcode(int(status)), left == "1")

    async def close(self) -> None:
        """Let go of it, and wait until the launcher is gone, or goes on by itself."""
        try:
            word, _, said = (await self.channel.end()).partition(" ")
            if word == "u":
                self.used = Used.of(json.loads(said))
        finally:
            for fd in self.outputs.values():
                os.close(fd)
            self.outputs = {}


def _problem(said: str) -> Exception:
    """What a launcher says of why it cannot start its command."""
    number, _, sentence = said.partition(" ")
    problem = OSError(int(number), sentence)
    return problem if is_unfit(problem) else CannotStart(sentence)


@asynccontextmanager
async def started(
    launch: Callable[[], Awaitable[Launched]], record: Callable[[Launched], Awaitable[None]], context: AsyncContext
) -> AsyncIterator[Launched]:
    """A command that has started, its launcher recorded before it might.

    What the host is short of once that is recorded is waited for here, for as long as the run is wanted: no other
    worker can know that nothing has begun. Raises `CannotStart`, and what `launch` and `record` raise.
    """
    while True:
        launched = await launch()
        try:
            await record(launched)
            try:
                await launched.go()
            except OSError as problem:
                await context.note(f"The command could not be started yet, and is tried again: {problem.strerror}.")
            else:
                yield launched
                return
        finally:
            await launched.close()
        context.heartbeat()
        if await context.wait(START_INTERVAL):
            raise CannotStart("the run has ended before this host could start it")


async def launch(run: Work, mode: str, files: Sequence[int] = (), report: Path | None = None) -> Launched:
    """Have a launcher for a run's command, in a session of its own; it may say something of itself in `report`.

    `mode` is `own`, or the folder of an attempt that outlives the worker: the launcher then copies the command's output
    to `files`, for standard output and standard error, and writes the record of its exit there. With `own`, the output
    is read from `outputs`. Raises `CannotStart`, and `OSError` when the host is unfit: what was asked for may be all
    right then, and nothing was started.
    """
    config = CommandConfig.model_validate(run.config)
    kills.look()
    # First of all: where one is missing, nothing is started.
    secrets = await asyncio.to_thread(resolved_secrets, config) if config.secrets else {}
    marker = uuid4().hex
    command = [os.fsencode(word) for word in config.command]
    environment = _environment(run, config, secrets, {MARKER: marker} | ({VARIABLE: str(report)} if report else {}))
    if is_too_long(command, environment):
        raise CannotStart(TOO_LONG)
    with ExitStack() as lent, ExitStack() as kept:
        outputs: dict[str, int] = {}
        kind = "terminal" if config.pty else "pipes"
        if mode == OWN:
            outputs, files = _outputs(config, lent, kept)
            kind = "inherited"
        given = [*files]
        if config.stdin:
            given.append(lent.enter_context(_file_with(config.stdin)).fileno())
        place, limit = cgroup.create(marker), run.max_memory_bytes
        if place is not None:
            kept.callback(cgroup.remove, place)
        if limit is not None:
            try:
                cgroup.limit(place, limit)
            except cgroup.NoLimit as problem:
                raise CannotStart(str(problem)) from None
        folder = os.fsencode(config.cwd or "")
        asked = Asked(mode, kind, str(place or ""), folder, command, environment, limited=limit is not None)
        channel, identity = await _launcher(asked, given, marker)
        kept.pop_all()
    return Launched(identity, channel, outputs, _patterns=patterns_of_all(secrets))


def judged(outcome: Outcome, used: Used, run: Work) -> Outcome:
    """The outcome of a run's command that has just ended, with what it used, and with memory as its cause."""
    return with_used(outcome, used.limited_to(run.max_memory_bytes), kills.nearby() if was_killed(outcome) else None)


async def _launcher(asked: Asked, given: Sequence[int], marker: str) -> tuple[Channel, ProcessIdentity]:
    """A launcher that was told all that it needs, and has said who it is.

    Where a server is ended before it has forked one, nothing has begun, and nobody was told of anything: it is asked
    for again. Raises as `launch` does.
    """
    for _ in range(ANSWER_TRIES):
        ours, theirs = socketpair()
        channel = Channel(ours)
        try:
            with theirs:
                server = await _server_asked([theirs.fileno(), *given], len(asked.environment))
            identity = await _introduced(channel, asked, server, marker)
        except BaseException:
            channel.close()
            raise
        if identity is not None:
            return channel, identity
        channel.close()
    raise OSError(errno.EAGAIN, "each process that was to fork its launcher was ended before")


async def _introduced(channel: Channel, asked: Asked, server: Server, marker: str) -> ProcessIdentity | None:
    """Who the launcher is that was told what is asked of it; None where there is none. Raises as `launch` does."""
    stuck = asyncio.get_running_loop().call_later(ANSWER_SECONDS, server.kill)
    try:
        await channel.say(asked.encoded())
        while line := await channel.line():
            said, _, rest = line.partition(" ")
            if said == "e":
                raise _problem(rest)
            if (identity := host.identify(int(rest), marker)) is not None:
                return identity
            # It has ended since, without its command: its next line may say why.
    finally:
        stuck.cancel()
    return None


async def _server_asked(files: Sequence[int], room: int) -> Server:
    """The server that was asked for a launcher with these files. Raises as `launch` does."""
    until = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            return LAUNCHERS.ask(files, room)
        except OSError as error:
            if error.errno == errno.E2BIG:
                raise CannotStart(TOO_LONG) from None
            if not is_unfit(error):
                raise CannotStart(f"no process could be made for it ({error.strerror})") from error
            if not isinstance(error, BlockingIOError) or time.monotonic() > until:
                raise
        await asyncio.sleep(ASK_INTERVAL)


def _outputs(config: CommandConfig, lent: ExitStack, kept: ExitStack) -> tuple[dict[str, int], list[int]]:
    """What to read a command's output from, by stream, which is kept; and what the command writes it to."""
    if config.pty:
        reading, writing = open_terminal()
        kept.callback(os.close, reading)
        lent.callback(os.close, writing)
        return {"stdout": reading}, [writing, writing]
    outputs, files = {}, []
    for stream in ("stdout", "stderr"):
        reading, writing = os.pipe()
        kept.callback(os.close, reading)
        lent.callback(os.close, writing)
        outputs[stream] = reading
        files.append(writing)
    return outputs, files


def _file_with(text: str) -> IO[bytes]:
    """A file, not a pipe: a command that reads late, or not at all, holds nobody up."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the caller
    file.write(text.encode("utf-8", "surrogateescape"))
    file.seek(0)
    return file


def resolved_secrets(config: CommandConfig) -> dict[str, str]:
    """The values of a command's secrets, as this worker has them now. Raises `CannotStart` naming what is missing."""
    try:
        return resolve(config.secrets, os.environ)
    except SecretUnavailable as problem:
        raise CannotStart(str(problem)) from None


def _environment(
    run: Work, config: CommandConfig, secrets: Mapping[str, str], ours: Mapping[str, str]
) -> dict[bytes, bytes]:
    """What the command inherits. Ours stands last: no config drops it by mistake."""
    whole = {**inherited_environment(), **run.environment, **config.env, **secrets, **ours}
    return {os.fsencode(name): os.fsencode(value) for name, value in whole.items()}
