"""Reading a Pod's log on from a cursor in it: nothing is lost and nothing comes twice, wherever it was cut."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprieve.adapters.kubernetes.cursors import LogCursor, Resumption, format_timestamp, parse_timestamp

SECOND = 1_000_000_000
START = parse_timestamp(b"2026-11-24T10:00:00Z") or 0
BEGIN = LogCursor("pod", "uid")

#: An entry of the log: when it was written down, and what; without a line end it is a part of a line.
Entry = tuple[int, bytes]


def answer(entries: Iterable[Entry], since: str | None) -> bytes:
    """What a kubelet gives: `sinceTime` is compared with each entry, and a time stands where a line begins."""
    begin = 0 if since is None else parse_timestamp(since.encode()) or 0
    given, is_new_line = [], True
    for at, text in entries:
        if at >= begin:
            given.append(format_timestamp(at).encode() + b" " + text if is_new_line else text)
        is_new_line = text.endswith(b"\n")
    return b"".join(given)


def read(cursor: LogCursor, data: bytes, pieces: int = 1 << 20) -> tuple[bytes, LogCursor]:
    resumption = Resumption(cursor)
    new = b"".join(resumption.feed(data[start : start + pieces]) for start in range(0, len(data), pieces))
    return new, resumption.cursor


def texts(entries: Sequence[Entry]) -> bytes:
    return b"".join(text for _, text in entries)


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    """Lines of one or more parts; many with the same time, some a little older than the one before."""
    entries: list[Entry] = []
    at = START
    for _ in range(draw(st.integers(0, 12))):
        parts = draw(
            st.lists(st.binary(min_size=1, max_size=6).map(lambda text: text.replace(b"\n", b"n")), max_size=3)
        )
        for part in [*parts[:-1], b"".join(parts[-1:]) + b"\n"]:
            at += draw(st.sampled_from([0, 0, 1, SECOND // 2, 3 * SECOND]))
            entries.append((at - draw(st.sampled_from([0, 0, 0, 1, 1000])), part))
    return entries


@given(logs(), st.data())
def test_whatever_is_cut_and_wherever_reading_on_gives_each_byte_once(
    entries: list[Entry], data: st.DataObject
) -> None:
    cursor, got = BEGIN, b""
    for _ in range(data.draw(st.integers(0, 4))):
        given_now = answer(entries, cursor.since)
        cut = data.draw(st.integers(0, len(given_now)))
        new, cursor = read(cursor, given_now[:cut], data.draw(st.integers(1, 40)))
        got += new
        cursor = LogCursor.decode(cursor.encode())
    new, cursor = read(cursor, answer(entries, cursor.since))
    assert got + new == texts(entries)
    assert read(cursor, answer(entries, cursor.since)) == (b"", cursor)


def test_a_cursor_says_which_pod_which_time_and_how_many_lines_had_it() -> None:
    entries = [(START, b"a\n"), (START + 5, b"b\n"), (START + 5, b"c\n")]
    _, cursor = read(BEGIN, answer(entries, None))
    assert cursor.encode() == "pod/uid/2026-11-24T10:00:00.000000005Z/2/0"
    assert cursor.since == "2026-11-24T09:59:59Z"


def test_of_lines_with_the_same_time_those_that_were_given_are_passed_over() -> None:
    entries = [(START, text) for text in (b"a\n", b"b\n", b"c\n", b"d\n")]
    _, cursor = read(BEGIN, answer(entries[:2], None))
    assert read(cursor, answer(entries, cursor.since))[0] == b"c\nd\n"


def test_a_line_that_is_written_down_late_is_not_lost() -> None:
    entries = [(START + 9, b"a\n"), (START + 3, b"late\n"), (START + 20, b"b\n")]
    for cut in range(len(entries) + 1):
        got, cursor = read(BEGIN, answer(entries[:cut], None))
        assert got + read(cursor, answer(entries, cursor.since))[0] == texts(entries)


def test_after_a_rotation_all_that_is_newer_is_new() -> None:
    _, cursor = read(BEGIN, answer([(START, b"a\n"), (START + 1, b"b\n")], None))
    assert read(cursor, answer([(START + 2, b"c\n"), (START + 2, b"d\n")], cursor.since))[0] == b"c\nd\n"


def test_a_rotation_is_noticed_by_what_was_given_and_is_not_there_any_more() -> None:
    _, cursor = read(BEGIN, answer([(START, b"a\n"), (START, b"b\n")], None))
    reading = Resumption(cursor)
    reading.feed(answer([(START, b"b\n"), (START + 2, b"c\n")], cursor.since))
    assert reading.rotated_at == START + 2
    reading = Resumption(cursor)
    reading.feed(answer([(START, b"a\n"), (START, b"b\n"), (START + 2, b"c\n")], cursor.since))
    assert reading.rotated_at is None


def test_lines_that_are_too_old_to_be_asked_for_are_no_sign_of_a_rotation() -> None:
    late = START - 3 * SECOND
    _, cursor = read(BEGIN, answer([(START, b"a\n"), (late, b"late\n")], None))
    assert cursor.after == 1
    reading = Resumption(cursor)
    assert reading.feed(answer([(START, b"a\n"), (late, b"late\n"), (START + 1, b"b\n")], cursor.since)) == b"b\n"
    assert reading.rotated_at is None


def test_a_line_that_was_given_in_part_is_read_on_within_it() -> None:
    data = answer([(START, b"0123456789\n"), (START + 1, b"next\n")], None)
    new, cursor = read(BEGIN, data[: len(format_timestamp(START)) + 1 + 4])
    assert (new, cursor.given) == (b"0123", 4)
    assert read(cursor, data)[0] == b"456789\nnext\n"


def test_a_line_that_was_rotated_away_in_the_middle_does_not_shorten_the_next() -> None:
    _, cursor = read(BEGIN, format_timestamp(START).encode() + b" half of a li")
    assert cursor.given == 12
    assert read(cursor, answer([(START + 7, b"another line\n")], cursor.since))[0] == b"another line\n"


def test_what_a_node_says_in_place_of_the_log_is_not_taken_for_output() -> None:
    said = b"unable to retrieve container logs for containerd://0123456789abcdef0123456789abcdef"
    assert read(BEGIN, said) == (b"", BEGIN)
    assert read(BEGIN, b"rest of a line\n" + answer([(START, b"a\n")], None))[0] == b"a\n"
    assert read(BEGIN, b"x\n \n" + answer([(START, b"\n")], None))[0] == b"\n"


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"1970-01-01T00:00:01Z", SECOND),
        (b"1970-01-01T00:00:01.5Z", SECOND + SECOND // 2),
        (b"1970-01-01T01:00:01.000000007+01:00", SECOND + 7),
        (b"1970-13-01T00:00:01Z", None),
        (b"1970-01-01 00:00:01Z", None),
        (b"", None),
    ],
)
def test_times_are_read_to_the_nanosecond(text: bytes, nanoseconds: int | None) -> None:
    assert parse_timestamp(text) == nanoseconds


@pytest.mark.parametrize("cursor", ["", "pod/uid", "pod/uid/yesterday/1/0", "pod/uid//x/0"])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(ValueError):
        LogCursor.decode(cursor)
