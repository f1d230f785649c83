"""Following the log of a Job's Pods so that a reader who comes back loses no line and gets none twice.

The API gives each line with the time at which its runtime wrote it down, and reads on from a time, but in whole seconds
only. So a place in the log is: the newest time that was given, how many lines had exactly that time, and how many
came after the last of those (standard output and standard error are written down by two threads of the runtime, and may
be a little out of order). Whoever reads on asks for a little more than is missing, and passes over what was given.
`Place` and `Resumption` are pure; `LogFollower` is the thread.
"""

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Self

from adapters.kubernetes.api import Api, ApiError, LogStream, NotConnected, path_of
from adapters.kubernetes.job import CONTAINER, PodLog
from adapters.protocol import Context

#: The API merges both of the container's streams into one.
STREAM = "stdout"
#: Seconds before the newest line from which is read on, since lines may be a little out of order.
SKEW_SECONDS = 1
#: How long a line's time may be, with what surrounds it; what is longer is none.
MAX_TIMESTAMP = 40
_NANOSECONDS = 1_000_000_000
_TIMESTAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


def parse_timestamp(text: bytes) -> int | None:
    """Nanoseconds since 1970 of a time as RFC 3339 has it; None when it is none."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        return None
    seconds = _seconds(match[1] + match[3].replace(b"Z", b"+00:00"))
    return None if seconds is None else seconds * _NANOSECONDS + int((match[2] or b"").ljust(9, b"0"))


@lru_cache(maxsize=64)
def _seconds(text: bytes) -> int | None:
    """Cached, since most lines are of the same second as the one before."""
    try:
        return int(datetime.fromisoformat(text.decode()).timestamp())
    except ValueError:
        return None


def format_timestamp(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, _NANOSECONDS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


@dataclass(frozen=True, slots=True)
class Place:
    """How much of a Pod's log was given."""

    name: str
    uid: str
    newest: int = 0
    """The newest time of a line that was given whole, in nanoseconds since 1970; 0 while there is none."""
    same: int = 0
    """How many lines with exactly that time were given."""
    after: int = 0
    """How many lines were given after the last of those; they are older."""
    line: int = 0
    """The time of the line that was given in part; 0 when there is none."""
    given: int = 0
    """How many bytes of that line were given."""

    def encode(self) -> str:
        """As a cursor."""
        place = f"{self.name}/{self.uid}/{_told(self.newest)}/{self.same}/{self.after}"
        return f"{place}/{_told(self.line)}/{self.given}" if self.line else place

    @classmethod
    def decode(cls, cursor: str) -> Self:
        """Raises `ValueError`."""
        name, uid, newest, same, after, *partial = cursor.split("/")
        line, given = partial or ("", "0")
        return cls(name, uid, _read(newest), int(same), int(after), _read(line), int(given))

    @property
    def since(self) -> str | None:
        """The time to read on from, in whole seconds; None for all."""
        if not self.newest:
            return None
        seconds = self.newest // _NANOSECONDS - SKEW_SECONDS
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"

    def after_line(self, at: int) -> "Place":
        """After one more whole line."""
        if at > self.newest:
            return Place(self.name, self.uid, at, 1)
        if at == self.newest:
            return Place(self.name, self.uid, at, self.same + 1)
        return Place(self.name, self.uid, self.newest, self.same, self.after + 1)


def _told(at: int) -> str:
    return format_timestamp(at) if at else ""


def _read(text: str) -> int:
    if not text:
        return 0
    at = parse_timestamp(text.encode())
    if at is None:
        raise ValueError(f"{text!r} is no time")
    return at


class Resumption:
    """One answer of the log API, read on from a place: gives what is new in it, and knows the place after that.

    A line without a time was not written by the container: it is the rest of a line whose beginning is older than what
    was asked for, or a complaint of the node. It is passed over.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._start = place
        #: Whether all that was given before has been passed, and how many lines are still to be.
        self._passed = not place.newest
        self._same_seen = 0
        self._to_skip = 0
        #: The beginning of a line whose time is not complete yet.
        self._head = b""
        #: The line that is being read: None between two lines. Then its time, None for one that is passed over.
        self._in_line = False
        self._time: int | None = None
        #: How many bytes of it are still to be passed over, and how many there have been.
        self._skip_bytes = 0
        self._seen_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """Take a piece of the answer, cut anywhere; give what of it is new."""
        new: list[bytes] = []
        data, self._head = self._head + data, b""
        position = 0
        while position < len(data):
            if not self._in_line:
                begun = self._begin_line(data, position)
                if begun is None:
                    self._head = data[position:]
                    break
                position = begun
            end = data.find(b"\n", position) + 1
            new.append(self._take(data[position : end or len(data)], whole=bool(end)))
            position = end or len(data)
        return b"".join(new)

    def _begin_line(self, data: bytes, start: int) -> int | None:
        """Read the line's time and decide on the line; where its text begins, None when more is needed to tell."""
        window = data[start : start + MAX_TIMESTAMP]
        space, newline = window.find(b" "), window.find(b"\n")
        if space < 0 and newline < 0 and len(window) < MAX_TIMESTAMP:
            return None
        at = parse_timestamp(window[:space]) if space > 0 else None
        self._in_line, self._skip_bytes, self._seen_bytes = True, 0, 0
        if at is None:
            self._time = None
            return start
        self._time = at if self._is_new(at) else None
        if self._time is not None and self._time == self.place.line:
            self._skip_bytes = self.place.given
        return start + space + 1

    def _is_new(self, at: int) -> bool:
        if self._passed:
            return True
        if at > self._start.newest:
            # What was given before is not there any more: the log was rotated.
            self._passed = True
        elif at == self._start.newest and self._same_seen < self._start.same:
            self._same_seen += 1
            self._to_skip = self._start.after
            self._passed = self._same_seen == self._start.same and not self._to_skip
            return False
        elif self._same_seen == self._start.same:
            self._to_skip -= 1
            self._passed = self._to_skip == 0
            return False
        return self._passed

    def _take(self, text: bytes, *, whole: bool) -> bytes:
        """A piece of the line that is being read, `whole` when it is its end; what of it is new."""
        self._in_line = not whole
        if self._time is None:
            return b""
        skipped = min(self._skip_bytes, len(text))
        self._skip_bytes -= skipped
        self._seen_bytes += len(text)
        if whole:
            self.place = self.place.after_line(self._time)
        elif self._seen_bytes > self.place.given or self._time != self.place.line:
            self.place = replace(self.place, line=self._time, given=self._seen_bytes) if text else self.place
        return text[skipped:]


@dataclass(frozen=True, slots=True)
class LogTimings:
    """In seconds."""

    silence: float = 60.0
    """A stream that is silent for this long is opened anew: its other end may be gone without a word."""
    pause: float = 0.5
    """The first pause after a stream that broke or gave nothing; it doubles each time."""
    longest_pause: float = 10.0
    end_patience: float = 60.0
    """How long the rest of an ended Pod's log is asked for while the API server answers but the log does not."""


class LogFollower:
    """Hands the logs of a Job's Pods over, one after another, on a thread of its own.

    Told which Pods there are by `see`, and by `finish` that they have ended. `check` raises what was raised in it.
    """

    def __init__(self, api: Api, namespace: str, context: Context, timings: LogTimings) -> None:
        self._api = api
        self._namespace = namespace
        self._context = context
        self._timings = timings
        self._place = Place.decode(context.cursor) if context.cursor else None
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
        """End the thread; what it has not read is left to whoever comes next."""
        with self._condition:
            self._closed = True
            self._shut()
        # It may be in a request, which has its own limit, or held back by a full buffer.
        self._thread.join(self._timings.pause)

    def see(self, pods: Sequence[PodLog]) -> None:
        with self._condition:
            were, are = ({pod.uid for pod in some if not pod.ended} for some in (self._pods, pods))
            self._pods = pods
            if were - are:
                # A stream may stay open after its container has ended; the rest is read by another request.
                self._shut()
            self._condition.notify()

    def finish(self, pods: Sequence[PodLog]) -> None:
        """These are the last Pods, and have ended: read what is left."""
        with self._condition:
            self._finishing = True
        self.see([pod._replace(ended=True) for pod in pods])

    @property
    def is_done(self) -> bool:
        """Whether all was read to its end."""
        return self._done

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
        """Those before the one that the cursor is in were read by whoever gave the cursor."""
        uids = [pod.uid for pod in self._pods]
        begin = uids.index(self._place.uid) if self._place is not None and self._place.uid in uids else 0
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
        if self._place is None or self._place.uid != pod.uid:
            self._place = Place(pod.name, pod.uid)
        reading = Resumption(self._place)
        stream = self._open(pod, self._place, follow=follow)
        grown = False
        try:
            for piece in stream.pieces():
                new = reading.feed(piece)
                if new:
                    self._context.on_log(STREAM, new, reading.place.encode())
                    self._place = reading.place
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

    def _open(self, pod: PodLog, place: Place, *, follow: bool) -> LogStream:
        query = {"container": CONTAINER, "timestamps": "true", "follow": "true" if follow else "false"}
        if place.since is not None:
            query["sinceTime"] = place.since
        stream = self._api.log(path_of(self._namespace, "pods", pod.name, "/log"), query, self._timings.silence)
        with self._condition:
            self._stream = stream
            now = next((one for one in self._pods if one.uid == pod.uid), None)
            if self._closed or (follow and (now is None or now.ended)):
                stream.shut()
        return stream

    def _forget(self, stream: LogStream) -> None:
        with self._condition:
            self._stream = None
        stream.close()
