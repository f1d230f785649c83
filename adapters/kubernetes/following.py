"""Follow one Job: look at it again and again, hand its log over, and say how it ended."""

import logging
import time
from dataclasses import replace
from typing import NamedTuple

from reprieve.adapters.kubernetes import job as jobs
from reprieve.adapters.kubernetes import state
from reprieve.adapters.kubernetes.api import Api, ApiError, Json, NotConnected, path_of
from reprieve.adapters.kubernetes.ending import NotGone, end
from reprieve.adapters.kubernetes.handle import Handle, Keeper
from reprieve.adapters.kubernetes.logs import PodLogReader
from reprieve.adapters.kubernetes.seen import later
from reprieve.adapters.kubernetes.timings import Backoff, Timings
from reprieve.adapters.protocol import Context
from reprieve.models.work import Outcome

logger = logging.getLogger(__name__)


def follow(api: Api, timings: Timings, context: Context, handle: Handle, *, recorded: Handle) -> Outcome:
    """Until it has ended, or the context says stop; then end it. `recorded` is the handle as the run's row has it."""
    keeper = Keeper(context, recorded)
    try:
        with PodLogReader(api, handle.namespace, context, timings.log) as log:
            following = Following(api, handle, context, log, keeper, timings)
            while not context.stopping:
                outcome = following.look()
                if outcome is not None and (outcome.has_ended or _is_ended(api, timings, following.handle)):
                    return outcome.outcome
                following.rest()
            _is_ended(api, timings, following.handle)
            return Outcome.failed("Stopped.")
    finally:
        keeper.close()


def _is_ended(api: Api, timings: Timings, handle: Handle) -> bool:
    """Work that is given up must be gone before its run ends."""
    try:
        end(api, timings, handle)
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
    """One Job, looked at again and again."""

    def __init__(
        self, api: Api, handle: Handle, context: Context, log: PodLogReader, keeper: Keeper, timings: Timings
    ) -> None:
        self._api = api
        self.handle = handle
        self._context = context
        self._log = log
        self._keeper = keeper
        self._timings = timings
        self._backoff = Backoff(timings)
        self._pause = timings.status_interval
        self._noted: set[str] = set()
        #: Since when, on the monotonic clock, the attempt is kept from beginning; and how long a Job that has ended
        #: is waited for.
        self._blocked_since: float | None = None
        self._grace_until: float | None = None
        self._outcome: Outcome | None = None
        self._unread: str | None = None
        self._keeper.keep(handle)

    def look(self) -> End | None:
        """Ask once, and say what is to be said; how the run ends, if it does."""
        self._log.check()
        try:
            return self._judge() if self._outcome is None else self._after_the_log(self._outcome)
        except (ApiError, NotConnected) as error:
            self._pause = self._backoff.next(error)
            self._note_failure(error)
            return None

    def rest(self) -> None:
        """Until it is time to look again, or the log has been read to its end, or the context says stop."""
        until = time.monotonic() + self._pause
        while not self._context.stopping and (left := until - time.monotonic()) > 0:
            self._log.check()
            if self._log.is_done:
                return
            self._context.wait(min(left, self._timings.look_interval))

    def _judge(self) -> End | None:
        job = self._job()
        if job is None:
            return self._judge_gone()
        is_terminal = state.is_terminal(job)
        if not is_terminal:
            self._context.heartbeat()
        pods = self._pods()
        self._backoff.reset()
        self._pause = self._timings.status_interval
        before = self.handle.seen
        self._notice(job, pods)
        logs = state.logs_of(pods)
        if is_terminal and self._is_over(all(log.ended for log in logs)):
            self._outcome = state.outcome_of(job, pods, before)
            self._log.read_rest(logs)
            if not logs and not self._log.has_read and (before or self._outcome.error_code is None):
                self._unread = "The Pod was gone before the end of its log was read."
            return None
        self._log.see(logs)
        return self._judge_blocked(state.blocked(job, pods, [] if pods or is_terminal else self._events(job)))

    def _job(self) -> Json | None:
        """None when it is gone: also when another Job has its name by now."""
        job = self._api.find(self.handle.namespace, "jobs", self.handle.name)
        if job is None or not self.handle.is_of(job):
            return None
        self.handle = self.handle.created_as(job)
        return job

    def _pods(self) -> list[Json]:
        path, labels = path_of(self.handle.namespace, "pods"), self.handle.labels
        return state.owned(self._api.list(path, {"labelSelector": jobs.selector(labels)}), self.handle.uid)

    def _notice(self, job: Json, pods: list[Json]) -> None:
        """Keep what may be gone at the next look, and note what is about to end the work."""
        self.handle = replace(self.handle, seen=later(self.handle.seen, state.seen_of(job, pods)))
        self._keeper.keep(self.handle)
        for about, sentence in state.notices(job, pods):
            self._note_once(about, sentence)

    def _judge_gone(self) -> End | None:
        """Without a Job: how it has ended, if that was seen and nothing is left; else it is the reaper's to judge."""
        self._pause = self._backoff.next()
        pods, seen = self._pods(), self.handle.seen
        if pods:
            self._notice({}, pods)
        last = f" {seen.end.error_message}" if seen is not None and seen.end.error_message else ""
        self._note_once("gone", f"The Job {self.handle.name} is not there any more; somebody has deleted it.{last}")
        if pods or seen is None or not seen.tells_an_end:
            return None
        return End(state.outcome_of_gone(self.handle.name, seen), False)

    def _is_over(self, have_ended: bool) -> bool:
        """Whether what its Pods print has ended too; a lost node never says so."""
        self._grace_until = self._grace_until or time.monotonic() + self._timings.end_grace
        return have_ended or time.monotonic() > self._grace_until

    def _after_the_log(self, outcome: Outcome) -> End | None:
        if not self._log.is_done:
            return None
        lost = self._log.lost or self._unread
        if lost is None:
            return End(outcome, True)
        self._context.note(lost)
        if outcome.error_code is None and self._job() is None:
            # Gone with its log: what it did, nobody can show.
            return End(state.outcome_of_gone(self.handle.name, self.handle.seen), True)
        return End(replace(outcome, detail=outcome.detail | {"log": lost}), True)

    def _judge_blocked(self, blocked: state.Blocked | None) -> End | None:
        if blocked is None:
            self._blocked_since = None
            return None
        self._note_once(blocked.reason, blocked.sentence)
        self._blocked_since = self._blocked_since or time.monotonic()
        if time.monotonic() - self._blocked_since < self._timings.blocked_limit:
            return None
        waited = f"It could not begin within {self._timings.blocked_limit:g} s"
        return End(Outcome.failed(f"{waited}. {blocked.sentence}", reason=blocked.reason), False)

    def _events(self, job: Json) -> list[Json]:
        """What the cluster says of a Job that has no Pod; nothing when it does not say: that is no reason to end."""
        query = {"fieldSelector": f"involvedObject.uid={job['metadata']['uid']}"}
        try:
            return self._api.list(path_of(self.handle.namespace, "events"), query)
        except ApiError as error:
            logger.info("The events of the Job %s could not be read: %s.", self.handle.name, error)
            return []

    def _note_failure(self, error: ApiError | NotConnected) -> None:
        said = f"{error.status}" if isinstance(error, ApiError) else "client"
        plainly = str(error).strip().rstrip(".")
        self._note_once(said, f"The API server does not answer as it should ({plainly}); it is asked again.")

    def _note_once(self, about: str, sentence: str) -> None:
        """Note one sentence of each kind: the platform's sentences vary in what does not matter, such as a back-off."""
        if about not in self._noted:
            self._noted.add(about)
            self._context.note(sentence)
