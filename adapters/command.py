"""A command of this host: what its config may say, and how it is launched so that nothing runs unrecorded."""

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket, socketpair
from types import TracebackType
from typing import IO, Any, Self
from uuid import uuid4

from reprieve.adapters import cgroup, host
from reprieve.adapters.command_config import CommandConfig
from reprieve.adapters.command_files import open_terminal
from reprieve.adapters.masking import Masker
from reprieve.adapters.ownership import MARKER
from reprieve.adapters.protocol import Context
from reprieve.adapters.secrets import SecretUnavailable, is_withheld, patterns_of_all, resolve
from reprieve.models.faults import is_unfit
from reprieve.models.process import ProcessIdentity
from reprieve.models.work import Work

LAUNCHER = Path(__file__).with_name("launcher.py")
#: The mode of a command that lives and dies with its worker.
OWN = "own"
#: Seconds between two tries to start a command on a host that is short of something.
START_INTERVAL = 1.0


class CannotStart(Exception):
    """Raised when the command cannot be started; the text says why."""


@dataclass(frozen=True, slots=True)
class Exited:
    """How a command ended: as `subprocess` says it, and whether something that descends from it is still there."""

    returncode: int
    left: bool


@dataclass
class Launched:
    """A launcher that waits for `go` before it starts the command. Ends unless it went."""

    popen: subprocess.Popen[bytes]
    identity: ProcessIdentity
    channel: socket
    """To the launcher. It says there how its command has ended (`exited`), if that is the worker's own."""
    _terminal_fd: int = -1
    _patterns: frozenset[bytes] = field(default=frozenset(), repr=False)

    @property
    def outputs(self) -> dict[str, int]:
        """File descriptors to read the command's output from, by stream; none for what goes to files of the caller."""
        if self._terminal_fd >= 0:
            return {"stdout": self._terminal_fd}
        pipes = {"stdout": self.popen.stdout, "stderr": self.popen.stderr}
        return {stream: pipe.fileno() for stream, pipe in pipes.items() if pipe is not None}

    def masker(self) -> Masker:
        """One for a stream of the command: it knows the secrets that the command was given."""
        return Masker(self._patterns)

    def ready(self) -> None:
        """Returns when the launcher has all that it needs. Raises `CannotStart`, and `OSError` on an unfit host."""
        self._expect("r")

    def go(self) -> None:
        """Let the command start; returns when it has. Raises as `ready` does."""
        with suppress(BrokenPipeError):
            self.channel.send(b"g")
        self._expect("s")

    def _expect(self, word: str) -> None:
        said, _, rest = self._line().partition(" ")
        if said == "r" != word:
            said, _, rest = self._line().partition(" ")
        if said == word:
            return
        if not said:
            raise CannotStart("its launcher was killed before it could begin")
        number, _, sentence = rest.partition(" ")
        problem = OSError(int(number), sentence)
        raise problem if is_unfit(problem) else CannotStart(sentence)

    def exited(self) -> Exited:
        """How the command ended, once `channel` can be read. A launcher that was killed had its command killed."""
        word, _, said = self._line().partition(" ")
        if word != "x":
            return Exited(self.popen.wait(), left=True)
        status, left = said.split()
        return Exited(os.waitstatus_to_exitcode(int(status)), left == "1")

    def _line(self) -> str:
        """The next line of the launcher; empty when it is gone."""
        line = b""
        with suppress(ConnectionResetError):
            while (byte := self.channel.recv(1)) not in (b"", b"\n"):
                line += byte
        return line.decode("utf-8", "replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.channel.close()
        if error is not None:
            # Not released, or told why it cannot start: either way it ends by itself.
            with self.popen:
                pass
        if self._terminal_fd >= 0:
            os.close(self._terminal_fd)


@contextmanager
def started(launch: Callable[[], Launched], record: Callable[[Launched], None], context: Context) -> Iterator[Launched]:
    """A command that has started, its launcher recorded before it might.

    What the host is short of once that is recorded is waited for here, for as long as the run is wanted: no other
    worker can know that nothing has begun. Raises `CannotStart`, and what `launch` and `record` raise.
    """
    while True:
        with launch() as launched:
            record(launched)
            try:
                launched.go()
            except OSError as problem:
                context.note(f"The command could not be started yet, and is tried again: {problem.strerror}.")
            else:
                yield launched
                return
            with launched.popen:
                pass
        context.heartbeat()
        if context.wait(START_INTERVAL):
            raise CannotStart("the run has ended before this host could start it")


def launch(run: Work, mode: str, stdout: int | IO[bytes], stderr: int | IO[bytes]) -> Launched:
    """Start the launcher for a run's command, in a session of its own.

    `mode` is `own`, or the folder of an attempt that outlives the worker: the launcher then copies the command's output
    to `stdout` and `stderr`, and writes the record of its exit there. A command that is to have a terminal writes to
    that instead; with `own` it is read from `outputs`. Raises `CannotStart`, and `OSError` when the host is unfit: what
    was asked for may be all right then, and nothing was started.
    """
    config = CommandConfig.model_validate(run.config)
    # First of all: where one is missing, nothing is started.
    secrets = resolved_secrets(config)
    marker = uuid4().hex
    with ExitStack() as lent, ExitStack() as kept:
        ours, theirs = socketpair()
        kept.callback(ours.close)
        lent.callback(theirs.close)
        output, terminal_fd = ("terminal" if config.pty else "pipes"), -1
        if mode == OWN:
            output = "inherited"
        if mode == OWN and config.pty:
            terminal_fd, writing = _terminal(lent, kept)
            stdout = stderr = writing
        place = [str(cgroup.create(marker) or ""), config.cwd or ""]
        launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(theirs.fileno()), mode, output, *place]
        popen = _popen(
            [*launcher, *config.command],
            stdin=lent.enter_context(_stdin(config.stdin)),
            stdout=stdout,
            stderr=stderr,
            env=_environment(run, config, secrets, marker),
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        identity = host.identify(popen.pid, marker)
        if identity is None:
            raise CannotStart("its launcher ended at once")
        kept.pop_all()
    return Launched(popen, identity, ours, terminal_fd, patterns_of_all(secrets))


def _popen(launcher: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """The launcher's process. What goes wrong with it is never told by its own path, which means nothing to a user."""
    try:
        return subprocess.Popen(launcher, **options)
    except OSError as error:
        if is_unfit(error):
            raise
        if error.errno == errno.E2BIG:
            raise CannotStart("its arguments and its environment are longer than the system allows") from None
        raise CannotStart(f"no process could be made for it ({error.strerror})") from error


def _terminal(lent: ExitStack, kept: ExitStack) -> tuple[int, int]:
    """A terminal: the end to read from, which is kept, and the end for the command."""
    reading, writing = open_terminal()
    lent.callback(os.close, writing)
    kept.callback(os.close, reading)
    return reading, writing


def _stdin(text: str | None) -> IO[bytes]:
    """A file, not a pipe: a command that reads late, or not at all, holds nobody up."""
    if not text:
        return Path(os.devnull).open("rb")
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


def _environment(run: Work, config: CommandConfig, secrets: Mapping[str, str], marker: str) -> dict[str, str]:
    """What the command inherits. The marker stands last: no config drops it by mistake."""
    inherited = {name: value for name, value in os.environ.items() if not is_withheld(name)}
    return {**inherited, **run.environment, **config.env, **secrets, MARKER: marker}
