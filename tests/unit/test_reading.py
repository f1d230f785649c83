"""How every reader follows a log: what it is given, which gap is named, when it waits, and where it ends."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprieve.models.chunks import Chunk, blocks_of
from reprieve.models.closing import Closing, Hot, next_step
from reprieve.models.extents import TAIL_WAIT, UNKNOWN_TAIL_WAIT, Extent, Extents
from reprieve.models.gaps import Gap, Why
from reprieve.models.reading import Item, Reading, Step, explained_by, seem_lost
from reprieve.models.sequences import MAX_SEQ, SeqRanges
from reprieve.models.status import Status

RUN = UUID(int=7)
MOMENT = timedelta(milliseconds=1)


def chunk(seq: int, attempt: int = 1) -> Chunk:
    return Chunk(RUN, attempt, 1, seq, "stdout", b"%d" % seq)


def numbers(*ranges: tuple[int, int]) -> SeqRanges:
    return SeqRanges.of(ranges)


RUNS_ON = Extent(ended_for=None)
JUST_ENDED = Extent(ended_for=timedelta(0))
LONG_AGO = Extent(ended_for=TAIL_WAIT)


def of_run(*logs: Extent, status: Status = Status.RUNNING) -> Extents:
    return Extents(status, len(logs), dict(enumerate(logs, start=1)))


def shown(items: list[Item]) -> list[object]:
    """Numbers of chunks, and gaps with their reasons."""
    told: list[object] = []
    for item in items:
        told += [(item.first, item.last, item.why)] if isinstance(item, Gap) else [one.seq for one in item]
    return told


def read_all(reading: Reading, known: Extents, stored: dict[int, list[int]], page: int = 1000) -> list[object]:
    """What a reader is given until it has to wait, or is at its end."""
    told: list[object] = []
    while reading.step(known) is Step.READ:
        of_attempt = [chunk(seq, reading.attempt) for seq in stored.get(reading.attempt, []) if seq > reading.seq]
        told += shown(reading.take(of_attempt[:page], known.of[reading.attempt]))
    return told


# -- while more may come


@pytest.mark.parametrize(
    ("after", "stored", "given_"),
    [
        (0, [], []),
        (0, [1, 2, 3], [1, 2, 3]),
        (2, [1, 2, 3, 4], [3, 4]),
        (0, [1, 2, 4, 5], [1, 2]),
        (0, [2, 3], []),
        (3, [1, 2, 3, 4], [4]),
        (7, [1, 2], []),
    ],
)
@pytest.mark.parametrize("page", [1, 1000])
def test_a_reader_is_given_what_follows_without_a_gap_and_waits(
    after: int, stored: list[int], given_: list[int], page: int
) -> None:
    extent = replace(RUNS_ON, stored=SeqRanges.of((seq, seq) for seq in stored))
    reading = Reading(1, after)
    assert read_all(reading, of_run(extent), {1: stored}, page) == given_
    assert (reading.attempt, reading.seq) == (1, max([after, *given_]))


def test_a_gap_that_is_filled_is_given_in_its_place_after_the_next_wait() -> None:
    known = of_run(replace(RUNS_ON, stored=numbers((1, 1), (3, 3))))
    reading = Reading()
    assert read_all(reading, known, {1: [1, 3]}) == [1]
    assert read_all(reading, known, {1: [1, 2, 3]}) == [2, 3]


def test_the_store_is_read_once_between_two_waits_where_it_has_nothing_that_follows() -> None:
    known, reading = of_run(replace(RUNS_ON, stored=numbers((2, 3)))), Reading()
    assert reading.step(known) is Step.READ
    assert reading.take([chunk(2), chunk(3)], known.of[1]) == []
    assert [reading.step(known) for _ in range(3)] == [Step.WAIT, Step.READ, Step.READ]


def test_what_is_in_quarantine_is_named_and_passed_over_and_the_rest_of_the_gap_is_waited_for() -> None:
    stored = [1, 4, 8]
    extent = replace(RUNS_ON, stored=SeqRanges.of((seq, seq) for seq in stored), aside=numbers((2, 3), (5, 6), (9, 9)))
    reading = Reading()
    assert read_all(reading, of_run(extent), {1: stored}) == [1, (2, 3, Why.MISSING), 4, (5, 6, Why.MISSING)]
    assert read_all(reading, of_run(extent), {1: [1, 4, 7, 8]}) == [7, 8, (9, 9, Why.MISSING)]


def test_quarantine_that_was_stored_after_all_is_no_gap() -> None:
    extent = replace(RUNS_ON, stored=numbers((1, 1)), aside=numbers((2, 4)))
    reading = Reading()
    assert reading.step(of_run(extent)) is Step.READ
    assert shown(reading.take([chunk(1), chunk(2)], extent)) == [1, 2, (3, 4, Why.MISSING)]


def test_a_live_block_is_taken_as_far_as_it_follows_directly() -> None:
    [block] = blocks_of([chunk(seq) for seq in (3, 4, 5)])
    for after, taken in ((1, []), (2, [3, 4, 5]), (4, [5]), (5, []), (6, [])):
        reading = Reading(1, after)
        assert [one.seq for one in reading.take_live(block)] == taken
        assert reading.seq == max([after, *taken])
    assert Reading(2, 2).take_live(block) == []


# -- the end of an attempt


@pytest.mark.parametrize(
    ("extent", "seq", "is_read"),
    [
        (replace(RUNS_ON, last_seq=5), 5, False),
        (replace(JUST_ENDED, last_seq=5), 4, False),
        (replace(JUST_ENDED, last_seq=5), 5, True),
        (replace(JUST_ENDED, ended_for=TAIL_WAIT - MOMENT, last_seq=5), 4, False),
        (replace(LONG_AGO, last_seq=5), 4, True),
        (replace(LONG_AGO, last_seq=5, held=(5, 5)), 4, False),
        (replace(LONG_AGO, last_seq=5, held=(5, 5)), 5, True),
        (replace(JUST_ENDED, last_seq=5, archived=numbers((1, 4))), 4, True),
        (replace(JUST_ENDED, ended_for=UNKNOWN_TAIL_WAIT), 0, False),
        (replace(JUST_ENDED, ended_for=UNKNOWN_TAIL_WAIT + MOMENT), 0, True),
        (replace(JUST_ENDED, ended_for=UNKNOWN_TAIL_WAIT + MOMENT, held=(1, 1)), 0, False),
        (replace(JUST_ENDED, ended_for=UNKNOWN_TAIL_WAIT + MOMENT, stored=numbers((1, 3))), 2, False),
        (replace(JUST_ENDED, ended_for=UNKNOWN_TAIL_WAIT + MOMENT, stored=numbers((1, 3))), 3, True),
        (replace(JUST_ENDED, ended_for=UNKNOWN_TAIL_WAIT + MOMENT, aside=numbers((1, 3))), 2, False),
        (replace(JUST_ENDED, ended_for=UNKNOWN_TAIL_WAIT + MOMENT, aside=numbers((1, 3))), 3, True),
    ],
)
def test_when_a_reader_need_wait_for_nothing_more(extent: Extent, seq: int, is_read: bool) -> None:
    assert extent.is_read(seq) is is_read


def test_a_gap_is_named_when_nothing_more_is_awaited_and_not_a_moment_before() -> None:
    stored = [1, 3]
    extent = replace(LONG_AGO, last_seq=5, stored=numbers((1, 1), (3, 3)))
    reading = Reading()
    waiting = of_run(replace(extent, ended_for=TAIL_WAIT - MOMENT))
    assert read_all(reading, waiting, {1: stored}) == [1]
    known = of_run(extent, status=Status.SUCCEEDED)
    assert read_all(reading, known, {1: stored}) == [(2, 2, Why.MISSING), 3, (4, 5, Why.MISSING)]
    assert reading.step(known) is Step.END


def test_attempts_follow_each_other_and_one_that_has_not_begun_is_waited_for() -> None:
    first = replace(JUST_ENDED, last_seq=2, stored=numbers((1, 2)))
    second = replace(RUNS_ON, stored=numbers((1, 1)))
    reading = Reading(1, 1)
    assert reading.step(None) is Step.WAIT
    assert read_all(reading, of_run(first, status=Status.QUEUED), {1: [1, 2]}) == [2]
    assert (reading.attempt, reading.seq) == (2, 0)
    assert reading.step(of_run(first, status=Status.QUEUED)) is Step.WAIT
    assert read_all(reading, of_run(first, second), {2: [1]}) == [1]
    ended = of_run(first, replace(second, ended_for=timedelta(0), last_seq=1), status=Status.FAILED)
    assert read_all(reading, ended, {2: [1]}) == []
    assert reading.step(ended) is Step.END


def test_a_run_that_never_began_ends_at_once_when_it_is_over() -> None:
    assert Reading().step(of_run()) is Step.WAIT
    assert Reading().step(of_run(status=Status.CANCELLED)) is Step.END


# -- what is there now


def test_who_does_not_wait_is_given_an_attempt_with_all_its_gaps() -> None:
    extent = replace(RUNS_ON, stored=numbers((2, 2), (4, 4)), aside=numbers((5, 6)))
    reading = Reading(1, 0, waits=False)
    told = shown(reading.take([chunk(2), chunk(4)], extent))
    assert told == [(1, 1, Why.LATE), 2, (3, 3, Why.LATE), 4]
    assert shown(reading.take([], extent)) == [(5, 6, Why.MISSING)]
    assert (reading.attempt, reading.seq) == (2, 0)


def test_each_gap_has_its_reason() -> None:
    extent = replace(LONG_AGO, last_seq=8, stored=numbers((1, 1), (3, 3)), aside=numbers((4, 4)), held=(6, 6))
    whole = (1, 8)
    named = [(gap.first, gap.last, gap.why) for gap in extent.gaps(1, *whole)]
    lost = [(1, 1, Why.LOST), (2, 2, Why.MISSING), (3, 3, Why.LOST), (4, 5, Why.MISSING), (6, 8, Why.LATE)]
    assert named == lost
    removed = replace(extent, archived=numbers((1, 1), (3, 3)), is_removed=True)
    assert [gap.why for gap in removed.gaps(1, 1, 1)] == [Why.REMOVED]
    awaited = replace(extent, ended_for=TAIL_WAIT - MOMENT, held=None)
    assert [(gap.first, gap.last, gap.why) for gap in awaited.gaps(1, 4, 8)] == [
        (4, 4, Why.MISSING),
        (5, 8, Why.LATE),
    ]
    assert list(extent.gaps(1, 5, 4)) == []


def test_what_seems_lost_and_was_taken_away_since_is_not_lost() -> None:
    before = replace(LONG_AGO, last_seq=3, stored=numbers((1, 3)), archived=numbers((1, 3)))
    items = Reading(1, 0, waits=False).take([], before)
    assert seem_lost(items)
    assert not seem_lost([[chunk(1)], Gap(1, 2, 2)])
    removed = replace(before, is_removed=True)
    assert shown(explained_by(before.as_of(removed), [[chunk(9)], *items])) == [9, (1, 3, Why.REMOVED)]
    cut = replace(LONG_AGO, last_seq=3, stored=numbers((1, 1)))
    told = shown(explained_by(replace(before, archived=None).as_of(cut), items))
    assert told == [(1, 1, Why.LOST), (2, 3, Why.MISSING)]
    come = replace(before, stored=numbers((1, 3)))
    assert not seem_lost(explained_by(replace(LONG_AGO, last_seq=3).as_of(come), items))


# -- whatever the pages


@given(
    stored=st.sets(st.integers(1, 30)),
    aside=st.sets(st.integers(1, 30)),
    page=st.integers(1, 40),
    last=st.integers(0, 35),
)
def test_each_number_is_given_or_named_once_and_in_order(
    stored: set[int], aside: set[int], page: int, last: int
) -> None:
    extent = replace(
        LONG_AGO,
        last_seq=last,
        stored=SeqRanges.of((seq, seq) for seq in stored),
        aside=SeqRanges.of((seq, seq) for seq in aside - stored),
    )
    known, reading = of_run(extent, status=Status.SUCCEEDED), Reading()
    told = read_all(reading, known, {1: sorted(stored)}, page)
    given_: list[int] = []
    for item in told:
        given_ += range(item[0], item[1] + 1) if isinstance(item, tuple) else [item]  # type: ignore[list-item]
    assert given_ == list(range(1, extent.end + 1))
    assert {item for item in told if isinstance(item, int)} == stored
    assert reading.step(known) is Step.END


# -- closing decides by the same extent


@pytest.mark.parametrize(
    ("extent", "step"),
    [
        (replace(RUNS_ON, stored=numbers((1, 3))), Closing.WAIT),
        (replace(JUST_ENDED, last_seq=3, stored=numbers((1, 2))), Closing.WAIT),
        (replace(JUST_ENDED, last_seq=3, stored=numbers((1, 3))), Closing.STAY),
        (replace(JUST_ENDED, last_seq=3, stored=numbers((1, 2)), aside=numbers((3, 3))), Closing.STAY),
        (replace(JUST_ENDED, last_seq=3, stored=numbers((1, 3), (5, 5))), Closing.WAIT),
        (replace(JUST_ENDED, last_seq=0), Closing.STAY),
        (replace(JUST_ENDED, ended_for=TAIL_WAIT - MOMENT), Closing.WAIT),
        (LONG_AGO, Closing.STAY),
        (replace(LONG_AGO, held=(1, 1)), Closing.WAIT),
        (replace(LONG_AGO, archived=numbers((1, 1))), Closing.DROP),
        (replace(LONG_AGO, archived=numbers()), Closing.DROP),
        (replace(LONG_AGO, archived=numbers(), is_closed=True), Closing.DONE),
    ],
)
def test_the_next_step_of_a_closing(extent: Extent, step: Closing) -> None:
    assert next_step(extent, Hot(1, extent.stored.count)) is step


def test_what_a_reader_passes_over_never_goes_beyond_the_largest_number() -> None:
    extent = replace(RUNS_ON, aside=numbers((1, MAX_SEQ)))
    assert read_all(Reading(), of_run(extent), {}) == [(1, MAX_SEQ, Why.MISSING)]
