"""F08: during a rollout, old and new processes talk to each other: nothing is dropped."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from reprieve.adapters import shipper as module
from reprieve.adapters.shipper import LogShipper
from reprieve.models.chunks import Block
from reprieve.models.errors import InvalidMessage
from reprieve.models.messages import MESSAGE_VERSION, encode_message
from reprieve.models.work import Work
from reprieve.workers import ingest as ingesting
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from tests.support.processes import Process
from tests.support.rows import running
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("F08")

SECRET = b"hunter2 in the log"


def of_the_first_version(work: Work, entries: list[list[Any]]) -> dict[str, Any]:
    """The message as the first version sent it."""
    return {"version": 1, "runs": [[work.run_id.bytes, work.attempt, work.epoch, entries]]}


def test_what_an_old_producer_sends_is_stored_by_a_new_worker(
    services: Services, start_worker: Callable[..., Process]
) -> None:
    work = running(services)
    start_worker("logs")
    entries = [[2, "stderr", b"b\xff", "7"], [1, "stdout", b"a", None]]
    app.send_task("logs.ingest", args=[of_the_first_version(work, entries)], serializer="msgpack")
    eventually(lambda: services.logs.last_seq(work.run_id, 1) == 2)
    read = [(one.seq, one.stream, one.data, one.cursor) for one in services.logs.read(work.run_id, 1)]
    assert read == [(1, "stdout", b"a", None), (2, "stderr", b"b\xff", "7")]


def test_a_message_of_a_later_version_is_refused_without_a_word_of_it(
    services: Services, start_worker: Callable[..., Process]
) -> None:
    worker = start_worker("logs")
    message = {"version": MESSAGE_VERSION + 1, "blocks": [[SECRET]]}
    app.send_task("logs.ingest", args=[message], argsrepr="(a later version)", serializer="msgpack")
    eventually(lambda: f"A log message of version {MESSAGE_VERSION + 1}" in worker.output)
    assert SECRET.decode() not in worker.output


def test_a_new_producer_sends_again_until_a_new_worker_is_there(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old worker takes the message and refuses it; the broker thinks that all is well."""
    monkeypatch.setattr(module, "SHIP_AGAIN_AFTER", 0.05)
    refused: list[dict[str, Any]] = []

    def publish(blocks: Sequence[Block]) -> None:
        message = encode_message(blocks)
        if len(refused) < 3:
            with pytest.raises(InvalidMessage):
                ingesting.ingest_task(message | {"version": 99})
            refused.append(message)
        else:
            ingesting.ingest_task(message)

    work = running(services)
    shipper = LogShipper(services.settings.spool_dir, publish, services.logs.stored)
    RunContext(services, shipper, work).on_log("stdout", SECRET)
    assert shipper.close(30)
    assert [one.data for one in services.logs.read(work.run_id, 1)] == [SECRET]
    assert len(refused) == 3
