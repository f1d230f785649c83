"""`Range: bytes=…` (RFC 9110, section 14): one range of bytes; anything else is answered with the whole."""

import re
from typing import NamedTuple

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class ByteRange(NamedTuple):
    """So many bytes from `first` on; `is_part` when that was asked for."""

    first: int
    size: int
    is_part: bool


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """What is to be sent of so many bytes; None when the range lies beyond them."""
    found = _RANGE.fullmatch((header or "").strip())
    if found is None or found.groups() == ("", ""):
        return ByteRange(0, size, is_part=False)
    first, last = found.groups()
    if not first:
        begin, end = max(0, size - int(last)), size
    else:
        begin, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < begin:
            return ByteRange(0, size, is_part=False)
    return ByteRange(begin, end - begin, is_part=True) if begin < end else None
