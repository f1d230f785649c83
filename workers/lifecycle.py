"""The start and the end of a worker process, and what it has beside its tasks."""

import logging
import os
import sys
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from celery.signals import celeryd_after_setup, worker_ready, worker_shutdown, worker_shutting_down

from reprieve.adapters.shipper import LogShipper
from reprieve.models.errors import NoIdentity
from reprieve.models.faults import is_unfit
from reprieve.workers import metrics, telling, tracing
from reprieve.workers.bootstrap import services
from reprieve.workers.files import allow_files
from reprieve.workers.hints import send_hint
from reprieve.workers.ingest import publish
from reprieve.workers.naming import take_name
from reprieve.workers.notices import Sender
from reprieve.workers.supervisor import Supervisor

logger = logging.getLogger(__name__)

#: Seconds that a worker that ends waits until all of its output is stored.
CLOSE_TIMEOUT = 10.0
#: Runs that a worker which was not told otherwise has on its host at once.
PLACES = 100
#: Seconds in which a worker that ends tells Flower the last of its runs.
TELL_TIMEOUT = 5.0
#: Seconds in which a worker that has nothing more to do is gone.
EXIT_TIMEOUT = 10.0
#: Seconds after which a thread of a worker of runs lets another go on that waits.
SWITCH_INTERVAL = 0.0005
#: The exit status of a worker that could not get a name (EX_CONFIG).
NO_IDENTITY = 78


@dataclass(frozen=True, slots=True)
class Crew:
    """The shipper and the supervisor of this process."""

    shipper: LogShipper
    supervisor: Supervisor


_lock = threading.Lock()
_crew: Crew | None = None
_sender: Sender | None = None


def crew(node: str | None = None, places: int = PLACES, roles: Collection[str] = ("runs",)) -> Crew:
    """This process's crew, started at the first call, under this worker's name, with so many places for runs.

    `roles` are the queues that it consumes.
    """
    global _crew
    with _lock:
        if _crew is None:
            wired = services()
            spools, limit = wired.settings.spool_dir, wired.settings.spool_bytes
            shipper = LogShipper(spools, publish, wired.logs.stored, wired.spooled.hold, limit=limit)
            _crew = Crew(shipper, Supervisor(wired, shipper, node, places, sorted(roles)))
            shipper.start()
            _crew.supervisor.start()
        return _crew


@celeryd_after_setup.connect  # type: ignore[untyped-decorator]
def take_place(instance: Any, **_: Any) -> None:
    """A worker of runs takes its name before it takes work; without one it does not start."""
    if "runs" not in instance.app.amqp.queues.consume_from:
        return
    try:
        take_name(services())
    except NoIdentity as problem:
        logger.critical("%s", problem)
        raise SystemExit(NO_IDENTITY) from None


@worker_ready.connect  # type: ignore[untyped-decorator]
def begin(sender: Any, **_: Any) -> None:
    """A worker of runs at once takes up what an earlier one of its host left; a control worker sweeps at once.

    What the latter does beside its tasks is to send notices.
    """
    global _sender
    queues = set(sender.app.amqp.queues.consume_from)
    if "runs" in queues:
        places = sender.controller.concurrency
        allow_files(places)
        # Its threads wait for the database, for Redis and for descriptors, a moment each time, and then for the
        # interpreter's lock: up to 5 ms by default, each time, where another thread is busy.
        sys.setswitchinterval(SWITCH_INTERVAL)
        crew(sender.hostname, places, queues)
    telling.begin(sender.app, sender.hostname)
    metrics.serve(services())
    tracing.set_up()
    if "control" in queues:
        send_hint("reaper.sweep", otherwise="beat asks for the next sweep")
        _sender = Sender(services())
        _sender.start()
    if "archive" in queues:
        send_hint("logs.expire", otherwise="beat asks for it again")


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def drain(how: str = "Warm", exitcode: int = 0, **_: Any) -> None:
    """The worker was asked to stop: hand over what others can follow. `end` waits for the rest, unless it is `Cold`."""
    if how == "Cold":
        _be_gone_soon(exitcode)
    if _crew is not None:
        threading.Thread(target=_crew.supervisor.drain, name="drain", daemon=True).start()


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def end(sender: Any = None, **_: Any) -> None:
    """Wait until nothing is followed here any more; then send the last output, and end the crew."""
    global _sender
    if _sender is not None:
        _sender.close()
        _sender = None
    _end_crew()
    if sender is not None:
        _be_gone_soon(sender.exitcode or 0)


def _be_gone_soon(exitcode: int) -> None:
    """End this process in a while: Python would wait for ever for a thread that an adapter never gives back."""
    timer = threading.Timer(EXIT_TIMEOUT, os._exit, (exitcode,))
    timer.daemon = True
    with suppress(RuntimeError):  # The system gives no more threads.
        timer.start()


def _end_crew() -> None:
    global _crew
    if _crew is None:
        telling.teller().close(TELL_TIMEOUT)
        return
    _crew.supervisor.drain()
    telling.teller().close(TELL_TIMEOUT)
    try:
        _crew.supervisor.leave()
    except Exception as error:
        # Whatever the error is, the last output must still be sent.
        logger.error(
            *("That this worker has ended could not be written (%s); it will be missed.", type(error).__name__),
            exc_info=not is_unfit(error),
        )
    if not _crew.shipper.close(CLOSE_TIMEOUT):
        logger.warning("The worker ends with output that is not stored yet; the next one on this folder ships it.")
    _crew.supervisor.close()
    _crew = None
