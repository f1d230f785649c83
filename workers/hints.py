"""Messages are hints: a lost one only delays what the rows say must happen."""

import logging
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from reprieve.workers.app import app

logger = logging.getLogger(__name__)

#: The header of a message that says how often it was passed on.
PASSED_ON = "reprieve_passed_on"


def send_hint(task: str, arguments: Sequence[Any] = (), *, otherwise: str, **options: Any) -> bool:
    """Send a task's message. Returns False if the broker is down, and logs what happens `otherwise`."""
    try:
        app.send_task(task, args=list(arguments), **options)
    except Exception as error:  # kombu raises whatever its transport raises
        logger.warning("The message %s was not taken (%s: %s); %s.", task, type(error).__name__, error, otherwise)
        return False
    return True


def send_execute(run_id: UUID, *, after: float = 0.0, passed_on: int = 0) -> None:
    """Send the message that a run is waiting, to be taken after so many seconds; the sweep sends what is lost.

    `passed_on` counts the workers that could not use it. It is in a header: a release that knows nothing of it is not
    disturbed.
    """
    later: dict[str, Any] = {"countdown": after} if after > 0 else {}
    if passed_on:
        later["headers"] = {PASSED_ON: passed_on}
    shown = {"task_id": str(run_id), "argsrepr": f"({run_id})"}
    send_hint(
        "runs.execute", [str(run_id)], otherwise=f"run {run_id} is queued, and the sweep sends it", **shown, **later
    )
