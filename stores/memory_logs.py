"""The fake of the log store: the same promises, for as long as the process lives."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy import Connection

from reprieve.models.chunks import Block, Chunk, LogKey, LogWriter, coming, parts_of
from reprieve.models.sequences import MAX_SEQ, SeqRanges
from reprieve.stores.logs import Resumed, by_writer


class MemoryLogStore:
    """Keeps chunks in memory. It takes part in no transaction."""

    def __init__(self) -> None:
        self._chunks: dict[LogKey, dict[int, Chunk]] = {}
        self._stored: dict[LogKey, SeqRanges] = {}
        self._aside: dict[LogKey, SeqRanges] = {}
        self._epochs: dict[LogKey, int] = {}

    def append(self, connection: Connection | None, blocks: Sequence[Block]) -> list[Block]:  # noqa: ARG002
        current = [block for block in blocks if block.epoch >= self._epochs.get(block.key, 0)]
        nothing = SeqRanges()
        wanted = {key: numbers - self._stored.get(key, nothing) for key, numbers in coming(current).items()}
        new = parts_of(current, wanted)
        for key, numbers in wanted.items():
            self._stored[key] = self._stored.get(key, nothing) | numbers
        for block in new:
            self._chunks.setdefault(block.key, {}).update((chunk.seq, chunk) for chunk in block.chunks())
        return new

    def stored(self, writers: Iterable[LogWriter]) -> dict[LogWriter, SeqRanges]:
        nothing = SeqRanges()
        logs = self._stored.keys() | self._aside.keys()
        known = {key: self._stored.get(key, nothing) | self._aside.get(key, nothing) for key in logs}
        return by_writer(writers, known, {key: self._epochs.get(key, 0) for key in logs})

    def resume(self, connection: Connection | None, run_id: UUID, attempt: int, epoch: int) -> Resumed:  # noqa: ARG002
        key = (run_id, attempt)
        chunks = self._chunks.setdefault(key, {})
        whole_to = self._stored.get(key, SeqRanges()).whole_to
        resumable = [Resumed(seq, chunk.cursor) for seq, chunk in chunks.items() if chunk.cursor and seq <= whole_to]
        resumed = max(resumable, default=Resumed(0, None))
        self._chunks[key] = {seq: chunk for seq, chunk in chunks.items() if seq <= resumed.after_seq}
        self._stored[key] = SeqRanges.of([(1, resumed.after_seq)])
        self._aside[key] = self._aside.get(key, SeqRanges()) - SeqRanges(((resumed.after_seq + 1, MAX_SEQ),))
        self._epochs[key] = epoch
        return resumed

    def quarantine(self, connection: Connection | None, block: Block, reason: str) -> None:  # noqa: ARG002
        if block.epoch < self._epochs.get(block.key, 0):
            return
        whole = SeqRanges(((block.first_seq, block.last_seq),))
        self._aside[block.key] = self._aside.get(block.key, SeqRanges()) | whole

    def read(self, run_id: UUID, attempt: int, after_seq: int = 0, limit: int = 1000) -> list[Chunk]:
        log = self._chunks.get((run_id, attempt), {})
        return [log[seq] for seq in sorted(log) if seq > after_seq][:limit]

    def last_seq(self, run_id: UUID, attempt: int) -> int:
        return max(self._chunks.get((run_id, attempt), {}), default=0)
