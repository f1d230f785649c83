"""The shipper: when a batch is sent, what is sent again, and that the spool is given back only on the store's word."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from uuid import UUID

import pytest

from reprieve.adapters import shipper as module
from reprieve.adapters import shipper_source
from reprieve.adapters.shipper import LogShipper
from reprieve.adapters.spool import SpooledLog
from reprieve.models.chunks import Block, LogWriter, encode
from reprieve.models.sequences import SeqRanges
from tests.support.waiting import eventually

RUN, OTHER = UUID(int=1), UUID(int=2)
#: Seconds that no test waits for: what is sent, is sent for another reason.
NEVER = 1_000.0


class Store:
    """Broker and store in one: takes batches and has them stored, or refuses or loses them."""

    def __init__(self) -> None:
        self.batches: list[list[Block]] = []
        self.refuses = False
        self.loses = False
        self.answers = True
        self.before_each: Callable[[], None] = lambda: None
        self.has: dict[LogWriter, SeqRanges] = {}

    def publish(self, blocks: Sequence[Block]) -> None:
        self.before_each()
        if self.refuses:
            raise ConnectionError("no broker")
        self.batches.append(list(blocks))
        if self.loses:
            return
        for block in blocks:
            whole = SeqRanges(((block.first_seq, block.last_seq),))
            self.has[block.writer] = self.has.get(block.writer, SeqRanges()) | whole

    def stored(self, keys: Iterable[LogWriter]) -> dict[LogWriter, SeqRanges]:
        if not self.answers:
            raise ConnectionError("no database")
        return {key: self.has[key] for key in keys if key in self.has}

    def texts(self, run: UUID = RUN) -> list[str]:
        chunks = [one for batch in list(self.batches) for block in batch for one in block.chunks() if one.run_id == run]
        by_number = {one.seq: one.data.decode() for one in chunks}
        return [by_number[seq] for seq in sorted(by_number)]


@pytest.fixture
def store() -> Store:
    return Store()


Make = Callable[..., LogShipper]


@pytest.fixture
def make(store: Store, tmp_path: Path) -> Iterator[Make]:
    made: list[LogShipper] = []

    def build(**options: int) -> LogShipper:
        made.append(LogShipper(tmp_path, store.publish, store.stored, **options))
        return made[-1]

    yield build
    store.before_each = lambda: None
    store.refuses = store.loses = False
    store.answers = True
    for shipper in made:
        shipper.close(0)


@pytest.fixture
def log() -> SpooledLog:
    return SpooledLog(RUN, 1, 1)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits, waits for a moment."""
    for name in ("BATCH_AGE", "ASK_INTERVAL", "SHIP_AGAIN_AFTER", "TAKE_OVER_INTERVAL"):
        monkeypatch.setattr(module, name, 0.02)


def say(shipper: LogShipper, log: SpooledLog, *texts: str) -> None:
    for text in texts:
        shipper.add(log, [encode((0, "stdout", text.encode(), None))])


def files(tmp_path: Path) -> list[Path]:
    return list(tmp_path.rglob("*.spool"))


# -- when a batch is sent


def _never_send_for_age(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_AGE", "BATCH_AGE"):
        monkeypatch.setattr(module, name, NEVER)


def test_a_batch_is_sent_when_its_first_chunk_has_waited_long_enough(make: Make, store: Store, log: SpooledLog) -> None:
    say(make(), log, "a", "b")
    eventually(lambda: store.texts() == ["a", "b"])


def test_a_batch_is_sent_when_it_is_large_enough(
    make: Make, store: Store, log: SpooledLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_AGE", NEVER)
    shipper = make()
    say(shipper, log, *("x" * 1024 for _ in range(shipper_source.BATCH_BYTES // 1024 + 1)))
    eventually(lambda: len(store.texts()) > 200)


def test_what_is_said_after_a_pause_goes_at_once_and_what_follows_waits_its_time(
    make: Make, store: Store, log: SpooledLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_AGE", NEVER)
    shipper = make()
    shipper.start()
    eventually(lambda: shipper._is_quiet)
    say(shipper, log, "first")
    eventually(lambda: store.texts() == ["first"])
    say(shipper, log, "second")
    say(shipper, log, *("x" * 1024 for _ in range(shipper_source.BATCH_BYTES // 1024 - 2)))
    assert store.texts() == ["first"], "output that goes on is not cut into small pieces"
    say(shipper, log, *("x" * 1024 for _ in range(10)))
    eventually(lambda: store.texts()[:2] == ["first", "second"])


def test_what_is_said_while_nothing_is_awaited_is_never_forgotten(
    make: Make, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread falls asleep just as something is added, again and again."""
    monkeypatch.setattr(module, "BATCH_AGE", 0.001)
    monkeypatch.setattr(module, "FIRST_AGE", 0.0)
    shipper, runs = make(), [UUID(int=number) for number in range(1, 501)]
    for run in runs:
        say(shipper, SpooledLog(run, 1, 1), "a")
        time.sleep(0.001)
    eventually(lambda: all(store.texts(run) == ["a"] for run in runs))


def test_runs_that_end_one_after_the_other_share_batches(
    make: Make, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each end is in a hurry; hundreds of them in a second must not cost a message each."""
    _never_send_for_age(monkeypatch)
    monkeypatch.setattr(module, "HURRY_AGE", 0.2)
    shipper, began = make(), time.monotonic()
    runs = [UUID(int=number) for number in range(1, 101)]
    for run in runs:
        say(shipper, SpooledLog(run, 1, 1), "a")
        shipper.hurry()
    eventually(lambda: all(store.texts(run) == ["a"] for run in runs))
    assert len(store.batches) <= 2 + (time.monotonic() - began) / 0.2


def test_a_flush_sends_at_once_what_was_added_before_it(
    make: Make, store: Store, log: SpooledLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    _never_send_for_age(monkeypatch)
    shipper = make()
    assert shipper.flush(0)
    say(shipper, log, "a")
    assert shipper.flush(10)
    assert store.texts() == ["a"]


def test_a_flush_does_not_wait_longer_than_it_may(make: Make, store: Store, log: SpooledLog) -> None:
    store.refuses = True
    shipper = make()
    say(shipper, log, "a")
    assert not shipper.flush(0.05)


def test_output_that_trickles_in_while_a_batch_is_sent_waits_for_the_next(
    make: Make, store: Store, log: SpooledLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    _never_send_for_age(monkeypatch)
    shipper = make()
    store.before_each = lambda: say(shipper, log, "more")
    say(shipper, log, "first")
    for _ in range(5):
        assert shipper.flush(10)
    assert [sum(block.count for block in batch) for batch in store.batches] == [1, 1, 1, 1, 1]


def test_what_an_earlier_worker_left_is_shipped_beside_output_that_never_pauses(
    make: Make, store: Store, log: SpooledLog, soon: None
) -> None:
    store.loses = True
    first = make()
    say(first, SpooledLog(OTHER, 1, 1), "left")
    assert not first.close(0.1)
    store.batches.clear()
    store.loses = False
    second = make()
    store.before_each = lambda: say(second, log, "more")
    say(second, log, "first")
    eventually(lambda: store.texts(OTHER) == ["left"])


def test_many_runs_travel_in_one_message(make: Make, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _never_send_for_age(monkeypatch)
    shipper = make()
    for number in range(50):
        say(shipper, SpooledLog(UUID(int=number), 1, 1), "a", "b")
    assert shipper.flush(10)
    assert [len(batch) for batch in store.batches] == [50]


def test_no_message_is_larger_than_a_batch_unless_it_is_one_block(
    make: Make, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipper_source, "BATCH_BYTES", 1000)
    shipper = make()
    for number in range(50):
        say(shipper, SpooledLog(UUID(int=number), 1, 1), "x" * 150)
    assert shipper.flush(10)
    sizes = [sum(len(block.payload) for block in batch) for batch in store.batches]
    assert len(sizes) > 5
    assert max(sizes) <= 1000


# -- what is sent again


def test_what_the_store_does_not_have_is_sent_again_until_it_has(
    make: Make, store: Store, log: SpooledLog, soon: None, tmp_path: Path
) -> None:
    store.loses = True
    shipper = make()
    say(shipper, log, "a")
    eventually(lambda: len(store.batches) >= 3)
    assert files(tmp_path) != []
    store.loses = False
    assert shipper.close(10)
    assert store.texts() == ["a"]
    assert files(tmp_path) == []


def test_output_that_never_pauses_keeps_no_lost_batch_from_being_sent_again_and_no_flush_from_its_answer(
    make: Make, store: Store, log: SpooledLog, soon: None
) -> None:
    shipper = make()
    other = SpooledLog(OTHER, 1, 1)

    def print_more_and_lose_the_first() -> None:
        # Whenever a batch is sent, there is another to send.
        say(shipper, other, "more")
        store.loses = len(store.batches) == 0

    store.before_each = print_more_and_lose_the_first
    say(shipper, log, "lost at first")
    assert shipper.flush(10)
    eventually(lambda: sum(block.run_id == RUN for batch in list(store.batches) for block in batch) >= 2)


def test_only_the_blocks_that_are_missing_are_sent_again(make: Make, store: Store, soon: None) -> None:
    store.loses = True
    store.has[OTHER, 1, 1] = SeqRanges(((1, 1),))
    shipper = make()
    say(shipper, SpooledLog(RUN, 1, 1), "a")
    say(shipper, SpooledLog(OTHER, 1, 1), "b")
    eventually(lambda: len(store.batches) >= 4)
    assert {block.run_id for block in store.batches[-1]} == {RUN}


def test_a_broker_that_is_away_holds_nobody_up_and_gets_everything_later(
    make: Make, store: Store, log: SpooledLog, caplog: pytest.LogCaptureFixture
) -> None:
    store.refuses = True
    shipper = make()
    lines = [f"line {number}" for number in range(5000)]
    say(shipper, log, *lines)
    eventually(lambda: "did not take a batch" in caplog.text)
    store.refuses = False
    assert shipper.close(30)
    assert store.texts() == lines


def test_a_database_that_is_away_costs_nothing_either(
    make: Make, store: Store, log: SpooledLog, soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    store.answers = False
    shipper = make()
    say(shipper, log, "a")
    eventually(lambda: "The shipper failed" in caplog.text)
    store.answers = True
    say(shipper, log, "b")
    assert shipper.close(30)
    assert store.texts() == ["a", "b"]


def test_so_much_is_on_its_way_and_no_more(
    make: Make, store: Store, log: SpooledLog, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW_BYTES", 1)
    monkeypatch.setattr(module, "SHIP_AGAIN_AFTER", NEVER)
    store.loses = True
    shipper = make()
    say(shipper, log, "first")
    assert shipper.flush(10)
    say(shipper, log, "waits on disk")
    assert not shipper.flush(0.3)
    assert store.texts() == ["first"]
    store.has[log_of(log)] = SeqRanges(((1, 1),))
    assert shipper.flush(10)
    assert store.texts() == ["first", "waits on disk"]


def log_of(log: SpooledLog) -> LogWriter:
    return (UUID(bytes=log.key[:16]), 1, 1)


# -- giving back, and taking over


def test_files_are_given_back_as_the_store_gets_them(
    make: Make, store: Store, log: SpooledLog, soon: None, tmp_path: Path
) -> None:
    shipper = make(file_bytes=1)
    say(shipper, log, *(f"{number:02}" * 25_000 for number in range(20)))
    eventually(lambda: len(files(tmp_path)) <= 1)
    assert [text[:2] for text in store.texts()] == [f"{number:02}" for number in range(20)]


def test_a_full_spool_goes_on_when_the_store_has_taken_some(make: Make, store: Store, log: SpooledLog) -> None:
    shipper = make(limit=1, file_bytes=1)
    say(shipper, log, *("x" * 50_000 for _ in range(20)))
    assert shipper.close(30)
    assert len(store.texts()) == 20


def test_what_an_earlier_worker_left_is_shipped_by_the_next(
    make: Make, store: Store, log: SpooledLog, soon: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.loses = True
    first = make()
    say(first, log, "a", "b")
    assert not first.close(0.1)
    store.batches.clear()
    store.loses = False
    with caplog.at_level(logging.WARNING):
        make().start()
        eventually(lambda: store.texts() == ["a", "b"])
    eventually(lambda: files(tmp_path) == [])
    assert "an earlier worker left" in caplog.text


def test_a_spool_that_is_left_while_we_are_at_work_is_found(make: Make, store: Store, soon: None) -> None:
    second = make()
    say(second, SpooledLog(OTHER, 1, 1), "mine")
    eventually(lambda: store.texts(OTHER) == ["mine"])
    store.loses = True
    first = make()
    say(first, SpooledLog(RUN, 1, 1), "left")
    assert not first.close(0.1)
    store.batches.clear()
    store.loses = False
    eventually(lambda: store.texts(RUN) == ["left"])


# -- the end


def test_a_close_waits_for_the_store_and_leaves_nothing(
    make: Make, store: Store, log: SpooledLog, tmp_path: Path
) -> None:
    shipper = make()
    say(shipper, log, "a")
    assert shipper.close(10)
    assert store.texts() == ["a"]
    assert list(tmp_path.iterdir()) == []


def test_a_close_that_may_not_wait_leaves_the_rest_on_disk(
    make: Make, store: Store, log: SpooledLog, tmp_path: Path
) -> None:
    store.refuses = True
    shipper = make()
    say(shipper, log, "a")
    assert not shipper.close(0.05)
    assert len(files(tmp_path)) == 1


def test_a_shipper_that_was_given_nothing_closes_at_once(make: Make, tmp_path: Path) -> None:
    assert make().close(0)
    shipper = make()
    shipper.start()
    assert shipper.close(5)
    assert list(tmp_path.iterdir()) == []


def test_no_thread_is_left_after_the_end(make: Make, log: SpooledLog) -> None:
    shipper = make()
    say(shipper, log, "a")
    shipper.close(10)
    assert shipper._thread is not None
    assert not shipper._thread.is_alive()
