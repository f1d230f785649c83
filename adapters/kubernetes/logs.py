"""Following the logs of a Job's Pods, on from a cursor (`cursors.py`): one task for each Job, and no thread."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Protocol, Self, TypeVar

from reprieve.adapters.descriptors import raise_files
from reprieve.adapters.kubernetes.answers import ApiError, path_of
from reprieve.adapters.kubernetes.api import Api, pieces
from reprieve.adapters.kubernetes.connection import NotConnected
from reprieve.adapters.kubernetes.cursors import LogCursor, Resumption, format_timestamp
from reprieve.adapters.kubernetes.job import CONTAINER
from reprieve.adapters.kubernetes.state import PodLog
from reprieve.adapters.protocol import AsyncContext

#: The API merges both of the container's streams into one.
STREAM = "stdout"
#: How much the kernel keeps of a log that is not read just now, in bytes: the rest waits with the kubelet.
RECEIVE_BUFFER = 64 * 1024


@dataclass(frozen=True, slots=True)
class LogTimings:
    """In seconds."""

    silence: float = 60.0
    """A stream that is silent for this long is opened again, if there are few: its other end may have vanished."""
    spacing: float = 2.0
    """Between two streams that are opened again for silence: thousands of silent ones are no thousand requests."""
    look_interval: float = 10.0
    """Between two looks which of them are silent."""
    pause: float = 0.5
    """The first pause after a stream that broke or gave nothing; it doubles each time."""
    longest_pause: float = 10.0
    end_patience: float = 60.0
    """How long the rest of an ended Pod's log is asked for while the API server answers but the log does not."""


class Heard(Protocol):
    """What can be silent."""

    heard_at: float


T = TypeVar("T")
H = TypeVar("H", bound=Heard)


def overdue(streams: Collection[H], now: float, timings: LogTimings) -> list[H]:
    """Those that are to be opened again for their silence, the longest first.

    At most one for each `spacing`, on average: so each of very many may be silent for longer.
    """
    limit = max(timings.silence, len(streams) * timings.spacing)
    silent = sorted((one for one in streams if now - one.heard_at > limit), key=lambda one: one.heard_at)
    return silent[: max(1, round(timings.look_interval / timings.spacing))]


#: So many gaps in a log are told, each by an event: a log that floods while its streams break has one at each.
MAX_GAPS = 20
#: By how many descriptors the worker's limit is raised at once.
FILES_STEP = 100


@cache
def _files_beside() -> int:
    """What this process could open before it had many streams: as many files as all its places need."""
    return raise_files(0)


class Streams:
    """All log streams of one loop: has those opened again that were silent for too long."""

    def __init__(self, timings: LogTimings) -> None:
        self._timings = timings
        self._open: set[PodLogReader] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, reader: "PodLogReader") -> None:
        self._open.add(reader)
        # In steps, and no higher than is needed: commands that the worker starts inherit it.
        if len(self._open) % FILES_STEP == 0:
            raise_files(_files_beside() + len(self._open) + FILES_STEP)
        if self._timer is None:
            self._rest()

    def remove(self, reader: "PodLogReader") -> None:
        self._open.discard(reader)

    def _rest(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._timings.look_interval, self._look)

    def _look(self) -> None:
        for reader in overdue(self._open, asyncio.get_running_loop().time(), self._timings):
            reader.reopen()
        self._timer = None
        if self._open:
            self._rest()


class PodLogReader:
    """Hands over the logs of a Job's Pods, one after another, in a task of its own: a full spool holds up that alone.

    `see` says which Pods there are, and `read_rest` that these are the last. `wake` is called when it is done, or has
    failed; `check` raises why.
    """

    def __init__(
        self,
        api: Api,
        streams: Streams,
        namespace: str,
        context: AsyncContext,
        timings: LogTimings,
        wake: Callable[[], None],
    ) -> None:
        self._api = api
        self._streams = streams
        self._namespace = namespace
        self._context = context
        self._timings = timings
        self._wake = wake
        self._cursor = LogCursor.decode(context.cursor) if context.cursor else None
        self._news = asyncio.Event()
        self._pods: Sequence[PodLog] = ()
        self._read: set[str] = set()
        #: How often was said that output may be lost.
        self._gaps = 0
        self._finishing = self._closed = self._done = False
        #: While a stream is open and is waited for; `_is_shut` says that it is not to be read on.
        self._waiting: asyncio.Timeout | None = None
        self._is_shut = False
        self._error: BaseException | None = None
        self.heard_at = inf
        """When the open stream gave something last, or was asked for, on the loop's clock."""
        self.lost: str | None = None
        """A sentence about what of the log could not be read; None when nothing is missing."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the task; what it has not read is left to the next follower."""
        self._closed = True
        self.reopen()
        # It may be handing something over, which is not to be broken off if that can be helped.
        await asyncio.wait([self._task], timeout=self._timings.pause)
        self._task.cancel()

    def see(self, pods: Sequence[PodLog]) -> None:
        were, are = ({pod.uid for pod in some if not pod.ended} for some in (self._pods, pods))
        self._pods = pods
        if were - are:
            # A stream may stay open after its container has ended; the rest is read by another request.
            self.reopen()
        self._news.set()

    def read_rest(self, pods: Sequence[PodLog]) -> None:
        """These are the last Pods, and have ended: read what is left."""
        self._finishing = True
        self.see([pod._replace(ended=True) for pod in pods])

    def reopen(self) -> None:
        """End the stream that is open. What it has given is handed over first."""
        self._is_shut = True
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time())
        self._news.set()

    @property
    def is_done(self) -> bool:
        """Whether all was read to its end."""
        return self._done

    @property
    def has_read(self) -> bool:
        """Whether a Pod's log was read to its end."""
        return bool(self._read)

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    # -- the task

    async def _run(self) -> None:
        try:
            while (pod := await self._next()) is not None:
                await self._read_pod(pod)
        except Exception as error:
            # Raised again where the run is followed: `Released`, say.
            self._error = error
        self._done = self._error is None and not self._closed
        self._wake()

    async def _next(self) -> PodLog | None:
        """The next Pod to be read, as soon as there is one; None when there will be none."""
        while not self._closed:
            self._news.clear()
            unread = self._unread()
            if unread:
                return unread[0]
            if self._finishing:
                return None
            await self._news.wait()
        return None

    def _unread(self) -> list[PodLog]:
        """The Pods before the one that the cursor is in were read by the worker that left the cursor."""
        uids = [pod.uid for pod in self._pods]
        begin = uids.index(self._cursor.uid) if self._cursor is not None and self._cursor.uid in uids else 0
        return [pod for pod in self._pods[begin:] if pod.uid not in self._read]

    def _has_ended(self, pod: PodLog) -> bool:
        """By what is known of it by now; a Pod that is not there any more has."""
        return all(one.ended for one in self._pods if one.uid == pod.uid)

    async def _read_pod(self, pod: PodLog) -> None:
        """Until its container has ended and an answer to its end gives nothing new; or until it is gone."""
        pause, deadline = self._timings.pause, inf
        while not self._closed:
            self._news.clear()
            ended = self._has_ended(pod)
            try:
                grown = await self._read_once(pod, follow=not ended)
            except (ApiError, NotConnected) as error:
                grown = False
                deadline = await self._patience(pod, deadline) if ended else inf
                is_over = ended and self._is_lost(pod, error, deadline)
            else:
                deadline = inf
                is_over = ended and not grown
            if is_over:
                self._read.add(pod.uid)
                return
            pause = self._timings.pause if grown else min(pause * 2, self._timings.longest_pause)
            if not (ended and grown):
                await self._sleep(pause)

    async def _patience(self, pod: PodLog, deadline: float) -> float:
        """Until when the rest of an ended Pod's log is asked for: time counts only while the API server answers."""
        if not await self._is_answered(pod):
            return inf
        return min(deadline, asyncio.get_running_loop().time() + self._timings.end_patience)

    async def _sleep(self, seconds: float) -> None:
        """At most until there is news."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    def _is_lost(self, pod: PodLog, error: Exception, deadline: float) -> bool:
        """Whether to give up the rest of an ended Pod's log."""
        answered = isinstance(error, ApiError) and (error.is_absence_of(pod.name) or error.status == 400)
        if not answered and asyncio.get_running_loop().time() < deadline:
            return False
        self.lost = f"The end of the log of the Pod {pod.name} could not be read ({error})."
        return True

    async def _is_answered(self, pod: PodLog) -> bool:
        """Whether the API server answers, so that it is the log alone that cannot be had."""
        try:
            await self._api.get_one(self._namespace, "pods", pod.name)
        except ApiError as error:
            return error.is_absence_of(pod.name)
        except NotConnected:
            return False
        return True

    async def _read_once(self, pod: PodLog, *, follow: bool) -> bool:
        """One request, read to its end; whether it gave anything. Raises `ApiError`, also when it is cut."""
        if self._cursor is None or self._cursor.uid != pod.uid:
            self._cursor = LogCursor(pod.name, pod.uid)
        query = {"container": CONTAINER, "timestamps": "true", "follow": "true" if follow else "false"}
        if self._cursor.since is not None:
            query["sinceTime"] = self._cursor.since
        before = self._cursor
        self._is_shut = self._closed
        self._streams.add(self)
        try:
            await self._read_stream(pod, path_of(self._namespace, "pods", pod.name, "/log"), query, Resumption(before))
        except ApiError:
            # Cut, with something new: that was worth it, and is asked for again at once.
            if self._cursor is before:
                raise
        finally:
            self._streams.remove(self)
        return self._cursor is not before

    async def _read_stream(self, pod: PodLog, path: str, query: dict[str, str], reading: Resumption) -> None:
        given, is_told = reading.cursor.newest, self._gaps >= MAX_GAPS
        options = [(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)]
        async with AsyncExitStack() as stack:
            stream = self._api.stream(path, query, None, options)
            response = await self._while_heard(lambda: stack.enter_async_context(stream))
            incoming = await stack.enter_async_context(aclosing(pieces(response)))
            while (piece := await self._while_heard(lambda: anext(incoming, None))) is not None:
                new = reading.feed(piece)
                if reading.rotated_at is not None and not is_told:
                    is_told, self._gaps = True, self._gaps + 1
                    await self._context.note(_rotated(pod, given, reading.rotated_at))
                if new:
                    # Never broken off: of a piece that is handed over in part, the rest could not be told from it.
                    await self._context.on_log(STREAM, new, reading.cursor.encode())
                    self._cursor = reading.cursor
                # A log that floods has always something to give: the others have their turn as well.
                await asyncio.sleep(0)

    async def _while_heard(self, awaited: Callable[[], Awaitable[T]]) -> T:
        """Raises `ApiError` when the stream is to be opened again, or is not wanted any more."""
        self.heard_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(0 if self._is_shut else None) as self._waiting:
                return await awaited()
        except TimeoutError:
            raise ApiError("the stream was ended by us") from None
        finally:
            self._waiting = None


def _rotated(pod: PodLog, given: int, begins: int) -> str:
    """The node keeps more than one file, and gives the newest alone: what is between two is not known."""
    return (
        f"The node has put the log of the Pod {pod.name} into another file since it was read: what was printed between "
        f"{format_timestamp(given)} and {format_timestamp(begins)} may be lost."
    )
