"""The product's app, connecting again at once: the 100 tries after which Celery would give up take seconds."""

from typing import Any

from kombu import connection

from reprieve.workers.app import app as app  # What Celery's `-A` looks for.

_retry_over_time = connection.retry_over_time


def _at_once(*arguments: Any, **named: Any) -> Any:
    # fun, catch, args, kwargs, errback, max_retries, and then the three intervals.
    return _retry_over_time(*arguments[:6], 0.01, 0.01, 0.03, *arguments[9:], **named)


connection.retry_over_time = _at_once
