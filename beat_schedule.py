"""What beat sends, and when: plain data.

There is no `expires` here. Celery compares it with the clock of the worker that takes the message, so a worker whose
clock is a minute ahead would throw away every sweep. A sweep that waited in a backlog finds, by the database's clock,
that another was just made, and does nothing (`models.watching.is_due`). Each entry is due when beat starts, too
(`workers.pulse.be_due`), so that one that is restarted more often than that still sends all.
"""

from datetime import timedelta
from typing import Any

from reprieve.models.liveness import Timing


def beat_schedule(timing: Timing) -> dict[str, dict[str, Any]]:
    """The periodic tasks of a system with these timings."""
    return {
        "reaper.sweep": {
            "task": "reaper.sweep",
            "schedule": timing.sweep_interval,
            "options": {"queue": "control"},
        },
        # Retention needs one turn a day; an hour makes up for one that failed.
        "logs.expire": {
            "task": "logs.expire",
            "schedule": timedelta(hours=1),
            "options": {"queue": "archive"},
        },
        "retention.runs": {
            "task": "retention.runs",
            "schedule": timedelta(hours=1),
            "options": {"queue": "archive"},
        },
    }
