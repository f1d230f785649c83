"""What work outside reports by the token of its run: output, heartbeats, a result. An HTTP API is a thin coat over it.

The token is checked before anything else is looked at. Output is numbered by its producer, and a number says where it
belongs: what comes again is stored once, what would leave a gap is answered with the number that is wanted. From there
on it goes the way of all output (`workers.ingest.ingest`), so what it proves, and what is late, is decided there.

A run whose work is not a worker's own is never started a second time: the attempt that a report is of is the only one.
"""

import binascii
import time
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from reprieve.adapters.remote import RemoteAdapter
from reprieve.models.chunks import MAX_CHUNK_BYTES, MAX_TIME, Chunk, blocks_of, check_stream
from reprieve.models.errors import InvalidChunk, InvalidRequest, TokenRefused
from reprieve.models.saying import report_of
from reprieve.models.sequences import MAX_SEQ
from reprieve.models.status import Proof, Status
from reprieve.models.work import MAX_ERROR_MESSAGE, End, Fence, Outcome
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import send_close
from reprieve.workers.finish import finish
from reprieve.workers.following import note_late_result
from reprieve.workers.ingest import ingest
from reprieve.workers.refresh import give_proof

#: Chunks, and bytes of them, that one report may carry.
MAX_CHUNKS = 1_000
MAX_REPORT_BYTES = 1024 * 1024
#: The largest exit status, and signal number, of a command.
MAX_EXIT_STATUS = 255
MAX_SIGNAL = 64

#: As which a writer is asked about that no other has superseded: what is stored counts, not who may write.
_ANY_EPOCH = 2**62


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What a report is of; number 0 where no worker has claimed the run. `stop`: the run has ended."""

    fence: Fence
    number: int
    stop: bool


def new_token(services: Services, run_id: UUID) -> str:
    """A token for a run of the adapter `remote`, in place of any it had. Raises `InvalidRequest`, `RunNotFound`."""
    adapter = services.runs.get(run_id).adapter
    if adapter != RemoteAdapter.type:
        raise InvalidRequest(
            f"Run {run_id} is of the adapter {adapter!r}, whose worker reports for it; "
            f"a token is for runs of the adapter {RemoteAdapter.type!r}."
        )
    return services.tokens.issue(run_id)


def append(services: Services, run_id: UUID, token: object, first_seq: object, chunks: object) -> dict[str, Any]:
    """Store output: `chunks`, numbered from `first_seq` on. Without chunks, only asks where the log goes on.

    A chunk is a mapping of `stream`, `data` (Base64) and, if known, `at` (milliseconds since 1970). Replies with
    `next_seq`, the number of the first chunk that is not stored (nothing was stored if that is `first_seq` or less),
    and with `stop`. While no worker has claimed the run, nothing is stored. Raises `TokenRefused`, `InvalidRequest`.
    """
    _authorize(services, run_id, token)
    first = _whole("first_seq", first_seq, 1, MAX_SEQ)
    records = _checked_chunks(chunks)
    of = _attempt(services, run_id)
    if not of.number:
        # Cancelled before it was claimed: it has no log, and never will, so its output is let go.
        return {"next_seq": first + len(records) if of.stop else 1, "stop": of.stop}
    wanted = _next_seq(services, of)
    if first <= wanted < first + len(records):
        # The cursor is the number itself: the next follower then loses nothing of the log.
        ingest(
            services,
            blocks_of(
                Chunk(run_id, of.number, of.fence.epoch, seq, stream, data, cursor=str(seq), at=at)
                for seq, (stream, data, at) in enumerate(records, start=first)
            ),
        )
        # Looked up again: the run may have ended, or another worker have taken its place over, in the meantime.
        of = _attempt(services, run_id)
        wanted = _next_seq(services, of)
    return {"next_seq": wanted, "stop": of.stop}


def heartbeat(services: Services, run_id: UUID, token: object) -> dict[str, Any]:
    """The work is alive. Replies with `stop`. Raises `TokenRefused`."""
    _authorize(services, run_id, token)
    of = _attempt(services, run_id)
    if of.number and not of.stop:
        give_proof(services, [of.fence], Proof.HEARTBEAT)
    return {"stop": of.stop}


def say(services: Services, run_id: UUID, token: object, given: Mapping[str, object]) -> dict[str, Any]:
    """Take what the work says of itself: any of `progress`, `say`, `result` and `usage`, and a `number`, if it has one.

    Replies with `number`, that of the last report that was taken (0 while no worker has claimed the run: nothing was
    taken), and with `stop`. One whose number is not greater was taken before, and changes nothing; without a number, it
    counts each time that it comes. Nothing but that number is asked for by an empty report. What is said of a run that
    was cancelled before it was claimed is let go. It is proof of life, as a heartbeat is. Raises `TokenRefused`,
    `InvalidRequest`.
    """
    _authorize(services, run_id, token)
    number = given.get("number")
    if number is not None:
        number = _whole("number", number, 1, MAX_SEQ)
    said = {name: value for name, value in given.items() if name != "number" and value is not None}
    report = report_of(said) if said or number is not None else None
    of = _attempt(services, run_id)
    if not of.number:
        return {"number": (number or 0) if of.stop else 0, "stop": of.stop}
    if report is None:
        kept = services.reports.of(run_id, of.number)
        taken = kept.number if kept else 0
    else:
        with services.database.begin() as connection:
            taken = services.reports.take(connection, of.fence, of.number, number, report).number
    if not of.stop:
        give_proof(services, [of.fence], Proof.HEARTBEAT)
    return {"number": taken, "stop": of.stop}


def record_result(services: Services, run_id: UUID, token: object, outcome: object, last_seq: object) -> dict[str, Any]:
    """Record the result: `outcome` has one of `exit_status`, `signal`, `error`; `last_seq` is of the last chunk.

    Replies with `taken`, False only while the run waits for a worker to claim it: say it again. The first end counts;
    another, or the same again, changes nothing. A result that comes after a reap is kept as an event. Raises
    `TokenRefused` and `InvalidRequest`.
    """
    _authorize(services, run_id, token)
    result = _checked_outcome(outcome)
    last = _whole("last_seq", last_seq, 0, MAX_SEQ)
    while True:
        of = _attempt(services, run_id)
        end = End.by_result(of.fence, result, last)
        if of.stop:
            note_late_result(services, end)
            return {"taken": True}
        if not of.number:
            return {"taken": False}
        if finish(services, [end]):
            send_close(services)
            return {"taken": True}
        # Another worker took the follower's place over, or another end came, between the reading and the writing.


def _authorize(services: Services, run_id: UUID, token: object) -> None:
    if not services.tokens.check(run_id, token):
        raise TokenRefused(f"The token is not the one of run {run_id}; `reprieve token run {run_id}` gives a new one.")


def _attempt(services: Services, run_id: UUID) -> _Attempt:
    run = services.runs.get(run_id)
    return _Attempt(Fence(run_id, run.epoch), run.attempt, stop=Status(run.status).is_final)


def _next_seq(services: Services, of: _Attempt) -> int:
    """The number of the first chunk that is neither stored nor kept aside."""
    source = (of.fence.run_id, of.number, _ANY_EPOCH)
    stored = services.logs.stored([source]).get(source)
    return (stored.whole_to if stored else 0) + 1


# -- what comes from outside


def _whole(field: str, value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidRequest(f"{field} is {_shown(value)}; give a whole number from {least} to {most}.")
    return value


def _shown(value: object) -> str:
    """What a sentence may quote of a value of any size."""
    if isinstance(value, int) and value.bit_length() > 128:
        return "too large"
    return repr(value) if isinstance(value, int | float | None) else f"of type {type(value).__name__}"


def _checked_chunks(chunks: object) -> list[tuple[str, bytes, int]]:
    """Stream, data and time of each."""
    if not isinstance(chunks, Sequence) or isinstance(chunks, str | bytes):
        raise InvalidRequest(f"chunks is {_shown(chunks)}; give a list.")
    if len(chunks) > MAX_CHUNKS:
        raise InvalidRequest(f"chunks: {len(chunks)} of them; send at most {MAX_CHUNKS} at once.")
    now = time.time_ns() // 1_000_000
    records = [_checked_chunk(f"chunks[{place}]", chunk, now) for place, chunk in enumerate(chunks)]
    size = sum(len(data) for _, data, _ in records)
    if size > MAX_REPORT_BYTES:
        raise InvalidRequest(f"chunks hold {size} bytes; send at most {MAX_REPORT_BYTES} at once.")
    return records


def _checked_chunk(name: str, chunk: object, now: int) -> tuple[str, bytes, int]:
    if not isinstance(chunk, Mapping) or not {"stream", "data"} <= chunk.keys() <= {"stream", "data", "at"}:
        raise InvalidRequest(f"{name} must have stream and data, may have at, and nothing else.")
    at = chunk.get("at")
    return (
        _checked_stream(f"{name}.stream", chunk["stream"]),
        _checked_data(f"{name}.data", chunk["data"]),
        now if at is None else _whole(f"{name}.at", at, 0, MAX_TIME),
    )


def _checked_stream(name: str, stream: object) -> str:
    try:
        check_stream(stream)
    except InvalidChunk:
        raise InvalidRequest(
            f"{name} is no name of a stream; use up to 32 lower-case letters, digits, '-' and '_'."
        ) from None
    return str(stream)


def _checked_data(name: str, data: object) -> bytes:
    if not isinstance(data, str):
        raise InvalidRequest(f"{name} is {_shown(data)}; give the bytes as Base64.")
    try:
        decoded = b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{name} is no Base64.") from None
    if not 1 <= len(decoded) <= MAX_CHUNK_BYTES:
        raise InvalidRequest(f"{name} holds {len(decoded)} bytes; give 1 to {MAX_CHUNK_BYTES}.")
    return decoded


def _checked_outcome(outcome: object) -> Outcome:
    if not isinstance(outcome, Mapping) or len(outcome) != 1:
        raise InvalidRequest("outcome must have exactly one of exit_status, signal and error.")
    ((name, value),) = outcome.items()
    if name == "exit_status":
        return Outcome.of_exit(_whole("outcome.exit_status", value, 0, MAX_EXIT_STATUS))
    if name == "signal":
        return Outcome.of_exit(-_whole("outcome.signal", value, 1, MAX_SIGNAL))
    if name != "error" or not isinstance(value, str) or not 1 <= len(value) <= MAX_ERROR_MESSAGE:
        raise InvalidRequest(
            "outcome must have an exit_status, a signal, or an error: "
            f"a sentence of 1 to {MAX_ERROR_MESSAGE} characters."
        )
    return Outcome.failed(value)
