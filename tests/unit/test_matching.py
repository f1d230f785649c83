"""Which lines of a log match, however its output was cut into chunks."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprieve.models.chunks import Chunk
from reprieve.models.errors import InvalidRequest
from reprieve.models.matching import LONGEST_LINE, SHOWN, Line, matching
from reprieve.workers.searching import MAX_PATTERN, compiled


def printed(*parts: tuple[str, bytes]) -> list[Chunk]:
    return [Chunk(UUID(int=1), 1, 1, seq, stream, data) for seq, (stream, data) in enumerate(parts, 1)]


def found(pattern: str, *parts: tuple[str, bytes], **options: Any) -> list[Line]:
    return list(matching(printed(*parts), compiled(pattern, **options)))


def test_a_line_that_is_cut_between_chunks_is_one_and_has_the_number_at_which_it_began() -> None:
    lines = found("broke", ("stdout", b"a\nit bro"), ("stderr", b"x\n"), ("stdout", b"ke here\nb"))
    assert [(line.number, line.seq, line.stream, line.text) for line in lines] == [(2, 3, "stdout", "it broke here")]


def test_what_follows_the_last_newline_is_a_line() -> None:
    assert [line.text for line in found("b", ("stdout", b"a\nb"))] == ["b"]
    assert [line.number for line in found("^", ("stdout", b"a\n\nb\n"))] == [1, 2, 3]
    assert found("^", ("stdout", b"")) == []


def test_colours_are_no_text_and_a_character_that_is_cut_in_two_is_whole() -> None:
    parts = ("stdout", b"\x1b[31mfai\x1b[0mled \xf0\x9f"), ("stdout", b"\x99\x82\r\n")
    assert [line.text for line in found("^failed 🙂$", *parts)] == ["failed 🙂"]
    assert [line.text for line in found("ok", ("stdout", b"\xff ok\n"))] == ["\ufffd ok"]


def test_a_pattern_heeds_capitals_unless_it_is_told_not_to() -> None:
    assert found("ERROR", ("stdout", b"error\n")) == []
    assert [line.text for line in found("ERROR", ("stdout", b"error\n"), ignore_case=True)] == ["error"]


def test_of_a_long_line_what_is_around_the_match_is_shown() -> None:
    (line,) = found("needle", ("stdout", b"x" * 5000 + b"needle" + b"y" * 5000 + b"\n"))
    assert "needle" in line.text
    assert (len(line.text), line.text[0], line.text[-1]) == (SHOWN + 4, "…", "…")
    (line,) = found("^", ("stdout", b"x" * (SHOWN + 1)))
    assert line.text == "x" * SHOWN + " …"
    (line,) = found("^", ("stdout", b"x" * SHOWN))
    assert line.text == "x" * SHOWN


def test_a_line_of_any_length_is_looked_at_in_parts_and_is_found_once() -> None:
    piece = b"x" * (LONGEST_LINE // 2)
    parts = [("stdout", piece)] * 5 + [("stdout", b"needle\n"), ("stdout", b"needle")]
    assert [line.number for line in found("needle|xx", *parts)] == [1, 2]


@given(st.lists(st.sampled_from("ab\n\r é\x1b[1m"), max_size=60), st.data())
def test_however_output_is_cut_the_same_lines_are_found(characters: list[str], data: st.DataObject) -> None:
    whole = "".join(characters).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[first:last] for first, last in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    def said(parts: list[bytes]) -> list[tuple[int, str]]:
        return [(line.number, line.text) for line in found("a", *(("stdout", part) for part in parts))]

    assert said(pieces) == said([whole])


@pytest.mark.parametrize("pattern", ["", "x" * (MAX_PATTERN + 1), "a(", "(?=a)", "\0", "(a{1000}){1000}"])
def test_what_is_no_pattern_is_refused_with_a_sentence(pattern: str) -> None:
    with pytest.raises(InvalidRequest, match="grep"):
        compiled(pattern)


def test_no_pattern_takes_long_on_a_line_that_almost_matches() -> None:
    """Of a matcher that tries again, this one would not be answered in the life of this machine."""
    assert found("^(a+)+$", ("stdout", b"a" * 5_000 + b"b\n")) == []
