"""Why numbers of a log cannot be read: each has one reason."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from reprieve.models.extents import TAIL_WAIT, Extent
from reprieve.models.gaps import Why
from reprieve.models.sequences import SeqRanges

sets = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), max_size=4).map(SeqRanges.of)
held = st.none() | st.tuples(st.integers(1, 20), st.integers(1, 20)).map(lambda pair: (min(pair), max(pair)))


@given(sets, st.none() | sets, sets, held, st.booleans(), st.sampled_from([timedelta(0), TAIL_WAIT]))
def test_each_number_has_one_reason_and_retention_goes_before_loss_before_lateness(
    stored: SeqRanges,
    archived: SeqRanges | None,
    aside: SeqRanges,
    held: tuple[int, int] | None,
    is_removed: bool,
    ended_for: timedelta,
) -> None:
    extent = Extent(ended_for, 20, stored, aside, held, archived, is_removed)
    gaps = list(extent.gaps(3, 2, 19))
    assert [number for gap in gaps for number in range(gap.first, gap.last + 1)] == list(range(2, 20))
    for gap in gaps:
        for number in range(gap.first, gap.last + 1):
            if is_removed and archived and number in archived:
                why = Why.REMOVED
            elif number in stored or (archived and number in archived):
                why = Why.LOST
            elif number in aside:
                why = Why.MISSING
            else:
                why = Why.LATE if extent.is_awaited or (held and number >= held[0]) else Why.MISSING
            assert (gap.attempt, gap.why) == (3, why)


def test_every_reason_has_words() -> None:
    assert len({why.in_words for why in Why}) == len(Why)
