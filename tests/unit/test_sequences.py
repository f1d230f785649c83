"""Sets of sequence numbers: held against Python's own sets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprieve.models.sequences import SHOWN_RANGES, SeqRanges, spans

ranges = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=6)


def numbers(given_ranges: list[tuple[int, int]]) -> set[int]:
    return {number for first, last in given_ranges for number in range(first, last + 1)}


def members(ranges: SeqRanges) -> set[int]:
    return numbers(list(ranges))


@given(ranges)
def test_a_set_holds_the_numbers_of_its_ranges_as_few_ranges(one: list[tuple[int, int]]) -> None:
    made = SeqRanges.of(one)
    assert members(made) == numbers(one)
    assert made.count == len(numbers(one))
    assert made.last == max(numbers(one), default=0)
    assert bool(made) is bool(numbers(one))
    assert all(last + 1 < first for (_, last), (first, _) in zip(made.ranges, made.ranges[1:], strict=False))


@given(ranges, ranges)
def test_union_difference_and_overlap_are_those_of_sets(
    one: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    mine, others = SeqRanges.of(one), SeqRanges.of(other)
    for made, expected in (
        (mine | others, numbers(one) | numbers(other)),
        (mine - others, numbers(one) - numbers(other)),
        (mine & others, numbers(one) & numbers(other)),
    ):
        assert members(made) == expected
        assert made == SeqRanges.of(made.ranges)  # Its ranges are none empty, in order and apart.
        assert SeqRanges.of((number, number) for number in expected) == made


@given(ranges, st.integers(1, 30), st.integers(0, 30))
def test_a_part_of_a_set_has_its_numbers_between_the_bounds(one: list[tuple[int, int]], first: int, more: int) -> None:
    part = SeqRanges.of(one).within(first, first + more)
    assert members(part) == numbers(one) & set(range(first, first + more + 1))
    assert part == SeqRanges.of(part.ranges)


@given(ranges, st.integers(1, 30), st.integers(0, 5))
def test_a_range_is_covered_when_each_of_its_numbers_is_there(
    one: list[tuple[int, int]], first: int, more: int
) -> None:
    assert SeqRanges.of(one).covers(first, first + more) is (set(range(first, first + more + 1)) <= numbers(one))
    assert (first in SeqRanges.of(one)) is (first in numbers(one))


@given(ranges, st.none() | st.integers(0, 40))
def test_what_is_missing_reaches_from_one_to_the_last_number_anyone_knows_of(
    one: list[tuple[int, int]], last_seq: int | None
) -> None:
    last = max(last_seq or 0, max(numbers(one), default=0))
    assert members(SeqRanges.of(one).missing(last_seq)) == set(range(1, last + 1)) - numbers(one)


@pytest.mark.parametrize(
    ("multirange", "read"),
    [(None, ()), ("{}", ()), ("{[1,5)}", ((1, 4),)), ("{[1,5),[7,8)}", ((1, 4), (7, 7)))],
)
def test_the_databases_form_is_half_open(multirange: str | None, read: tuple[tuple[int, int], ...]) -> None:
    assert SeqRanges.from_multirange(multirange).ranges == read


@pytest.mark.parametrize(("one", "told"), [([], "none"), ([(1, 1)], "1"), ([(1, 4), (7, 7), (9, 10)], "1-4, 7, 9-10")])
def test_a_set_is_told_by_its_ranges(one: list[tuple[int, int]], told: str) -> None:
    assert str(SeqRanges.of(one)) == told


@pytest.mark.parametrize(("more", "shown"), [(0, ""), (1, "; more=1")])
def test_only_so_many_ranges_are_shown_and_of_the_others_their_number(more: int, shown: str) -> None:
    named = [(2 * number, 2 * number) for number in range(1, SHOWN_RANGES + 1 + more)]
    told = ", ".join(str(first) for first, _ in named[:SHOWN_RANGES])
    assert SeqRanges.of(named).shown("; more={}") == told + shown


def test_the_span_of_a_key_reaches_from_its_first_number_to_its_last() -> None:
    assert spans([]) == {}
    assert spans([("a", (3, 4)), ("b", (1, 1)), ("a", (1, 2)), ("a", (2, 9))]) == {"a": (1, 9), "b": (1, 1)}


def test_the_database_is_given_whole_ranges_and_gives_back_half_open_ones() -> None:
    assert SeqRanges(((1, 4), (7, 7))).as_multirange() == "{[1,4],[7,7]}"
    assert SeqRanges().as_multirange() == "{}"


def test_of_many_ranges_twenty_are_named_and_the_others_counted() -> None:
    many = SeqRanges.of((3 * number, 3 * number) for number in range(1, 24))
    assert str(many).endswith("57, 60 and 3 more")
    assert str(SeqRanges.of(many.ranges[:20])).endswith("57, 60")
