"""A worker that notes, after each `on_log` that has returned, what was handed over: a file that its death leaves."""

import os
import struct
from collections import defaultdict
from pathlib import Path
from uuid import UUID

from reprieve.workers.app import app as app  # The application that Celery's `-A` looks for.
from reprieve.workers.context import RunContext

NOTES = "NOTES_OF_WHAT_WAS_HANDED_OVER"
_NOTE = struct.Struct("<16sIQ")
_on_log = RunContext.on_log


def read_notes(path: Path) -> dict[tuple[UUID, int], int]:
    """For each run and attempt, the number of the last chunk that was handed over."""
    notes: dict[tuple[UUID, int], int] = defaultdict(int)
    data = path.read_bytes()
    for run_id, attempt, seq in _NOTE.iter_unpack(data[: len(data) - len(data) % _NOTE.size]):
        key = (UUID(bytes=run_id), attempt)
        notes[key] = max(notes[key], seq)
    return notes


def _noting(self: RunContext, stream: str, chunk: bytes | str, cursor: str | None = None) -> None:
    _on_log(self, stream, chunk, cursor)
    os.write(_notes, _NOTE.pack(self.run_id.bytes, self.attempt, self.last_seq))


if NOTES in os.environ:
    _notes = os.open(os.environ[NOTES], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    RunContext.on_log = _noting  # type: ignore[method-assign]
