"""A command of this host: what its config may say, and how it is launched so that nothing runs unrecorded."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from adapters import host
from adapters.launcher import open_terminal
from adapters.masking import Masker
from adapters.secrets import OWN_PREFIXES, SecretUnavailable, checked_source, patterns_of_all, resolve
from models.faults import is_unfit
from models.process import ProcessIdentity
from models.text import is_plain_text
from models.work import Work

LAUNCHER = Path(__file__).with_name("launcher.py")
#: The mode in which the launcher becomes the command.
OWN = "own"


def _plain(value: str) -> str:
    if not is_plain_text(value):
        raise ValueError("must not hold a NUL or half a surrogate pair")
    return value


def _nameable(name: str) -> str:
    if not name or "=" in name:
        raise ValueError("a variable's name must not be empty or hold '='")
    return name


Plain = Annotated[str, AfterValidator(_plain)]
Name = Annotated[Plain, AfterValidator(_nameable)]
Source = Annotated[Plain, AfterValidator(checked_source)]


class CommandConfig(BaseModel):
    """The config of a run that is a command on the worker's host."""

    model_config = ConfigDict(extra="forbid", strict=True)

    command: list[Plain] = Field(min_length=1, description="The program and its arguments; no shell is involved.")
    env: dict[Name, Plain] = Field(default_factory=dict, description="Added to the worker's environment.")
    cwd: Plain | None = Field(default=None, description="The folder to run in; the worker's own by default.")
    stdin: Plain | None = Field(default=None, description="Text given on standard input; nothing by default.")
    secrets: dict[Name, Source] = Field(
        default_factory=dict,
        description="Variables of the command whose values the worker has, as env:VARIABLE or file:/absolute/path, "
        "and which are masked in what the command prints.",
    )
    pty: bool = Field(
        default=False,
        description="Give the command a terminal: programs that buffer their output when it goes to a pipe then print "
        "each line at once. Standard output and standard error are then one stream, stdout.",
    )

    @model_validator(mode="after")
    def _each_variable_once(self) -> Self:
        if both := sorted(self.env.keys() & self.secrets.keys()):
            raise ValueError(f"env and secrets both name {', '.join(both)}; give each variable in one of them")
        return self


class CannotStart(Exception):
    """Raised when the command cannot be started; the text says why."""


@dataclass
class Launched:
    """A launcher that waits for `go` before it starts the command. Ends it unless it went."""

    popen: subprocess.Popen[bytes]
    identity: ProcessIdentity
    _go_fd: int
    _error_fd: int
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

    def go(self) -> None:
        """Let the command start; returns when it has. Raises `CannotStart`."""
        go_fd, self._go_fd = self._go_fd, -1
        try:
            os.write(go_fd, b"g")
        except BrokenPipeError:
            raise CannotStart("its launcher was killed before it could begin") from None
        finally:
            os.close(go_fd)
        problem = os.read(self._error_fd, 4096)
        if problem:
            raise CannotStart(problem.decode(errors="replace"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._go_fd >= 0:
            os.close(self._go_fd)
        os.close(self._error_fd)
        if error is not None:
            # Not let go, or told why it cannot start: in either case it ends by itself.
            with self.popen:
                pass
        if self._terminal_fd >= 0:
            os.close(self._terminal_fd)


def launch(run: Work, mode: str, stdout: int | IO[bytes], stderr: int | IO[bytes]) -> Launched:
    """Start the launcher for a run's command, in a session and group of its own.

    `mode` is `own`, or the folder for the record of its exit. A command that is to have a terminal writes to that
    instead; with `own` it is read from `outputs`, else the launcher copies it to `stdout`. Raises `CannotStart`.
    """
    config = CommandConfig.model_validate(run.config)
    # First of all: where one is missing, nothing is started.
    secrets = resolved_secrets(config)
    with ExitStack() as lent, ExitStack() as kept:
        go_read, go_write = _opened(os.pipe(), lent, kept)
        error_write, error_read = _opened(reversed(os.pipe()), lent, kept)
        output, terminal_fd = "inherited", -1
        if config.pty and mode != OWN:
            output = "terminal"
        elif config.pty:
            terminal_fd, writing = _terminal(lent, kept)
            stdout = stderr = writing
        launcher = [sys.executable, "-I", "-S", str(LAUNCHER), str(go_read), str(error_write), output, mode]
        try:
            popen = subprocess.Popen(
                [*launcher, *config.command],
                stdin=lent.enter_context(_stdin(config.stdin)),
                stdout=stdout,
                stderr=stderr,
                cwd=config.cwd,
                env=_environment(run, config, secrets),
                pass_fds=(go_read, error_write),
                start_new_session=True,
            )
        except OSError as error:
            if is_unfit(error):  # Of this worker: that says nothing of the command.
                raise
            raise CannotStart(f"{error.strerror} ({error.filename})") from None
        identity = host.identify(popen.pid)
        if identity is None:
            raise CannotStart("its launcher ended at once")
        kept.pop_all()
    return Launched(popen, identity, go_write, error_read, terminal_fd, patterns_of_all(secrets))


def _opened(ends: Iterable[int], lent: ExitStack, kept: ExitStack) -> tuple[int, int]:
    """Two ends: one that is closed when the child has it, and one that is kept, unless there is no child."""
    first, second = ends
    lent.callback(os.close, first)
    kept.callback(os.close, second)
    return first, second


def _terminal(lent: ExitStack, kept: ExitStack) -> tuple[int, int]:
    """A terminal: the end to read from, which is kept, and the end for the command."""
    try:
        reading, writing = open_terminal()
    except OSError as error:
        raise CannotStart(error.strerror) from None
    _opened((writing, reading), lent, kept)
    return reading, writing


def _stdin(text: str | None) -> IO[bytes]:
    """A file, not a pipe: a command that reads late, or not at all, holds nobody up."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the caller
    file.write((text or "").encode("utf-8", "surrogateescape"))
    file.seek(0)
    return file


def resolved_secrets(config: CommandConfig) -> dict[str, str]:
    """The values of a command's secrets, as this worker has them now. Raises `CannotStart` naming what is missing."""
    try:
        return resolve(config.secrets, os.environ)
    except SecretUnavailable as problem:
        raise CannotStart(str(problem)) from None


def _environment(run: Work, config: CommandConfig, secrets: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OWN_PREFIXES)}
    return {**inherited, **run.environment, **config.env, **secrets}
