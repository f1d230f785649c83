"""Tell of runs as Celery tells of tasks, so that Flower shows them as what they are: a run's id is its task's.

A run is no task that a thread of Celery's pool works on, so Celery itself knows nothing of it once its message was
taken. While a run is followed here, it is among this worker's active tasks (`celery inspect active`); its events are
sent from a thread of their own, as many at once as there are. They are hints: what cannot be sent is dropped.
"""

import logging
import os
import threading
import time
from collections import deque
from typing import Any
from uuid import UUID

from celery import Celery
from celery.worker import state as worker_state

from reprieve.models.status import Status

logger = logging.getLogger(__name__)

NAME = "runs.execute"
#: Events that wait to be sent; older ones are dropped.
LIMIT = 20_000
#: Events in one message.
AT_ONCE = 500

Event = tuple[str, dict[str, Any]]


class _Task:
    acks_late = False


class LiveRun:
    """A run that is followed here, in the place of a request that Celery's pool works on (`celery.worker.request`).

    Celery sets what it likes on it, as `eventer` when its connection to the broker was made anew.
    """

    name = NAME
    task = _Task
    acknowledged = True
    stamps = None

    def __init__(self, run_id: UUID, hostname: str) -> None:
        self.id, self.hostname = str(run_id), hostname
        self.since, self.began = time.time(), time.monotonic()
        worker_state.requests[self.id] = self
        worker_state.active_requests.add(self)

    def ended(self) -> None:
        if worker_state.requests.get(self.id) is self:
            del worker_state.requests[self.id]
        worker_state.active_requests.discard(self)

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002 - as a request's, and always safe
        shown = {"id": self.id, "name": self.name, "type": self.name, "args": f"({self.id})", "kwargs": "{}"}
        return shown | {
            "hostname": self.hostname,
            "time_start": self.since,
            "acknowledged": True,
            "delivery_info": {},
            "worker_pid": os.getpid(),
        }

    def humaninfo(self) -> str:
        return f"{self.name}[{self.id}]"

    def cancel(self, *_: Any, **__: Any) -> None:
        """To end its work is for whoever heeds revocations (`workers.supervision.stopping`), or drains this worker."""

    terminate = cancel


class Teller:
    """Sends a worker's events, once it was started. Thread-safe; never waits."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=LIMIT)
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, app: Celery, hostname: str) -> None:
        """Send events from now on, by the name that Celery has for this worker."""
        self._app, self._hostname = app, hostname
        self._thread = threading.Thread(target=self._run, name="tell", daemon=True)
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Send what there is, within so many seconds, and no more."""
        self._ended.set()
        self._wake.set()
        if self._thread:
            self._thread.join(timeout)

    def received(self, run_id: UUID) -> None:
        """Its message has come; it is taken as soon as there is a place for it, here or elsewhere."""
        self._tell("task-received", run_id, name=NAME, args=f"({run_id})", kwargs="{}")

    def began(self, run_id: UUID) -> None:
        # With its name: who listens may have been started after the message was sent.
        self._tell("task-started", run_id, name=NAME, args=f"({run_id})", kwargs="{}")

    def ended(self, run_id: UUID, status: Status, came_to: str, seconds: float | None = None) -> None:
        """It has this status now, after so many seconds, if that is known; `came_to` says more."""
        if status is Status.SUCCEEDED:
            self._tell("task-succeeded", run_id, result=came_to, runtime=seconds)
        elif status is Status.FAILED:
            self._tell("task-failed", run_id, exception=came_to, traceback="", runtime=seconds)
        elif status is Status.CANCELLED:
            self._tell("task-revoked", run_id, terminated=True, signum=None, expired=False)
        elif status is Status.QUEUED:
            self._tell("task-retried", run_id, exception=came_to, traceback="")

    def _tell(self, kind: str, run_id: UUID, **fields: Any) -> None:
        self._events.append((kind, {"uuid": str(run_id), "timestamp": time.time(), **fields}))
        self._wake.set()

    def _run(self) -> None:
        while not (self._ended.is_set() and not self._events):
            self._wake.wait()
            self._wake.clear()
            try:
                while self._events:
                    self._send([self._events.popleft() for _ in range(min(len(self._events), AT_ONCE))])
            except Exception as error:  # kombu raises whatever its transport raises
                logger.warning("Flower is not told of some runs (%s: %s).", type(error).__name__, error)
                if self._ended.is_set():
                    return

    def _send(self, events: list[Event]) -> None:
        with self._app.events.default_dispatcher(self._hostname) as dispatcher:
            dispatcher.buffer_group, dispatcher.buffer_limit = {"task"}, AT_ONCE + 1
            for kind, fields in events:
                dispatcher.send(kind, **fields)
            dispatcher.flush()


_teller = Teller()


def begin(app: Celery, hostname: str) -> None:
    """This process is a worker: it tells of runs."""
    _teller.start(app, hostname)


def teller() -> Teller:
    """This process's. Where it is no worker, what is told goes nowhere."""
    return _teller
