"""Messages are hints: a lost one only delays what the rows say must happen."""

import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from reprieve.workers.app import app

logger = logging.getLogger(__name__)


def send_hint(task: str, arguments: Sequence[Any] = (), *, otherwise: str, **options: Any) -> bool:
    """Send a task's message. Returns False if the broker is down, and logs what happens `otherwise`."""
    try:
        app.send_task(task, args=list(arguments), **options)
    except Exception as error:  # kombu raises whatever its transport raises
        logger.warning("The message %s was not taken (%s: %s); %s.", task, type(error).__name__, error, otherwise)
        return False
    return True


def send_execute(run_id: UUID) -> None:
    """Send the message that a run waits; whoever has a place for it finds it all the same."""
    otherwise = f"run {run_id} is queued, and found by a worker's next look"
    send_hint("runs.execute", [str(run_id)], otherwise=otherwise, task_id=str(run_id), argsrepr=f"({run_id})")
