"""What Celery's own log may say about a message: that it was refused, why, and its size; never its content.

Celery prints up to 1 KiB of the body of a message that it cannot decode or has no task for, and at DEBUG some of one
that it takes. Of a log message, that is the log, which has readers of its own. Tracebacks and causes go too: those of a
decoder quote what they could not decode.
"""

import logging
import re
from collections.abc import Callable
from typing import Any

CONSUMER_LOGGER = "celery.worker.consumer.consumer"
POOL_LOGGER = "celery.pool"
#: What the pool says of each task that it takes, with its arguments.
POOL_APPLIES = "TaskPool: Apply %s (args:%s kwargs:%s)"
NOT_SHOWN = "(not shown)"

#: Of a refused task's headers, those that name it; others show its arguments, or may hold anything.
_SHOWN_HEADERS = ("task", "id", "root_id", "parent_id", "lang", "origin", "retries")
#: Celery's dump of a body ends with its size; in a report, the content type follows.
_SIZE = re.compile(r"\((\d+)b\)(?=\n\{content_type:|\Z)")

Rewrite = Callable[..., tuple[Any, ...]]


class Discretion(logging.Filter):
    """Lets every record pass, but for the bodies in it. `rewrites` give new arguments, by the text of the record."""

    def __init__(self, rewrites: dict[str, Rewrite]) -> None:
        super().__init__()
        self._rewrites = rewrites

    def filter(self, record: logging.LogRecord) -> bool:
        rewrite = self._rewrites.get(record.msg) if isinstance(record.msg, str) else None
        if rewrite is None:
            return True
        try:
            record.args = rewrite(*(record.args or ()))
        except (TypeError, AttributeError):
            # Another release of Celery logs this with other arguments: better to say too little than too much.
            record.msg, record.args = "Celery reported a message in an unknown form; it is not shown.", ()
        record.exc_info = record.exc_text = None
        return True


def size_of(dump: str) -> str:
    """The size in Celery's dump of a body, or in its report of a message, as a phrase that may stand in its place."""
    sizes = _SIZE.findall(dump)
    return f"{NOT_SHOWN[:-1]}: {sizes[-1]} bytes)" if sizes else NOT_SHOWN


def _unknown_message(report: str) -> tuple[Any, ...]:
    return (size_of(report),)


def _unknown_task(error: object, dump: str, headers: dict[str, Any], delivery: object) -> tuple[Any, ...]:
    shown = {name: headers[name] for name in _SHOWN_HEADERS if name in headers}
    return error, size_of(dump), shown, delivery


def _invalid_task(error: object, dump: str) -> tuple[Any, ...]:
    return type(error).__name__, size_of(dump)


def _undecodable(error: object, kind: object, encoding: object, _headers: str, dump: str) -> tuple[Any, ...]:
    return type(error).__name__, kind, encoding, NOT_SHOWN, size_of(dump)


def _applied(target: object, _args: str, _kwargs: str) -> tuple[Any, ...]:
    return target, NOT_SHOWN, NOT_SHOWN


def be_discreet(**_: Any) -> None:
    """Put the filters in place; to be called before a worker takes its first message."""
    from celery.worker.consumer import consumer  # Only workers pay for it.

    rewrites: dict[str, Rewrite] = {
        consumer.UNKNOWN_FORMAT: _unknown_message,
        consumer.UNKNOWN_TASK_ERROR: _unknown_task,
        consumer.INVALID_TASK_ERROR: _invalid_task,
        consumer.MESSAGE_DECODE_ERROR: _undecodable,
    }
    logging.getLogger(CONSUMER_LOGGER).addFilter(Discretion(rewrites))
    logging.getLogger(POOL_LOGGER).addFilter(Discretion({POOL_APPLIES: _applied}))
