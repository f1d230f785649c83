"""`reprieve exec`: run a command here, and report it as the work of a run, by nothing but the run's token.

It needs no setting and no database. The command is started and followed as a worker does it (`adapters.process`): in a
session of its own, its output read unbuffered, ended with its group, and on Linux with this process.
"""

import asyncio
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from reprieve.adapters import host
from reprieve.adapters.kinds import validate_config
from reprieve.adapters.process import ProcessAdapter
from reprieve.adapters.reporter import HttpTransport, Refused, Reporter
from reprieve.adapters.spool import FILE_BYTES, Spool
from reprieve.cli.output import SIGNAL_BASE
from reprieve.cli.sentences import say
from reprieve.models.errors import InvalidRequest, TokenRefused
from reprieve.models.process import ProcessIdentity
from reprieve.models.saying import report_of
from reprieve.models.work import Outcome, Work

#: Where the token comes from; never from an argument, which every user of the host can read.
TOKEN_VARIABLE = "REPRIEVE_RUN_TOKEN"  # noqa: S105 - the name, not a token
#: Seconds without an answer after which somebody who looks on is told what is waited for.
SLOW_ANSWER = 2.0
#: What a shell says of a command that could not be started.
NOT_STARTED = 127


def run_reported(run: str, server: str, command: Sequence[str], spool: Path | None, spool_bytes: int) -> int:
    """Run the command, report it, and return the exit status to end with: the command's, as a shell gives it.

    Raises `InvalidRequest` and `TokenRefused` before anything is started.
    """
    run_id, token = _run_id(run), _taken_token()
    work = Work(run_id, 1, 0, ProcessAdapter.type, validate_config(ProcessAdapter, {"command": list(command)}), {})
    transport = HttpTransport(server, run_id, token)
    with _spool(spool, spool_bytes) as own:
        return _run(work, transport, own, server.rpartition("@")[2])


def _run(work: Work, transport: HttpTransport, spool: Spool, server: str) -> int:
    context = ReportingContext(work)
    reporter = Reporter(transport, spool, work.run_id, on_stop=context.stop)
    context.reporter = reporter
    slow = threading.Timer(SLOW_ANSWER, _tell, [f"Waiting for an answer of {server} before the command is started …"])
    slow.daemon = True
    slow.start()
    try:
        away = reporter.greet()
    except Refused as refused:
        raise TokenRefused(f"Nothing was started, for the server refuses: {refused}.") from None
    finally:
        slow.cancel()
    if reporter.stopped:
        raise InvalidRequest(f"Nothing was started: run {work.run_id} has ended.")
    if away is not None:
        _tell(f"Nobody answers at {server} ({away}): is it right? The command runs, and its output waits here.")
    with _heeding_signals(context) as ended:
        reporter.start()
        with tempfile.TemporaryDirectory(prefix="reprieve-exec-") as folder:
            outcome = asyncio.run(ProcessAdapter(Path(folder), "").execute(work, context))
        ended.set()
        if "exit_status" not in outcome.detail and outcome.error_message:
            _tell(outcome.error_message)
        if not reporter.answered:
            _tell(f"The command has ended, and nobody has ever answered at {server}. Ctrl-C gives its report up.")
        problem = reporter.send_result(outcome)
    if problem is not None:
        _tell(f"The result could not be reported: {problem}.")
    elif reporter.stopped:
        _tell("The run has ended without the command, which was told to end.")
    return _exit_status(outcome)


class ReportingContext:
    """Implements `adapters.protocol.AsyncContext`: output goes to the reporter, and on to where it would have gone.

    Nothing else is followed on its loop, which it may block therefore.
    """

    cursor: str | None = None

    def __init__(self, work: Work) -> None:
        self.run_id = work.run_id
        self.attempt = work.attempt
        self.reporter: Reporter | None = None
        self.reported = 0
        self._stopping = False
        self._wake: Callable[[], object] = lambda: None
        self._process: ProcessIdentity | None = None
        # One that was closed (`>&-`) is none.
        given = {"stdout": sys.stdout, "stderr": sys.stderr}
        self._outputs = {stream: file.fileno() for stream, file in given.items() if file is not None}

    async def on_log(self, stream: str, chunk: bytes | str, cursor: str | None = None) -> None:  # noqa: ARG002
        data = chunk.encode() if isinstance(chunk, str) else chunk
        if self.reporter is not None:
            self.reporter.add(stream, data)
        self._pass_through(stream, data)

    def _pass_through(self, stream: str, data: bytes) -> None:
        """That nobody reads it here any more is no reason to end the command."""
        fd = self._outputs.get(stream)
        try:
            while fd is not None and data:
                data = data[os.write(fd, data) :]
        except OSError:
            del self._outputs[stream]

    async def on_spawn(self, pid: int, process_group_id: int, started_at: float, marker: str = "") -> None:
        self._process = ProcessIdentity(pid, process_group_id, started_at, host.namespace(), marker)

    async def on_dispatch(self, handle: dict[str, Any], host: str | None = None) -> None:
        """Nothing is dispatched here."""

    async def note(self, sentence: str) -> None:
        _tell(sentence)

    def report(
        self,
        *,
        progress: float | None = None,
        say: str | None = None,
        result: Any = None,
        usage: Mapping[str, float] | None = None,
        number: int | None = None,
    ) -> None:
        report = report_of({"progress": progress, "say": say, "result": result, "usage": usage})
        number = self.reported + 1 if number is None else number
        if self.reporter is not None and number > self.reported:
            self.reporter.say(report)
            self.reported = number

    def heartbeat(self) -> None:
        """The reporter sends its own."""

    @property
    def stopping(self) -> bool:
        return self._stopping

    async def wait(self, seconds: float) -> bool:
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(told.set)
        with suppress(TimeoutError):
            async with asyncio.timeout(0 if self._stopping else seconds):
                await told.wait()
        return self._stopping

    def stop(self) -> None:
        """End the command, on a thread: the reader of its output may be waiting for room in the spool."""
        self._stopping = True
        with suppress(RuntimeError):  # The loop has ended.
            self._wake()
        if self._process is not None:
            threading.Thread(target=host.terminate, args=(self._process,), daemon=True).start()


@contextmanager
def _heeding_signals(context: ReportingContext) -> Iterator[threading.Event]:
    """Ctrl-C, SIGTERM and a closed terminal end the command, which is then reported; a second one gives that up.

    So does the first once the command has ended, which the event is set to say: there is nothing else left to end.
    """

    heard: list[int] = []
    ended = threading.Event()

    def heed(number: int, _: Any) -> None:
        heard.append(number)
        if len(heard) > 1 or ended.is_set():
            _tell("Told to end: what was not reported yet is lost to the run.")
            raise SystemExit(SIGNAL_BASE + number)
        context.stop()

    heeded = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # As `nohup` has it.
        heeded.append(signal.SIGHUP)
    before = {number: signal.signal(number, heed) for number in heeded}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _spool(folder: Path | None, limit: int) -> Iterator[Spool]:
    """A spool below `folder`, where what could not be sent stays, or in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="reprieve-exec-") as temporary:
        spool = Spool.create(folder or Path(temporary), limit=limit, file_bytes=FILE_BYTES)
        try:
            yield spool
        finally:
            spool.close()


def _run_id(run: str) -> UUID:
    try:
        return UUID(run)
    except ValueError:
        raise InvalidRequest(f"--run {run!r} is no whole id of a run; give it as `reprieve run` printed it.") from None


def _taken_token() -> str:
    """The token, taken out of the environment: what the command inherits does not have it."""
    token = os.environ.pop(TOKEN_VARIABLE, "")
    if not token:
        raise InvalidRequest(f"{TOKEN_VARIABLE} is not set; set it to what `reprieve token run RUN` printed.")
    return token


def _exit_status(outcome: Outcome) -> int:
    if "signal" in outcome.detail:
        return SIGNAL_BASE + int(outcome.detail["signal"])
    return int(outcome.detail.get("exit_status", NOT_STARTED))


def _tell(sentence: str) -> None:
    say(sentence, problem=True)
