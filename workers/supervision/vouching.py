"""What this worker says of itself and of the runs that it follows: heartbeat, proof of life, vouch."""

import logging
import time
from collections.abc import Callable
from uuid import UUID

from reprieve.models.draining import end_of_cut_off
from reprieve.models.nodes import complaints, in_words
from reprieve.models.status import Proof
from reprieve.models.workers import Presence
from reprieve.stores.runs.attempts import Standing
from reprieve.workers import metrics
from reprieve.workers.bootstrap import Services
from reprieve.workers.following import take_back
from reprieve.workers.refresh import give_proof
from reprieve.workers.supervision.followed import Contexts, Followed, goes_on_without_us

logger = logging.getLogger(__name__)


class Pace:
    """A turn is due at once, and again `seconds` after the last one that was `made`; one that failed stays due.

    By the time that passes for everybody: a worker that stood still is due, as others will have noticed.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due_at = 0.0

    @property
    def is_due(self) -> bool:
        return _clock() >= self._due_at

    def made(self, at: float | None = None) -> None:
        """The turn was made now, or at an earlier time by `_clock`."""
        self._due_at = (_clock() if at is None else at) + self._seconds


class Vouching:
    """Each of these is done once per keepalive interval. `name` is what Celery calls this worker."""

    def __init__(
        self, services: Services, followed: Followed, worker_id: UUID, name: str, presence: Callable[[], Presence]
    ) -> None:
        """`presence` is what this worker says of itself."""
        self._services, self._followed, self._worker_id, self._name = services, followed, worker_id, name
        self._presence = presence
        seconds = services.timing.keepalive_interval.total_seconds()
        self._heartbeat, self._keepalive, self._vouch, self._look = (Pace(seconds) for _ in range(4))
        #: When the database last took our proofs of life, or nothing was followed.
        self._in_touch_at = _clock()

    def beat(self) -> None:
        """Renew this worker's heartbeat, so that no other worker adopts its runs."""
        if self._heartbeat.is_due:
            began = _clock()
            self._services.workers.seen(self._worker_id, self._name, self._services.node, self._presence())
            # Not later than others have seen it: this worker may have stood still before it got the answer.
            self._heartbeat.made(began)
            self._warn_of_twins()

    def _warn_of_twins(self) -> None:
        """Log, at each heartbeat, that a worker of another data folder has our node's name."""
        for twice in self._services.nodes.held_twice(self._services.timing.worker_gone_after):
            if twice.name == self._services.host:
                logger.critical("%s", *complaints([], [twice], self._services.timing))

    def keepalive(self, contexts: Contexts) -> None:
        """Refresh the runs whose work is alive; then stop or release those that are no longer ours."""
        if not self._keepalive.is_due:
            return
        began = _clock()
        proofs = {fence: context.proof() for fence, context in contexts.items()}
        output = {fence: at for fence, context in contexts.items() if (at := context.new_output()) is not None}
        ages = {fence: time.monotonic() - at for fence, at in output.items()}
        for proof in (Proof.KEEPALIVE, Proof.HEARTBEAT):
            proven = [fence for fence, given in proofs.items() if given is proof]
            for fence in give_proof(self._services, proven, proof, ages) & output.keys():
                contexts[fence].output_told(output[fence])
            for fence in proven:
                contexts[fence].proof_given()
        self._followed.heed(contexts, {Standing.ADOPTED})
        self._in_touch_at = began
        self._keepalive.made()

    def vouch(self) -> None:
        """Where the database has taken no proof for two keepalives, say through Redis what lives here.

        Nothing in it waits for the database: a connection that swallows everything cannot hold it up.
        """
        contexts = self._followed.contexts()
        if self._out_of_touch_for() < self._services.timing.vouch_after.total_seconds() or not self._vouch.is_due:
            return
        proven = [fence for fence, context in contexts.items() if context.proof() is not None]
        if proven and self._services.vouches.give(proven):
            metrics.VOUCHED.inc(len(proven))
            for fence in proven:
                contexts[fence].proof_given()
        self._vouch.made()

    def follow_nothing(self) -> None:
        """Nothing is followed, so that nothing need be proven."""
        self._in_touch_at = _clock()

    def end_cut_off(self, contexts: Contexts) -> None:
        """End our own children if the database is out of reach for so long that a next attempt may begin elsewhere."""
        limit = self._services.timing.cut_off_limit
        if self._out_of_touch_for() <= limit.total_seconds():
            return
        for context in contexts.values():
            if not context.stopping and not goes_on_without_us(context.work):
                logger.error("Run %s is ended: the database was out of reach for %s.", context.run_id, in_words(limit))
                context.give_up(end_of_cut_off(context.work, self._services.timing))

    def _out_of_touch_for(self) -> float:
        return _clock() - self._in_touch_at

    def take_back_unfollowed(self) -> None:
        """Put back into the queue what this worker claimed without ever hearing so: the answer was lost on the way.

        Nobody follows it, so that its silence would end it before it has begun. A claim that is only slow to be
        followed loses nothing but time: what it would record is refused. What was followed here, and is not any more,
        may have done something, whatever its rows say.
        """
        if not self._look.is_due:
            return
        claimed = self._services.claims.claimed_for(self._worker_id, self._services.timing.worker_gone_after)
        for fence in claimed - self._followed.begun():
            take_back(self._services, fence, f"the answer to the claim of {self._name} was lost")
        self._look.made()

    def leave(self) -> None:
        """This worker ends: its runs can be adopted at once, not only when its heartbeat is missed."""
        self._services.workers.leave(self._worker_id)


def _clock() -> float:
    """Seconds that have passed for everybody, including those in which this machine was suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
