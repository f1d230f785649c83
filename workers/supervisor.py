"""The worker's own watch over the runs it follows, and over work of this host that must be ended.

Threads of their own, so that ending a stubborn process (up to 15 seconds) never holds up a proof of life:

- *supervise*, each second: stop what was told to stop through Redis, cancel runs whose tasks were revoked, end what is
  overdue; each keepalive interval: say that this worker is there, give proof of life for every run whose work is seen
  alive, and ask the database which runs are still ours.
- *vouch*, each second: where the database could not be told for two keepalive intervals that work lives, say it through
  Redis. Nothing in it waits for the database: a connection that swallows everything cannot hold it up.
- *bury*, every two seconds: end work that rows of this host say is owed its end, whichever worker it was of.
- *adopt*, every two seconds: follow work that another worker has left; each such run has a thread of its own, beside
  the pool of those that were started here, so that it waits behind none of them.
- *answer*, every second: say what this host knows of its work that a sweep asks about.
- *tidy*, every 20 seconds: have adapters forget what they keep here of attempts whose logs are closed.

A failure in any is logged and tried again at the next turn: no follower dies of it.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from uuid import UUID, uuid4

from cachetools import LRUCache, TTLCache
from celery.worker import state as worker_state
from sqlalchemy.exc import DBAPIError

from reprieve.adapters.protocol import Adapter, Attaching, Keeping
from reprieve.adapters.registry import attaching, find_adapter
from reprieve.adapters.shipper import LogShipper
from reprieve.models.draining import end_of_cut_off, end_of_drained
from reprieve.models.errors import RunNotFound, UnknownAdapter
from reprieve.models.faults import ends_session
from reprieve.models.nodes import Whose, complaints, in_words, whose
from reprieve.models.owed import Duty, reason_of
from reprieve.models.paging import pages
from reprieve.models.rows import RunAttempt
from reprieve.models.status import ErrorCode, EventKind, Probe, Proof
from reprieve.models.work import End, Fence, Outcome, Work, storable
from reprieve.stores.adoptions import Adoption
from reprieve.stores.logs import Resumed
from reprieve.stores.runs.attempts import Standing
from reprieve.workers import metrics
from reprieve.workers.asking import answer_questions, ask_here
from reprieve.workers.bootstrap import Services
from reprieve.workers.cancel import cancel_run
from reprieve.workers.context import RunContext
from reprieve.workers.finish import finish
from reprieve.workers.following import follow_to_the_end, take_back
from reprieve.workers.hints import send_execute
from reprieve.workers.identity import ends_container
from reprieve.workers.journal import about
from reprieve.workers.refresh import give_proof
from reprieve.workers.turns import take_turns, tell

logger = logging.getLogger(__name__)

#: Attempts that are remembered as having been followed here.
FOLLOWED_LATELY = 100_000
#: Seconds between two looks for stop signals and overdue runs.
SUPERVISE_INTERVAL = 1.0
#: Seconds between two looks for proofs of life that the database was not told of.
VOUCH_INTERVAL = 1.0
#: Seconds that a platform has to say whether overdue work has ended by itself.
OVERDUE_ASK_LIMIT = 2.0
#: Seconds between two looks for owed terminations.
BURY_INTERVAL = 2.0
#: Terminations that are tried at once, and the most of those that failed before in one turn.
BURY_AT_ONCE = 8
#: Seconds after which one that has not come to its end keeps no other from its turn.
BURY_DEADLINE = 30.0
#: Seconds before a termination that failed is tried again.
BURY_AGAIN = 30.0
#: Seconds between two looks for work to adopt …
ADOPT_INTERVAL = 2.0
#: … and how much of it is taken at once, so that the workers that look share it.
ADOPT_AT_ONCE = 20
#: Runs that a worker with a new adapter asks for as it starts; the sweep sends the rest.
AWAITED_AT_ONCE = 1000
#: How much that is left to others is looked at, and how much of it is remembered, so that this is said once.
LEFT_TO_OTHERS_AT_ONCE, LEFT_TO_OTHERS_KEPT = 500, 10_000
#: Seconds between two looks for questions of a sweep.
ANSWER_INTERVAL = 1.0
#: Seconds between two looks for what adapters need not keep any more …
TIDY_INTERVAL = 20.0
#: … and how many attempts are looked up at once.
TIDY_AT_ONCE = 500
#: Seconds that followers which were told to leave may take.
LEAVE_TIMEOUT = 10.0


class Supervisor:
    """One per worker process that follows runs."""

    def __init__(self, services: Services, shipper: LogShipper, node: str | None = None) -> None:
        """Raises `NoIdentity` where this process holds no name and can have none."""
        self.worker_id = uuid4()
        self._node = node or f"worker@{services.host}"
        self._services = services
        self._shipper = shipper
        self._followed: dict[Fence, RunContext] = {}
        self._followed_lately: LRUCache[Fence, bool] = LRUCache(FOLLOWED_LATELY)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._draining = threading.Event()
        self._heeded: set[str] = set()
        self._next_keepalive = 0.0
        self._proven_at = time.monotonic()
        self._next_vouch = 0.0
        self._next_sign = 0.0
        self._next_look_at_claims = 0.0
        self._asked_for_awaited = False
        self._in_touch_at = _clock()
        self._adopted: list[threading.Thread] = []
        self._left_to_others: LRUCache[tuple[UUID, int], bool] = LRUCache(LEFT_TO_OTHERS_KEPT)
        self._failed_lately: TTLCache[tuple[UUID, int], bool] = TTLCache(10_000, ttl=BURY_AGAIN)
        self._burying: set[tuple[UUID, int]] = set()
        self._failed_before: LRUCache[tuple[UUID, int], bool] = LRUCache(10_000)
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads; they end with the process, or at `close`."""
        turns = (
            (SUPERVISE_INTERVAL, self.supervise),
            (VOUCH_INTERVAL, self.vouch),
            (BURY_INTERVAL, self.bury),
            (ADOPT_INTERVAL, self.adopt),
            (ANSWER_INTERVAL, self.answer),
            (TIDY_INTERVAL, self.tidy),
        )
        for interval, turn in turns:
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
    def follow(self, work: Work, resumed: Resumed | None = None) -> Iterator[RunContext]:
        """The context of an attempt, watched over for as long as the block lasts."""
        context = RunContext(self._services, self._shipper, work, resumed)
        with self._lock:
            self._followed[work.fence] = context
            self._followed_lately[work.fence] = True
        try:
            yield context
        finally:
            with self._lock:
                del self._followed[work.fence]

    def supervise(self) -> None:
        """One turn over the followed runs; a step that fails does not keep the others from theirs."""
        contexts = self._contexts()
        if not contexts:
            self._in_touch_at = _clock()
        first, last = (self._be_seen, self._heed_revocations), (self._take_back_unfollowed,)
        followed = (self._keepalive, self._end_cut_off, self._stop_told, self._end_overdue) if contexts else ()
        for step in (*first, *followed, *last):
            try:
                step(contexts)
            except Exception:
                logger.exception("A step of supervision failed; it is tried again in a moment.")

    def _contexts(self) -> dict[Fence, RunContext]:
        with self._lock:
            return dict(self._followed)

    def _be_seen(self, contexts: dict[Fence, RunContext]) -> None:
        """Say that this worker is there: nobody need take over what it follows."""
        if time.monotonic() >= self._next_sign and (contexts or not self._draining.is_set()):
            self._services.workers.seen(self.worker_id, self._node, self._services.node)
            self._next_sign = time.monotonic() + self._services.timing.keepalive_interval.total_seconds()
            self._tell_of_twins()

    def _take_back_unfollowed(self, _: dict[Fence, RunContext]) -> None:
        """Put back into the queue what this worker claimed without being told so: the answer was lost on the way.

        Nobody follows it, so that it would be found by its silence, and end without having begun. A claim that is only
        slow to be followed loses nothing but time: what it would record is refused. What was followed here, and is not
        any more, may have done something, whatever its rows say.
        """
        if time.monotonic() < self._next_look_at_claims:
            return
        timing = self._services.timing
        claimed = self._services.claims.claimed_for(self.worker_id, timing.worker_gone_after)
        for fence in claimed - self._begun():
            take_back(self._services, fence, f"the answer to the claim of {self._node} was lost")
        self._next_look_at_claims = time.monotonic() + timing.keepalive_interval.total_seconds()

    def _begun(self) -> set[Fence]:
        with self._lock:
            return self._followed.keys() | set(self._followed_lately)

    def _tell_of_twins(self) -> None:
        """Say so, again and again, where another data folder has our name: it was there first, or came with us."""
        for twice in self._services.nodes.held_twice(self._services.timing.worker_gone_after):
            if twice.name == self._services.host:
                logger.critical("%s", *complaints([], [twice], self._services.timing))

    def _heed_revocations(self, _: dict[Fence, RunContext]) -> None:
        """Cancel the runs whose tasks were revoked or terminated, in Flower for example: a task's id is its run's.

        Celery tells every worker. It drops the message of a run that waits, and could not end one that runs on a
        thread; the row would stay as it is.
        """
        revoked = set(worker_state.revoked)
        for task_id in revoked - self._heeded:
            with suppress(ValueError, RunNotFound):
                logger.info("Task %s was revoked: its run is %s.", task_id, cancel_run(UUID(task_id)).status)
        self._heeded = revoked

    def _stop_told(self, contexts: dict[Fence, RunContext]) -> None:
        for fence in self._services.stops.received(list(contexts)):
            contexts[fence].stop()

    def _end_overdue(self, contexts: dict[Fence, RunContext]) -> None:
        overdue = {fence: one for fence, one in contexts.items() if one.is_overdue and not one.stopping}
        ended = self._ended_by_themselves(overdue) if overdue else set()
        for context in overdue.values():
            if context.run_id not in ended:
                self._end_one_overdue(context)

    def _end_one_overdue(self, context: RunContext) -> None:
        try:
            finish(self._services, [_timed_out(context)])
        except Exception:
            logger.exception("Run %s is overdue, and could not be ended; it is tried again.", context.run_id)
            return
        context.stop()

    def _ended_by_themselves(self, fences: Iterable[Fence]) -> set[UUID]:
        """The runs among these whose work has ended, perhaps long ago and in time, and is being read only now."""
        handles = self._services.questions.handles(fences)
        said = ask_here(self._services, handles, time.monotonic() + OVERDUE_ASK_LIMIT)
        return {run_id for run_id, answer in said.items() if answer is Probe.ENDED}

    def _keepalive(self, contexts: dict[Fence, RunContext]) -> None:
        """Give proof of life for what is alive, then stop whatever the database says is no longer ours."""
        if time.monotonic() < self._next_keepalive:
            return
        began = _clock()
        proofs = {fence: context.proof() for fence, context in contexts.items()}
        for proof in (Proof.KEEPALIVE, Proof.HEARTBEAT):
            proven = [fence for fence, given in proofs.items() if given is proof]
            give_proof(self._services, proven, proof)
            for fence in proven:
                contexts[fence].proof_given()
        self._tell(contexts, {Standing.ADOPTED})
        self._in_touch_at = began
        self._proven_at = time.monotonic()
        self._next_keepalive = time.monotonic() + self._services.timing.keepalive_interval.total_seconds()

    def vouch(self) -> None:
        """Say through Redis what lives here, if the database could not be told lately; each keepalive interval."""
        contexts, now = self._contexts(), time.monotonic()
        if not contexts:
            self._proven_at = now
        if now - self._proven_at < self._services.timing.vouch_after.total_seconds() or now < self._next_vouch:
            return
        proven = [fence for fence, context in contexts.items() if context.proof() is not None]
        if proven and self._services.vouches.give(proven):
            metrics.VOUCHED.inc(len(proven))
            for fence in proven:
                contexts[fence].proof_given()
        self._next_vouch = now + self._services.timing.keepalive_interval.total_seconds()

    def _end_cut_off(self, contexts: dict[Fence, RunContext]) -> None:
        """End our own children if we have not heard for so long that a next attempt may soon begin elsewhere."""
        limit = self._services.timing.cut_off_limit
        if _clock() - self._in_touch_at <= limit.total_seconds():
            return
        for context in contexts.values():
            if not context.stopping and not _lives_elsewhere(context.work):
                logger.error("Run %s is ended: the database was out of reach for %s.", context.run_id, in_words(limit))
                context.give_up(end_of_cut_off(context.work, self._services.timing))

    def _tell(self, contexts: dict[Fence, RunContext], leave: Container[Standing]) -> None:
        """Have the work of runs that have ended be ended, and that of these other standings be left."""
        for fence, standing in self._services.attempts.standings(contexts).items():
            if standing is Standing.ENDED:
                contexts[fence].stop()
            elif standing in leave:
                contexts[fence].release()

    def bury(self) -> None:
        """One turn over the work that is owed its end."""
        owed = self._services.terminations.owed(self._services.node)
        due = [attempt for attempt in owed if attempt not in self._failed_lately and attempt not in self._burying]
        # What failed before may take long to fail again, and what is owed anew must not wait for all of it.
        again = [attempt for attempt in due if attempt in self._failed_before]
        due = [attempt for attempt in due if attempt not in self._failed_before]
        due += random.sample(again, min(BURY_AT_ONCE, len(again)))
        if due:
            take_turns(due, self._try_to_end, at_once=BURY_AT_ONCE, deadline=BURY_DEADLINE, name="bury")

    def _try_to_end(self, owed: tuple[UUID, int]) -> None:
        self._burying.add(owed)
        with about(*owed):
            try:
                self._end_work(self._services.runs.get_attempt(*owed))
            except Exception as error:
                self._failed_lately[owed] = self._failed_before[owed] = True
                self._remember(Duty.TERMINATION, owed, error)
                said = {"host": self._services.host, "error": storable(f"{type(error).__name__}: {error}")}
                self._services.runs.tell_once(*owed, EventKind.TERMINATION_FAILED, said)
            finally:
                self._burying.discard(owed)

    def _remember(self, duty: Duty, item: tuple[UUID, int], error: Exception) -> None:
        """Log why this failed, and have whoever asks about its run be told."""
        tell(duty, item, error)
        try:
            self._services.setbacks.begin(duty, [item])
            self._services.setbacks.failed(duty, item, reason_of(error))
        except DBAPIError as problem:
            logger.warning("That this failed could not be written down (%s).", type(problem.orig).__name__)

    def _end_work(self, attempt: RunAttempt) -> None:
        """End an attempt's work and say so; a run that waited for it may now be started again."""
        run = self._services.runs.get(attempt.run_id)
        if attempt.work is not None and not self._is_gone(attempt):
            self._services.adapters.get(run.adapter).terminate(attempt.work)
        waits = self._services.terminations.settle(attempt.run_id, attempt.attempt)
        if waits is not None:
            send_execute(attempt.run_id, after=waits)

    def _is_gone(self, attempt: RunAttempt) -> bool:
        """Whether a child was of a boot, or of a PID namespace, of this node's that is gone."""
        process = attempt.process
        return process is not None and whose(process.namespace, attempt.slot, self._services.node) is Whose.GONE

    # -- what others have left

    def adopt(self) -> None:
        """One turn over the work that is to be followed by another worker than before."""
        self._adopted = [thread for thread in self._adopted if thread.is_alive()]
        if self._draining.is_set():
            return
        self._ask_for_awaited()
        adoptions, node, ours = self._services.adoptions, self._services.node, self._services.adapters.attaching()
        for run_id, attempt, epoch in adoptions.to_adopt(node, ours, ADOPT_AT_ONCE):
            with about(run_id, attempt):
                self._try_to_adopt(run_id, attempt, epoch)
        for run_id, attempt, adapter in adoptions.left_to_others(self._services.host, ours, LEFT_TO_OTHERS_AT_ONCE):
            self._leave_to_others(run_id, attempt, adapter)

    def _try_to_adopt(self, run_id: UUID, attempt: int, epoch: int) -> None:
        """Adopt this, if it can be: one that cannot, whose log another transaction holds, say, keeps back no other."""
        try:
            adoption = self._services.adoptions.adopt(run_id, attempt, epoch, self._node, self.worker_id)
        except Exception as error:
            if ends_session(error):  # The database is away: nothing else could be adopted, either.
                raise
            self._remember(Duty.ADOPTION, (run_id, attempt), error)
            return
        if adoption is not None:
            self._begin_to_follow(adoption)

    def _leave_to_others(self, run_id: UUID, attempt: int, adapter: str) -> None:
        """Say, once, that this worker cannot adopt work which is to be adopted: another one, or a later one, can."""
        if (run_id, attempt) not in self._left_to_others:
            self._left_to_others[run_id, attempt] = True
            with about(run_id, attempt):
                sentence = "Run %s attempt %d waits for a worker whose adapter %r can attach; this one has none."
                logger.warning(sentence, run_id, attempt, adapter)

    def _begin_to_follow(self, adoption: Adoption) -> None:
        work = adoption.work
        for fence, context in self._contexts().items():
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
        self._adopted.append(thread)

    def _ask_for_awaited(self) -> None:
        """Once: send the runs again that other workers had no adapter for, and this one has."""
        if not self._asked_for_awaited:
            for run_id in self._services.resends.awaiting(self._services.adapters.usable(), AWAITED_AT_ONCE):
                send_execute(run_id)
            self._asked_for_awaited = True

    def _follow_on(self, adoption: Adoption) -> None:
        work = adoption.work

        def attach(adapter: Adapter, work: Work) -> Outcome:
            if not isinstance(adapter, Attaching):
                raise UnknownAdapter(f"The adapter {work.adapter!r} cannot follow what another worker has started.")
            return adapter.attach(work, adoption.handle, context)

        with about(work.run_id, work.attempt), self.follow(work, adoption.resumed) as context:
            context.lives_here = adoption.host is not None
            after = adoption.resumed.after_seq
            logger.info("Run %s attempt %d: followed on from chunk %d.", work.run_id, work.attempt, after)
            follow_to_the_end(self._services, self._shipper, context, attach, "adoption")

    def answer(self) -> None:
        """One turn over the questions of a sweep to this host."""
        answer_questions(self._services)

    def tidy(self) -> None:
        """One turn over what adapters keep on this host, for one run or another."""
        for adapter in self._services.adapters.keeping():
            try:
                self._tidy(adapter)
            except Exception:
                logger.exception("What %s keeps here could not be looked through.", type(adapter).__name__)

    def _tidy(self, adapter: Keeping) -> None:
        for page in pages(adapter.kept(), TIDY_AT_ONCE):
            for attempt in self._services.closings.forgettable(page):
                try:
                    adapter.forget(attempt)
                except Exception:
                    logger.exception("Run %s attempt %d: what is kept of it here could not be deleted.", *attempt)

    # -- the end of this worker

    @property
    def is_draining(self) -> bool:
        """Whether this worker was asked to stop, and begins nothing any more."""
        return self._draining.is_set()

    def drain(self) -> None:
        """Leave what others can follow; wait for the rest, which goes on to be vouched for, up to a limit; end that.

        Where the end of this worker is that of its container, detached work is of the rest. Returns when nothing is
        followed here any more.
        """
        self._draining.set()
        limit = self._services.settings.drain_seconds
        self._wait_for_followers(limit)
        for context in self._contexts().values():
            self._give_up(context, limit)
        self._wait_for_followers(LEAVE_TIMEOUT)

    def _wait_for_followers(self, seconds: float) -> None:
        deadline, can_attach, takes_with = time.monotonic() + seconds, attaching(), takes_detached_with(self._services)
        while (contexts := self._contexts()) and time.monotonic() < deadline:
            leavable = {
                fence: one
                for fence, one in contexts.items()
                if one.can_be_left and one.work.adapter in can_attach and not (takes_with and one.lives_here)
            }
            self._leave(leavable)
            self._ended.wait(0.1)

    def _leave(self, contexts: dict[Fence, RunContext]) -> None:
        """Leave this work to others; not what has ended meanwhile, whose last words nobody else would read."""
        try:
            self._tell(contexts, {Standing.ADOPTED, Standing.CURRENT})
        except DBAPIError:  # Nobody can say what has ended; whoever attaches will know.
            for context in contexts.values():
                context.release()

    def _give_up(self, context: RunContext, waited: float) -> None:
        """Work that lives elsewhere goes on without us; work of ours is ended, and its run tried again elsewhere."""
        if _lives_elsewhere(context.work):
            context.release()
            return
        try:
            finish(self._services, [end_of_drained(context.work, waited, self._services.timing)])
        except DBAPIError as error:
            logger.error("Run %s is ended; a sweep will find it (%s).", context.run_id, type(error.orig).__name__)
        context.stop()

    def leave(self) -> None:
        """This worker ends, its followers with it: say that it is gone, so that nobody waits for it to be missed."""
        for thread in self._adopted:
            thread.join(LEAVE_TIMEOUT)
        self._services.workers.leave(self.worker_id)


def _clock() -> float:
    """Seconds that have passed for everybody, those included in which this machine was suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def takes_detached_with(services: Services) -> bool:
    """Whether the end of this worker ends what else runs beside it on its host, as that of a container does."""
    by_hand = services.settings.ends_container
    return ends_container() if by_hand is None else by_hand


def _lives_elsewhere(work: Work) -> bool:
    try:
        return find_adapter(work.adapter).has_out_of_process_liveness
    except UnknownAdapter:
        return False


def _timed_out(context: RunContext) -> End:
    outcome = Outcome.failed("Ran for longer than its max_runtime.", ErrorCode.TIMED_OUT)
    return End.by_result(context.fence, outcome, context.last_seq, work_ended=False)
