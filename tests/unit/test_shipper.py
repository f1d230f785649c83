"""The shipper: when a batch is sent, what happens when the broker does not take it, and that nothing is lost."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from adapters import shipper as module
from adapters.shipper import LogShipper
from models.chunks import Chunk
from tests.support.waiting import eventually

RUN, OTHER_RUN = UUID(int=1), UUID(int=2)
#: Seconds that no test waits for: what is sent, is sent for another reason.
NEVER = 1_000.0


def chunk(seq: int, data: bytes = b"x", run_id: UUID = RUN) -> Chunk:
    return Chunk(run_id, 1, 1, seq, "stdout", data)


class Broker:
    """Takes batches; told to, it refuses them, or holds them up."""

    def __init__(self) -> None:
        self.batches: list[list[Chunk]] = []
        self.refusals = 0
        self.seconds = 0.0
        self.open = threading.Event()
        self.open.set()

    def publish(self, batch: Sequence[Chunk]) -> None:
        self.open.wait()
        time.sleep(self.seconds)
        if self.refusals > 0:
            self.refusals -= 1
            raise ConnectionError("no broker")
        self.batches.append(list(batch))

    @property
    def taken(self) -> list[Chunk]:
        return [one for batch in self.batches for one in batch]

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def make(broker: Broker) -> Iterator[Callable[..., LogShipper]]:
    """Makes shippers and ends them."""
    made: list[LogShipper] = []

    def build(**options: int) -> LogShipper:
        made.append(LogShipper(broker.publish, **options))
        return made[-1]

    yield build
    broker.refusals = 0
    broker.open.set()
    for shipper in made:
        shipper.close(5)


@pytest.fixture
def ageless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch is ever sent for its age."""
    monkeypatch.setattr(module, "BATCH_AGE", NEVER)


# -- when a batch is due


@pytest.mark.usefixtures("ageless")
def test_a_batch_is_sent_when_its_bytes_reach_the_limit_and_not_before(
    make: Callable[..., LogShipper], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 100)
    shipper = make()
    for seq in range(1, 101):
        shipper.add(chunk(seq))
    eventually(lambda: broker.batches)
    assert broker.sizes == [100]


@pytest.mark.usefixtures("ageless")
def test_a_batch_is_sent_when_its_chunks_reach_the_limit_and_not_before(
    make: Callable[..., LogShipper], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_CHUNKS", 50)
    shipper = make()
    for seq in range(1, 51):
        shipper.add(chunk(seq))
    eventually(lambda: broker.batches)
    assert broker.sizes == [50]


def test_a_lonely_chunk_is_sent_when_it_has_waited_for_the_age_of_a_batch_and_not_before(
    make: Callable[..., LogShipper], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_AGE", 0.3)
    before = time.monotonic()
    make().add(chunk(1))
    eventually(lambda: broker.batches, interval=0.01)
    assert time.monotonic() - before >= 0.3


def test_no_batch_is_larger_than_the_limits_when_much_has_piled_up(
    make: Callable[..., LogShipper], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_CHUNKS", 10)
    monkeypatch.setattr(module, "BATCH_BYTES", 100)
    broker.open.clear()
    shipper = make()
    for seq in range(1, 101):
        shipper.add(chunk(seq, b"x" * (50 if seq > 50 else 1)))
    broker.open.set()
    assert shipper.flush(10)
    assert max(broker.sizes) == 10
    assert all(sum(len(one.data) for one in batch[:-1]) < 100 for batch in broker.batches)


@pytest.mark.usefixtures("ageless")
def test_a_chunk_larger_than_a_batch_is_sent_by_itself(
    make: Callable[..., LogShipper], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 100)
    make().add(chunk(1, b"x" * 1000))
    eventually(lambda: broker.sizes == [1])


@pytest.mark.usefixtures("ageless")
def test_one_message_carries_the_chunks_of_many_runs(make: Callable[..., LogShipper], broker: Broker) -> None:
    shipper = make()
    for seq in (1, 2):
        shipper.add(chunk(seq))
        shipper.add(chunk(seq, run_id=OTHER_RUN))
    assert shipper.flush(10)
    assert {one.run_id for one in broker.batches[0]} == {RUN, OTHER_RUN}
    assert broker.sizes == [4]


# -- when the buffer is full


def test_a_full_buffer_blocks_whoever_prints_until_the_broker_takes_something(
    make: Callable[..., LogShipper], broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.open.clear()
    shipper = make(buffer_bytes=10)
    shipper.add(chunk(1, b"x" * 9))
    shipper.add(chunk(2, b"x"))
    printing = threading.Thread(target=shipper.add, args=(chunk(3),))
    with caplog.at_level(logging.WARNING):
        printing.start()
        eventually(lambda: "The log buffer is full (10 bytes)" in caplog.text)
    printing.join(0.2)
    assert printing.is_alive()
    broker.open.set()
    printing.join(10)
    assert not printing.is_alive()
    assert shipper.flush(10)
    assert [one.seq for one in broker.taken] == [1, 2, 3]


def test_a_buffer_with_one_byte_left_blocks_nobody(make: Callable[..., LogShipper], broker: Broker) -> None:
    broker.open.clear()
    shipper = make(buffer_bytes=10)
    shipper.add(chunk(1, b"x" * 9))
    printing = threading.Thread(target=shipper.add, args=(chunk(2),))
    printing.start()
    printing.join(10)
    assert not printing.is_alive()


# -- when the broker does not take it


def test_a_batch_that_the_broker_refused_is_tried_again_and_stays_in_its_place(
    make: Callable[..., LogShipper], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_CHUNKS", 5)
    broker.refusals = 2
    shipper = make()
    for seq in range(1, 21):
        shipper.add(chunk(seq))
    assert shipper.flush(20)
    assert [one.seq for one in broker.taken] == list(range(1, 21))


def test_a_refusal_is_told_without_any_of_the_output(
    make: Callable[..., LogShipper], broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.refusals = 1
    shipper = make()
    shipper.add(chunk(1, b"hunter2"))
    assert shipper.flush(10)
    assert "did not take a batch of output (try 1): no broker" in caplog.text
    assert "hunter2" not in caplog.text


# -- flush and close


def test_flush_says_that_all_was_sent_when_nothing_ever_came(make: Callable[..., LogShipper]) -> None:
    assert make().flush(0)


def test_flush_gives_up_when_the_broker_takes_too_long(make: Callable[..., LogShipper], broker: Broker) -> None:
    broker.open.clear()
    shipper = make()
    shipper.add(chunk(1))
    assert not shipper.flush(0.1)


def test_flush_waits_for_a_batch_that_is_on_its_way(make: Callable[..., LogShipper], broker: Broker) -> None:
    broker.open.clear()
    shipper = make()
    shipper.add(chunk(1))
    eventually(lambda: not shipper.flush(0) and not shipper._waiting)
    assert not shipper.flush(0.1)
    broker.open.set()
    assert shipper.flush(10)
    assert [one.seq for one in broker.taken] == [1]


def test_flush_does_not_wait_for_what_others_add_after_it_was_called(
    make: Callable[..., LogShipper], broker: Broker
) -> None:
    """A run that ends on a busy worker must not wait until all the others are silent."""
    shipper, ended = make(), threading.Event()
    broker.seconds = 0.01
    shipper.add(chunk(1))

    def chatter() -> None:
        while not ended.wait(0.001):
            shipper.add(chunk(1, run_id=OTHER_RUN))

    other = threading.Thread(target=chatter)
    other.start()
    try:
        assert shipper.flush(3)
    finally:
        ended.set()
        other.join()


@pytest.mark.usefixtures("ageless")
def test_close_sends_what_is_waiting_and_ends_the_thread(make: Callable[..., LogShipper], broker: Broker) -> None:
    shipper = make()
    shipper.add(chunk(1))
    assert shipper.close(10)
    assert [one.seq for one in broker.taken] == [1]
    assert ended(shipper)


def test_close_of_a_shipper_that_carried_nothing_is_at_once(make: Callable[..., LogShipper]) -> None:
    assert make().close(0)


def test_close_without_a_broker_gives_up_ends_the_thread_and_says_so(
    make: Callable[..., LogShipper], broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.refusals = 1_000_000
    shipper = make()
    shipper.add(chunk(1))
    assert not shipper.close(0.1)
    assert ended(shipper)
    assert "ends with 1 chunks that no broker took" in caplog.text


def ended(shipper: LogShipper) -> bool:
    thread = shipper._thread
    assert thread is not None
    thread.join(10)
    return not thread.is_alive()


# -- all together


def test_many_threads_lose_nothing_repeat_nothing_and_keep_the_order_of_each_run(
    make: Callable[..., LogShipper], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_CHUNKS", 7)
    monkeypatch.setattr(module, "BATCH_AGE", 0.001)
    broker.refusals = 1
    shipper = make(buffer_bytes=100)
    runs = [UUID(int=number) for number in range(8)]

    def print_all(run_id: UUID) -> None:
        for seq in range(1, 301):
            shipper.add(chunk(seq, run_id=run_id))

    with ThreadPoolExecutor(len(runs)) as pool:
        list(pool.map(print_all, runs))
    assert shipper.flush(20)
    assert Counter(one.run_id for one in broker.taken) == dict.fromkeys(runs, 300)
    for run_id in runs:
        assert [one.seq for one in broker.taken if one.run_id == run_id] == list(range(1, 301))
