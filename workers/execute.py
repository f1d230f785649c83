"""`runs.execute`: the message that a run waits. It only says so; the rows say which runs are to be taken.

It is settled as it comes, without a thread of Celery's pool and whether there is a place for a run or not: no worker
holds messages that another could use, and a broker that has no patience with those that are held (RabbitMQ) need have
none. Events about the run are sent by whoever follows it (`workers.telling`).
"""

import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

from reprieve.workers.app import app
from reprieve.workers.lifecycle import crew
from reprieve.workers.telling import teller

logger = logging.getLogger(__name__)


def heed(_: Any, __: Any, consumer: Any, **___: Any) -> Callable[..., None]:
    """How Celery's consumer handles these messages: a `Task.Strategy`, as `celery.worker.strategy.default` is one."""

    def handle(message: Any, *_: Any, **__: Any) -> None:
        # Nothing is acknowledged: the broker forgets a message of this queue as it gives it away (`workers.app`).
        hint(str(message.headers.get("id")), consumer.hostname)

    return handle


@app.task(name="runs.execute", Strategy=f"{__name__}:heed", acks_late=False)  # type: ignore[untyped-decorator]
def execute_task(run_id: str) -> None:
    hint(run_id, None)


def hint(run_id: str, node: str | None) -> None:
    """Have a run be taken soon, if there is a place for it. A message that names no run says nothing.

    Raises nothing, since Celery would end the worker: the row says the same.
    """
    try:
        waiting = UUID(run_id)
    except ValueError:
        logger.warning("A message asks for %.80r, which is no run.", run_id)
        return
    try:
        crew(node).supervisor.hint(waiting)
    except Exception:
        logger.exception("Run %s waits, and is found by the next look.", waiting)
    teller().received(waiting)
