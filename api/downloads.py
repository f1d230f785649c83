"""Downloads of logs over HTTP: the bytes of one stream, or all of an attempt as lines of JSON."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, HTTPException, Path, Query, Response
from fastapi.responses import StreamingResponse

from reprieve.api.access import MayRead
from reprieve.api.desks import Desk, LogDesk
from reprieve.api.logs import LISTED_GAPS, ChunkRecord, GapRecord
from reprieve.api.problems import answers
from reprieve.api.ranges import ByteRange, parse_range
from reprieve.models.chunks import STREAM_NAME, Chunk
from reprieve.models.errors import LogLost, RunNotFound
from reprieve.models.gaps import Gap, Why, refuse_if_gone
from reprieve.models.sequences import SeqRanges
from reprieve.workers.bootstrap import Services

router = APIRouter(prefix="/v1/runs", tags=["runs"])

#: The headers that name the chunks that a download lacks, of any stream: `5, 8-9`, and beyond the ranges that are shown
#: how many more there are: `5, 8-9; more=12`. Chunks on their way are kept apart from those that never come.
MISSING = "Reprieve-Missing-Chunks"
LATE = "Reprieve-Late-Chunks"
#: Bytes of a download that are worth a turn at the desk.
TURN_BYTES = 256 * 1024
NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Download:
    """How many bytes a download will bring, and what it lacks."""

    size: int
    gaps: list[Gap]

    @property
    def headers(self) -> dict[str, str]:
        kinds = {LATE: [gap for gap in self.gaps if gap.why is Why.LATE]}
        kinds[MISSING] = [gap for gap in self.gaps if gap.why is not Why.LATE]
        return {name: _field(gaps) for name, gaps in kinds.items() if gaps}

    @property
    def last_words(self) -> str:
        """What a download that is read by people says at its end; empty where it is whole."""
        parts = [f"chunks {_field([gap])} {gap.why.in_words}" for gap in self.gaps[:LISTED_GAPS]]
        more = len(self.gaps) - len(parts)
        told = "; ".join(parts) + (f"; and {more} more gaps" if more else "")
        return f"\n[reprieve: this log is not whole: {told}]\n" if parts else ""


def _field(gaps: list[Gap]) -> str:
    """Gaps as a header has them: numbers and ranges, so many of them, and how many more there are."""
    return SeqRanges.of((gap.first, gap.last) for gap in gaps).shown("; more={}")


@router.get(
    "/{run_id}/attempts/{attempt}/output/{stream}",
    dependencies=[MayRead],
    response_class=Response,
    responses={
        200: {"description": "All of it that is stored by now.", "content": {"text/plain": {}}},
        206: {"description": "The bytes that `Range` asks for.", "content": {"text/plain": {}}},
        **answers(401, 403, 404, 410, 416, 422, 503),
    },
)
async def output(
    run_id: UUID,
    attempt: Annotated[int, Path(ge=1, le=2**31 - 1)],
    stream: Annotated[str, Path(pattern=STREAM_NAME, description="stdout, for example.")],
    desk: LogDesk,
    wanted: Annotated[str | None, Header(alias="Range", description="bytes=FIRST-LAST")] = None,
    told: Annotated[bool, Query(description="For people: say at the end, in a line of ours, what is missing.")] = False,
) -> Response:
    """The bytes of one stream of an attempt, as they were printed. Headers name the chunks that are missing."""
    found = await desk.serve(_measure, run_id, attempt, stream)
    last_words = found.last_words.encode() if told else b""
    size = found.size + len(last_words)
    part = parse_range(wanted, size)
    if part is None:
        raise HTTPException(416, f"The stream has {size} bytes.", {"Content-Range": f"bytes */{size}"})
    headers = found.headers | {
        "Accept-Ranges": "bytes",
        "Content-Length": str(part.size),
        "Content-Disposition": f'inline; filename="{run_id}-{attempt}-{stream}.txt"',
    }
    if part.is_part:
        headers["Content-Range"] = f"bytes {part.first}-{part.first + part.size - 1}/{size}"
    return StreamingResponse(
        _served(desk, _cut(_bytes_of(desk.services, run_id, attempt, stream, found.size, last_words), part)),
        206 if part.is_part else 200,
        headers,
        media_type="text/plain; charset=utf-8",
    )


@router.get(
    "/{run_id}/attempts/{attempt}/log.ndjson",
    dependencies=[MayRead],
    response_class=Response,
    responses={
        200: {"description": "A line for each chunk and each gap, and a last one.", "content": {NDJSON: {}}},
        **answers(401, 403, 404, 410, 422, 503),
    },
)
async def lines(
    run_id: UUID,
    attempt: Annotated[int, Path(ge=1, le=2**31 - 1)],
    desk: LogDesk,
    after: Annotated[int, Query(ge=0, le=2**62, description="After this sequence number.")] = 0,
) -> Response:
    """All of an attempt's log, a line of JSON for each chunk, for each gap in its place, and a last one.

    The last line has `whole`, and how many `chunks` and `gaps` there were: a download without it was cut off, and goes
    on `after` the number of its last chunk or gap.
    """
    found = await desk.serve(_measure, run_id, attempt, None, after)
    headers = found.headers | {"Content-Disposition": f'inline; filename="{run_id}-{attempt}.ndjson"'}
    return StreamingResponse(
        _served(desk, _lines_of(desk.services, run_id, attempt, after)), 200, headers, media_type=NDJSON
    )


def _lines_of(wired: Services, run_id: UUID, attempt: int, after: int) -> Iterator[bytes]:
    chunks = gaps = 0
    for item in _items_of(wired, run_id, attempt, None, after):
        if isinstance(item, Gap):
            gaps += 1
            yield b'{"gap":%s}\n' % GapRecord.of(item).model_dump_json().encode()
        else:
            chunks += 1
            yield ChunkRecord.of(item).model_dump_json(exclude_none=True).encode() + b"\n"
    yield b'{"end":{"whole":%s,"chunks":%d,"gaps":%d}}\n' % (b"false" if gaps else b"true", chunks, gaps)


def _measure(wired: Services, run_id: UUID, attempt: int, stream: str | None, after: int = 0) -> Download:
    """What a download will bring; raises where nothing of it is left. A part of one says by its gaps what is gone."""
    run = wired.runs.get(run_id)
    if attempt > run.attempt:
        raise RunNotFound(f"Run {run_id} has no attempt {attempt} (yet): it has had {run.attempt}.")
    size, anything, of_stream = 0, False, False
    gaps: list[Gap] = []
    for item in _items_of(wired, run_id, attempt, None, after):
        if isinstance(item, Gap):
            gaps.append(item)
        else:
            anything = True
            if stream in (None, item.stream):
                of_stream = True
                size += len(item.data)
    gone = [gap for gap in gaps if gap.why in (Why.REMOVED, Why.LOST)]
    if not (of_stream or after) and (gone or not anything):
        refuse_if_gone(run_id, attempt, gone or gaps)
    return Download(size, gaps)


def _items_of(wired: Services, run_id: UUID, attempt: int, stream: str | None, after: int = 0) -> Iterator[Chunk | Gap]:
    items = wired.log_of(run_id).stored(attempt, after)
    return (item for item in items if stream is None or isinstance(item, Gap) or item.stream == stream)


def _bytes_of(
    wired: Services, run_id: UUID, attempt: int, stream: str, size: int, last_words: bytes
) -> Iterator[bytes]:
    """The bytes that were measured, and nothing of what has come since; then the last words."""
    for item in _items_of(wired, run_id, attempt, stream):
        if not isinstance(item, Gap):
            data = item.data[:size]
            size -= len(data)
            yield data
    if size:
        raise LogLost(f"The log of run {run_id}, attempt {attempt}, was lost in part while it was sent.")
    yield last_words


def _cut(pieces: Iterator[bytes], part: ByteRange) -> Iterator[bytes]:
    """The part of these pieces that was asked for."""
    skip, left = part.first, part.size
    for piece in pieces:
        data = piece[skip : skip + left]
        skip = max(0, skip - len(piece))
        if data:
            left -= len(data)
            yield data
        if left <= 0:
            return


async def _served(desk: Desk, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """These pieces, each made at the desk: a reader takes up a thread while it is given something, and no longer."""
    while piece := await desk.serve(lambda _: _some_of(pieces)):
        yield piece


def _some_of(pieces: Iterator[bytes]) -> bytes:
    """As many of the next pieces as are worth a turn; nothing at the end."""
    taken, size = [], 0
    for piece in pieces:
        taken.append(piece)
        size += len(piece)
        if size >= TURN_BYTES:
            break
    return b"".join(taken)
