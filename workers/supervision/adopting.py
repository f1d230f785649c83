"""Adopting: follow what other workers have left.

Whether there is a place for it or not: it runs already. Only what is followed on a thread waits until there is one.
"""

import logging
from uuid import UUID

from cachetools import LRUCache

from reprieve.models.faults import is_database_away
from reprieve.models.liveness import ADOPT_AT_ONCE
from reprieve.models.owed import Duty
from reprieve.stores.adoptions import Adoption
from reprieve.workers import metrics
from reprieve.workers.bootstrap import Services
from reprieve.workers.followers import Followers, needs_thread
from reprieve.workers.journal import about
from reprieve.workers.supervision.followed import Followed
from reprieve.workers.turns import set_back

logger = logging.getLogger(__name__)

#: How much that is left to others is looked at, and how much of it is remembered, so that this is said once.
LEFT_TO_OTHERS_AT_ONCE, LEFT_TO_OTHERS_KEPT = 500, 10_000


class Adopting:
    """Follows orphans. `name` is what Celery calls this worker."""

    def __init__(
        self, services: Services, followed: Followed, followers: Followers, worker_id: UUID, name: str
    ) -> None:
        self._services, self._followed, self._followers = services, followed, followers
        self._worker_id, self._name = worker_id, name
        self._left_to_others: LRUCache[tuple[UUID, int], bool] = LRUCache(LEFT_TO_OTHERS_KEPT)

    def turn(self) -> None:
        """One turn over the work that is to be followed by another worker than before."""
        adoptions, node, ours = self._services.adoptions, self._services.node, self._services.adapters.attaching()
        now = ours if self._followers.has_thread else [name for name in ours if not needs_thread(name)]
        for run_id, attempt, epoch in adoptions.to_adopt(node, now, ADOPT_AT_ONCE):
            with about(run_id, attempt):
                self._try_to_adopt(run_id, attempt, epoch)
        for run_id, attempt, adapter in adoptions.left_to_others(node.name, ours, LEFT_TO_OTHERS_AT_ONCE):
            self._leave_to_others(run_id, attempt, adapter)

    def _try_to_adopt(self, run_id: UUID, attempt: int, epoch: int) -> None:
        """Adopt this, if it can be: one that cannot, whose log another transaction holds, say, keeps back no other."""
        try:
            adoption = self._services.adoptions.adopt(run_id, attempt, epoch, self._name, self._worker_id)
        except Exception as error:
            if is_database_away(error):  # Nothing else could be adopted, either.
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
        logger.info(
            "Run %s attempt %d: followed on from chunk %d.", work.run_id, work.attempt, adoption.resumed.after_seq
        )
        try:
            self._followers.go_on(adoption)
        except Exception:  # This worker ends, or the system gives it no more threads: whoever can may follow it.
            self._services.adoptions.hand_over([work.fence])
            raise
