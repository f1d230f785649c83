"""A file that a worker, or beat, touches for as long as it turns: what a container's health check looks at.

To look at a file's age costs a worker nothing, and says what it should: its loop turns and has its broker. It is no
reason to end a worker: that would end the work of all its runs, over a broker that is down. The API and Flower write
into it where they answer (`models.pulse`).
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from celery.beat import Scheduler as CeleryScheduler

from reprieve.workers import current

#: When an entry was sent last that is to be due now, whatever its schedule.
NEVER = datetime(1970, 1, 1, tzinfo=UTC)

logger = logging.getLogger(__name__)

#: What cannot be written, and was said to be: once, and not every two seconds.
_lacking: set[Path] = set()

#: Seconds between two turns of beat, at most; a worker sends a heartbeat every 2.
BEAT_TURN = 20


def pulse(**_: Any) -> None:
    """Touch the file, if one is set; a folder that is missing or full costs the file only."""
    _keep(current.settings().pulse_file, Path.touch)


def answers(path: Path | None, address: str) -> None:
    """Write into the file at which URL this process answers, or will."""
    _keep(path, lambda file: file.write_text(address))


def _keep(path: Path | None, write: Callable[[Path], object]) -> None:
    if path is not None:
        try:
            write(path)
            _lacking.discard(path)
        except OSError as error:
            if path not in _lacking:
                logger.error("The pulse cannot be written to %s: %s.", path, error.strerror)
            _lacking.add(path)


def be_due(sender: Any, **_: Any) -> None:
    """Make every entry due when beat starts, whatever its scheduler; called before its first tick.

    An interval counts from beat's start otherwise: a beat that never lives as long as one would never send anything. To
    send an entry once more is harmless: of a backlog of sweeps one is made, and what has expired expires once. What
    somebody else has added to the schedule may not be, and waits for its time.
    """
    for name in sender.app.conf.beat_schedule:
        if entry := sender.scheduler.schedule.get(name):
            entry.last_run_at = NEVER


class Scheduler(CeleryScheduler):  # type: ignore[misc]
    """Celery's, without a file of its own, since an interval needs no memory; and with a pulse."""

    def tick(self, *arguments: Any, **named: Any) -> Any:
        pulse()
        return super().tick(*arguments, **named)
