"""Messages are hints: what they make happen soon is found in the rows, sooner or later, without them."""

import logging
from collections.abc import Sequence
from typing import Any

from workers.app import app

logger = logging.getLogger(__name__)


def send_hint(task: str, arguments: Sequence[Any] = (), *, otherwise: str, **options: Any) -> bool:
    """Send a task's message; False where the broker is away, which is logged with what happens `otherwise`."""
    try:
        app.send_task(task, args=list(arguments), **options)
    except Exception as error:  # kombu raises whatever its transport raises
        logger.warning("The message %s was not taken (%s: %s); %s.", task, type(error).__name__, error, otherwise)
        return False
    return True
