"""Much, a page at a time."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def pages(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in order, at most `size` at once."""
    return (items[start : start + size] for start in range(0, len(items), size))
