"""Reading a spool, file after file, while it is still being written."""

from collections.abc import Callable
from mmap import mmap
from typing import NamedTuple

from reprieve.adapters.spool import Spool
from reprieve.adapters.spool_records import read_blocks
from reprieve.models.chunks import Block
from reprieve.models.sequences import Range


class Stretch(NamedTuple):
    """Blocks that were read, and where they lie: the number of the file, and from where to where in it."""

    number: int
    range: Range
    blocks: list[Block]


class SpoolReader:
    """Where the reading of one spool has come to. `on_end` is called for each file that was read to its end."""

    def __init__(self, spool: Spool, on_end: Callable[[int], None]) -> None:
        self.number = 0
        self.position = 0
        #: Whether more was there than was read at once.
        self.is_behind = False
        self._spool = spool
        self._on_end = on_end
        self._data: mmap | None = None

    @property
    def reading(self) -> int | None:
        """The number of the file that is being read; None between two files."""
        return self.number if self._data is not None else None

    def next(self, max_bytes: int) -> Stretch | None:
        """The next blocks, all of one file, at most `max_bytes` of it; None when all that is written has been read.

        What is damaged, or was never written, is passed over.
        """
        while (data := self._data or self._open_next()) is not None:
            # In this order: what is written up to the moment at which a file is filled is then read too.
            filled, end = self._spool.is_filled(self.number), self._spool.end(self.number)
            if self.position < end:
                begin = self.position
                blocks, self.position = read_blocks(data, begin, end, max_bytes=max_bytes)
                self.is_behind = filled or self.position < end
                if blocks:
                    return Stretch(self.number, (begin, self.position), blocks)
            elif filled:
                data.close()
                self._data = None
                self._on_end(self.number)
            else:
                break
        return None

    def _open_next(self) -> mmap | None:
        number = next((one for one in self._spool.numbers if one > self.number), None)
        if number is not None:
            self.number, self.position, self._data = number, 0, self._spool.open(number)
        return self._data
