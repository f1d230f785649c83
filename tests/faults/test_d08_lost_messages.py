"""D08: a message that the broker took may be lost; the producer keeps its output until the store has it."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from redis import Redis

from reprieve.adapters import shipper as module
from reprieve.adapters.shipper import LogShipper
from reprieve.models.chunks import Block
from reprieve.models.work import Work
from reprieve.workers import ingest as ingesting
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from tests.support import producer
from tests.support.processes import Process, spawn
from tests.support.rows import running
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("D08")

StartProducer = Callable[..., Process]


@pytest.fixture
def start_producer(environment: dict[str, str], tmp_path: Path) -> Iterator[StartProducer]:
    started: list[Process] = []

    def start(work: Work, lines: int, per_second: int = 0) -> Process:
        command = [sys.executable, "-m", "tests.support.producer", str(work.run_id), str(work.epoch), str(lines)]
        started.append(spawn(f"producer-{len(started)}", [*command, str(per_second)], environment, tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def handed_over(process: Process) -> int:
    """How many lines its `on_log` has returned for."""
    return sum(line.isdigit() for line in process.output.splitlines()[:-1])


def assert_whole(services: Services, work: Work, least: int) -> None:
    """Every line up to the last one stored is there once and in order, and `least` of them at the least."""
    # The segments as they are: a reader of the whole log would pass over what is stored twice.
    chunks = list(services.logs.hot(work.run_id, 1))
    assert [chunk.data for chunk in chunks] == [producer.line(number) for number in range(len(chunks))]
    assert len(chunks) >= least


def test_log_workers_that_are_killed_and_stopped_in_a_flood_lose_nothing(
    services: Services, start_worker: Callable[..., Process], start_producer: StartProducer
) -> None:
    works = [running(services) for _ in range(3)]
    workers = [start_worker("logs", name=f"logs{number}", concurrency=2) for number in range(2)]
    producers = [start_producer(work, 3000, per_second=300) for work in works]
    for turn, how in enumerate([signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL]):
        eventually(lambda turn=turn: all(handed_over(one) > 400 * (turn + 1) for one in producers), timeout=60)
        victim = workers.pop(0)
        victim.send(how)
        workers.append(start_worker("logs", name=f"again{turn}", concurrency=2))
    for process in producers:
        assert process.popen.wait(120) == 0, process.output[-2000:]
    for work in works:
        assert_whole(services, work, least=3000)


def test_a_message_that_vanished_after_the_broker_took_it_is_sent_again(
    services: Services, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHIP_AGAIN_AFTER", 0.1)
    sent: list[Sequence[Block]] = []

    def publish(blocks: Sequence[Block]) -> None:
        sent.append(blocks)
        if len(sent) > 2:
            ingesting.ingest(services, blocks)

    work = running(services)
    shipper = LogShipper(services.settings.spool_dir, publish, services.logs.stored)
    context = RunContext(services, shipper, work)
    for number in range(10):
        context.on_log("stdout", producer.line(number))
    assert shipper.close(30)
    assert len(sent) >= 3
    assert_whole(services, work, least=10)


def test_what_a_killed_run_worker_had_spooled_is_shipped_by_the_next_on_its_folder(
    services: Services, start_worker: Callable[..., Process], start_producer: StartProducer
) -> None:
    """No log worker runs at first: everything is on its way when the producer is killed."""
    first, second = running(services), running(services)
    killed = start_producer(first, 1_000_000, per_second=2000)
    eventually(lambda: handed_over(killed) > 2000, timeout=60)
    killed.kill()
    spooled = handed_over(killed)
    start_worker("logs", concurrency=2)
    heir = start_producer(second, 10)
    assert heir.popen.wait(60) == 0, heir.output
    eventually(lambda: services.logs.last_seq(first.run_id, 1) >= spooled, timeout=60)
    assert_whole(services, first, least=spooled)
    assert_whole(services, second, least=10)


def test_a_broker_that_is_away_holds_up_nobody_and_what_was_spooled_meanwhile_outlives_a_kill(
    services: Services,
    environment: dict[str, str],
    start_worker: Callable[..., Process],
    start_producer: StartProducer,
) -> None:
    work, second = running(services), running(services)
    environment["REPRIEVE_REDIS_URL"] = "redis://127.0.0.1:1/0"
    cut_off = start_producer(work, 500)
    eventually(lambda: handed_over(cut_off) >= 499, timeout=60)
    eventually(lambda: "did not take a batch" in cut_off.output, timeout=60)
    cut_off.kill()
    assert services.logs.last_seq(work.run_id, 1) == 0
    del environment["REPRIEVE_REDIS_URL"]
    start_worker("logs", concurrency=2)
    assert start_producer(second, 1).popen.wait(60) == 0
    eventually(lambda: services.logs.last_seq(work.run_id, 1) == 500, timeout=60)
    assert_whole(services, work, least=500)
