"""Chunks: how output is cut, and the message that carries it."""

import contextlib
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.chunks import (
    MAX_CHUNK_BYTES,
    MAX_CURSOR_LENGTH,
    MESSAGE_VERSION,
    Chunk,
    check_cursor,
    contiguous,
    decode_batch,
    describe_batch,
    encode_batch,
    split_output,
)
from models.errors import InvalidChunk, InvalidMessage

RUN, OTHER_RUN = UUID(int=1), UUID(int=2)
SECRET = "hunter2-the-payload"

names = st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True)
cursors = st.none() | st.text(max_size=20)
chunks = st.builds(
    Chunk,
    run_id=st.uuids(),
    attempt=st.integers(1, 3),
    epoch=st.integers(1, 3),
    seq=st.integers(1, 2**63 - 1),
    stream=names,
    data=st.binary(max_size=200),
    cursor=cursors,
)


def chunk(seq: int, data: bytes = b"line\n", *, run_id: UUID = RUN, attempt: int = 1, epoch: int = 1) -> Chunk:
    return Chunk(run_id, attempt, epoch, seq, "stdout", data)


# -- cutting


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (0, []),
        (1, [1]),
        (MAX_CHUNK_BYTES - 1, [MAX_CHUNK_BYTES - 1]),
        (MAX_CHUNK_BYTES, [MAX_CHUNK_BYTES]),
        (MAX_CHUNK_BYTES + 1, [MAX_CHUNK_BYTES, 1]),
        (3 * MAX_CHUNK_BYTES, [MAX_CHUNK_BYTES] * 3),
    ],
)
def test_output_is_cut_at_64_kib_and_only_there(size: int, sizes: list[int]) -> None:
    assert [len(piece) for piece in split_output("stdout", b"x" * size)] == sizes


def test_64_kib_is_what_a_chunk_may_hold() -> None:
    assert MAX_CHUNK_BYTES == 65_536


def test_the_pieces_put_together_are_the_output() -> None:
    output = bytes(number % 251 for number in range(2 * MAX_CHUNK_BYTES + 7))
    assert b"".join(split_output("stdout", output)) == output


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_bytes_is_taken(kind: type) -> None:
    assert list(split_output("stdout", kind(b"a\xff\0b"))) == [b"a\xff\0b"]


def test_a_view_of_numbers_is_cut_by_its_bytes() -> None:
    numbers = memoryview(bytes(8 * MAX_CHUNK_BYTES)).cast("Q")
    assert [len(piece) for piece in split_output("stdout", numbers)] == [MAX_CHUNK_BYTES] * 8


def test_text_is_stored_as_utf_8() -> None:
    assert list(split_output("stdout", "Grüße\0")) == [b"Gr\xc3\xbc\xc3\x9fe\0"]


def test_text_that_python_made_of_undecodable_bytes_becomes_those_bytes_again() -> None:
    assert list(split_output("stdout", b"caf\xe9".decode(errors="surrogateescape"))) == [b"caf\xe9"]


def test_text_with_half_a_surrogate_pair_is_refused_where_the_mistake_is() -> None:
    with pytest.raises(InvalidChunk, match="chunk"):
        split_output("stdout", "\ud800")


@pytest.mark.parametrize("stream", ["stdout", "a", "a" * 32, "k8s-pod_1"])
def test_a_stream_name_of_up_to_32_plain_characters_is_taken(stream: str) -> None:
    assert list(split_output(stream, b"x")) == [b"x"]


@pytest.mark.parametrize("stream", ["", "a" * 33, "1st", "-a", "Stdout", "a b", "a\n", "a\0", "ä", None, 1, b"stdout"])
def test_any_other_stream_name_is_refused_before_a_piece_is_asked_for(stream: Any) -> None:
    with pytest.raises(InvalidChunk, match=r"stream .* use lower-case letters, digits, '-' and '_'"):
        split_output(stream, b"x")


@pytest.mark.parametrize(("output", "kind"), [(None, "NoneType"), (1, "int"), (["x"], "list")])
def test_what_is_neither_bytes_nor_text_is_refused_by_its_type(output: Any, kind: str) -> None:
    with pytest.raises(InvalidChunk, match=f"chunk is of type {kind}; give bytes or str"):
        split_output("stdout", output)


# -- the cursor


@pytest.mark.parametrize("cursor", [None, "", "1048576", "2026-01-01T00:00:00.1Z ä", "x" * MAX_CURSOR_LENGTH])
def test_a_cursor_is_none_or_a_line_of_printable_text(cursor: str | None) -> None:
    check_cursor(cursor)


@pytest.mark.parametrize(
    "cursor", ["x" * (MAX_CURSOR_LENGTH + 1), "a\0b", "a\nb", "\ud800", "caf\udce9", 1, b"1", {"offset": 1}, ["a"]]
)
def test_any_other_cursor_is_refused_where_the_mistake_is(cursor: Any) -> None:
    with pytest.raises(InvalidChunk, match=f"cursor must be printable text of at most {MAX_CURSOR_LENGTH} characters"):
        check_cursor(cursor)


# -- the message


@given(st.lists(chunks, max_size=10))
def test_a_message_carries_any_bytes_and_cursors_there_and_back(batch: list[Chunk]) -> None:
    decoded = decode_batch(encode_batch(batch))
    assert sorted(decoded, key=repr) == sorted(batch, key=repr)


def test_a_message_names_each_attempt_once_and_keeps_the_order_of_its_chunks() -> None:
    batch = [chunk(2), chunk(1, run_id=OTHER_RUN), chunk(1), chunk(1, attempt=2, epoch=2), chunk(3)]
    message = encode_batch(batch)
    assert [(attempt, len(entries)) for _, attempt, _, entries in message["runs"]] == [(1, 3), (1, 1), (2, 1)]
    assert [one.seq for one in decode_batch(message) if (one.run_id, one.attempt) == (RUN, 1)] == [2, 1, 3]


def test_chunks_of_two_epochs_keep_their_own() -> None:
    batch = [chunk(1, epoch=1), chunk(2, epoch=2)]
    assert decode_batch(encode_batch(batch)) == batch


def refusal(message: Any) -> str:
    with pytest.raises(InvalidMessage) as refused:
        decode_batch(message)
    return str(refused.value)


def of_this_version(runs: Any) -> dict[str, Any]:
    return {"version": MESSAGE_VERSION, "runs": runs}


@pytest.mark.parametrize("version", [0, MESSAGE_VERSION + 1, None])
def test_a_message_of_another_version_is_refused_with_both_versions(version: Any) -> None:
    assert refusal({"version": version, "runs": []}) == (
        f"A log message of version {version}; this worker reads version {MESSAGE_VERSION}."
    )


@pytest.mark.parametrize("message", [None, [], SECRET, SECRET.encode(), 1, {}, [SECRET], {"runs": SECRET}])
def test_what_is_no_message_at_all_is_refused(message: Any) -> None:
    assert SECRET not in refusal(message)


@pytest.mark.parametrize("version", [SECRET, [SECRET], {SECRET: 1}, SECRET.encode()])
def test_a_version_that_is_no_number_is_not_quoted(version: Any) -> None:
    assert SECRET not in refusal({"version": version, "runs": []})


GOOD_ENTRY = [1, "stdout", b"x", None]
SIXTEEN = SECRET[:16]


@pytest.mark.parametrize(
    "message",
    [
        {"version": MESSAGE_VERSION},
        of_this_version(None),
        of_this_version(7),
        of_this_version(SECRET),
        of_this_version([SECRET]),
        of_this_version([[RUN.bytes, 1, 1]]),
        of_this_version([[b"short", 1, 1, [GOOD_ENTRY]]]),
        of_this_version([[None, 1, 1, [GOOD_ENTRY]]]),
        of_this_version([[SIXTEEN, 1, 1, [GOOD_ENTRY]]]),
        of_this_version([[RUN.bytes, SECRET, 1, [GOOD_ENTRY]]]),
        of_this_version([[RUN.bytes, 1, None, [GOOD_ENTRY]]]),
        of_this_version([[RUN.bytes, float("inf"), 1, [GOOD_ENTRY]]]),
        of_this_version([[RUN.bytes, 1, 1, [[1, "stdout", b"x"]]]]),
        of_this_version([[RUN.bytes, 1, 1, [[SECRET, "stdout", b"x", None]]]]),
        of_this_version([[RUN.bytes, 1, 1, [[1, "stdout", SECRET, None]]]]),
        of_this_version([[RUN.bytes, 1, 1, [[1, "stdout", 5, None]]]]),
        of_this_version([[RUN.bytes, 1, 1, [[1, "stdout", None, None]]]]),
        of_this_version([[RUN.bytes, 1, 1, [[1, None, b"x", None]]]]),
        of_this_version([[RUN.bytes, 1, 1, [[1, "stdout", b"x", {SECRET: 1}]]]]),
        of_this_version([[RUN.bytes, "1", 1, [GOOD_ENTRY]]]),
        of_this_version([[RUN.bytes, True, 1, [GOOD_ENTRY]]]),
    ],
)
def test_a_message_that_is_not_of_its_versions_form_is_refused_without_a_word_of_it(message: Any) -> None:
    text = refusal(message)
    assert SECRET[:8] not in text
    assert "not of its version's form" in text


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20)
garbage = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(scalars, inner, max_size=2))
entries = st.lists(st.tuples(scalars, scalars, scalars, scalars), min_size=1, max_size=2)
almost_right = st.lists(st.tuples(scalars | st.binary(min_size=16, max_size=16), scalars, scalars, entries), max_size=2)


@given(garbage | almost_right)
def test_garbage_is_refused_or_read_as_the_very_bytes_it_holds(runs: Any) -> None:
    with contextlib.suppress(InvalidMessage):
        read = [one.data for one in decode_batch(of_this_version(runs))]
        assert read == [data for *_, entries in runs for _, _, data, _ in entries]


# -- what may be shown


def test_the_description_of_a_message_shows_its_place_and_size_and_none_of_its_text() -> None:
    batch = [chunk(4, SECRET.encode()), chunk(3, b"12345"), chunk(1, SECRET.encode(), run_id=OTHER_RUN)]
    size = 2 * len(SECRET) + 5
    assert describe_batch(batch) == f"({RUN} attempt 1 seq 3-4 and 1 more: 3 chunks, {size} bytes)"


@given(st.lists(st.binary(min_size=4, max_size=20).map(lambda data: b"\xff" + data), min_size=1, max_size=5))
def test_no_description_depends_on_the_text(texts: list[bytes]) -> None:
    batch = [chunk(seq, text) for seq, text in enumerate(texts, 1)]
    blank = [chunk(seq, bytes(len(text))) for seq, text in enumerate(texts, 1)]
    assert describe_batch(batch) == describe_batch(blank)


def test_a_message_without_chunks_can_be_described() -> None:
    assert describe_batch([]) == "(no chunk: 0 chunks, 0 bytes)"


def test_two_attempts_of_one_run_are_described_apart() -> None:
    batch = [chunk(9, attempt=1), chunk(1, attempt=2)]
    assert describe_batch(batch) == f"({RUN} attempt 1 seq 9-9 and 1 more: 2 chunks, 10 bytes)"


# -- the part without a gap


@pytest.mark.parametrize(
    ("after", "stored", "shown"),
    [
        (0, [], []),
        (0, [1, 2, 3], [1, 2, 3]),
        (2, [3, 4], [3, 4]),
        (0, [1, 2, 4, 5], [1, 2]),
        (0, [2, 3], []),
        (3, [3, 4], []),
    ],
)
def test_a_reader_is_given_what_follows_without_a_gap(after: int, stored: list[int], shown: list[int]) -> None:
    assert [one.seq for one in contiguous(after, map(chunk, stored))] == shown
