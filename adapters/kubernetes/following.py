"""Follow one Job by what the watches show of it, hand its log over, and say how it ended."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from reprieve.adapters.kubernetes import job as jobs
from reprieve.adapters.kubernetes import state
from reprieve.adapters.kubernetes.answers import ApiError, Json, path_of
from reprieve.adapters.kubernetes.api import Api
from reprieve.adapters.kubernetes.connection import NotConnected
from reprieve.adapters.kubernetes.ending import NotGone, end
from reprieve.adapters.kubernetes.handle import Handle, Keeper
from reprieve.adapters.kubernetes.logs import PodLogReader, Streams
from reprieve.adapters.kubernetes.seen import later
from reprieve.adapters.kubernetes.sights import JOBS, PODS, Sight
from reprieve.adapters.kubernetes.timings import Backoff, Timings
from reprieve.adapters.kubernetes.watching import Namespace
from reprieve.adapters.protocol import AsyncContext
from reprieve.models.work import Outcome

logger = logging.getLogger(__name__)

#: Seconds of one wait to be told something; being told ends it at once.
TOLD_INTERVAL = 3_600.0


class View(NamedTuple):
    """What a follower looks at, and what wakes it."""

    watched: Namespace
    sight: Sight
    awake: asyncio.Event


async def follow(
    api: Api, streams: Streams, timings: Timings, context: AsyncContext, view: View, handle: Handle, *, recorded: Handle
) -> Outcome:
    """Until it has ended, or the context says stop; then end it. `recorded` is the handle as the run's row has it."""
    keeper = Keeper(context, recorded)
    told = asyncio.create_task(_until_told(context))
    told.add_done_callback(lambda _: view.awake.set())
    told.add_done_callback(_is_known)
    try:
        async with PodLogReader(api, streams, handle.namespace, context, timings.log, view.awake.set) as log:
            following = Following(api, handle, context, view, log, keeper, timings)
            while not context.stopping:
                view.awake.clear()
                outcome = await following.look()
                if outcome is not None and (outcome.has_ended or await _is_ended(api, timings, following.handle)):
                    return outcome.outcome
                await _rest(view, following.pause)
                if told.done():
                    # Raises where it is to leave.
                    told.result()
            await _is_ended(api, timings, following.handle)
            return Outcome.failed("Stopped.")
    finally:
        told.cancel()
        await keeper.close()


async def _until_told(context: AsyncContext) -> None:
    while not await context.wait(TOLD_INTERVAL):
        pass


def _is_known(told: "asyncio.Task[None]") -> None:
    """What it raises, if anything: a follower that has ended meanwhile need not be told."""
    if not told.cancelled():
        told.exception()


async def _rest(view: View, seconds: float) -> None:
    """Until there is something new, or it is time to look again."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await view.awake.wait()


async def _is_ended(api: Api, timings: Timings, handle: Handle) -> bool:
    """Work that is given up must be gone before its run ends."""
    try:
        await end(api, timings, handle)
    except (ApiError, NotConnected, NotGone) as error:
        # Its termination is owed, and is tried again.
        logger.warning("The Job %s could not be ended: %s.", handle.name, error)
        return False
    return True


class End(NamedTuple):
    outcome: Outcome
    has_ended: bool
    """False when the work is given up and has to be ended."""


class Following:
    """One Job, looked at whenever there is something new, and now and then."""

    def __init__(
        self,
        api: Api,
        handle: Handle,
        context: AsyncContext,
        view: View,
        log: PodLogReader,
        keeper: Keeper,
        timings: Timings,
    ) -> None:
        self._api = api
        self.handle = handle
        self._context = context
        self._watched, self._sight, _ = view
        self._log = log
        self._keeper = keeper
        self._timings = timings
        self._backoff = Backoff(timings)
        self._noted: set[str] = set()
        #: On the loop's clock: when the Job may be asked for by name again, and its events; of when the last proof of
        #: life is; since when the attempt is kept from beginning; and how long a Job that has ended is waited for.
        self._ask_at = self._events_at = 0.0
        self._proof_at = 0.0
        self._blocked_since: float | None = None
        self._grace_until: float | None = None
        #: Until when the Pods of a Job that is given up are waited for.
        self._given_up_until: float | None = None
        self._events: list[Json] = []
        #: When the Job was first seen to have ended.
        self._ended_at: float | None = None
        self._outcome: Outcome | None = None
        self._unread: str | None = None
        self._keeper.keep(handle)

    async def look(self) -> End | None:
        """Look once, and say what is to be said; how the run ends, if it does."""
        self._log.check()
        try:
            return await (self._judge() if self._outcome is None else self._after_the_log(self._outcome))
        except (ApiError, NotConnected) as error:
            self._ask_at = _now() + self._backoff.next(error)
            await self._note_failure(error)
            return None

    @property
    def pause(self) -> float:
        """Seconds until the next look, if there is nothing new before."""
        until_asked = self._ask_at - _now()
        return min(self._timings.pulse, until_asked) if until_asked > 0 else self._timings.pulse

    # -- what there is to be seen

    async def _job(self) -> Json | None:
        """The Job, as the watch shows it or as was answered; None when it is gone. Raises `_InDoubt`, `ApiError`."""
        sight = self._sight
        if self._is_unwatched and _now() >= self._ask_at:
            sight.known.discard(JOBS)
        if JOBS not in sight.known:
            if self._watched.is_listing_for(sight) or _now() < self._ask_at:
                raise _InDoubt
            changes = sight.changes
            if (found := await self._ask_for_job()) is None:
                return None
            self._check_unchanged(changes)
            sight.settle(JOBS, [found])
            if self._is_unwatched:
                self._ask_at = _now() + self._timings.unwatched_interval
        job = sight.job
        if job is None or not self.handle.is_of(job):
            return None
        self.handle = self.handle.created_as(job)
        return job

    @property
    def _is_unwatched(self) -> bool:
        """Whether no watch shows this Job: none may be had, or somebody has taken its labels away."""
        job = self._sight.job
        return not self._watched.jobs.may_list or (job is not None and not jobs.is_labelled(job, self.handle.labels))

    async def _ask_for_job(self) -> Json | None:
        """By its name. None when it is gone: also when another Job has its name by now."""
        self._watched.in_doubt += 1
        try:
            found = await self._api.find(self.handle.namespace, "jobs", self.handle.name)
        finally:
            self._watched.in_doubt -= 1
        if found is None or not self.handle.is_of(found):
            return None
        if self._sight.uid is None:
            self._sight.is_of(found["metadata"]["uid"])
        self._backoff.reset()
        if not state.is_terminal(found):
            self._is_alive(_now())
        return found

    async def _pods(self) -> list[Json]:
        """Its Pods, as the watch shows them or as they were asked for. Raises `_InDoubt`, `ApiError`."""
        sight = self._sight
        if PODS not in sight.known or not self._watched.pods.may_list:
            if not self._watched.pods.may_list:
                # To ask for those of one Job takes the same right.
                raise _InDoubt
            if self._watched.is_listing_for(sight):
                raise _InDoubt
            changes = sight.changes
            found = await self._ask_for_pods()
            self._check_unchanged(changes)
            sight.settle(PODS, found)
        return state.owned(sight.pods.values(), self.handle.uid)

    def _check_unchanged(self, changes: int) -> None:
        """What was asked for may be older than what has come meanwhile: then it is asked for again, at once."""
        if changes != self._sight.changes:
            self._sight.wake()
            raise _InDoubt

    async def _ask_for_pods(self) -> list[Json]:
        path, labels = path_of(self.handle.namespace, "pods"), self.handle.labels
        return state.owned(await self._api.list_all(path, {"labelSelector": jobs.selector(labels)}), self.handle.uid)

    def _is_alive(self, at: float) -> None:
        """It was known to be alive at this time: a proof of life, if it is a new one."""
        if at > self._proof_at:
            self._proof_at = at
            self._context.heartbeat()

    # -- what it means

    async def _judge(self) -> End | None:
        try:
            await self._note_problem()
            job = await self._job()
            if job is None:
                return await self._judge_gone()
            is_terminal = state.is_terminal(job)
            if not is_terminal and not self._is_unwatched:
                self._is_alive(self._watched.jobs.current_at or 0.0)
            if is_terminal and self._ended_at is None:
                # The watch of the Pods may be behind that of the Jobs: what they were in the end is asked for.
                self._ended_at = _now()
                self._sight.known.discard(PODS)
            pods = await self._pods()
        except _InDoubt:
            return None
        await self._notice()
        logs = state.logs_of(pods)
        have_ended = all(log.ended for log in logs)
        if is_terminal:
            is_over = self._is_over(pods, have_ended and not self._may_learn_more(pods))
        else:
            is_over = state.is_given_up(job, pods) and self._has_had_its_grace(pods)
        if is_over:
            seen = self.handle.seen
            # On a node that is away, its command may be running: no other attempt begins before it is gone.
            self._outcome = replace(state.outcome_of(job, pods, seen), work_ended=is_terminal and have_ended)
            self._log.read_rest(logs)
            if not pods and not self._log.has_read and (seen or self._outcome.error_code is None):
                self._unread = "The Pod was gone before the end of its log was read."
            return None
        self._log.see(logs)
        return await self._judge_blocked(state.blocked(job, pods, await self._events_of(job, pods)))

    async def _notice(self) -> None:
        """Keep what may be gone at the next look, and note what is about to end the work."""
        self.handle = replace(self.handle, seen=later(self.handle.seen, self._sight.seen))
        self._keeper.keep(self.handle)
        for about, sentence in list(self._sight.told.items()):
            await self._note_once(about, sentence)

    async def _judge_gone(self) -> End | None:
        """Without a Job: how it has ended, if that was seen and nothing is left; else it is the reaper's to judge."""
        self._ask_at = _now() + self._backoff.next()
        pods = await self._ask_for_pods()
        self._sight.settle(PODS, pods)
        await self._notice()
        seen = self.handle.seen
        last = f" {seen.end.error_message}" if seen is not None and seen.end.error_message else ""
        await self._note_once(
            "gone", f"The Job {self.handle.name} is not there any more; somebody has deleted it.{last}"
        )
        if pods or seen is None or not seen.tells_an_end:
            return None
        return End(state.outcome_of_gone(self.handle.name, seen), False)

    def _end_of_grace(self, pods: list[Json]) -> float:
        """When Pods that are to go from now on should have gone, and said so."""
        return _now() + state.grace_of(pods) + self._timings.end_grace

    def _is_over(self, pods: list[Json], have_ended: bool) -> bool:
        """Whether all that is to come has come; a lost node never says that its Pods have ended.

        Before Kubernetes 1.31 a Job fails as soon as its Pods are to go, while their commands still have their grace.
        """
        self._grace_until = self._grace_until or self._end_of_grace(pods)
        return have_ended or _now() > self._grace_until

    def _has_had_its_grace(self, pods: list[Json]) -> bool:
        """Whether Pods that should have gone by now are there, as the watches have shown since: their node is away."""
        self._given_up_until = self._given_up_until or self._end_of_grace(pods)
        # A Job that is not watched was asked for just now.
        watches = [self._watched.pods] if self._is_unwatched else [self._watched.jobs, self._watched.pods]
        return min(watch.current_at or 0.0 for watch in watches) > self._given_up_until

    def _may_learn_more(self, pods: list[Json]) -> bool:
        """Whether why its Pods are gone may be in what their watch has not told yet."""
        seen = self.handle.seen
        is_behind = (self._watched.pods.current_at or 0.0) <= (self._ended_at or 0.0)
        return not pods and not (seen is not None and seen.tells_an_end) and is_behind

    async def _after_the_log(self, outcome: Outcome) -> End | None:
        if not self._log.is_done:
            return None
        lost = self._log.lost or self._unread
        if lost is None:
            return End(outcome, True)
        await self._context.note(lost)
        if outcome.error_code is None and await self._ask_for_job() is None:
            # Gone with its log: what it did, nobody can show.
            return End(state.outcome_of_gone(self.handle.name, self.handle.seen), True)
        return End(replace(outcome, detail=outcome.detail | {"log": lost}), True)

    async def _judge_blocked(self, blocked: state.Blocked | None) -> End | None:
        if blocked is None:
            self._blocked_since = None
            return None
        await self._note_once(blocked.reason, blocked.sentence)
        self._blocked_since = self._blocked_since or _now()
        if _now() - self._blocked_since < self._timings.blocked_limit:
            return None
        waited = f"It could not begin within {self._timings.blocked_limit:g} s"
        return End(Outcome.failed(f"{waited}. {blocked.sentence}", reason=blocked.reason), False)

    async def _events_of(self, job: Json, pods: list[Json]) -> list[Json]:
        """What the cluster says of a Job that has no Pod; nothing when it does not say: that is no reason to end."""
        if pods or state.is_terminal(job):
            return []
        if _now() < self._events_at:
            return self._events
        # A Job has its Pod at once, as a rule.
        is_first, self._events_at = not self._events_at, _now() + self._timings.events_interval
        if is_first:
            self._events_at = _now() + self._timings.status_interval
            return []
        query = {"fieldSelector": f"involvedObject.uid={job['metadata']['uid']}"}
        try:
            self._events = await self._api.list_all(path_of(self.handle.namespace, "events"), query)
        except ApiError as error:
            logger.info("The events of the Job %s could not be read: %s.", self.handle.name, error)
            self._events = []
        return self._events

    # -- what is said of it

    async def _note_problem(self) -> None:
        """Of the watches, which all followers share."""
        for watch in (self._watched.jobs, self._watched.pods):
            if watch.problem is not None:
                await self._note_failure(watch.problem)
            if not watch.may_watch:
                await self._note_once(
                    "unwatched",
                    f"Jobs and Pods of the namespace {self.handle.namespace} may not be watched, so that they are "
                    "listed now and then instead: what happens is known later. Grant the verb watch on both.",
                )

    async def _note_failure(self, error: ApiError | NotConnected) -> None:
        said = f"{error.status}" if isinstance(error, ApiError) else "client"
        plainly = str(error).strip().rstrip(".")
        await self._note_once(said, f"The API server does not answer as it should ({plainly}); it is asked again.")

    async def _note_once(self, about: str, sentence: str) -> None:
        """Note one sentence of each kind: the platform's sentences vary in what does not matter, such as a back-off."""
        if about not in self._noted:
            self._noted.add(about)
            await self._context.note(sentence)


class _InDoubt(Exception):
    """Raised when how the Job stands is not known, and will be told by a list, or asked for later."""


def _now() -> float:
    return asyncio.get_running_loop().time()
