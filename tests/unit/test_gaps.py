"""Why numbers of a log cannot be read: each is sorted under one reason."""

from hypothesis import given
from hypothesis import strategies as st

from reprieve.models.gaps import Why, sort_out
from reprieve.models.sequences import SeqRanges

sets = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), max_size=4).map(SeqRanges.of)


def numbers(ranges: SeqRanges) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


@given(sets, sets, sets, sets, st.booleans())
def test_each_number_has_one_reason_and_retention_goes_before_loss_before_lateness(
    gap: SeqRanges, stored: SeqRanges, archived: SeqRanges, late: SeqRanges, is_removed: bool
) -> None:
    sorted_out = sort_out(gap, stored=stored, archived=archived, is_removed=is_removed, late=late)
    for number in numbers(gap):
        if is_removed and number in archived:
            why = Why.REMOVED
        elif number in stored or number in archived:
            why = Why.LOST
        else:
            why = Why.LATE if number in late else Why.MISSING
        assert [one for one in Why if number in sorted_out[one]] == [why]
    assert set().union(*map(numbers, sorted_out.values())) == numbers(gap)


def test_every_reason_has_words() -> None:
    assert len({why.told for why in Why}) == len(Why)
