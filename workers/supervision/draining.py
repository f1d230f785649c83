"""Draining: what becomes of the followed runs when this worker is asked to stop, or drained.

A worker that is asked to stop lets go of everything, and ends. One that is drained (`reprieve drain`) takes nothing new
and leaves what others can follow, if there are others who would; it goes on with the rest, and is there for whoever
undrains it. The row says so: a worker that is restarted meanwhile is drained still.
"""

import logging
import threading
import time
from uuid import UUID

from reprieve.adapters.registry import can_attach
from reprieve.models.draining import end_of_drained
from reprieve.models.work import End, Fence
from reprieve.stores.runs.attempts import Standing
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish_free
from reprieve.workers.identity import ends_container
from reprieve.workers.supervision.followed import Contexts, Followed, goes_on_without_us

logger = logging.getLogger(__name__)

#: Seconds that followers which were told to leave may take.
LEAVE_TIMEOUT = 10.0


class Draining:
    """Lets go of what is followed. Once it has begun, nothing new is begun here."""

    def __init__(self, services: Services, followed: Followed, worker_id: UUID, name: str) -> None:
        self._services, self._followed, self._worker_id, self._name = services, followed, worker_id, name
        #: Whether this worker is drained. A claim looks for itself; this spares it the others.
        self.is_drained = False
        self._begun = threading.Event()
        self._lock = threading.Lock()

    @property
    def has_begun(self) -> bool:
        return self._begun.is_set()

    def heed(self) -> None:
        """One turn: see whether this worker is drained, and then leave what others would follow."""
        workers, was = self._services.workers, self.is_drained
        self.is_drained = workers.is_drained(self._name, self._services.host)
        if self.is_drained != was:
            logger.warning("This worker is drained: it takes nothing new." if not was else "It takes runs again.")
        if not self.is_drained or self.has_begun:
            return
        takers = workers.takers(self._worker_id, self._services.node, self._services.timing.worker_gone_after)
        left = {
            fence: one
            for fence, one in self._followed.contexts().items()
            if one.can_be_left
            and can_attach(one.work.adapter)
            # Where nobody would come, it is better followed from here.
            and (takers.get(one.work.adapter) if one.lives_here else one.work.adapter in takers)
        }
        if left:
            self._leave(left)

    def drain(self) -> None:
        """Let go of everything; who asks for it a second time waits for the first."""
        with self._lock:
            self._drain()

    def _drain(self) -> None:
        """Leave what others can follow; wait for the rest, which goes on to be vouched for, up to a limit; end that.

        Where the end of this worker is that of its container, detached work is of the rest. Returns when nothing is
        followed here any more.
        """
        self._begun.set()
        self._followed.close()
        limit = self._services.settings.drain_seconds
        self._wait_for_followers(limit)
        self._give_up(self._followed.contexts(), limit)
        self._wait_for_followers(LEAVE_TIMEOUT)

    def _wait_for_followers(self, seconds: float) -> None:
        deadline, takes_detached = time.monotonic() + seconds, takes_detached_with(self._services)
        while (contexts := self._followed.contexts()) and time.monotonic() < deadline:
            leavable = {
                fence: one
                for fence, one in contexts.items()
                if one.can_be_left and can_attach(one.work.adapter) and not (takes_detached and one.lives_here)
            }
            self._leave(leavable)
            time.sleep(0.1)

    def _leave(self, contexts: Contexts) -> None:
        """Leave this work to others; not what has ended meanwhile, whose last words nobody else would read."""
        try:
            self._followed.heed(contexts, {Standing.ADOPTED, Standing.CURRENT})
        except Exception:  # Nobody can say what has ended; whoever attaches will know.
            for context in contexts.values():
                context.release()

    def _give_up(self, contexts: Contexts, waited: float) -> None:
        """Work that lives elsewhere goes on without us; work of ours is ended, and its run tried again elsewhere."""
        ends: dict[Fence, End] = {}
        for fence, context in contexts.items():
            if goes_on_without_us(context.work):
                context.release()
            else:
                ends[fence] = end_of_drained(context.work, waited, self._services.timing)
        try:
            # One statement for all: a database that hangs holds up the end of this worker once, and not for each run.
            finish_free(self._services, list(ends.values()))
        except Exception as error:
            logger.error("The ends of %d runs are not recorded yet (%s).", len(ends), type(error).__name__)
        for fence, end in ends.items():
            contexts[fence].give_up(end)


def takes_detached_with(services: Services) -> bool:
    """Whether the end of this worker ends what else runs beside it on its host, as that of a container does."""
    by_hand = services.settings.ends_container
    return ends_container() if by_hand is None else by_hand
