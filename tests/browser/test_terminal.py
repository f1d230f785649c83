"""What the page shows of a run's output: beside a terminal emulator (`pyte`), and by ECMA-48 itself."""

import string
from typing import Any

import pyte
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page
from pyte import graphics

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

#: The lines of a text that came in pieces: their texts, and where which style begins.
LOAD = """
() => Promise.all([import('/page/lines.js'), import('/page/terminal.js')]).then(([{ Lines }, terminal]) => {
  window.shown = parts => {
    const lines = new Lines();
    for (const text of parts) lines.feed({ stream: 'stdout', at: '2026-11-30T03:00:00Z', text });
    lines.finish();
    return Array.from({ length: lines.count }, (_, place) => lines.line(place)).map(({ text, runs, beyond }) => [
      text, runs.map(([from, { fore, ground, flags }]) => [from, fore, ground, flags]), beyond,
    ]);
  };
  window.terminal = terminal;
})
"""
BOLD, DIM, ITALIC, UNDERLINE, STRIKE, INVERSE = (1 << bit for bit in range(6))
PLAIN = (-1, -1, 0)
RGB = 0x1000000


@pytest.fixture
def terminal(page: Page) -> Page:
    page.goto("/")
    page.evaluate(LOAD)
    return page


def shown(page: Page, *parts: str) -> list[Any]:
    lines: list[Any] = page.evaluate("parts => window.shown(parts)", list(parts))
    return lines


def texts(page: Page, *parts: str) -> list[str]:
    return [text for text, _, _ in shown(page, *parts)]


# -- beside a terminal emulator

numbers = st.integers(0, 20).map(str) | st.just("")
sgr = st.lists(
    st.sampled_from(
        ["", *"0134579", "22", "23", "24", "25", "27", "29", "31", "37", "39", "44", "49", "90", "97", "100", "106"]
    )
    | st.integers(0, 300).map("38;5;{}".format)
    | st.integers(0, 255).map("48;5;{}".format)
    | st.tuples(*[st.integers(0, 255)] * 3).map(lambda rgb: "38;2;{};{};{}".format(*rgb)),
    max_size=4,
).map(";".join)
#: All of what a terminal does within a line. Left out is what pyte does otherwise than ECMA-48 and xterm have it
#: (below), and what a log takes otherwise on purpose: movements to other lines, tab stops that are moved, a screen that
#: is reset.
pieces = st.one_of(
    st.text(string.ascii_letters + string.digits + " .,;:-_[](){}<>?!~é→", min_size=1, max_size=12),
    st.sampled_from(["\r", "\b", "\t", "\n", "\r\n", "\a", "\0", "\x7f", "\x0e", "\x0f"]),
    st.tuples(st.sampled_from(["\x1b[", "\x9b"]), numbers, st.sampled_from("GCD@PXa")).map("".join),
    st.sampled_from(["K", "0K", "1K", "2K", "J", "0J"]).map("\x1b[{}".format),  # 1J and 2J are of other lines too.
    sgr.map("\x1b[{}m".format),
    st.sampled_from(
        ["\x1b[?25l", "\x1b[?2004h", "\x1b[12y", "\x1b[3;4z", "\x1b[>c", "\x1b[1;2q", "\x1b[\r1C", "\x1b[2\b0G"]
    ),
    st.sampled_from(
        ["\x1b]0;a title\a", "\x1b]8;;http://h/\x1b\\", "\x9d2;t\x9c", "\x1b(B", "\x1b=", "\x1b%G", "\x1bz"]
    ),
)


def name_of(colour: int, is_ground: bool) -> set[str]:
    """What pyte calls a colour; one of the palette's first sixteen has two names."""
    if colour < 0:
        return {"default"}
    if colour >= RGB:
        return {f"{colour - RGB:06x}"}
    names = {graphics.FG_BG_256[colour]}
    if colour < 8:
        names.add((graphics.BG if is_ground else graphics.FG)[colour + (40 if is_ground else 30)])
    elif colour < 16:
        names.add((graphics.BG_AIXTERM if is_ground else graphics.FG_AIXTERM)[colour + (92 if is_ground else 82)])
    return names


def in_columns(text: str, runs: list[list[int]]) -> list[tuple[str, tuple[int, int, int]]]:
    """Each column's character and style; a tab is as many as it goes on."""
    styles = {run[0]: (run[1], run[2], run[3]) for run in runs}
    style, cells = PLAIN, []
    for place, character in enumerate(text):
        style = styles.get(place, style)
        cells += [(" ", style)] * (8 - len(cells) % 8) if character == "\t" else [(character, style)]
    return cells


@pytest.mark.row("G14")
def test_a_line_is_what_a_terminal_shows_of_it(terminal: Page) -> None:
    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(pieces, max_size=30))
    def check(parts: list[str]) -> None:
        text = "".join(parts)
        lines = text.count("\n") + 1
        screen = pyte.Screen(1000, lines)
        pyte.Stream(screen).feed(text.replace("\n", "\r\n"))
        ours = shown(terminal, *parts)
        for row in range(lines):
            buffer = screen.buffer[row]
            theirs = "".join(buffer[column].data for column in range(max(buffer, default=-1) + 1)).rstrip()
            cells = in_columns(*ours[row][:2]) if row < len(ours) else []
            assert "".join(character for character, _ in cells).rstrip() == theirs, text
            for column, (character, (fore, ground, flags)) in enumerate(cells):
                if character == " ":
                    continue  # An erased column has no colour by ECMA-48; in pyte it has the cursor's.
                cell = buffer[column]
                assert cell.fg in name_of(fore, False), text
                assert cell.bg in name_of(ground, True), text
                says = (cell.bold, cell.italics, cell.underscore, cell.strikethrough, cell.reverse)
                has = tuple(bool(flags & flag) for flag in (BOLD, ITALIC, UNDERLINE, STRIKE, INVERSE))
                assert has == says, text

    check()


anything = st.text(
    st.sampled_from("a1;:?!$ [](PX^_\\mKGCJ~\x1b\x9b\x9d\x90\x9c\x18\x07\r\b\t\né世\u0301🙂\u202e\ud800"), max_size=60
)


def test_it_is_the_same_however_it_is_cut_into_chunks(terminal: Page) -> None:
    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(anything.map(lambda text: text.replace("\ud800", "")), max_size=6))
    def check(parts: list[str]) -> None:
        assert shown(terminal, *parts) == shown(terminal, "".join(parts))

    check()


@pytest.mark.row("G14")
def test_whatever_came_before_the_line_after_it_is_shown(terminal: Page) -> None:
    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(anything.map(lambda text: text.replace("\ud800", "")))
    def check(text: str) -> None:
        assert texts(terminal, text, "\x18\nthe text", "\r\n")[-1] == "the text"  # CAN ends what has begun.

    check()


# -- by the book


@pytest.mark.row("G14")
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        # pyte prints what is in these strings, and knows neither CAN, SUB nor `:` nor most intermediates.
        ("a\x1bPq#0;2;0\x1b\\b", ["ab"]),
        ("a\x1b_G a=T\x1b\\b\x1b^x\x1b\\c\x1bX\a\x1b\\d", ["abcd"]),
        ("a\x90x\x9cb\x98x\x9cc\x9fx\x9cd", ["abcd"]),
        ("a\x1b[31\x18b\x1b[31\x1ac", ["abc"]),
        ("a\x1b]0;title\x18b", ["ab"]),
        ("a\x1b[4:3mb\x1b[1 qc\x1b[!pd\x1b[2$~e\x1b[=1cf\x1b[<1Mg", ["abcdefg"]),
        ("a\x1b(0b\x1b$)Cc\x1b #d", ["abc"]),
        # It stops at the first character that has no width, and draws no more of the text beside it.
        ("a\x01b\x06c\x84d", ["abc", "d"]),
        ("e\u0301\u200bx", ["e\u0301\u200bx"]),
        ("a\x7fb\x1b[3\x7f1mc", ["abc"]),
        # It takes an apostrophe for HPA, which is a grave accent.
        ("abc\x1b[2`x", ["axc"]),
        # What is no part of a sequence ends it, and is text.
        ("a\x1b[31é", ["aé"]),
        ("a\x1bé", ["aé"]),
        ("a\x1b\x1b[1mb", ["ab"]),
        ("a\x1b[1\x1b[2mb", ["ab"]),
        ("a\x1b[1\nb", ["a"]),
        ("a\x1b[1 2mb", ["ab"]),
        # A string that a line ends in, or that nothing ends, has lost its end: the text is shown.
        ("a\x1b]0;lost\nb", ["a0;lost", "b"]),
        ("a\x1bPlost", ["alost"]),
        ("a\x1b]0;x\x1b[1mb", ["ab"]),
        ("a\x1b]" + "x" * 70_000 + "\a", ["a" + "x" * 9_999]),
        ("a\x1b[" + "1" * 2000 + "mb", ["a" + "1" * 976 + "mb"]),
        ("a\x1b" + " " * 20 + "b", ["a" + " " * 4 + "b"]),
        # Other lines are left alone; what concerns this one is done.
        ("one\x1b[1A\x1b[2Ktwo\x1b[5;5Hthree", ["   twothree"]),
        ("one\ntwo\x1b[2Jthree\x1b[1Jx", ["one", "        x"]),
        ("one\vtwo\fthree\x85four\x1bEfive\x1bDsix", ["one", "two", "three", "four", "five", "six"]),
        ("\x1b[8mconcealed", ["concealed"]),
        ("x\x1bc\x1b7y\x1b8z", ["xyz"]),
        # Wide characters take two columns; half of one is none.
        ("世界\rab", ["ab界"]),
        ("世界\ra", ["a 界"]),
        ("世界\x1b[2Da", ["世a "]),
        ("🙂!\r\x1b[2C?", ["🙂?"]),
        ("e\u0301f\rx", ["xf"]),
        ("a\tb\rX", ["X       b"]),
        ("plain\n\n", ["plain", ""]),
        ("\r\n\r\n", ["", ""]),
        ("", []),
        ("\x1b[0m", []),
    ],
)
def test_what_is_not_known_is_dropped_alone(terminal: Page, text: str, lines: list[str]) -> None:
    assert texts(terminal, text) == lines
    assert texts(terminal, *text[:200], text[200:]) == lines


@pytest.mark.parametrize(
    ("codes", "style"),
    [
        ("31", (1, -1, 0)),
        ("91;104", (9, 12, 0)),
        ("38;5;196", (196, -1, 0)),
        ("38:5:196;1", (196, -1, BOLD)),
        ("38;2;1;2;3;4", (RGB | 0x010203, -1, UNDERLINE)),
        ("48:2:1:2:3", (-1, RGB | 0x010203, 0)),
        ("48:2::1:2:3;3", (-1, RGB | 0x010203, ITALIC)),
        ("38;2;1;2", PLAIN),
        ("38;2;1;2;256", PLAIN),
        ("38;5;256", PLAIN),
        ("38", PLAIN),
        ("58;5;1;9", (-1, -1, STRIKE)),
        ("58:2::1:2:3;2", (-1, -1, DIM)),
        ("1;2;22;7", (-1, -1, INVERSE)),
        ("4;4:0", PLAIN),
        ("21", (-1, -1, UNDERLINE)),
        ("31;44;39;49", PLAIN),
        ("31;", PLAIN),
        ("999;31", (1, -1, 0)),
        ("?1", PLAIN),
    ],
)
def test_a_style_is_what_its_parameters_ask_for(terminal: Page, codes: str, style: tuple[int, int, int]) -> None:
    ((_, runs, _),) = shown(terminal, f"\x1b[{codes}mx")
    assert [tuple(run) for run in runs] == ([] if style == PLAIN else [(0, *style)])


def test_a_colour_lasts_over_lines_and_each_stream_has_its_own(terminal: Page) -> None:
    code = """() => import('/page/lines.js').then(({ Lines }) => {
        const lines = new Lines();
        const feed = (stream, text) => lines.feed({ stream, at: '2026-11-30T03:00:00Z', text });
        feed('stdout', '\\x1b[31mred\\n'); feed('stderr', 'plain\\n'); feed('stdout', 'red\\x1b[0m still\\n');
        lines.beginAttempt(2);
        feed('stderr', '\\x1b[1m');
        lines.beginAttempt(3);
        feed('stderr', 'plain');
        // And so when it is packed.
        while (lines.count < 1500) feed('stdout', '\\x1b[1;38;2;255;255;255;48;5;255mx\\n');
        return [0, 1, 2, 3, 5].map(place => lines.line(place).runs.map(([at, style]) => [at, style.fore, style.flags]));
    })"""
    assert terminal.evaluate(code) == [[[0, 1, 0]], [], [[0, 1, 0], [3, -1, 0]], [], [[0, 0x1FFFFFF, BOLD]]]


def test_a_character_that_is_cut_in_two_is_whole(terminal: Page) -> None:
    code = """() => import('/page/lines.js').then(({ Lines }) => {
        const lines = new Lines();
        const feed = (stream, chunk) => lines.feed({ stream, at: '2026-11-30T03:00:00Z', ...chunk });
        feed('stdout', { base64: btoa('\\xf0') });
        feed('stderr', { text: 'between\\n' });
        feed('stdout', { base64: btoa('\\x9f') });
        feed('stdout', { base64: btoa('\\x99\\x82!\\n\\xff\\xe2') });
        feed('stdout', { text: 'é\\n' });
        return [0, 1, 2].map(place => lines.line(place)).map(({ stream, text, kind }) => [kind, text]);
    })"""
    assert terminal.evaluate(code) == [[1, "between"], [0, "🙂!"], [0, "\ufffd\ufffdé"]]


@pytest.mark.parametrize(
    ("text", "shows", "beyond"),
    [
        ("x" * 10_000, 10_000, 0),
        ("x" * 10_001, 10_000, 1),
        ("x" * 9_999 + "🙂", 9_999, 2),
        ("\r\x1b[9999Gx" + "y" * 50, 10_000, 49),
        ("x\r" + "y" * 10_050, 10_000, 50),
        ("e" + "\u0301" * 5000 + "\rf\x1b[3G" + "\u0301" * 40, None, None),
    ],
)
def test_what_is_shown_of_a_line_is_bounded(terminal: Page, text: str, shows: int | None, beyond: int | None) -> None:
    ((line, _, cut),) = shown(terminal, text)
    assert len(line.encode("utf-16-le")) // 2 <= 10_000
    if shows is not None:
        assert (len(line.encode("utf-16-le")) // 2, cut) == (shows, beyond)


def test_a_line_has_so_many_changes_of_colour_and_no_more(terminal: Page) -> None:
    ((line, runs, _),) = shown(terminal, "".join(f"\x1b[3{place % 8}mx" for place in range(1000)))
    assert (len(line), len(runs)) == (1000, 400)
