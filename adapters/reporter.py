"""The producer's side of work that reports from outside: output by way of a spool on disk, heartbeats, the result.

Whatever the server does (away, slow, an answer lost on the way), the same report is sent until it is taken. A chunk
gets its number when it is sent, as the one that the server wants next, so output that comes twice is stored once. While
the server is down, output waits in the spool; when that is full, `add` blocks, and a pipe pushes back.
"""

import json
import logging
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http.client import HTTPException
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener
from uuid import UUID

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    wait_random_exponential,
)

from reprieve.adapters.spool import Spool, SpooledLog
from reprieve.adapters.spool_reader import SpoolReader
from reprieve.models.chunks import Chunk, encode, split_output
from reprieve.models.errors import InvalidRequest
from reprieve.models.paging import pages
from reprieve.models.saying import Report, together
from reprieve.models.work import Outcome

logger = logging.getLogger(__name__)

#: Seconds between two heartbeats.
HEARTBEAT_INTERVAL = 20.0
#: Seconds between two looks for output to send.
SEND_INTERVAL = 0.2
#: Seconds between two reports of what the work says of itself; the last is sent before its result.
SAY_INTERVAL = 10.0
#: Seconds between two looks whether a worker has claimed the run.
CLAIM_INTERVAL = 1.0
#: Bytes and chunks of one report, below what the server takes.
BATCH_BYTES = 256 * 1024
BATCH_CHUNKS = 500
#: Seconds that the server may take to answer.
ANSWER_TIMEOUT = 30.0
#: Seconds between two tries, at the most.
LONGEST_PAUSE = 10.0
#: Bytes of an answer that are read.
MAX_ANSWER_BYTES = 64 * 1024
#: Statuses that say "not now"; any other between 300 and 499 is a refusal.
_NOT_NOW = (408, 425, 429)


class Away(Exception):
    """Raised when the server did not answer, or not so that it means anything: try again."""


class Refused(Exception):
    """Raised when the server will not take a report: it says why."""


class Transport(Protocol):
    """The way to the server."""

    def post(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to `output`, `heartbeat`, `report` or `finish`. Raises `Away` and `Refused`."""
        ...


class _NoRedirect(HTTPRedirectHandler):
    """The token is for the server that was named, and goes to no other that it points to."""

    def redirect_request(self, *_: Any) -> None:
        return None


class HttpTransport:
    """JSON over POST. Certificates are verified, and the token is in no text that is logged."""

    def __init__(self, server: str, run_id: UUID, token: str) -> None:
        """Raises `InvalidRequest` for what is no address of a server, or no token."""
        parts = urlsplit(server)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise InvalidRequest("--server is no address; give one like https://reprieve.example.com.")
        if not token.isascii() or not token.isprintable() or " " in token:
            raise InvalidRequest(
                "The token holds characters that no token has; give it as `reprieve token run` printed it."
            )
        self._base = f"{server.rstrip('/')}/v1/runs/{run_id}"
        self._token = token
        self._opener = build_opener(_NoRedirect)

    def post(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        url = f"{self._base}/{operation}"
        request = Request(url, json.dumps(body).encode(), headers, method="POST")  # noqa: S310 - http(s), see above
        try:
            with self._opener.open(request, timeout=ANSWER_TIMEOUT) as response:
                answer = json.loads(response.read(MAX_ANSWER_BYTES))
        except HTTPError as error:
            raise _refusal(error) from None
        except (OSError, HTTPException, ValueError) as error:
            raise Away(f"{type(error).__name__}: {error}") from None
        if not isinstance(answer, dict):
            raise Away("The answer is no JSON object.")
        return answer


def _refusal(error: HTTPError) -> Away | Refused:
    """What a status that is no success means; with the sentence that the server gave."""
    said = f"HTTP status {error.code}"
    with suppress(OSError, HTTPException, ValueError, KeyError, TypeError):
        said += f": {json.loads(error.read(MAX_ANSWER_BYTES))['detail']}"[:500]
    return Refused(said) if error.code < 500 and error.code not in _NOT_NOW else Away(said)


class Reporter:
    """One per run that is reported. `on_stop` is called once, on a thread, when the run has ended without the work."""

    def __init__(
        self,
        transport: Transport,
        spool: Spool,
        run_id: UUID,
        *,
        on_stop: Callable[[], None] = lambda: None,
        heartbeat_interval: float = HEARTBEAT_INTERVAL,
    ) -> None:
        self._transport = transport
        self._spool = spool
        self._log = SpooledLog(run_id, 0, 0)
        self._on_stop = on_stop
        self._heartbeat_interval = heartbeat_interval
        # What was read before is given back: it was sent by then.
        self._reader = SpoolReader(spool, on_end=spool.give_back)
        self._next_seq: int | None = None
        self._stop_lock = threading.Lock()
        self._stopped = False
        self._answered = False
        self._all_added = threading.Event()
        self._result: dict[str, Any] = {}
        #: What the work has said of itself that is not on its way, in as few reports as can hold it; what is, with its
        #: number; and the names of usage that it has had so far.
        self._said: list[Report] = []
        self._names: frozenset[str] = frozenset()
        self._saying: dict[str, Any] | None = None
        self._says_at = 0.0
        self._say_lock = threading.Lock()
        self._done = threading.Event()
        self._problem: str | None = None
        self._sender = threading.Thread(target=self._send_all, name="reporter", daemon=True)

    @property
    def stopped(self) -> bool:
        """Whether the server has said that the run has ended."""
        return self._stopped

    @property
    def answered(self) -> bool:
        """Whether the server has ever answered, so that it exists, though it may be down just now."""
        return self._answered

    def greet(self) -> Away | None:
        """Ask once where the log goes on, before the work begins; returns why nobody answered, if so: somebody may yet.

        Raises `Refused`.
        """
        try:
            self._ask()
        except Away as away:
            return away
        return None

    def start(self) -> None:
        """Begin to send, and to say that the work is alive."""
        self._sender.start()
        threading.Thread(target=self._beat, name="heartbeats", daemon=True).start()

    def add(self, stream: str, data: bytes) -> None:
        """Take output over: it is on disk when this returns. Blocks while the spool is full."""
        at = time.time_ns() // 1_000_000
        self._spool.append(self._log, [encode((at, stream, piece, None)) for piece in split_output(data)])

    def say(self, report: Report) -> None:
        """Take over what the work says of itself. It is sent once in ten seconds, what was said meanwhile as one.

        Raises `InvalidRequest` where that has too many names.
        """
        with self._say_lock:
            self._names = together(self._names, report.usage)
            last = self._said[-1:]
            whole = last[0].then(report) if last else report
            self._said[-1:] = [whole] if whole.is_one else [*last, report]

    def send_result(self, outcome: Outcome) -> str | None:
        """Report the result, after all output, for as long as it takes; None when it was taken, or why it was not.

        Only a refusal ends it otherwise.
        """
        self._result = _as_json(outcome)
        self._all_added.set()
        while self._sender.is_alive():
            self._sender.join(0.5)  # By and by, so that a signal is heeded meanwhile.
        self._spool.fill_no_more()
        if self._problem is None:
            self._reader.next(BATCH_BYTES)  # Nothing to read: the last file is given back.
        return self._problem

    # -- the threads

    def _send_all(self) -> None:
        try:
            for chunks in self._batches():
                self._send(chunks)
            while self._say_next(is_last=True):
                pass
            self._retrying(self._report_result)
        except (Away, Refused) as problem:
            self._problem = str(problem)
        finally:
            self._done.set()

    def _batches(self) -> Iterator[Sequence[Chunk]]:
        """Output as it comes, until there is no more to come."""
        while True:
            all_added = self._all_added.is_set()
            if time.monotonic() >= self._says_at and not all_added:
                self._say_next(is_last=False)
            if (stretch := self._reader.next(BATCH_BYTES)) is not None:
                chunks = [chunk for block in stretch.blocks for chunk in block.chunks()]
                yield from pages(chunks, BATCH_CHUNKS)
            elif all_added:
                return
            else:
                self._all_added.wait(SEND_INTERVAL)

    def _send(self, chunks: Sequence[Chunk]) -> None:
        while chunks:
            taken = self._retrying(self._report, chunks)
            chunks = chunks[taken:]
            if not taken:
                time.sleep(CLAIM_INTERVAL)

    def _say_next(self, *, is_last: bool) -> bool:
        """Send what the work has said of itself, or again what may not have come; whether there was anything.

        It holds up output and the result for no longer than an answer takes: what the server will not take is tried
        again later, and in the end let go.
        """
        with self._say_lock:
            if self._saying is None and self._said:
                self._saying = self._said.pop(0).as_given()
        if self._saying is None:
            return False
        self._says_at = time.monotonic() + SAY_INTERVAL
        try:
            if is_last:
                self._retrying(self._report_said)
            else:
                self._report_said()
        except Away:
            return False
        except Refused as problem:
            if not is_last:
                return False
            logger.warning("reprieve: what the command said of itself was not taken: %s.", problem)
        self._saying = None
        return True

    def _report_said(self) -> None:
        """Under the number that comes after the last one that was taken: sent again, it has the same one."""
        if self._saying is None:
            return
        if "number" not in self._saying:
            self._saying["number"] = _whole(self._post("report", {}), "number") + 1
        if _whole(self._post("report", self._saying), "number") < self._saying["number"]:
            raise Away("The run waits for a worker to claim it")

    def _beat(self) -> None:
        while not self._done.wait(self._heartbeat_interval):
            try:
                self._post("heartbeat", {})
            except (Away, Refused) as problem:
                logger.debug("No heartbeat: %s", problem)

    def _retrying(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Until the server takes it. A refusal may be a proxy's, or soon put right, so the work is not ended for it;
        once the work has ended by itself, it is final."""

        def is_due(problem: BaseException) -> bool:
            return isinstance(problem, Away) or (isinstance(problem, Refused) and not self._all_added.is_set())

        retrying = Retrying(
            retry=retry_if_exception(is_due),
            wait=wait_random_exponential(multiplier=0.2, max=LONGEST_PAUSE),
            before_sleep=_tell_first,
            reraise=True,
        )
        return retrying(call, *arguments)

    # -- the reports

    def _ask(self) -> int:
        self._next_seq = _number(self._post("output", {"first_seq": 1, "chunks": []}), "next_seq")
        return self._next_seq

    def _report(self, chunks: Sequence[Chunk]) -> int:
        """Send these; returns how many of them the server has now: none while no worker has claimed the run."""
        first = self._next_seq or self._ask()
        records = [{"stream": chunk.stream, "data": b64encode(chunk.data).decode(), "at": chunk.at} for chunk in chunks]
        self._next_seq = _number(self._post("output", {"first_seq": first, "chunks": records}), "next_seq")
        return min(max(self._next_seq - first, 0), len(chunks))

    def _report_result(self) -> None:
        last = (self._next_seq or self._ask()) - 1
        if self._post("finish", {"outcome": self._result, "last_seq": last}).get("taken") is not True:
            raise Away("The run waits for a worker to claim it")

    def _post(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = self._transport.post(operation, body)
        except Refused:
            self._answered = True
            raise
        self._answered = True
        if answer.get("stop") is True:
            self._stop()
        return answer

    def _stop(self) -> None:
        with self._stop_lock:
            first, self._stopped = not self._stopped, True
        if first:
            self._on_stop()


def _tell_first(state: RetryCallState) -> None:
    """Report each outage once, not at each try."""
    if state.attempt_number == 1 and state.outcome:
        logger.warning("reprieve: the server did not take a report (%s); it is tried again.", state.outcome.exception())


def _number(answer: dict[str, Any], name: str) -> int:
    value = _whole(answer, name)
    if value < 1:
        raise Away(f"The answer has no {name}.")
    return value


def _whole(answer: dict[str, Any], name: str) -> int:
    value = answer.get(name)
    if type(value) is not int or value < 0:
        raise Away(f"The answer has no {name}.")
    return value


def _as_json(outcome: Outcome) -> dict[str, Any]:
    for name in ("exit_status", "signal"):
        if name in outcome.detail:
            return {name: outcome.detail[name]}
    return {"error": outcome.error_message or "It failed."}
