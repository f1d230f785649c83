"""What an adapter is given while it follows one attempt: its way to the log, to the row, and to being told to stop."""

import threading
import time
from typing import Any

from adapters.host import is_alive, namespace
from adapters.shipper import LogShipper
from adapters.spool import SpooledLog
from models.chunks import MAX_CHUNK_BYTES, check_cursor, check_stream, encode, split_output
from models.process import ProcessIdentity
from models.status import Proof
from models.work import Token, Work
from workers.bootstrap import Services


class RunContext:
    """Implements `adapters.protocol.Context` for one attempt on this worker. Thread-safe."""

    def __init__(self, services: Services, shipper: LogShipper, work: Work) -> None:
        self.run_id = work.run_id
        self.attempt = work.attempt
        self.token: Token = work.token
        self._services = services
        self._shipper = shipper
        self._log = SpooledLog(work.run_id, work.attempt, work.epoch)
        self._streams: set[str] = set()
        self._stop = threading.Event()
        self._process: ProcessIdentity | None = None
        self._heard = False
        self._deadline = None if work.max_runtime_seconds is None else time.monotonic() + work.max_runtime_seconds

    # -- what the adapter calls

    def on_log(self, stream: str, chunk: bytes | str, cursor: str | None = None) -> None:
        if stream not in self._streams:
            check_stream(stream)
            self._streams.add(stream)
        check_cursor(cursor)
        at = time.time_ns() // 1_000_000
        if type(chunk) is bytes and 0 < len(chunk) <= MAX_CHUNK_BYTES:
            # The usual case, at no more than it must cost: this is called for each line that a run prints.
            self._shipper.add(self._log, (encode((at, stream, chunk, cursor)),))
        elif pieces := split_output(chunk):
            # Only the last piece bears the cursor: whoever reads on from it must have all of them.
            places = [None] * (len(pieces) - 1) + [cursor]
            records = zip(pieces, places, strict=True)
            self._shipper.add(self._log, [encode((at, stream, piece, place)) for piece, place in records])

    def on_spawn(self, pid: int, process_group_id: int, started_at: float) -> None:
        process = ProcessIdentity(pid, process_group_id, started_at, namespace())
        self._services.runs.persist_run_process_metadata(self.token, self._services.host, process)
        self._process = process

    def on_dispatch(self, handle: dict[str, Any], host: str | None = None) -> None:
        self._services.runs.persist_run_handle(self.token, host, handle)

    def heartbeat(self) -> None:
        self._heard = True

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def wait(self, seconds: float) -> bool:
        return self._stop.wait(seconds)

    # -- what the worker calls

    @property
    def last_seq(self) -> int:
        """The number of the last chunk handed over: the end of the attempt names it."""
        return self._log.last_seq

    @property
    def is_overdue(self) -> bool:
        return self._deadline is not None and time.monotonic() > self._deadline

    def stop(self) -> None:
        self._stop.set()

    def proof(self) -> Proof | None:
        """What can be said for this run: its process lives, or a heartbeat came that has not been given yet."""
        if self._process is not None and is_alive(self._process):
            return Proof.KEEPALIVE
        return Proof.HEARTBEAT if self._heard else None

    def proof_given(self) -> None:
        """The proof reached the database; the next one needs a new heartbeat."""
        self._heard = False
