"""Two watches for each namespace in which Jobs are followed, one of the Jobs and one of their Pods, for all followers.

A watch begins with a list, goes on from the list's version, and is resumed after each cut from the last version that it
gave. It is asked to last less than a minute, so that it proves itself alive at least as often. Where it cannot go on
(410), or there is any doubt in it (silence, what is no event), all is listed again; also every few minutes, by which a
change is found that was kept from us. Where we may list and not watch, lists take its place.

A watch gives all Jobs of Reprieve in the namespace, those of other workers too: labels that named the worker would have
to be rewritten when another adopts a Job, by a right that nothing else needs. What is not followed here is not kept.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager

from reprieve.adapters.kubernetes.answers import ApiError, Change, Json, Lines, change_of, path_of
from reprieve.adapters.kubernetes.api import Api, Silent, pieces
from reprieve.adapters.kubernetes.connection import NotConnected
from reprieve.adapters.kubernetes.job import MANAGED_BY, selector
from reprieve.adapters.kubernetes.sights import JOBS, PODS, Sight, Sights
from reprieve.adapters.kubernetes.timings import Backoff, Timings

logger = logging.getLogger(__name__)

OURS = {"labelSelector": selector(dict([MANAGED_BY]))}
#: So many Jobs in doubt at once are asked for by one list of all, and not each by its name.
MANY_IN_DOUBT = 10


class Watch:
    """Of one kind in one namespace."""

    def __init__(self, api: Api, namespace: str, kind: str, sights: Sights, timings: Timings) -> None:
        self._api = api
        self._namespace, self._kind = namespace, kind
        self._sights = sights
        self._timings = timings
        self._backoff = Backoff(timings)
        self.current_at: float | None = None
        """When it was last known to miss nothing, on the loop's clock."""
        self.problem: ApiError | NotConnected | None = None
        """Why it does not go on; None while it does."""
        self.may_list = True
        self.may_watch = True
        self.has_listed = False
        #: Where it is to be resumed; None when only a list can tell.
        self._version: str | None = None
        self._list_at = self._watch_again_at = 0.0
        #: Whether the watch itself has proved anything since it could not go on.
        self._goes_on = False
        self._limit: asyncio.Timeout | None = None

    def list_soon(self) -> None:
        self._list_at = 0.0
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(_now())

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            # However soon a watch ends, it is not resumed in a frenzy.
            pause = self._timings.look_interval
            try:
                await self._turn()
            except (ApiError, NotConnected) as error:
                pause = self._after(error)
            except Exception as error:
                logger.exception("The %s of the namespace %s could not be watched.", self._kind, self._namespace)
                self._version = None
                pause = self._after(ApiError(f"{type(error).__name__}: {error}"))
            # Spread, so that not all workers come at once to an API server that is back.
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311

    def _after(self, error: ApiError | NotConnected) -> float:
        """How long to wait after a failure, in seconds."""
        if isinstance(error, ApiError):
            if error.status is not None and not error.is_overload:
                self._version = None
            if error.status == 410 and self._goes_on:
                # Its version is older than what the API server remembers: a list is the answer, at once.
                self._goes_on = False
                return self._timings.look_interval
        self.problem = error
        self._wake_all()
        return self._backoff.next(error)

    async def _turn(self) -> None:
        """A list, if one is due, and a watch from there until it ends."""
        if self._version is None or _now() >= self._list_at:
            await self._list()
        if not self.may_watch and _now() >= self._watch_again_at:
            self.may_watch = True
        if self.may_watch:
            try:
                await self._watch()
            except ApiError as error:
                if not error.is_missing_right:
                    raise
                logger.warning(
                    "The %s of the namespace %s may not be watched: they are listed instead.",
                    self._kind,
                    self._namespace,
                )
                self.may_watch, self._watch_again_at = False, _now() + self._timings.list_interval
                self._wake_all()
        if not self.may_watch:
            self._list_at = 0.0
            await asyncio.sleep(self._timings.unwatched_interval)

    # -- lists

    async def _list(self) -> None:
        begun = _now()
        settled: dict[Sight, list[Json]] = {sight: [] for sight in self._sights.all()}
        try:
            version = await self._read_list(settled)
        except ApiError as error:
            if error.is_missing_right:
                self.may_list = False
            raise
        for sight, things in settled.items():
            sight.settle(self._kind, things)
        for sight in self._sights.all():
            if sight not in settled:
                # It came while we listed: it may have been on a page that has passed, and no event will tell of it.
                sight.unsettle(self._kind)
        self.may_list = self.has_listed = True
        self._version = version
        self._list_at = _now() + self._timings.list_interval * random.uniform(0.9, 1.0)  # noqa: S311
        self._proves_itself(begun)

    async def _read_list(self, found: dict[Sight, list[Json]]) -> str:
        """Add what there is of each; the version of the list."""
        version = ""
        async with aclosing(self._api.pages(path_of(self._namespace, self._kind), OURS)) as all_of_them:
            async for page in all_of_them:
                version = page.version
                for thing in page.items:
                    for sight in self._sights.of(self._kind, thing):
                        found.get(sight, []).append(thing)
        return version

    # -- the watch

    async def _watch(self) -> None:
        """To its end. Raises `ApiError` where it did not begin, or broke off before it had proved itself."""
        seconds = max(1, round(self._timings.watch_seconds * random.uniform(0.9, 1.0)))  # noqa: S311
        query = OURS | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version or "",
            "timeoutSeconds": str(seconds),
        }
        known = self.current_at
        try:
            async with asyncio.timeout(self._timings.connect_timeout + self._timings.read_timeout) as self._limit:
                await self._read(query, seconds + self._timings.watch_grace, self._limit)
        except Silent:
            # Half-open: what it would have said, only a list can tell.
            self._version = None
            return
        except TimeoutError:
            if self._list_at:
                raise ApiError("no answer to a watch") from None
            return
        except ApiError as error:
            if error.status is not None or self.current_at == known:
                raise
        finally:
            self._limit = None
        if self.current_at == known:
            raise ApiError("the watch ended as soon as it had begun")

    async def _read(self, query: dict[str, str], silence: float, limit: asyncio.Timeout) -> None:
        async with AsyncExitStack() as stack:
            response = await stack.enter_async_context(
                self._api.stream(path_of(self._namespace, self._kind), query, silence)
            )
            # It has begun, and lasts until it ends or a list is asked for.
            limit.reschedule(None if self._list_at else _now())
            settled = asyncio.get_running_loop().call_later(self._timings.watch_settle, self._has_settled)
            stack.callback(settled.cancel)
            lines = Lines()
            async for piece in await stack.enter_async_context(aclosing(pieces(response))):
                for line in lines.feed(piece):
                    self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            change = change_of(line)
        except ApiError as error:
            if error.status is None:
                self._version = None
            raise
        self._version = change.version
        self._apply(change)
        self._has_proof()

    def _apply(self, change: Change) -> None:
        if change.kind == "BOOKMARK":
            return
        for sight in self._sights.of(self._kind, change.thing):
            if change.kind == "DELETED":
                sight.lose(self._kind, change.thing)
            else:
                sight.take(self._kind, change.thing)

    def _has_settled(self) -> None:
        """It was taken up, and has nothing to say: then it has caught up."""
        self._has_proof()

    def _has_proof(self) -> None:
        self._goes_on = True
        self._proves_itself(_now())

    def _proves_itself(self, at: float) -> None:
        self.current_at = at
        self.problem = None
        self._backoff.reset()

    def _wake_all(self) -> None:
        for sight in self._sights.all():
            sight.wake()


class Namespace:
    """Both watches, and what they are for."""

    def __init__(self, api: Api, name: str, timings: Timings) -> None:
        self.sights = Sights()
        self.jobs = Watch(api, name, JOBS, self.sights, timings)
        self.pods = Watch(api, name, PODS, self.sights, timings)
        self.in_doubt = 0
        """How many Jobs are being asked for by name."""
        self.ending: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        if self.ending is not None:
            self.ending.cancel()
            self.ending = None
        if not self._tasks:
            self._tasks = [asyncio.create_task(watch.run()) for watch in (self.jobs, self.pods)]

    def end(self) -> list[asyncio.Task[None]]:
        """The tasks that are to end by that."""
        ending, self._tasks = self._tasks, []
        for task in ending:
            task.cancel()
        return ending

    def is_listing_for(self, sight: Sight) -> bool:
        """Whether a list that is to come will tell of a Job of which nothing is known yet."""
        if not self.jobs.may_list or sight.is_missing:
            return False
        if not (self.jobs.has_listed and (self.pods.has_listed or not self.pods.may_list)):
            return True
        if self.in_doubt < MANY_IN_DOUBT:
            return False
        self.jobs.list_soon()
        self.pods.list_soon()
        return True


class Watches:
    """Of all namespaces in which Jobs are followed on this loop. `when_idle` is called when there is none any more."""

    def __init__(self, api: Api, timings: Timings, when_idle: Callable[[], None]) -> None:
        self._api = api
        self._timings = timings
        self._when_idle = when_idle
        self._of: dict[str, Namespace] = {}
        self._ending: list[asyncio.Task[None]] = []

    @contextmanager
    def watching(self, namespace: str, name: str, wake: Callable[[], None]) -> Iterator[tuple[Namespace, Sight]]:
        """What there is to be seen of the Job of this name, from here on."""
        if namespace not in self._of:
            self._of[namespace] = Namespace(self._api, namespace, self._timings)
        watched, sight = self._of[namespace], Sight(name, wake)
        watched.sights.add(sight)
        watched.begin()
        try:
            yield watched, sight
        finally:
            watched.sights.remove(sight)
            if not watched.sights:
                # The next Job may be on its way.
                loop = asyncio.get_running_loop()
                watched.ending = loop.call_later(self._timings.linger, self._end, namespace, watched)

    def _end(self, namespace: str, watched: Namespace) -> None:
        del self._of[namespace]
        self._ending = [task for task in self._ending if not task.done()] + watched.end()
        if not self._of:
            self._when_idle()

    async def close(self) -> None:
        """Return when all have ended."""
        await asyncio.gather(*self._ending, return_exceptions=True)


def _now() -> float:
    return asyncio.get_running_loop().time()
