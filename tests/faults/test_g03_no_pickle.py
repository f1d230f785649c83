"""G03: a pickled message is refused, or not looked into, on every queue; it runs no code, and ends no worker."""

import os
import pickle
from pathlib import Path
from uuid import uuid4

import pytest
from kombu import Queue
from redis import Redis

from reprieve import enqueue_run
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from tests.support.processes import Process
from tests.support.rows import status_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("G03")

TASKS = {"runs": "runs.execute", "logs": "logs.ingest", "control": "reaper.sweep"}


class MakesFolder:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self):
        return os.mkdir, (self._path,)


def _send_as_a_task(queue: str, trap: MakesFolder) -> None:
    app.send_task(TASKS[queue], args=[trap], queue=queue, serializer="pickle")


def _send_bare(queue: str, trap: MakesFolder) -> None:
    """Without the headers of a task: what any client of the broker may put there."""
    with app.connection_for_write() as connection:
        producer = connection.Producer(serializer="pickle")
        producer.publish(trap, exchange=queue, routing_key=queue, declare=[Queue(queue, routing_key=queue)])


def _send_mislabelled(queue: str, trap: MakesFolder) -> None:
    """With the arguments pickled and the other headers of a task as they should be."""
    task_id = str(uuid4())
    headers = {"task": TASKS[queue], "id": task_id, "root_id": task_id, "lang": "py"}
    with app.connection_for_write() as connection:
        producer = connection.Producer(serializer="pickle")
        body = ([trap], {}, {})
        producer.publish(body, exchange=queue, routing_key=queue, headers=headers, correlation_id=task_id)


def _refusals(worker: Process) -> int:
    return sum(worker.output.count(said) for said in ("ignored and discarded", "Can't decode message body"))


SENDERS = [_send_as_a_task, _send_bare, _send_mislabelled]


def test_pickled_messages_run_no_code_and_the_worker_goes_on(
    services: Services, redis: Redis, start_worker, tmp_path: Path
) -> None:
    worker = start_worker()
    traps = [tmp_path / f"trap-{number}" for number in range(len(SENDERS) * len(TASKS))]
    ways = [(send, queue) for send in SENDERS for queue in TASKS]
    for (send, queue), trap in zip(ways, traps, strict=True):
        send(queue, MakesFolder(trap))
    # What a message about a run holds is not even decoded: its header says which run it is, if it is one.
    undecoded = [(send, queue) for send, queue in ways if queue == "runs" and send is not _send_bare]
    eventually(lambda: _refusals(worker) == len(ways) - len(undecoded), what="all other messages to be refused")
    run = enqueue_run("process", {"command": ["echo", "hello"]})
    eventually(lambda: status_of(services, run.id) == "succeeded")
    eventually(lambda: [stored.data for stored in services.logs.read(run.id, 1)] == [b"hello\n"])
    app.send_task("reaper.sweep")
    assert worker.popen.poll() is None
    assert [trap for trap in traps if trap.exists()] == []
    eventually(lambda: not redis.exists("unacked", *TASKS), what="the refused messages to be gone")


def test_only_json_and_messagepack_are_accepted(services: Services) -> None:
    assert sorted(app.conf.accept_content) == ["json", "msgpack"]
    assert app.conf.task_serializer == "json"


def test_the_trap_would_have_snapped(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(MakesFolder(tmp_path / "trap")))
    assert (tmp_path / "trap").exists()
