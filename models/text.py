"""What counts as text (what PostgreSQL, JSON and arguments can all hold), how it is shown, and durations in words."""

import re
from datetime import timedelta

from reprieve.models.errors import InvalidRequest

#: Characters that Python takes for printable, and that nobody sees: fillers, joiners, selectors, a blank Braille cell.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0e\uffa0\U000e0100-\U000e01ef]"
)

#: Characters of what was given that an error repeats: a whole idempotency key, and not all of what is none.
LONGEST_GIVEN = 510

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_LENGTH = re.compile(r"(\d{1,9}(?:\.\d{1,3})?) ?([smhd]?)", re.ASCII)


def is_plain_text(value: object) -> bool:
    """Whether `value` is a string without NUL and without half a surrogate pair."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(text: object) -> str:
    """Text from elsewhere (a label, a path, an error, a name) as one line that does nothing but stand there.

    Whatever is not seen as itself is escaped as Python does it: control characters (a terminal acts on them), line ends
    (they forge lines), bidirectional controls (they reorder what stands beside them), spaces that are none, what has no
    width, half a surrogate pair. What is printable stays, of whatever script.
    """
    return "".join(map(_shown, text if isinstance(text, str) else str(text)))


def as_given(value: object, most: int = LONGEST_GIVEN) -> str:
    """What was given and is refused, as Python writes it, in at most so many characters that do nothing.

    Cut before it is shown: that takes seconds for millions of characters. Python writes no number of more than 4,300
    digits.
    """
    try:
        return shown(repr(value)[:most])[:most]
    except ValueError:
        return f"of type {type(value).__name__}, and too long"


def _shown(character: str) -> str:
    if character.isprintable() and not _UNSEEN.match(character):
        return character
    return character.encode("unicode_escape").decode("ascii")


def in_seconds(length: timedelta | None) -> float | None:
    """A length as a plain number; None where there is none."""
    return None if length is None else length.total_seconds()


def span(duration: timedelta | float) -> str:
    """A duration in words that fit a table: `4.2 s`, `5 min 12 s`, `3 h 4 min`."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days"


def seconds_of(length: str) -> float:
    """The seconds of a length as a person writes it: `90`, `30s`, `45m`, `1h`, `2d`. Raises `InvalidRequest`."""
    found = _LENGTH.fullmatch(length.strip())
    if found is None:
        raise InvalidRequest(f"{as_given(length, 100)} is no length of time; give one like 90, 30s, 45m, 1h or 2d.")
    return float(found[1]) * _UNITS[found[2]]


def volume(size: float) -> str:
    """Bytes in words that fit a table: `512 B`, `1.2 MB`, `14 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


_MEMORY = re.compile(r"(\d{1,15}(?:\.\d{1,3})?) ?([KMGT]?)(?:i?B)?", re.ASCII | re.IGNORECASE)
_MEMORY_UNITS = ("", "K", "M", "G", "T")


def bytes_of(size: str) -> int:
    """The bytes of an amount of memory as a person writes it, in powers of 1024: `512M`, `2G`. Raises
    `InvalidRequest`.
    """
    found = _MEMORY.fullmatch(size.strip())
    if found is None:
        raise InvalidRequest(f"{as_given(size, 100)} is no amount of memory; give one like 512M or 2G.")
    return int(float(found[1]) * 1024 ** _MEMORY_UNITS.index(found[2].upper()))


def in_memory(size: float) -> str:
    """An amount of memory in words, in powers of 1024, as limits are given: `512 MiB`, `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 or size == round(size) else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
