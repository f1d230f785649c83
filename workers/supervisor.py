"""The worker's own watch over the runs it follows, and over work of this host that must be ended.

Each turn has a thread of its own, so that ending a stubborn process (up to 15 seconds) never holds up a proof of life.
A failure in any is logged and tried again at the next turn: no follower dies of it. The duties themselves are in
`workers/supervision/`.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from uuid import uuid4

from reprieve.adapters.shipper import LogShipper
from reprieve.adapters.spool import occupied
from reprieve.models.liveness import ADOPT_INTERVAL
from reprieve.models.workers import Presence
from reprieve.workers.asking import answer_questions
from reprieve.workers.bootstrap import Services
from reprieve.workers.followers import Followers
from reprieve.workers.supervision.adopting import Adopting
from reprieve.workers.supervision.burying import Burying
from reprieve.workers.supervision.draining import Draining
from reprieve.workers.supervision.followed import Followed
from reprieve.workers.supervision.measuring import Measuring
from reprieve.workers.supervision.saying import Saying
from reprieve.workers.supervision.stopping import Stopping
from reprieve.workers.supervision.taking import Taking
from reprieve.workers.supervision.tidying import tidy
from reprieve.workers.supervision.vouching import Vouching

logger = logging.getLogger(__name__)

#: Seconds between two turns of each duty; never more than a keepalive interval.
INTERVALS = {"supervise": 1.0, "vouch": 1.0, "bury": 2.0, "heed": 2.0, "adopt": ADOPT_INTERVAL}
INTERVALS |= {"answer": 1.0, "say": 1.0, "tidy": 20.0, "measure": 20.0}
#: Seconds that all of them together may take to end.
CLOSE_TIMEOUT = 20.0

#: Seconds before runs are taken again where that has failed, and between two looks whether a drained worker may.
TAKE_AGAIN_AFTER = 1.0


class Supervisor:
    """One per worker process that follows runs. A turn of a duty is a method, or an attribute, of the duty's name."""

    def __init__(
        self,
        services: Services,
        shipper: LogShipper,
        name: str | None = None,
        places: int = 1,
        roles: Sequence[str] = ("runs",),
    ) -> None:
        """`name` is what Celery calls this worker, which has so many places for runs; `roles` are its queues.

        Raises `NoIdentity` where this process can have no name on its host.
        """
        self.worker_id = uuid4()
        followed, name = Followed(services, shipper), name or f"worker@{services.host}"
        self._followed, self.follow = followed, followed.follow
        self._followers = Followers(services, followed, name, places)
        self._taking = Taking(services, followed, self._followers, places, self.worker_id, name)
        self._followers.when_over(self._taking.freed)
        self.hint = self._taking.hint
        self._draining = Draining(services, followed, self.worker_id, name)
        self._places, self._roles, self._lanes = places, roles, services.settings.lanes
        self._vouching = Vouching(services, followed, self.worker_id, name, self._presence)
        self._stopping = Stopping(services)
        self._burying = Burying(
            services.identity, services.adapters, services.runs, services.terminations, services.setbacks
        )
        self._adopting = Adopting(services, followed, self._followers, self.worker_id, name)
        self.vouch, self.bury, self.drain = self._vouching.vouch, self._burying.turn, self._draining.drain
        self.heed = self._draining.heed
        self.answer = partial(answer_questions, services)
        self.say = Saying(services.reports, followed).turn
        self.tidy = partial(tidy, services.adapters, services.closings)
        self.measure = Measuring(services, followed).turn
        self._longest = services.timing.keepalive_interval.total_seconds()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads; they end with the process, or at `close`."""
        for duty, interval in INTERVALS.items():
            turn = (duty, getattr(self, duty), min(interval, self._longest))
            thread = threading.Thread(target=self._repeat, args=turn, name=duty, daemon=True)
            thread.start()
            self._threads.append(thread)
        taking = threading.Thread(target=self._take, name="take", daemon=True)
        taking.start()
        self._threads.append(taking)

    def close(self) -> None:
        self._ended.set()
        self._taking.wake()
        until = time.monotonic() + CLOSE_TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._followers.close()

    def _repeat(self, duty: str, turn: Callable[[], object], interval: float) -> None:
        while not self._ended.wait(interval):
            try:
                turn()
            except Exception:
                logger.exception("%s failed; it is tried again in a moment.", duty)

    def _take(self) -> None:
        """Take runs as soon as there is one to take."""
        while not self._ended.is_set():
            self._taking.wait()
            if self._takes_nothing:
                # It is a turn that says when the next one is.
                self._ended.wait(TAKE_AGAIN_AFTER)
            if self._ended.is_set() or self._takes_nothing:
                continue
            try:
                self.take()
            except Exception:
                logger.exception("Runs could not be taken; it is tried again in a moment.")
                # However many messages come meanwhile.
                self._ended.wait(TAKE_AGAIN_AFTER)

    def take(self) -> None:
        """One turn over the runs that wait."""
        self.be_seen()
        self._taking.turn()

    def supervise(self) -> None:
        """One turn over the followed runs; a step that fails does not keep the others from theirs."""
        contexts = self._followed.contexts()
        if not contexts:  # Before the steps below, which may take long: a run that is claimed meanwhile is followed.
            self._vouching.follow_nothing()
        if contexts or not self.is_draining:
            self._step(self._vouching.beat)
        self._step(self._stopping.heed_revocations)
        if contexts:
            self._step(self._vouching.keepalive, contexts)
            self._step(self._vouching.end_cut_off, contexts)
            self._step(self._stopping.heed_signals, contexts)
            self._step(self._stopping.end_overdue, contexts)
        self._step(self._vouching.take_back_unfollowed)

    @staticmethod
    def _step(act: Callable[..., None], *arguments: object) -> None:
        try:
            act(*arguments)
        except Exception:
            logger.exception("A step of supervision failed; it is tried again in a moment.")

    def be_seen(self) -> None:
        """Renew this worker's heartbeat if that is due. To be called before it takes anything.

        A sweep finds the work of a dead worker by its last heartbeat; one that was killed before its first had none.
        """
        self._vouching.beat()

    def adopt(self) -> None:
        """One turn over what other workers have left."""
        if not self._takes_nothing:
            self.be_seen()
            self._adopting.turn()

    @property
    def _takes_nothing(self) -> bool:
        return self.is_draining or self._draining.is_drained

    def _presence(self) -> Presence:
        return Presence(
            roles=self._roles,
            lanes=self._lanes,
            adapters=self._taking.adapters,
            places=self._places,
            runs=sum(self._followed.counts().values()),
            spool_bytes=occupied(),
            stopping=self.is_draining,
        )

    @property
    def is_draining(self) -> bool:
        """Whether this worker was asked to stop, and begins nothing any more."""
        return self._draining.has_begun

    def leave(self) -> None:
        """This worker ends, its followers with it: what they followed can be adopted at once."""
        self._vouching.leave()
