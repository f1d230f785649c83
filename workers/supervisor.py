"""The worker's own watch over the runs it follows, and over work of this host that must be ended.

Two threads, so that ending a stubborn process (up to 15 seconds) never holds up a proof of life:

- *supervise*, each second: stop what was told to stop through Redis, end what is overdue; each keepalive interval:
  give proof of life for every run whose work is seen alive, and ask the database which runs are still ours.
- *bury*, every two seconds: end work that rows of this host say is owed its end, whichever worker it was of.

A failure in either is logged and tried again at the next turn: no follower dies of it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from uuid import UUID

from cachetools import TTLCache

from adapters.shipper import LogShipper
from models.rows import RunAttempt
from models.status import ErrorCode, Proof
from models.work import End, Outcome, Token, Work
from workers.bootstrap import Services
from workers.context import RunContext
from workers.enqueue import send_execute
from workers.finish import finish
from workers.proof import give_proof

logger = logging.getLogger(__name__)

#: Seconds between two looks for stop signals and overdue runs.
SUPERVISE_INTERVAL = 1.0
#: Seconds between two looks for owed terminations.
BURY_INTERVAL = 2.0
#: Seconds before a termination that failed is tried again.
BURY_AGAIN = 30.0


class Supervisor:
    """One per worker process that follows runs."""

    def __init__(self, services: Services, shipper: LogShipper) -> None:
        self._services = services
        self._shipper = shipper
        self._followed: dict[Token, RunContext] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._next_keepalive = 0.0
        self._failed_lately: TTLCache[tuple[UUID, int], bool] = TTLCache(10_000, ttl=BURY_AGAIN)
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start both threads; they end with the process, or at `close`."""
        for interval, turn in ((SUPERVISE_INTERVAL, self.supervise), (BURY_INTERVAL, self.bury)):
            thread = threading.Thread(target=self._repeat, args=(interval, turn), name=turn.__name__, daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=20)

    def _repeat(self, interval: float, turn: Callable[[], None]) -> None:
        while not self._ended.wait(min(interval, self._services.timing.keepalive_interval.total_seconds())):
            try:
                turn()
            except Exception:
                logger.exception("%s failed; it is tried again in a moment.", turn.__name__)

    @contextmanager
    def follow(self, work: Work) -> Iterator[RunContext]:
        """The context of an attempt, watched over for as long as the block lasts."""
        context = RunContext(self._services, self._shipper, work)
        with self._lock:
            self._followed[work.token] = context
        try:
            yield context
        finally:
            with self._lock:
                del self._followed[work.token]

    def supervise(self) -> None:
        """One turn over the followed runs; a step that fails does not keep the others from theirs."""
        with self._lock:
            contexts = dict(self._followed)
        if not contexts:
            return
        for step in (self._keepalive, self._stop_told, self._end_overdue):
            try:
                step(contexts)
            except Exception:
                logger.exception("A step of supervision failed; it is tried again in a moment.")

    def _stop_told(self, contexts: dict[Token, RunContext]) -> None:
        for token in self._services.stops.received(list(contexts)):
            contexts[token].stop()

    def _end_overdue(self, contexts: dict[Token, RunContext]) -> None:
        for context in contexts.values():
            if context.is_overdue and not context.stopping:
                finish(self._services, [_timed_out(context)])
                context.stop()

    def _keepalive(self, contexts: dict[Token, RunContext]) -> None:
        """Give proof of life for what is alive, then stop whatever the database says is no longer ours."""
        if time.monotonic() < self._next_keepalive:
            return
        proofs = {token: context.proof() for token, context in contexts.items()}
        for proof in (Proof.KEEPALIVE, Proof.HEARTBEAT):
            proven = [token for token, given in proofs.items() if given is proof]
            give_proof(self._services, proven, proof)
            for token in proven:
                contexts[token].proof_given()
        for token in contexts.keys() - self._services.runs.current(contexts):
            contexts[token].stop()
        self._next_keepalive = time.monotonic() + self._services.timing.keepalive_interval.total_seconds()

    def bury(self) -> None:
        """One turn over the work that is owed its end."""
        owed = self._services.runs.owed_terminations(self._services.host)
        due = [attempt for attempt in owed if attempt not in self._failed_lately]
        if due:
            with ThreadPoolExecutor(max_workers=8, thread_name_prefix="bury") as pool:
                list(pool.map(self._try_to_end, due))

    def _try_to_end(self, owed: tuple[UUID, int]) -> None:
        run_id, attempt = owed
        try:
            self._end_work(self._services.runs.get_attempt(run_id, attempt))
        except Exception as error:
            logger.exception("Run %s attempt %d: its work could not be ended.", run_id, attempt)
            self._failed_lately[owed] = True
            sentence = f"{type(error).__name__}: {error}"
            self._services.runs.tell_termination_failed(run_id, attempt, self._services.host, sentence)

    def _end_work(self, attempt: RunAttempt) -> None:
        """End an attempt's work and say so; a run that waited for it may now be started again."""
        run = self._services.runs.get(attempt.run_id)
        if attempt.work is not None:
            self._services.adapters.get(run.adapter).terminate(attempt.work)
        if self._services.runs.settle_termination(attempt.run_id, attempt.attempt):
            send_execute(attempt.run_id)


def _timed_out(context: RunContext) -> End:
    outcome = Outcome.failed("Ran for longer than its max_runtime.", ErrorCode.TIMED_OUT)
    return End.by_result(context.token, outcome, context.last_seq, work_ended=False)
