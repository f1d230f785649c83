"""Following the logs of a Job's Pods, on a thread of its own, on from a cursor (`cursors.py`)."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from reprieve.adapters.kubernetes.api import Api, ApiError, LogStream, NotConnected, path_of
from reprieve.adapters.kubernetes.cursors import LogCursor, Resumption
from reprieve.adapters.kubernetes.job import CONTAINER
from reprieve.adapters.kubernetes.state import PodLog
from reprieve.adapters.protocol import Context

#: The API merges both of the container's streams into one.
STREAM = "stdout"


@dataclass(frozen=True, slots=True)
class LogTimings:
    """In seconds."""

    silence: float = 60.0
    """A stream that is silent for this long is opened again: its other end may have vanished."""
    pause: float = 0.5
    """The first pause after a stream that broke or gave nothing; it doubles each time."""
    longest_pause: float = 10.0
    end_patience: float = 60.0
    """How long the rest of an ended Pod's log is asked for while the API server answers but the log does not."""


class PodLogReader:
    """Hands over the logs of a Job's Pods, one after another, on a thread of its own.

    `see` says which Pods there are, and `read_rest` that these are the last. `check` raises what the thread raised.
    """

    def __init__(self, api: Api, namespace: str, context: Context, timings: LogTimings) -> None:
        self._api = api
        self._namespace = namespace
        self._context = context
        self._timings = timings
        self._cursor = LogCursor.decode(context.cursor) if context.cursor else None
        self._condition = threading.Condition()
        self._pods: Sequence[PodLog] = ()
        self._read: set[str] = set()
        self._finishing = self._closed = self._done = False
        self._stream: LogStream | None = None
        self._error: BaseException | None = None
        self.lost: str | None = None
        """A sentence about what of the log could not be read; None when nothing is missing."""
        self._thread = threading.Thread(target=self._run, name=f"log-{context.run_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread; what it has not read is left to the next follower."""
        with self._condition:
            self._closed = True
            self._shut()
        # It may be inside a request, which has its own limit, or blocked by a full buffer.
        self._thread.join(self._timings.pause)

    def see(self, pods: Sequence[PodLog]) -> None:
        with self._condition:
            were, are = ({pod.uid for pod in some if not pod.ended} for some in (self._pods, pods))
            self._pods = pods
            if were - are:
                # A stream may stay open after its container has ended; the rest is read by another request.
                self._shut()
            self._condition.notify()

    def read_rest(self, pods: Sequence[PodLog]) -> None:
        """These are the last Pods, and have ended: read what is left."""
        with self._condition:
            self._finishing = True
        self.see([pod._replace(ended=True) for pod in pods])

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

    def _shut(self) -> None:
        if self._stream is not None:
            self._stream.shut()
        self._condition.notify()

    # -- the thread

    def _run(self) -> None:
        try:
            while (pod := self._next()) is not None:
                self._read_pod(pod)
        except BaseException as error:
            # Raised again where the run is followed: `Released`, say.
            self._error = error
        self._done = self._error is None and not self._closed

    def _next(self) -> PodLog | None:
        """The next Pod to be read, as soon as there is one; None when there will be none."""
        with self._condition:
            while not self._closed:
                unread = self._unread()
                if unread:
                    return unread[0]
                if self._finishing:
                    return None
                self._condition.wait()
        return None

    def _unread(self) -> list[PodLog]:
        """The Pods before the one that the cursor is in were read by the worker that left the cursor."""
        uids = [pod.uid for pod in self._pods]
        begin = uids.index(self._cursor.uid) if self._cursor is not None and self._cursor.uid in uids else 0
        return [pod for pod in self._pods[begin:] if pod.uid not in self._read]

    def _now(self, pod: PodLog) -> PodLog | None:
        """What is known of the Pod by now; None when it is not there any more."""
        with self._condition:
            return next((one for one in self._pods if one.uid == pod.uid), None)

    def _read_pod(self, pod: PodLog) -> None:
        """Until its container has ended and an answer to its end gives nothing new; or until it is gone."""
        pause, deadline = self._timings.pause, float("inf")
        while not self._closed:
            now = self._now(pod)
            ended = now is None or now.ended
            try:
                grown = self._read_once(pod, follow=not ended)
            except (ApiError, NotConnected) as error:
                grown = False
                deadline = self._patience(pod, deadline) if ended else float("inf")
                is_over = ended and self._is_lost(pod, error, deadline)
            else:
                deadline = float("inf")
                is_over = ended and not grown
            if is_over:
                self._read.add(pod.uid)
                return
            pause = self._timings.pause if grown else min(pause * 2, self._timings.longest_pause)
            if not (ended and grown):
                self._sleep(pause)

    def _patience(self, pod: PodLog, deadline: float) -> float:
        """Until when the rest of an ended Pod's log is asked for: time counts only while the API server answers."""
        return min(deadline, time.monotonic() + self._timings.end_patience) if self._is_answered(pod) else float("inf")

    def _sleep(self, seconds: float) -> None:
        with self._condition:
            if not self._closed:
                self._condition.wait(seconds)

    def _is_lost(self, pod: PodLog, error: Exception, deadline: float) -> bool:
        """Whether to give up the rest of an ended Pod's log."""
        answered = isinstance(error, ApiError) and (error.is_absence_of(pod.name) or error.status == 400)
        if not answered and time.monotonic() < deadline:
            return False
        self.lost = f"The end of the log of the Pod {pod.name} could not be read ({error})."
        return True

    def _is_answered(self, pod: PodLog) -> bool:
        """Whether the API server answers, so that it is the log alone that cannot be had."""
        try:
            self._api.get_one(self._namespace, "pods", pod.name)
        except ApiError as error:
            return error.is_absence_of(pod.name)
        except NotConnected:
            return False
        return True

    def _read_once(self, pod: PodLog, *, follow: bool) -> bool:
        """One request, read to its end; whether it gave anything. Raises `ApiError`, also when it is cut."""
        if self._cursor is None or self._cursor.uid != pod.uid:
            self._cursor = LogCursor(pod.name, pod.uid)
        reading = Resumption(self._cursor)
        stream = self._open(pod, self._cursor, follow=follow)
        grown = False
        try:
            for piece in stream.pieces():
                new = reading.feed(piece)
                if new:
                    self._context.on_log(STREAM, new, reading.cursor.encode())
                    self._cursor = reading.cursor
                    grown = True
                if self._closed:
                    break
        except ApiError:
            # Cut, with something new: that was worth it, and is asked for again at once.
            if not grown:
                raise
        finally:
            self._forget(stream)
        return grown

    def _open(self, pod: PodLog, cursor: LogCursor, *, follow: bool) -> LogStream:
        query = {"container": CONTAINER, "timestamps": "true", "follow": "true" if follow else "false"}
        if cursor.since is not None:
            query["sinceTime"] = cursor.since
        stream = self._api.log(path_of(self._namespace, "pods", pod.name, "/log"), query, self._timings.silence)
        with self._condition:
            self._stream = stream
            now = self._now(pod)
            if self._closed or (follow and (now is None or now.ended)):
                stream.shut()
        return stream

    def _forget(self, stream: LogStream) -> None:
        with self._condition:
            self._stream = None
        stream.close()
