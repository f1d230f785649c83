"""The messages that runs are waiting, from a process that is no worker. What is lost of them, the sweep sends."""

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from reprieve.client import messages
from reprieve.stores.redis_address import SCHEMES
from reprieve.stores.urls import Url

logger = logging.getLogger(__name__)

#: Runs that one message names at the most: a worker sends the message of each.
RUNS_IN_A_MESSAGE = 1000
#: Seconds after which a try that fails has kept its caller waiting. Told by the clock: a name that is not resolved, or
#: Sentinels that are silent, fail late too, by errors that say nothing of it.
LATE = 1.0
#: Seconds for which such a broker is left alone: nobody who asks for a run waits for it again so soon.
PAUSE = 10.0


class Hints:
    """Sends what the broker is to be told. Never raises; a broker that hangs is waited for now and then, not each time.

    Thread-safe.
    """

    def __init__(self, broker_url: str) -> None:
        self._url = broker_url
        self._is_redis = Url.parse(broker_url).scheme in SCHEMES
        self._sender = f"client{os.getpid()}@{socket.gethostname()}"
        self._silent_until = 0.0
        self._redis: Any = None
        self._connecting = threading.Lock()

    def announce(self, run_ids: Sequence[UUID]) -> None:
        """Have workers look at these runs, which are in the database."""
        for first in range(0, len(run_ids), RUNS_IN_A_MESSAGE):
            some = run_ids[first : first + RUNS_IN_A_MESSAGE]
            if time.monotonic() >= self._silent_until:
                self._try(some)

    def _try(self, run_ids: Sequence[UUID]) -> None:
        late = time.monotonic() + LATE
        try:
            try:
                self._tell(run_ids)
            except Exception:
                if time.monotonic() >= late:
                    raise
                self._tell(run_ids)  # A connection that was lost while nobody used it is replaced by now.
        except Exception as error:  # A client of a broker raises whatever its transport raises.
            if time.monotonic() >= late:
                self._silent_until = time.monotonic() + PAUSE
            which = f"run {run_ids[0]} is" if len(run_ids) == 1 else f"{len(run_ids)} runs are"
            logger.warning(
                "The broker took no message (%s: %s); %s queued, and the sweep sends it.",
                type(error).__name__,
                error,
                which,
            )

    def _tell(self, run_ids: Sequence[UUID]) -> None:
        if len(run_ids) == 1:
            (run_id,) = run_ids
            self._send("runs.execute", str(run_id), task_id=run_id, shown=f"({run_id})", queue="runs")
        else:
            ids = [str(run_id) for run_id in run_ids]
            self._send("enqueue.announce", ids, task_id=uuid4(), shown=f"({len(ids)} runs)", queue="control")

    def _send(self, name: str, argument: Any, *, task_id: UUID, shown: str, queue: str) -> None:
        if not self._is_redis:
            # Celery knows all the other brokers. Its app is ours, and nobody's current one.
            from reprieve.workers.app import app

            app.send_task(name, args=[argument], task_id=str(task_id), argsrepr=shown)
            return
        redis, sender = self._client(), self._sender
        message = messages.task(name, [argument], task_id=task_id, shown=shown, queue=queue, sender=sender)
        event = messages.sent(name, task_id=task_id, shown=shown, queue=queue, sender=sender)
        database = redis.connection_pool.connection_kwargs.get("db") or 0
        pipeline = redis.pipeline(transaction=False)
        pipeline.lpush(queue, message)
        pipeline.publish(messages.EVENTS.format(database=database), event)
        pipeline.execute()

    def _client(self) -> Any:
        """One for all threads: of two, the one that is dropped would close the connection that a thread sends over."""
        with self._connecting:
            if self._redis is None:
                from reprieve.stores.cache import connect

                self._redis = connect(self._url)
            return self._redis
