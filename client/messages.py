"""A task's message as Celery and kombu put it into Redis, made without either.

A service that asks for a run sends one message to one queue. To import Celery, kombu and their clients for that would
cost it half a second and 20 MB, and to have them build the message five times what the run's row costs. The form is
Celery's protocol 2 (docs.celeryq.dev, *Message Protocol*) in the envelope of kombu's transports without exchanges; a
test compares it, field by field, with what the installed Celery sends.
"""

import base64
import json
import os
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

#: What Flower and `celery events` listen to, by the number of the broker's database.
EVENTS = "/{database}.celeryev/task.sent"


def task(name: str, arguments: Sequence[Any], *, task_id: UUID, shown: str, queue: str, sender: str) -> str:
    """The message of a task; `shown` is what people see of its arguments."""
    own = str(task_id)
    headers: dict[str, Any] = {
        "lang": "py",
        "task": name,
        "id": own,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": own,
        "parent_id": None,
        "argsrepr": shown,
        "kwargsrepr": "{}",
        "origin": sender,
        "ignore_result": None,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    nothing_follows = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    properties = {"correlation_id": own, "reply_to": "", "argsrepr": shown, "delivery_mode": 2}
    return _envelope([list(arguments), {}, nothing_follows], headers, properties, exchange="", routing_key=queue)


def sent(name: str, *, task_id: UUID, shown: str, queue: str, sender: str) -> str:
    """The event that this message was sent, by which Flower knows of a run that waits."""
    own = str(task_id)
    event = {
        "hostname": sender,
        "utcoffset": _hours_west_of_utc(),
        "pid": os.getpid(),
        "clock": 0,
        "uuid": own,
        "root_id": own,
        "parent_id": None,
        "name": name,
        "args": shown,
        "kwargs": "{}",
        "retries": 0,
        "eta": None,
        "expires": None,
        "queue": queue,
        "exchange": "",
        "routing_key": queue,
        "timestamp": time.time(),
        "type": "task-sent",
    }
    return _envelope(event, {"hostname": sender}, {"delivery_mode": 1}, exchange="celeryev", routing_key="task.sent")


def _hours_west_of_utc() -> float:
    """By which Flower shifts the event's time into its own zone: of this moment, in summer too."""
    return (time.altzone if time.localtime().tm_isdst else time.timezone) / 3600


def _envelope(
    body: Any, headers: dict[str, Any], properties: dict[str, Any], *, exchange: str, routing_key: str
) -> str:
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": {
                **properties,
                "delivery_info": {"exchange": exchange, "routing_key": routing_key},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid4()),
            },
        }
    )
