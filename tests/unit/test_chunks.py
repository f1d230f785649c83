"""Chunks: how output is cut, the blocks that hold it, and the message that carries them."""

import contextlib
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from reprieve.models.chunks import (
    COMPRESS_FROM,
    MAX_BLOCK_BYTES,
    MAX_CHUNK_BYTES,
    MAX_CURSOR_LENGTH,
    Block,
    Chunk,
    blocks_of,
    check_cursor,
    check_stream,
    split_output,
)
from reprieve.models.errors import InvalidBlock, InvalidChunk, InvalidMessage
from reprieve.models.messages import MESSAGE_VERSION, decode_message, describe, encode_message
from reprieve.models.sequences import MAX_SEQ, SeqRanges

RUN, OTHER_RUN = UUID(int=1), UUID(int=2)
SECRET = "hunter2-the-payload"

names = st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True)
cursors = st.none() | st.text(max_size=20)
chunks = st.builds(
    Chunk,
    run_id=st.uuids(),
    attempt=st.integers(1, 3),
    epoch=st.integers(1, 3),
    seq=st.integers(1, MAX_SEQ),
    stream=names,
    data=st.binary(max_size=200),
    cursor=cursors,
    at=st.integers(0, 2**42),
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
    assert [len(piece) for piece in split_output(b"x" * size)] == sizes


def test_64_kib_is_what_a_chunk_may_hold() -> None:
    assert MAX_CHUNK_BYTES == 65_536


def test_the_pieces_put_together_are_the_output() -> None:
    output = bytes(number % 251 for number in range(2 * MAX_CHUNK_BYTES + 7))
    assert b"".join(split_output(output)) == output


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_bytes_is_taken(kind: type) -> None:
    assert list(split_output(kind(b"a\xff\0b"))) == [b"a\xff\0b"]


def test_a_view_of_numbers_is_cut_by_its_bytes() -> None:
    numbers = memoryview(bytes(8 * MAX_CHUNK_BYTES)).cast("Q")
    assert [len(piece) for piece in split_output(numbers)] == [MAX_CHUNK_BYTES] * 8


def test_text_is_stored_as_utf_8() -> None:
    assert list(split_output("Grüße\0")) == [b"Gr\xc3\xbc\xc3\x9fe\0"]


def test_text_that_python_made_of_undecodable_bytes_becomes_those_bytes_again() -> None:
    assert list(split_output(b"caf\xe9".decode(errors="surrogateescape"))) == [b"caf\xe9"]


def test_text_with_half_a_surrogate_pair_is_refused_where_the_mistake_is() -> None:
    with pytest.raises(InvalidChunk, match="chunk"):
        split_output("\ud800")


@pytest.mark.parametrize("stream", ["stdout", "a", "a" * 32, "k8s-pod_1"])
def test_a_stream_name_of_up_to_32_plain_characters_is_taken(stream: str) -> None:
    check_stream(stream)


@pytest.mark.parametrize("stream", ["", "a" * 33, "1st", "-a", "Stdout", "a b", "a\n", "a\0", "ä", None, 1, b"stdout"])
def test_any_other_stream_name_is_refused_where_the_mistake_is(stream: Any) -> None:
    with pytest.raises(InvalidChunk, match=r"stream .* use lower-case letters, digits, '-' and '_'"):
        check_stream(stream)


@pytest.mark.parametrize(("output", "kind"), [(None, "NoneType"), (1, "int"), (["x"], "list")])
def test_what_is_neither_bytes_nor_text_is_refused_by_its_type(output: Any, kind: str) -> None:
    with pytest.raises(InvalidChunk, match=f"chunk is of type {kind}; give bytes or str"):
        split_output(output)


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


# -- blocks


def unpacked(blocks: Sequence[Block]) -> list[Chunk]:
    return [one for block in blocks for one in block.chunks()]


def of_run(data: list[bytes], first_seq: int = 1) -> list[Chunk]:
    return [chunk(seq, text) for seq, text in enumerate(data, first_seq)]


def test_chunks_that_follow_each_other_are_one_block_and_a_gap_begins_another() -> None:
    batch = [chunk(3), chunk(1, run_id=OTHER_RUN), chunk(1), chunk(2), chunk(5), chunk(1, attempt=2, epoch=2)]
    blocks = blocks_of(batch)
    places = [(one.run_id, one.attempt, one.epoch, one.first_seq, one.last_seq) for one in blocks]
    assert places == [(RUN, 1, 1, 1, 3), (RUN, 1, 1, 5, 5), (RUN, 2, 2, 1, 1), (OTHER_RUN, 1, 1, 1, 1)]


def test_of_a_number_that_comes_twice_the_first_counts() -> None:
    assert unpacked(blocks_of([chunk(1, b"first"), chunk(1, b"again")])) == [chunk(1, b"first")]


@pytest.mark.parametrize(("size", "compressed"), [(COMPRESS_FROM // 2, False), (4 * COMPRESS_FROM, True)])
def test_a_block_is_compressed_where_that_pays(size: int, compressed: bool) -> None:
    (block,) = blocks_of([chunk(1, b"x" * size)])
    assert (len(block.payload) < size) is compressed
    assert unpacked([block]) == [chunk(1, b"x" * size)]


def test_what_does_not_get_smaller_is_not_compressed() -> None:
    noise = random.Random(1).randbytes(2000)
    (block,) = blocks_of([chunk(1, noise)])
    assert noise in block.payload


@given(
    st.lists(st.binary(max_size=60), min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(1, 25), st.integers(1, 25))),
)
def test_a_block_is_cut_to_exactly_what_is_wanted(data: list[bytes], ranges: list[tuple[int, int]]) -> None:
    given_chunks = of_run(data, first_seq=3)
    wanted = SeqRanges.of(ranges)
    (block,) = blocks_of(given_chunks)
    assert unpacked(block.cut(wanted)) == [one for one in given_chunks if one.seq in wanted]


@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=20), st.data())
def test_a_damaged_compressed_block_is_refused_and_never_read_as_other_bytes(
    data: list[bytes], draw: st.DataObject
) -> None:
    (block,) = blocks_of(of_run([*data, b"x" * COMPRESS_FROM]))
    place = draw.draw(st.integers(0, len(block.payload) - 1))
    damaged = bytearray(block.payload)
    damaged[place] ^= 1 << draw.draw(st.integers(0, 7))
    with contextlib.suppress(InvalidBlock):
        assert replace(block, payload=bytes(damaged)).chunks() == block.chunks()


@pytest.mark.parametrize("last_seq", [1, 3])
def test_a_block_that_does_not_hold_what_it_says_is_refused(last_seq: int) -> None:
    (block,) = blocks_of([chunk(1), chunk(2)])
    with pytest.raises(InvalidBlock, match=f"it holds 2 chunks, not {last_seq}"):
        replace(block, last_seq=last_seq).check()


@pytest.mark.parametrize("payload", [b"", SECRET.encode(), b"\xdd\0\0\0\1\x90", b"\xdd\xff\xff\xff\xff"])
def test_what_is_no_block_is_refused_without_a_word_of_it(payload: bytes) -> None:
    with pytest.raises(InvalidBlock) as refused:
        Block(RUN, 1, 1, 1, 1, payload).check()
    assert SECRET not in str(refused.value)


def test_a_block_that_would_fill_the_memory_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(MAX_BLOCK_BYTES + 1))
    with pytest.raises(InvalidBlock, match="too large"):
        Block(RUN, 1, 1, 1, 1, bomb).check()


# -- the message


@given(st.lists(chunks, max_size=10, unique_by=lambda one: (one.run_id, one.attempt, one.epoch, one.seq)))
def test_a_message_carries_any_bytes_and_cursors_there_and_back(batch: list[Chunk]) -> None:
    decoded = unpacked(decode_message(encode_message(blocks_of(batch))))
    assert sorted(decoded, key=repr) == sorted(batch, key=repr)


@pytest.mark.row("F08")
def test_a_message_of_the_version_before_is_still_read() -> None:
    """As the first version sent it: each run once, with its chunks."""
    runs = [[RUN.bytes, 1, 1, [[2, "stderr", b"\xff", "7"], [1, "stdout", b"a", None]]], [OTHER_RUN.bytes, 2, 5, []]]
    read = unpacked(decode_message({"version": 1, "runs": runs}))
    assert read == [chunk(1, b"a"), Chunk(RUN, 1, 1, 2, "stderr", b"\xff", "7")]


def refusal(message: Any) -> str:
    with pytest.raises(InvalidMessage) as refused:
        decode_message(message)
    return str(refused.value)


def of_this_version(blocks: Any) -> dict[str, Any]:
    return {"version": MESSAGE_VERSION, "blocks": blocks}


def of_version_1(runs: Any) -> dict[str, Any]:
    return {"version": 1, "runs": runs}


@pytest.mark.parametrize("version", [0, MESSAGE_VERSION + 1, None])
def test_a_message_of_another_version_is_refused_with_both_versions(version: Any) -> None:
    assert refusal({"version": version, "runs": []}) == (
        f"A log message of version {version}; this worker reads versions 1 to {MESSAGE_VERSION}."
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
        {"version": 1},
        of_this_version(None),
        of_this_version(SECRET),
        of_this_version([SECRET]),
        of_this_version([[RUN.bytes, 1, 1, 1, 1]]),
        of_this_version([[b"short", 1, 1, 1, 1, b"x"]]),
        of_this_version([[SIXTEEN, 1, 1, 1, 1, b"x"]]),
        of_this_version([[RUN.bytes, SECRET, 1, 1, 1, b"x"]]),
        of_this_version([[RUN.bytes, True, 1, 1, 1, b"x"]]),
        of_this_version([[RUN.bytes, 1, 1.0, 1, 1, b"x"]]),
        of_this_version([[RUN.bytes, 1, 1, 1, 1, SECRET]]),
        of_this_version([[RUN.bytes, 1, 1, 0, 1, b"x"]]),
        of_this_version([[RUN.bytes, 1, 1, 2, 1, b"x"]]),
        of_this_version([[RUN.bytes, 1, 1, 1, MAX_SEQ + 1, b"x"]]),
        of_this_version([[RUN.bytes, 2**31, 1, 1, 1, b"x"]]),
        of_this_version([[RUN.bytes, 1, -1, 1, 1, b"x"]]),
        of_version_1([[RUN.bytes, 1, 1, [[0, "stdout", b"x", None]]]]),
        of_version_1([[RUN.bytes, 2**31, 1, [GOOD_ENTRY]]]),
        of_version_1(None),
        of_version_1(7),
        of_version_1(SECRET),
        of_version_1([SECRET]),
        of_version_1([[RUN.bytes, 1, 1]]),
        of_version_1([[b"short", 1, 1, [GOOD_ENTRY]]]),
        of_version_1([[None, 1, 1, [GOOD_ENTRY]]]),
        of_version_1([[SIXTEEN, 1, 1, [GOOD_ENTRY]]]),
        of_version_1([[RUN.bytes, SECRET, 1, [GOOD_ENTRY]]]),
        of_version_1([[RUN.bytes, 1, None, [GOOD_ENTRY]]]),
        of_version_1([[RUN.bytes, float("inf"), 1, [GOOD_ENTRY]]]),
        of_version_1([[RUN.bytes, 1, 1, [[1, "stdout", b"x"]]]]),
        of_version_1([[RUN.bytes, 1, 1, [[SECRET, "stdout", b"x", None]]]]),
        of_version_1([[RUN.bytes, 1, 1, [[1, "stdout", SECRET, None]]]]),
        of_version_1([[RUN.bytes, 1, 1, [[1, "stdout", 5, None]]]]),
        of_version_1([[RUN.bytes, 1, 1, [[1, "stdout", None, None]]]]),
        of_version_1([[RUN.bytes, 1, 1, [[1, None, b"x", None]]]]),
        of_version_1([[RUN.bytes, 1, 1, [[1, "stdout", b"x", {SECRET: 1}]]]]),
        of_version_1([[RUN.bytes, "1", 1, [GOOD_ENTRY]]]),
        of_version_1([[RUN.bytes, True, 1, [GOOD_ENTRY]]]),
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
        read = [one.data for one in unpacked(decode_message(of_version_1(runs)))]
        assert sorted(read) == sorted(data for *_, entries in runs for _, _, data, _ in entries)


@given(garbage)
def test_garbage_of_this_version_is_refused(blocks: Any) -> None:
    with contextlib.suppress(InvalidMessage):
        assert decode_message(of_this_version(blocks)) == []


# -- what may be shown


def described(batch: list[Chunk]) -> str:
    return describe(blocks_of(batch))


def test_the_description_of_a_message_shows_its_place_and_size_and_none_of_its_text() -> None:
    batch = [chunk(4, SECRET.encode()), chunk(3, b"12345"), chunk(1, SECRET.encode(), run_id=OTHER_RUN)]
    size = sum(len(block.payload) for block in blocks_of(batch))
    assert described(batch) == f"({RUN} attempt 1 seq 3-4 and 1 more: 3 chunks, {size} bytes)"


@given(st.lists(st.binary(min_size=4, max_size=20).map(lambda data: b"\xff" + data), min_size=1, max_size=5))
def test_no_description_depends_on_the_text(texts: list[bytes]) -> None:
    # Where nothing is compressed; the size of what is may tell how well it compresses.
    batch = [chunk(seq, text) for seq, text in enumerate(texts, 1)]
    blank = [chunk(seq, bytes(len(text))) for seq, text in enumerate(texts, 1)]
    assert described(batch) == described(blank)


def test_a_message_without_chunks_can_be_described() -> None:
    assert described([]) == "(no chunk)"


def test_two_attempts_of_one_run_are_described_apart() -> None:
    assert described([chunk(9, attempt=1), chunk(1, attempt=2)]).startswith(
        f"({RUN} attempt 1 seq 9-9 and 1 more: 2 chunks"
    )
