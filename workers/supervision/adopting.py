"""Adopting: follow what other workers have left.

Each such run has a thread of its own, beside the pool of those that were started here, so that it waits behind none.
"""

import logging
import threading
from uuid import UUID

from cachetools import LRUCache

from reprieve.adapters.protocol import AnyAdapter
from reprieve.models.faults import ends_session
from reprieve.models.liveness import ADOPT_AT_ONCE
from reprieve.models.owed import Duty
from reprieve.models.work import Outcome, Work
from reprieve.stores.adoptions import Adoption
from reprieve.workers import metrics
from reprieve.workers.bootstrap import Services
from reprieve.workers.carrying import go_on
from reprieve.workers.following import follow_to_the_end
from reprieve.workers.hints import send_execute
from reprieve.workers.journal import about
from reprieve.workers.supervision.followed import LEAVE_TIMEOUT, Followed
from reprieve.workers.turns import set_back

logger = logging.getLogger(__name__)

#: Runs that a worker with a new adapter asks for as it starts; the sweep sends the rest.
AWAITED_AT_ONCE = 1000
#: How much that is left to others is looked at, and how much of it is remembered, so that this is said once.
LEFT_TO_OTHERS_AT_ONCE, LEFT_TO_OTHERS_KEPT = 500, 10_000


class Adopting:
    """Follows orphans. `name` is what Celery calls this worker."""

    def __init__(self, services: Services, followed: Followed, worker_id: UUID, name: str) -> None:
        self._services, self._followed, self._worker_id, self._name = services, followed, worker_id, name
        self._asked_for_awaited = False
        self._threads: list[threading.Thread] = []
        self._left_to_others: LRUCache[tuple[UUID, int], bool] = LRUCache(LEFT_TO_OTHERS_KEPT)

    def turn(self) -> None:
        """One turn over the work that is to be followed by another worker than before."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._ask_for_awaited()
        adoptions, node, ours = self._services.adoptions, self._services.node, self._services.adapters.attaching()
        for run_id, attempt, epoch in adoptions.to_adopt(node, ours, ADOPT_AT_ONCE):
            with about(run_id, attempt):
                self._try_to_adopt(run_id, attempt, epoch)
        for run_id, attempt, adapter in adoptions.left_to_others(node.name, ours, LEFT_TO_OTHERS_AT_ONCE):
            self._leave_to_others(run_id, attempt, adapter)

    def _ask_for_awaited(self) -> None:
        """Once: send the runs again that other workers had no adapter for, and this one has."""
        if not self._asked_for_awaited:
            for run_id in self._services.resends.awaiting(self._services.adapters.usable(), AWAITED_AT_ONCE):
                send_execute(run_id)
            self._asked_for_awaited = True

    def _try_to_adopt(self, run_id: UUID, attempt: int, epoch: int) -> None:
        """Adopt this, if it can be: one that cannot, whose log another transaction holds, say, keeps back no other."""
        try:
            adoption = self._services.adoptions.adopt(run_id, attempt, epoch, self._name, self._worker_id)
        except Exception as error:
            if ends_session(error):  # The database is down: nothing else could be adopted, either.
                raise
            set_back(self._services.setbacks, Duty.ADOPTION, (run_id, attempt), error)
            return
        if adoption is not None:
            self._begin_to_follow(adoption)

    def _leave_to_others(self, run_id: UUID, attempt: int, adapter: str) -> None:
        """Log, once, that this worker cannot adopt an orphan: another one, or a later one, can."""
        if (run_id, attempt) not in self._left_to_others:
            self._left_to_others[run_id, attempt] = True
            with about(run_id, attempt):
                sentence = "Run %s attempt %d waits for a worker whose adapter %r can attach; this one has none."
                logger.warning(sentence, run_id, attempt, adapter)

    def _begin_to_follow(self, adoption: Adoption) -> None:
        work = adoption.work
        for fence, context in self._followed.contexts().items():
            if fence.run_id == work.run_id:  # We were not seen for a while, and are our own successor.
                context.release()
        self._services.throttle.forget([work.run_id])
        metrics.ADOPTED.labels(work.adapter).inc()
        name = f"follow-{work.run_id}"
        thread = threading.Thread(target=self._follow_on, args=(adoption,), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # The system gives no more threads: whoever has one may follow it.
            self._services.adoptions.hand_over([work.fence])
            raise
        self._threads.append(thread)

    def _follow_on(self, adoption: Adoption) -> None:
        work = adoption.work

        def attach(adapter: AnyAdapter, work: Work) -> Outcome:
            return go_on(adapter, work, adoption.handle, context)

        with about(work.run_id, work.attempt), self._followed.follow(work, adoption.resumed) as context:
            context.lives_here = adoption.host is not None
            after = adoption.resumed.after_seq
            logger.info("Run %s attempt %d: followed on from chunk %d.", work.run_id, work.attempt, after)
            follow_to_the_end(self._services, context, attach, "adoption")

    def join(self) -> None:
        """Wait for the followers of adopted runs to leave."""
        for thread in self._threads:
            thread.join(LEAVE_TIMEOUT)
