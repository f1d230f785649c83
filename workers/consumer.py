"""Celery's consumer, made to bear that this process is short of something.

Celery 5.7 ends a worker whose consumer meets EMFILE ("Too many open files. Aborting"), or an error that is not its
broker's (no memory, no more threads), and with the worker the children of all its runs (celery/celery #4541). Here
these are lost connections: the consumer connects again, for as long as it takes.
"""

import errno
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer

from reprieve.models.faults import is_unfit


class Consumer(CeleryConsumer):  # type: ignore[misc]
    class Blueprint(CeleryConsumer.Blueprint):  # type: ignore[misc]
        def start(self, parent: Any) -> None:
            try:
                super().start(parent)
            except Exception as error:
                if not _ends_the_worker(error, parent):
                    raise
                raise ConnectionError(f"{type(error).__name__}: {error}") from error


def _ends_the_worker(error: Exception, consumer: Any) -> bool:
    """Whether Celery would end the worker over this trouble of its process."""
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return True
    return is_unfit(error) and not isinstance(error, consumer.connection_errors + consumer.channel_errors)
