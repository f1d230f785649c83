"""What is to be done next with the log of an attempt, and the form of its archive."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import zstandard

from reprieve.models import archive
from reprieve.models.archive import chunks_of, frames
from reprieve.models.chunks import Chunk, milliseconds
from reprieve.models.closing import KEPT_FOR, MANY_PIECES, SMALL_BYTES, Closing, Hot, may_forget, next_step
from reprieve.models.extents import TAIL_WAIT, Extent
from reprieve.models.sequences import MAX_SEQ, SeqRanges

A_MOMENT = timedelta(microseconds=1)
WHOLE, TORN = SeqRanges(((1, 5),)), SeqRanges(((1, 2), (4, 5)))
RUN = UUID(int=9)
AT = datetime(2026, 1, 1, 12, 0, 0, 7000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"is_closed": True, "ended_for": None}, Closing.DONE),
        ({"ended_for": None}, Closing.WAIT),
        ({"archived": WHOLE}, Closing.DROP),
        ({"archived": WHOLE, "ended_for": None}, Closing.WAIT),
        ({"stored": WHOLE}, Closing.STAY),
        ({"stored": WHOLE, "last_seq": None}, Closing.WAIT),
        ({"stored": WHOLE, "last_seq": 6}, Closing.WAIT),
        ({}, Closing.WAIT),
        ({"ended_for": TAIL_WAIT - A_MOMENT}, Closing.WAIT),
        ({"ended_for": TAIL_WAIT}, Closing.STAY),
        ({"ended_for": TAIL_WAIT, "last_seq": None}, Closing.STAY),
        ({"ended_for": TAIL_WAIT, "held": (9, 9)}, Closing.WAIT),
        ({"stored": WHOLE, "held": (9, 9)}, Closing.STAY),
    ],
)
def test_a_log_is_closed_when_it_is_whole_or_its_tail_was_waited_for(changes: dict[str, Any], step: Closing) -> None:
    usual = {"ended_for": timedelta(0), "last_seq": 5, "stored": TORN}
    log = Extent(**(usual | changes))
    assert next_step(log, Hot(1, log.stored.count, 100)) is step
    large = Closing.ARCHIVE if step is Closing.STAY else step
    assert next_step(log, Hot(1, log.stored.count, SMALL_BYTES + 1)) is large


@pytest.mark.parametrize(
    ("hot", "step"),
    [
        (Hot(1, 5, SMALL_BYTES), Closing.STAY),
        (Hot(1, 5, SMALL_BYTES + 1), Closing.ARCHIVE),
        (Hot(MANY_PIECES - 1, 5, 100), Closing.STAY),
        (Hot(MANY_PIECES, 5, 100), Closing.ARCHIVE),
        (Hot(1, 4, 100), Closing.ARCHIVE),
        (Hot(), Closing.ARCHIVE),
    ],
)
def test_a_log_stays_in_the_database_if_it_is_small_and_all_of_it_is_there(hot: Hot, step: Closing) -> None:
    assert next_step(Extent(timedelta(0), 5, WHOLE), hot) is step


def test_a_log_without_a_chunk_stays_where_there_is_nothing() -> None:
    assert next_step(Extent(timedelta(0), 0), Hot()) is Closing.STAY


def test_what_is_awaited_or_held_is_late_and_the_rest_is_missing() -> None:
    gaps = SeqRanges(((3, 4), (8, 20)))
    awaited, over = timedelta(0), TAIL_WAIT
    assert Extent(awaited).late(gaps) == Extent(awaited, held=(9, 9)).late(gaps) == gaps
    assert Extent(over, held=(9, 12)).late(gaps).ranges == ((9, 20),)
    assert Extent(over, held=(9, 12)).late(SeqRanges(((MAX_SEQ, MAX_SEQ),))).last == MAX_SEQ
    assert Extent(over).late(gaps) == SeqRanges()


@pytest.mark.parametrize(
    ("changes", "may"),
    [
        ({}, True),
        ({"ended_for": None}, False),
        ({"closed": False}, False),
        ({"termination_owed": True}, False),
        ({"stored": TORN}, False),
        ({"last_seq": None}, False),
        ({"last_seq": 6}, False),
        ({"last_seq": 6, "ended_for": KEPT_FOR - A_MOMENT}, False),
        ({"last_seq": 6, "ended_for": KEPT_FOR}, True),
        ({"last_seq": 0, "stored": SeqRanges()}, True),
        ({"stored": TORN, "ended_for": KEPT_FOR - A_MOMENT}, False),
        ({"stored": TORN, "ended_for": KEPT_FOR}, True),
        ({"last_seq": None, "ended_for": KEPT_FOR - A_MOMENT}, False),
        ({"last_seq": None, "ended_for": KEPT_FOR}, True),
        ({"termination_owed": True, "ended_for": KEPT_FOR}, False),
    ],
)
def test_what_a_host_keeps_goes_when_all_is_stored_or_after_a_week(changes: dict[str, Any], may: bool) -> None:
    usual = {
        "ended_for": timedelta(0),
        "last_seq": 5,
        "stored": WHOLE,
        "closed": True,
        "termination_owed": False,
    }
    assert may_forget(**(usual | changes)) is may


# -- the archive


def chunk(seq: int, data: bytes, cursor: str | None = None) -> Chunk:
    return Chunk(RUN, 2, 0, seq, "stderr", data, cursor, milliseconds(AT))


def lines(data: bytes) -> Iterable[dict[str, Any]]:
    return map(json.loads, zstandard.ZstdDecompressor().decompress(data).splitlines())


def test_an_archive_gives_back_the_chunks_that_were_put_in() -> None:
    chunks = [chunk(4, "grün".encode(), "17"), chunk(5, b"\xff\x00", "19"), chunk(7, b"")]
    (frame,) = frames(chunks)
    assert (frame.first_seq, frame.last_seq) == (4, 7)
    assert chunks_of(RUN, 2, frame.data) == chunks
    assert list(lines(frame.data)) == [
        {"seq": 4, "at": "2026-01-01T12:00:00.007+00:00", "stream": "stderr", "text": "grün", "cursor": "17"},
        {"seq": 5, "at": "2026-01-01T12:00:00.007+00:00", "stream": "stderr", "base64": "/wA=", "cursor": "19"},
        {"seq": 7, "at": "2026-01-01T12:00:00.007+00:00", "stream": "stderr", "text": ""},
    ]


@pytest.mark.parametrize(("more", "made"), [(0, [(1, 2), (3, 4), (5, 6)]), (1, [(1, 3), (4, 6)])])
def test_a_frame_is_closed_when_it_is_large_enough_and_has_a_checksum(
    more: int, made: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "FRAME_BYTES", 2 * len(archive._line(chunk(1, b"x"))) + more)
    made_of = list(frames(chunk(seq, b"x") for seq in range(1, 7)))
    assert [(one.first_seq, one.last_seq) for one in made_of] == made
    assert all(zstandard.get_frame_parameters(one.data).has_checksum for one in made_of)
    assert [found.seq for one in made_of for found in chunks_of(RUN, 2, one.data)] == list(range(1, 7))


def test_a_log_without_a_chunk_has_no_frame() -> None:
    assert list(frames([])) == []


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"no zstd", "ZstdError"), (zstandard.compress(b'{"seq": "x"}\n'), "ValidationError")],
)
def test_bytes_that_are_no_frame_are_refused_by_their_kind(data: bytes, kind: str) -> None:
    with pytest.raises(ValueError, match=f"^{kind}$"):
        chunks_of(RUN, 2, data)
