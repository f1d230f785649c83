"""Masking: the same however the stream is cut, nothing of a secret gives it away, and the rest is as it was."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reprieve.adapters.masking import MASK, Masker, patterns_of

#: Few letters, so that secrets overlap, contain and begin one another, and stand in the text by chance.
letters = st.sampled_from(b"ab\n")
texts = st.lists(letters, max_size=60).map(bytes)
patterns = st.lists(st.lists(letters, min_size=2, max_size=7).map(bytes), min_size=1, max_size=4)
cuts = st.lists(st.integers(0, 60), max_size=12)


def pieces(text: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    return [text[start:stop] for start, stop in pairwise(edges)]


def masked(patterns: Sequence[bytes], *pieces: bytes) -> bytes:
    masker = Masker(patterns)
    return b"".join([masker.feed(piece) for piece in pieces] + [masker.flush()])


def described(patterns: Sequence[bytes], text: bytes) -> bytes:
    """What masking means, byte by byte: each connected place that a pattern covers becomes one mask."""
    covered, begins = [False] * len(text), [False] * len(text)
    reach = 0
    for start in range(len(text)):
        lengths = [len(pattern) for pattern in patterns if text.startswith(pattern, start)]
        if lengths:
            begins[start] = start >= reach
            reach = max(reach, start + max(lengths))
        covered[start] = start < reach
    return b"".join(MASK if begins[at] else b"" if covered[at] else text[at : at + 1] for at in range(len(text)))


@given(patterns, texts, cuts)
@example([b"abab", b"baba"], b"ababababab", [3, 4, 5, 9])
@example([b"aaaa"], b"aaaaaaaaaab", [1, 5, 6])
@example([b"abab", b"abababb"], b"ababaa", [5])
def test_any_cutting_gives_the_mask_of_all_that_a_secret_covers(
    patterns: list[bytes], text: bytes, cuts: list[int]
) -> None:
    assert masked(patterns, *pieces(text, cuts)) == described(patterns, text)


@given(patterns, texts, cuts)
def test_no_secret_is_in_the_output(patterns: list[bytes], text: bytes, cuts: list[int]) -> None:
    output = masked(patterns, *pieces(text, cuts))
    assert [pattern for pattern in patterns if pattern in output] == []


@given(patterns, st.binary(), cuts)
def test_bytes_in_which_no_secret_stands_pass_unchanged(patterns: list[bytes], data: bytes, cuts: list[int]) -> None:
    without = data.translate(None, delete=b"ab")
    keeps = [pattern for pattern in patterns if b"a" in pattern]
    assert masked(keeps, *pieces(without, cuts)) == without


@given(patterns, texts, cuts, st.integers(0, 12))
def test_a_reader_that_begins_after_what_was_given_gives_the_rest(
    patterns: list[bytes], text: bytes, cuts: list[int], given_up_after: int
) -> None:
    read = pieces(text, cuts)[:given_up_after]
    masker = Masker(patterns)
    before = b"".join(masker.feed(piece) for piece in read)
    place = sum(map(len, read)) - masker.held
    assert before + masked(patterns, text[place:]) == masked(patterns, text)


@given(patterns, texts, cuts)
def test_what_is_held_back_is_a_beginning_or_would_lengthen_a_mask(
    patterns: list[bytes], text: bytes, cuts: list[int]
) -> None:
    masker = Masker(patterns)
    for piece in pieces(text, cuts):
        masker.feed(piece)
    held = text[len(text) - masker.held :]
    ends = [held[at:] for at in range(len(held))]
    assert not held or any(pattern.startswith(end) and pattern != end for pattern in patterns for end in ends)
    if not any(pattern in held for pattern in patterns):
        assert len(held) < max(map(len, patterns))


# -- single cases


def test_a_secret_across_an_edge_is_masked_and_what_was_held_back_comes_with_it() -> None:
    masker = Masker([b"hunter2"])
    assert [masker.feed(b"it is hun"), masker.held] == [b"it is ", 3]
    assert [masker.feed(b"ter2!\n"), masker.held] == [b"***!\n", 0]
    assert masker.flush() == b""


def test_a_beginning_that_stays_one_comes_when_it_is_disproved_or_at_the_end() -> None:
    masker = Masker([b"hunter2"])
    assert [masker.feed(b"a hunt"), masker.feed(b"ed hunt"), masker.flush()] == [b"a ", b"hunted ", b"hunt"]


def test_after_a_flush_a_masker_is_as_new() -> None:
    masker = Masker([b"hunter2"])
    assert [masker.feed(b"hunt"), masker.flush(), masker.feed(b"er2"), masker.held] == [b"", b"hunt", b"er2", 0]


@pytest.mark.parametrize(
    ("patterns", "text", "output"),
    [
        ([b"abcd", b"cdef"], b"<abcdef>", b"<***>"),
        ([b"abcd", b"abcdef"], b"<abcd><abcdef>", b"<***><***>"),
        ([b"bcde", b"abcdefg"], b"<abcdefX>", b"<a***fX>"),
        ([b"abcd"], b"abcdabcd", b"******"),
        ([b"abab"], b"<ababab>", b"<***>"),
        ([b"\xff\x00\xfe\x00"], b"\x00\xff\x00\xfe\x00\xff", b"\x00***\xff"),
    ],
    ids=["overlapping", "prefix of another", "inside another", "beside itself", "over itself", "any bytes"],
)
def test_secrets_that_touch(patterns: list[bytes], text: bytes, output: bytes) -> None:
    assert masked(patterns, text) == output
    assert masked(patterns, *(bytes([byte]) for byte in text)) == output


def test_without_secrets_a_piece_is_given_back_itself() -> None:
    masker, piece = Masker(), b"any bytes at all"
    assert masker.feed(piece) is piece
    assert (masker.held, masker.flush()) == (0, b"")


def test_an_empty_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="a pattern is empty; leave it out"):
        Masker([b"abcd", b""])


def test_a_mask_without_end_takes_no_memory_and_is_one() -> None:
    masker = Masker([b"aaaa"])
    assert {masker.feed(b"a" * 1000) for _ in range(100)} == {b""}
    assert (masker.held, len(masker._pending)) == (100_000, 3)
    assert masker.feed(b"b") == b"***b"


# -- what to look for


@pytest.mark.parametrize(
    ("value", "patterns"),
    [
        ("hunter2", {b"hunter2"}),
        ("  hunter2\r\n", {b"hunter2"}),
        ("Grüße", {"Grüße".encode()}),
        ("BEGIN\n  MIIEow\nend\n\nlast!", {b"BEGIN\n  MIIEow\nend\n\nlast!", b"BEGIN", b"MIIEow", b"last!"}),
        ("a\nb\nc", {b"a\nb\nc"}),
        ("äöü", set()),
        ("\udcff\udcfe..", {b"\xff\xfe.."}),
    ],
    ids=["word", "white space around", "text", "lines", "short lines", "three characters", "no text"],
)
def test_a_secret_is_looked_for_as_a_whole_and_by_its_lines(value: str, patterns: set[bytes]) -> None:
    assert patterns_of(value) == patterns


@pytest.mark.parametrize("shown", [str, lambda key: key.replace("\n", "\r\n"), lambda key: key.replace("\n", "\n    ")])
def test_a_key_of_many_lines_is_masked_however_its_lines_are_shown(shown: Callable[[str], str]) -> None:
    lines = ["-----BEGIN KEY-----", "MIIEowIBAAKCAQEA", "n0t4r3alk3y", "-----END KEY-----"]
    output = masked(sorted(patterns_of("\n".join(lines))), b"key: ", shown("\n".join(lines)).encode(), b"\n")
    assert [line for line in lines if line.encode() in output] == []
    assert output.startswith(b"key: ***")
