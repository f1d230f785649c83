"""What every log store promises: each chunk once, in order, byte for byte. Over the fake and over PostgreSQL."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from reprieve.models.chunks import MAX_CHUNK_BYTES, Block, Chunk, blocks_of
from reprieve.models.sequences import MAX_SEQ, SeqRanges
from reprieve.stores.logs import LogStore, PostgresLogStore, Resumed
from reprieve.stores.memory_logs import MemoryLogStore
from reprieve.workers.bootstrap import Services
from tests.support.waiting import eventually

Entry = tuple[int, str, bytes, Any]


class Log:
    """A store of either kind with its transaction around each append."""

    def __init__(self, store: LogStore, services: Services | None) -> None:
        self.store = store
        self._services = services

    def append(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        blocks = blocks_of(chunks)
        if self._services is None:
            return unpacked(self.store.append(None, blocks))
        with self._services.database.begin() as connection:
            return unpacked(self.store.append(connection, blocks))

    def quarantine(self, block: Block) -> None:
        if self._services is None:
            self.store.quarantine(None, block, "a reason")
            return
        with self._services.database.begin() as connection:
            self.store.quarantine(connection, block, "a reason")

    def resume(self, run_id: UUID, epoch: int) -> Resumed:
        if self._services is None:
            return self.store.resume(None, run_id, 1, epoch)
        with self._services.database.begin() as connection:
            return self.store.resume(connection, run_id, 1, epoch)

    def read(self, run_id: UUID, *place: int, attempt: int = 1) -> list[Entry]:
        return [(one.seq, one.stream, one.data, one.cursor) for one in self.store.read(run_id, attempt, *place)]

    def seqs(self, run_id: UUID, *place: int, attempt: int = 1) -> list[int]:
        return [seq for seq, *_ in self.read(run_id, *place, attempt=attempt)]


def unpacked(blocks: Sequence[Block]) -> list[Chunk]:
    return [one for block in blocks for one in block.chunks()]


@pytest.fixture(params=["memory", "postgres"])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    if request.param == "memory":
        yield Log(MemoryLogStore(), None)
    else:
        services = request.getfixturevalue("services")
        yield Log(PostgresLogStore(services.database), services)


@pytest.fixture
def run_id() -> UUID:
    return uuid4()


def chunk(run_id: UUID, seq: int, data: bytes = b"line\n", **changes: Any) -> Chunk:
    values = {"attempt": 1, "epoch": 1, "stream": "stdout", "cursor": None}
    return Chunk(run_id=run_id, seq=seq, data=data, **values | changes)


def seqs(chunks: Sequence[Chunk]) -> list[int]:
    return sorted(one.seq for one in chunks)


def test_a_log_that_nobody_wrote_is_empty(log: Log, run_id: UUID) -> None:
    assert log.read(run_id) == []
    assert log.store.last_seq(run_id, 1) == 0


def test_appending_nothing_is_no_error(log: Log) -> None:
    assert log.append([]) == []


def test_what_was_appended_is_read_in_the_order_of_its_numbers(log: Log, run_id: UUID) -> None:
    log.append([chunk(run_id, 3), chunk(run_id, 1)])
    log.append([chunk(run_id, 2)])
    assert log.seqs(run_id) == [1, 2, 3]
    assert log.store.last_seq(run_id, 1) == 3


def test_a_gap_stays_a_gap(log: Log, run_id: UUID) -> None:
    log.append([chunk(run_id, 1), chunk(run_id, 5)])
    assert log.seqs(run_id) == [1, 5]
    assert log.store.last_seq(run_id, 1) == 5


def test_a_chunk_that_comes_again_is_not_new_and_changes_nothing(log: Log, run_id: UUID) -> None:
    assert seqs(log.append([chunk(run_id, 1, b"first")])) == [1]
    assert log.append([chunk(run_id, 1, b"again", stream="stderr", epoch=2)]) == []
    assert log.read(run_id) == [(1, "stdout", b"first", None)]


def test_of_a_batch_that_overlaps_an_earlier_one_only_the_rest_is_new(log: Log, run_id: UUID) -> None:
    log.append([chunk(run_id, seq) for seq in (1, 2, 3)])
    assert seqs(log.append([chunk(run_id, seq) for seq in (5, 3, 4, 2)])) == [4, 5]
    assert log.seqs(run_id) == [1, 2, 3, 4, 5]


def test_a_number_that_stands_twice_in_one_batch_is_stored_as_it_came_first(log: Log, run_id: UUID) -> None:
    assert seqs(log.append([chunk(run_id, 1, b"first"), chunk(run_id, 1, b"again")])) == [1]
    assert log.read(run_id) == [(1, "stdout", b"first", None)]


def test_what_is_new_is_returned_as_it_was_given_epoch_and_all(log: Log, run_id: UUID) -> None:
    given = [chunk(run_id, 1, b"\xff", epoch=7, stream="stderr", cursor="1"), chunk(run_id, 2, epoch=8)]
    assert sorted(log.append(given), key=lambda one: one.seq) == given


@pytest.mark.parametrize(
    ("place", "read"),
    [
        ((0,), [1, 2, 4, 5]),
        ((1,), [2, 4, 5]),
        ((2,), [4, 5]),
        ((3,), [4, 5]),
        ((5,), []),
        ((99,), []),
        ((0, 1), [1]),
        ((0, 4), [1, 2, 4, 5]),
        ((0, 5), [1, 2, 4, 5]),
        ((2, 1), [4]),
    ],
)
def test_a_reader_gets_so_many_chunks_after_its_place(
    log: Log, run_id: UUID, place: tuple[int, ...], read: list[int]
) -> None:
    log.append([chunk(run_id, seq) for seq in (1, 2, 4, 5)])
    assert log.seqs(run_id, *place) == read


def test_a_reader_that_names_no_limit_gets_a_thousand_chunks(log: Log, run_id: UUID) -> None:
    log.append([chunk(run_id, seq) for seq in range(1, 1002)])
    assert log.seqs(run_id) == list(range(1, 1001))
    assert log.seqs(run_id, 1000) == [1001]


def test_runs_and_attempts_have_logs_of_their_own(log: Log, run_id: UUID) -> None:
    other = uuid4()
    batch = [chunk(run_id, 1, b"a"), chunk(run_id, 1, b"b", attempt=2), chunk(other, 1, b"c"), chunk(other, 2, b"d")]
    assert len(log.append(batch)) == 4
    assert log.read(run_id) == [(1, "stdout", b"a", None)]
    assert log.read(run_id, attempt=2) == [(1, "stdout", b"b", None)]
    assert log.seqs(other) == [1, 2]
    assert [log.store.last_seq(*place) for place in ((run_id, 1), (run_id, 2), (run_id, 3), (other, 1))] == [1, 1, 0, 2]


@pytest.mark.parametrize("size", [0, 1, MAX_CHUNK_BYTES, 1_000_000])
def test_a_chunk_of_any_size_is_read_byte_for_byte(log: Log, run_id: UUID, size: int) -> None:
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    log.append([chunk(run_id, 1, data)])
    assert log.read(run_id) == [(1, "stdout", data, None)]


@pytest.mark.parametrize("cursor", [None, "", "1048576", "2026-01-01T00:00:00.1Z ä'\"", "x" * 256])
def test_a_cursor_is_given_back_as_it_was_given(log: Log, run_id: UUID, cursor: str | None) -> None:
    log.append([chunk(run_id, 1, cursor=cursor)])
    assert log.read(run_id) == [(1, "stdout", b"line\n", cursor)]


def test_the_largest_number_is_a_number_like_any_other(log: Log, run_id: UUID) -> None:
    log.append([chunk(run_id, MAX_SEQ)])
    assert log.seqs(run_id, MAX_SEQ - 1) == [MAX_SEQ]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.tuples(st.integers(1, 2), st.integers(1, 9), st.binary(max_size=9)), max_size=6), max_size=4)
)
def test_each_number_is_stored_once_with_its_first_bytes_in_whatever_batches_it_comes(
    log: Log, batches: list[list[tuple[int, int, bytes]]]
) -> None:
    run_id, expected = uuid4(), dict[tuple[int, int], bytes]()
    for batch in batches:
        chunks = {(attempt, seq): chunk(run_id, seq, data, attempt=attempt) for attempt, seq, data in batch}
        new = log.append(list(chunks.values()))
        assert {(one.attempt, one.seq) for one in new} == chunks.keys() - expected.keys()
        expected = {key: one.data for key, one in chunks.items()} | expected
    stored = {(number, seq): data for number in (1, 2) for seq, _, data, _ in log.read(run_id, attempt=number)}
    assert stored == expected


# -- what need not be sent again


def test_the_store_says_what_it_has_gaps_and_all(log: Log, run_id: UUID) -> None:
    other = uuid4()
    log.append([chunk(run_id, seq) for seq in (1, 2, 3, 7)])
    assert log.store.stored([(run_id, 1, 1), (run_id, 2, 1), (other, 1, 1)]) == {
        (run_id, 1, 1): SeqRanges(((1, 3), (7, 7)))
    }
    assert log.store.stored([]) == {}


def test_what_was_kept_aside_need_not_be_sent_again_and_is_not_read(log: Log, run_id: UUID) -> None:
    log.append([chunk(run_id, 1)])
    bad = Block(run_id, 1, 1, 2, 4, b"no block")
    log.quarantine(bad)
    log.quarantine(bad)
    assert log.store.stored([(run_id, 1, 1)]) == {(run_id, 1, 1): SeqRanges(((1, 4),))}
    assert log.seqs(run_id) == [1]


def test_what_was_kept_aside_can_still_be_stored(log: Log, run_id: UUID) -> None:
    log.quarantine(Block(run_id, 1, 1, 1, 1, b"no block"))
    assert seqs(log.append([chunk(run_id, 1)])) == [1]
    assert log.seqs(run_id) == [1]


# -- what only a store with transactions can promise


@pytest.fixture
def postgres(services: Services) -> Log:
    return Log(PostgresLogStore(services.database), services)


def test_what_a_transaction_that_fails_appended_is_not_there_and_is_new_the_next_time(
    postgres: Log, services: Services, run_id: UUID
) -> None:
    with pytest.raises(ZeroDivisionError), services.database.begin() as connection:
        postgres.store.append(connection, blocks_of([chunk(run_id, 1)]))
        raise ZeroDivisionError
    assert postgres.read(run_id) == []
    assert seqs(postgres.append([chunk(run_id, 1)])) == [1]


def test_batches_that_overlap_at_the_same_moment_share_what_is_new_without_deadlock(
    postgres: Log, services: Services, run_id: UUID
) -> None:
    """Both come to wait for a number in the middle; in opposite orders, each would then hold what the other needs."""
    batch = [chunk(run_id, seq) for seq in range(1, 10)]
    with ThreadPoolExecutor(2) as pool:
        with suppress(ZeroDivisionError), services.database.begin() as connection:
            postgres.store.append(connection, blocks_of([chunk(run_id, 5)]))
            both = [pool.submit(postgres.append, one) for one in (batch, batch[::-1])]
            eventually(lambda: waiting_for_each_other(services) == 2)
            raise ZeroDivisionError  # rolls back: number 5 is theirs
        new = [one for part in both for one in part.result(timeout=30)]
    assert seqs(new) == list(range(1, 10))


def test_messages_that_begin_the_same_logs_at_the_same_moment_do_not_deadlock(postgres: Log) -> None:
    """One that held a log which was there, and then made one which was not, met another that did it the other way."""
    with ThreadPoolExecutor(4) as pool:
        for _ in range(60):
            one, other, third = sorted(uuid4() for _ in range(3))
            messages = [(third,), (one, third), (one, other, third), (other,), (one, other), (one, third)]
            appended = pool.map(postgres.append, ([chunk(run, 1) for run in runs] for runs in messages))
            assert sorted(new.run_id for part in appended for new in part) == [one, other, third]


def waiting_for_each_other(services: Services) -> int:
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with services.database.begin() as connection:
        return int(connection.execute(query).scalar_one())


deliveries = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=5),
    min_size=1,
    max_size=6,
)


@pytest.mark.row("D04")
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deliveries, st.integers(1, 3))
def test_deliveries_that_are_cut_shuffled_repeated_and_interleaved_store_each_number_once(
    postgres: Log, cuts: list[list[tuple[int, int, int]]], threads: int
) -> None:
    """Each delivery holds stretches (run, first number, length) of three logs; several are under way at once."""
    runs = [uuid4() for _ in range(3)]
    messages = [
        [chunk(runs[run], seq, b"%d:%d" % (run, seq)) for run, first, size in cut for seq in range(first, first + size)]
        for cut in cuts
    ]
    with ThreadPoolExecutor(threads) as pool:
        new = [one for part in pool.map(postgres.append, messages) for one in part]
    sent = {(one.run_id, one.seq): one.data for message in messages for one in message}
    assert sorted((one.run_id, one.seq) for one in new) == sorted(sent)
    for run in runs:
        expected = sorted((seq, data) for (of, seq), data in sent.items() if of == run)
        assert [(seq, data) for seq, _, data, _ in postgres.read(run)] == expected


# -- a new writer


def test_a_log_goes_on_after_its_last_chunk_that_has_a_cursor(log: Log, run_id: UUID) -> None:
    log.append([chunk(run_id, 1, cursor="10"), chunk(run_id, 2, cursor="20"), chunk(run_id, 3)])
    assert log.resume(run_id, 2) == Resumed(2, "20")
    assert log.seqs(run_id) == [1, 2]
    assert log.append([chunk(run_id, 3, b"again", epoch=2, cursor="30")]) != []
    assert log.read(run_id, 2) == [(3, "stdout", b"again", "30")]


@pytest.mark.parametrize("chunks", [[], [1, 2, 3]], ids=["empty", "without cursors"])
def test_a_log_without_a_cursor_begins_anew(log: Log, run_id: UUID, chunks: list[int]) -> None:
    log.append([chunk(run_id, seq) for seq in chunks])
    assert log.resume(run_id, 2) == Resumed(0, None)
    assert (log.seqs(run_id), log.store.last_seq(run_id, 1)) == ([], 0)


def test_what_lies_behind_a_gap_is_dropped_for_the_new_writer_to_read_again(log: Log, run_id: UUID) -> None:
    log.append([chunk(run_id, seq, cursor=str(seq)) for seq in (1, 2, 4, 5)])
    assert log.resume(run_id, 2) == Resumed(2, "2")
    assert log.seqs(run_id) == [1, 2]


def test_a_block_is_cut_where_the_log_goes_on_and_other_logs_stay_as_they_are(log: Log, run_id: UUID) -> None:
    other = uuid4()
    log.append([chunk(run_id, seq, cursor=str(seq) if seq == 3 else None) for seq in range(1, 9)])
    log.append([chunk(other, 1), chunk(run_id, 1, attempt=2)])
    assert log.resume(run_id, 2) == Resumed(3, "3")
    assert (log.seqs(run_id), log.seqs(other), log.seqs(run_id, attempt=2)) == ([1, 2, 3], [1], [1])


def test_the_place_is_found_many_segments_back(log: Log, run_id: UUID) -> None:
    log.append([chunk(run_id, 1, cursor="here")])
    for seq in range(2, 60):
        log.append([chunk(run_id, seq)])
    assert log.resume(run_id, 2) == Resumed(1, "here")
    assert log.seqs(run_id) == [1]


def test_chunks_of_a_superseded_writer_are_refused_and_need_not_be_sent_again(log: Log, run_id: UUID) -> None:
    log.append([chunk(run_id, 1, cursor="1")])
    log.resume(run_id, 2)
    assert log.append([chunk(run_id, 2, b"old", cursor="2")]) == []
    assert log.seqs(run_id) == [1]
    stored = log.store.stored([(run_id, 1, 1), (run_id, 1, 2)])
    assert stored[run_id, 1, 1].covers(1, 1_000_000)
    assert stored[run_id, 1, 2] == SeqRanges(((1, 1),))


def test_a_message_with_old_and_new_chunks_stores_the_new_ones(log: Log, run_id: UUID) -> None:
    log.resume(run_id, 2)
    new = log.append([chunk(run_id, 1, b"old"), chunk(run_id, 1, b"new", epoch=2)])
    assert [one.data for one in new] == [b"new"]


@given(
    cut=st.integers(0, 40),
    cursors=st.sets(st.integers(1, 40)),
    lost=st.sets(st.integers(1, 40), max_size=5),
    epochs=st.integers(1, 3),
)
@settings(deadline=None)
def test_whoever_goes_on_from_the_cursor_makes_the_log_whole(
    cut: int, cursors: set[int], lost: set[int], epochs: int
) -> None:
    """The source has 40 lines; each writer reads on from the cursor, and some of what it sent is lost or comes late."""
    store, run_id, place, sent = MemoryLogStore(), UUID(int=1), Resumed(0, None), []
    for epoch in range(1, epochs + 2):
        last = epoch == epochs + 1
        begin = int(place.cursor or 0)
        lines = range(begin + 1, (40 if last else max(cut, begin)) + 1)
        numbered = [
            chunk(run_id, place.after_seq + n, b"%d" % line, epoch=epoch, cursor=str(line) if line in cursors else None)
            for n, line in enumerate(lines, start=1)
        ]
        store.append(None, blocks_of(one for one in numbered if last or one.seq not in lost))
        store.append(None, blocks_of(sent))
        sent = numbered
        if not last:
            place = store.resume(None, run_id, 1, epoch + 1)
    assert b" ".join(one.data for one in store.read(run_id, 1)) == b" ".join(b"%d" % line for line in range(1, 41))
