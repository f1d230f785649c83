"""What an adapter gets while it follows one attempt: access to the log and to the row, and the signal to stop."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from reprieve.adapters.host import is_alive, namespace
from reprieve.adapters.shipper import LogShipper
from reprieve.adapters.spool import SpooledLog
from reprieve.models.chunks import MAX_CHUNK_BYTES, check_cursor, check_stream, encode, split_output
from reprieve.models.errors import OutputNotTaken, Released
from reprieve.models.process import ProcessIdentity
from reprieve.models.saying import NOTHING_SAID, Said, report_of
from reprieve.models.status import EventKind, Proof
from reprieve.models.used import NOTHING_KNOWN, Used
from reprieve.models.work import End, Fence, Outcome, Work, storable
from reprieve.stores.logs import Resumed
from reprieve.stores.runs.attempts import Start
from reprieve.workers.bootstrap import Services
from reprieve.workers.sayings import Sayings
from reprieve.workers.waiting import until_fit

logger = logging.getLogger(__name__)


class RunContext:
    """Implements `adapters.protocol.Context` for one attempt on this worker. Thread-safe.

    `resumed` says where the log goes on, for work that another worker has started, and `said` what it had said by then.
    """

    def __init__(
        self,
        services: Services,
        shipper: LogShipper,
        work: Work,
        resumed: Resumed | None = None,
        said: Said = NOTHING_SAID,
    ) -> None:
        self.run_id = work.run_id
        self.attempt = work.attempt
        self.cursor = resumed.cursor if resumed else None
        self.work = work
        self.fence: Fence = work.fence
        self._services = services
        self._shipper = shipper
        self._log = SpooledLog(work.run_id, work.attempt, work.epoch)
        self._log.last_seq = resumed.after_seq if resumed else 0
        self._streams: set[str] = set()
        #: What the work says of itself.
        self.sayings = Sayings(self.fence, work.attempt, said)
        self._wake = threading.Event()
        self._wakers: list[Callable[[], object]] = []
        self._stopping = False
        self._released = False
        self._dispatched = resumed is not None
        #: Whether this is work outside the worker that only this host can act on.
        self.lives_here = False
        #: What to record as the end of work that its worker has given up, whatever the adapter says of it then.
        self.given_up: End | None = None
        self._process: ProcessIdentity | None = None
        #: Whether another worker has started it.
        self.is_resumed = resumed is not None
        #: Work of this host that is no child of this worker, and what was seen of what it uses.
        self._found: ProcessIdentity | None = None
        self._seen = NOTHING_KNOWN
        self._heard = False
        #: When it last gave output, and the last output of which its row knows.
        self._output_at = self._output_told = 0.0
        self._awaits_record = False
        self._has_result = False
        self._deadline = None if work.max_runtime_seconds is None else time.monotonic() + work.max_runtime_seconds

    # -- what the adapter calls

    def on_log(self, stream: str, chunk: bytes | str, cursor: str | None = None) -> None:
        if chunks := self.encoded(stream, chunk, cursor):
            self._output_at = time.monotonic()
            try:
                self._shipper.add(self._log, chunks)
            except Exception as error:
                raise self._not_taken(error) from error

    def try_take(self, chunk: bytes) -> bool:
        """Hand over one encoded chunk, for who may not be blocked: False where the spool has no room just now."""
        if self._released:
            self._raise_released()
        self._output_at = time.monotonic()  # Again for output that waits for us: that is no silence of the work.
        try:
            return self._shipper.try_add(self._log, chunk)
        except Exception as error:
            raise self._not_taken(error) from error

    def encoded(self, stream: str, chunk: bytes | str, cursor: str | None) -> Sequence[bytes]:
        """Output as the shipper takes it. Raises as `on_log` does."""
        if self._released:
            self._raise_released()
        if stream not in self._streams:
            check_stream(stream)
            self._streams.add(stream)
        check_cursor(cursor)
        at = time.time_ns() // 1_000_000
        if type(chunk) is bytes and 0 < len(chunk) <= MAX_CHUNK_BYTES:
            # The usual case, at no more than it must cost: this is called for each line that a run prints.
            return (encode((at, stream, chunk, cursor)),)
        if not (pieces := split_output(chunk)):
            return ()
        # Only the last piece carries the cursor: a reader that goes on from it must have all of them.
        places = [None] * (len(pieces) - 1) + [cursor]
        return [encode((at, stream, piece, place)) for piece, place in zip(pieces, places, strict=True)]

    def _not_taken(self, error: Exception) -> OutputNotTaken:
        """The shipper's failure, which is not the work's."""
        return OutputNotTaken(f"The output of run {self.run_id} could not be taken over: {error}")

    def on_spawn(self, pid: int, process_group_id: int, started_at: float, marker: str = "") -> None:
        process = ProcessIdentity(pid, process_group_id, started_at, namespace(), marker)
        self._record(self.spawning(process))
        self.has_spawned(process)

    def on_dispatch(self, handle: dict[str, Any], host: str | None = None) -> None:
        self._record(self.dispatching(handle, host))
        self.has_dispatched()

    def _record(self, start: Start) -> None:
        with self.awaiting_record():
            until_fit(lambda: self._services.attempts.persist(start), self.say_it_waits, stop=lambda _: self.is_told)

    # -- what must be recorded before the work may begin, and is tried again while the database is down: until the run
    # has ended or is not ours any more, which the supervisor learns once the database is back

    def spawning(self, process: ProcessIdentity) -> Start:
        """What is to be recorded of a child …"""
        node = self._services.node
        return Start.of_process(self.fence, node.name, process, node.slot)

    def has_spawned(self, process: ProcessIdentity) -> None:
        """… and it is."""
        self._process = process

    def dispatching(self, handle: dict[str, Any], host: str | None) -> Start:
        """What is to be recorded of work that a handle leads to …"""
        self.found_at(handle, host)
        return Start.of_handle(self.fence, host, handle, self._services.node.slot if self.lives_here else None)

    def has_dispatched(self) -> None:
        """… and it is."""
        self._dispatched = True

    def found_at(self, handle: dict[str, Any], host: str | None) -> None:
        """A handle leads to the work: where only this host can act on it, to a process perhaps."""
        self.lives_here = host is not None and host == self._services.host
        with suppress(KeyError, ValueError, TypeError):
            self._found = ProcessIdentity.from_handle(handle) if self.lives_here else None

    @contextmanager
    def awaiting_record(self) -> Iterator[None]:
        """While the block lasts, this worker itself keeps the run alive."""
        self._awaits_record = True
        try:
            yield
        finally:
            self._awaits_record = False

    def say_it_waits(self, *_: object) -> None:
        logger.error("Run %s: its work waits to be recorded.", self.run_id)

    def note(self, sentence: str) -> None:
        try:
            self._services.runs.tell_once(self.run_id, self.attempt, EventKind.NOTED, {"note": storable(sentence)})
        except Exception as error:
            logger.warning("Run %s: a note was not written (%s): %s", self.run_id, type(error).__name__, sentence)

    def report(
        self,
        *,
        progress: float | None = None,
        say: str | None = None,
        result: Any = None,
        usage: Mapping[str, float] | None = None,
        number: int | None = None,
    ) -> None:
        if self._released:
            self._raise_released()
        given = {"progress": progress, "say": say, "result": result, "usage": usage}
        self.sayings.take(report_of(given), number)

    @property
    def reported(self) -> int:
        return self.sayings.number

    def heartbeat(self) -> None:
        if self._released:
            self._raise_released()
        self._heard = True

    @property
    def stopping(self) -> bool:
        return self._stopping

    def wait(self, seconds: float) -> bool:
        self._wake.wait(seconds)
        if self._released:
            self._raise_released()
        return self._stopping

    def _raise_released(self) -> None:
        raise Released(f"Run {self.run_id} is no longer for this worker to follow.")

    # -- what the worker calls

    @property
    def last_seq(self) -> int:
        """The number of the last chunk handed to the shipper, which the end of the attempt records."""
        return self._log.last_seq

    @property
    def is_overdue(self) -> bool:
        """Whether it has exceeded its `max_runtime`; never once it has a result, which outranks anything later."""
        return self._deadline is not None and time.monotonic() > self._deadline and not self._has_result

    @property
    def is_underway(self) -> bool:
        """Whether there is work that was recorded."""
        return self._dispatched or self._process is not None

    @property
    def process(self) -> ProcessIdentity | None:
        """The process of this host by which its work is known, if it is."""
        return self._process or self._found

    def seen_using(self, used: Used) -> None:
        """What its work has used so far, as far as that can be seen."""
        self._seen = used

    def with_what_was_seen(self, outcome: Outcome) -> Outcome:
        """The outcome with what was seen of what it used, where its adapter does not say more."""
        used = (outcome.used or NOTHING_KNOWN).and_seen(self._seen)
        return outcome if used == NOTHING_KNOWN else replace(outcome, used=used)

    @property
    def lives_elsewhere(self) -> bool:
        """Whether the work is not a child of this worker."""
        return self._process is None

    @property
    def is_told(self) -> bool:
        """Whether this follower was asked to stop or to leave."""
        return self._wake.is_set()

    @property
    def can_be_left(self) -> bool:
        """Whether another worker could go on by the handle, and this one has not been asked to stop or leave."""
        return self._dispatched and not self._wake.is_set()

    def stop(self) -> None:
        """The run has ended: its adapter is to end the work."""
        self._stopping = True
        self._tell()

    def flush(self) -> Callable[[], bool]:
        """Have what output there is be sent at once; returns whether it is, to be asked again.

        Trouble with that never outranks how the work ended.
        """
        if not self.last_seq:
            return lambda: True
        try:
            return self._shipper.hurry()
        except Exception:
            logger.exception("Output could not be sent at once; it is in the spool.")
            return lambda: True

    def has_result(self) -> None:
        """The work has ended, and this worker holds its result: the only thing left to do is to record it."""
        self._has_result = True

    def give_up(self, end: End) -> None:
        """Have the adapter end the work, and record this as its end."""
        self.given_up = end
        self.stop()

    def release(self) -> None:
        """The work goes on without this worker: its adapter is to leave it."""
        self._released = True
        self._tell()

    def _tell(self) -> None:
        self._wake.set()
        for waker in list(self._wakers):
            waker()

    def when_told(self, waker: Callable[[], object]) -> None:
        """Call this when the follower is asked to stop or to leave: at once, if it was already. From any thread."""
        self._wakers.append(waker)
        if self._wake.is_set():
            waker()

    def proof(self) -> Proof | None:
        """The proof of life that can be given now: its process is alive, or there is a heartbeat not given yet.

        While its beginning or its result waits to be recorded, this worker itself keeps the run alive.
        """
        if self._awaits_record or self._has_result or (self._process is not None and is_alive(self._process)):
            return Proof.KEEPALIVE
        return Proof.HEARTBEAT if self._heard else None

    def new_output(self) -> float | None:
        """When it last gave output (by `time.monotonic`), if its row does not know of that yet."""
        return self._output_at if self._output_at > self._output_told else None

    def output_told(self, at: float) -> None:
        """Its row knows of the output of that moment."""
        self._output_told = at

    def proof_given(self) -> None:
        """The proof reached the database; the next one needs a new heartbeat."""
        self._heard = False
