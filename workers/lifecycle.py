"""What a worker process has beside its tasks, and when it begins and ends."""

import logging
import threading
from dataclasses import dataclass
from typing import Any

from celery.signals import worker_ready, worker_shutdown

from adapters.shipper import LogShipper
from workers.app import app
from workers.bootstrap import services
from workers.logs import publish
from workers.supervisor import Supervisor

logger = logging.getLogger(__name__)

#: Seconds that a worker which ends waits for the store to have all of its output.
CLOSE_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Crew:
    """The shipper and the supervisor of this process."""

    shipper: LogShipper
    supervisor: Supervisor


_lock = threading.Lock()
_crew: Crew | None = None


def crew() -> Crew:
    """This process's crew, started at the first call."""
    global _crew
    with _lock:
        if _crew is None:
            wired = services()
            shipper = LogShipper(wired.settings.spool_dir, publish, wired.logs.stored, limit=wired.settings.spool_bytes)
            _crew = Crew(shipper, Supervisor(wired, shipper))
            shipper.start()
            _crew.supervisor.start()
        return _crew


@worker_ready.connect  # type: ignore[untyped-decorator]
def begin(sender: Any, **_: Any) -> None:
    """A worker of runs looks at once for what an earlier one of its host left; one of control sweeps at once."""
    queues = set(sender.app.amqp.queues.consume_from)
    if "runs" in queues:
        crew()
    if "control" in queues:
        app.send_task("reaper.sweep")
    if "archive" in queues:
        app.send_task("logs.expire")


@worker_shutdown.connect  # type: ignore[untyped-decorator]
def end(**_: Any) -> None:
    """Runs have ended by now: send their last output."""
    if _crew is None:
        return
    if not _crew.shipper.close(CLOSE_TIMEOUT):
        logger.warning("The worker ends with output that is not stored yet; the next one on this folder ships it.")
    _crew.supervisor.close()
