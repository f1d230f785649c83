"""G01: what Celery says of a message that it refuses tells that it was refused, and nothing of what was in it."""

import json
import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgpack
import pytest
from kombu import Queue
from redis import Redis

from reprieve.models.chunks import blocks_of
from reprieve.models.messages import encode_message
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from reprieve.workers.discretion import Discretion, size_of
from tests.support.processes import READY, Process, celery, spawn
from tests.support.rows import chunk, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("G01")

SECRET = "hunter2 in the log"
QUEUE = "logs"


def send_raw(body: bytes, content_type: str, encoding: str = "binary", headers: dict[str, Any] | None = None) -> None:
    """What any client of the broker may put there."""
    with app.connection_for_write() as connection:
        producer = connection.Producer()
        queue = Queue(QUEUE, routing_key=QUEUE)
        options = {"content_type": content_type, "content_encoding": encoding, "headers": headers}
        producer.publish(body, exchange=QUEUE, routing_key=QUEUE, declare=[queue], **options)


def of_a_task(name: str) -> dict[str, Any]:
    task_id = str(uuid4())
    return {"task": name, "id": task_id, "root_id": task_id, "lang": "py", "argsrepr": repr([SECRET])}


def unregistered() -> None:
    """Sent by a producer that hides nothing: the arguments are in the headers, too."""
    app.send_task("logs.of_another_release", args=[SECRET], queue=QUEUE, serializer="msgpack")


def without_headers() -> None:
    send_raw(json.dumps({"output": SECRET}).encode(), "application/json", "utf-8")


def pickled() -> None:
    send_raw(pickle.dumps(([SECRET], {}, {})), "application/x-python-serialize", headers=of_a_task("logs.ingest"))


def no_utf_8() -> None:
    send_raw(SECRET.encode() + b"\xff", "application/json", "utf-8", of_a_task("logs.ingest"))


def with_more_behind_it() -> None:
    body = msgpack.packb([[SECRET], {}, {}]) + msgpack.packb(SECRET)
    send_raw(body, "application/x-msgpack", headers=of_a_task("logs.ingest"))


def of_the_first_protocol_and_invalid() -> None:
    message = {"task": "logs.ingest", "id": str(uuid4()), "args": [SECRET], "kwargs": [SECRET]}
    send_raw(json.dumps(message).encode(), "application/json", "utf-8")


#: What is sent, and how the refusal begins.
REFUSED = [
    (unregistered, "Received unregistered task of type"),
    (without_headers, "Received and deleted unknown message"),
    (pickled, "Received invalid task message"),
    (no_utf_8, "Can't decode message body"),
    (with_more_behind_it, "Can't decode message body"),
    (of_the_first_protocol_and_invalid, "Received invalid task message"),
]


@pytest.mark.parametrize(("send", "told"), REFUSED, ids=[send.__name__ for send, _ in REFUSED])
def test_a_message_that_is_refused_is_told_with_its_size_and_without_its_body(
    redis: Redis, start_worker: Callable[..., Process], send: Callable[[], None], told: str
) -> None:
    worker = start_worker(QUEUE)
    send()
    eventually(lambda: told in worker.output, what=lambda: f"{told!r}:\n{worker.output}")
    eventually(lambda: not redis.exists("unacked", QUEUE), what="the refused message to be gone")
    assert re.search(r"\(not shown: \d+ bytes\)", worker.output)
    assert "hunter2" not in worker.output
    assert "Traceback" not in worker.output


def test_a_task_that_is_not_registered_is_told_by_its_name_and_id(
    redis: Redis, start_worker: Callable[..., Process]
) -> None:
    worker = start_worker(QUEUE)
    task = app.send_task("logs.of_another_release", args=[SECRET], queue=QUEUE)
    eventually(lambda: "Received unregistered task of type 'logs.of_another_release'" in worker.output)
    eventually(lambda: f"'id': '{task.id}'" in worker.output)
    assert "argsrepr" not in worker.output


def test_a_worker_that_tells_all_it_does_tells_nothing_of_a_log_message(
    services: Services, environment: dict[str, str], tmp_path: Path
) -> None:
    work = running(services)
    command = celery("worker", "-Q", QUEUE, "-P", "threads", "-n", "telling@test", "-l", "DEBUG")
    worker = spawn("telling", command, environment, tmp_path)
    try:
        worker.wait_for(READY)
        # Few headers, as another client may send: the more there are, the less of the body is told.
        message = encode_message(blocks_of([chunk(work, 1, SECRET.encode())]))
        task_id = str(uuid4())
        headers = {"task": "logs.ingest", "id": task_id, "root_id": task_id, "lang": "py"}
        send_raw(msgpack.packb([[message], {}, {}]), "application/x-msgpack", headers=headers)
        eventually(lambda: services.logs.last_seq(work.run_id, 1) == 1)
        assert "TaskPool: Apply" in worker.output
        assert "hunter2" not in worker.output
    finally:
        worker.stop()


def a_record(text: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("celery", logging.ERROR, __file__, 1, text, args, None)


def test_a_form_of_the_report_that_is_not_known_is_told_without_any_of_it() -> None:
    record = a_record("body: %s", SECRET, SECRET)
    assert Discretion({"body: %s": lambda dump: (size_of(dump),)}).filter(record)
    assert "not shown" in record.getMessage()
    assert SECRET not in record.getMessage()


def test_what_is_no_report_of_a_message_is_told_as_it_is() -> None:
    record = a_record("%s is ready", SECRET)
    assert Discretion({"body: %s": lambda dump: (size_of(dump),)}).filter(record)
    assert record.getMessage() == f"{SECRET} is ready"


@pytest.mark.parametrize(
    ("dump", "shown"),
    [
        ("'(7b)' (58b)", "(not shown: 58 bytes)"),
        ("body: {'a': '(7b)'} (32b)\n{content_type:'x' headers={'h': '(9b)'}}\n", "(not shown: 32 bytes)"),
        (SECRET, "(not shown)"),
    ],
)
def test_of_a_dump_the_size_is_shown(dump: str, shown: str) -> None:
    assert size_of(dump) == shown
