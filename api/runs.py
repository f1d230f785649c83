"""Runs over HTTP: asked for, listed, looked at, cancelled; their events and their logs."""

from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, HTTPException, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from reprieve.api.access import MayRead, MayRun, Wired
from reprieve.api.desks import Desk, LogDesk
from reprieve.api.problems import answers
from reprieve.api.ranges import ByteRange, parse_range
from reprieve.models.chunks import STREAM_NAME, Chunk
from reprieve.models.errors import LogLost, LogRemoved
from reprieve.models.gaps import Gap, Why
from reprieve.models.records import EventRecord, ExplanationRecord, RunRecord
from reprieve.models.sequences import MAX_SEQ, SHOWN_RANGES, SeqRanges
from reprieve.models.status import Status
from reprieve.stores.reading import LogReader
from reprieve.workers import tracing
from reprieve.workers.bootstrap import Services
from reprieve.workers.cancel import cancel_run
from reprieve.workers.enqueue import enqueue_once
from reprieve.workers.explaining import explain

router = APIRouter(prefix="/v1/runs", tags=["runs"])

#: Runs, and chunks, on one page at the most; and the bytes of chunks that are enough for one.
LARGEST_PAGE = 1000
ENOUGH_BYTES = 1024 * 1024


class RunRequest(BaseModel):
    """A run to be started."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "adapter": "process",
                    "config": {"command": ["make", "report"]},
                    "labels": {"team": "data"},
                    "max_runtime_seconds": 3600,
                    "max_attempts": 3,
                }
            ]
        },
    )

    adapter: str = Field(description="What does the work: one of `/v1/adapters`.")
    config: dict[str, Any] = Field(description="As the adapter's `config_schema` has it.")
    labels: dict[str, str] = Field(default={}, description="For filters and for people.")
    max_runtime_seconds: float | None = Field(default=None, description="Ends an attempt that takes longer.")
    max_attempts: int = Field(default=1, description="How often it may be started if its worker is lost.")


class RunPage(BaseModel):
    """Runs, the newest first."""

    runs: list[RunRecord]
    next: UUID | None = Field(description="`before` of the next page; null on the last.")


class Events(BaseModel):
    """What happened to a run, in the order in which it happened."""

    events: list[EventRecord]


class Explained(ExplanationRecord):
    """Why a run is as it is."""

    sentences: list[str] = Field(description="For a person who was woken for it.")


class ChunkRecord(BaseModel):
    """A piece of output as it was handed over: `text` where it is UTF-8, `base64` where it is not."""

    seq: int
    at: datetime
    stream: str
    text: str | None = None
    base64: str | None = None

    @classmethod
    def of(cls, chunk: Chunk) -> "ChunkRecord":
        at = chunk.time
        try:
            return cls(seq=chunk.seq, at=at, stream=chunk.stream, text=chunk.data.decode())
        except UnicodeDecodeError:
            return cls(seq=chunk.seq, at=at, stream=chunk.stream, base64=b64encode(chunk.data).decode())


class GapRecord(BaseModel):
    """Chunks that cannot be read, first and last number."""

    first: int
    last: int
    why: Why = Field(
        description="late: on its way; missing: nobody has it; lost: stored, and gone; removed: retention."
    )

    @classmethod
    def of(cls, gap: Gap) -> "GapRecord":
        return cls(first=gap.first, last=gap.last, why=gap.why)


class LogPage(BaseModel):
    """A part of an attempt's log, in order."""

    attempt: int
    chunks: list[ChunkRecord]
    next_after: int = Field(description="`after` of the next page; the same again where nothing more is stored yet.")
    last_seq: int | None = Field(description="The number of the attempt's last chunk; null while nobody named it.")
    ended: bool = Field(description="Whether the attempt has ended.")
    gaps: list[GapRecord] = Field(description="What cannot be read in this part, the first 100.")
    more_gaps: int = Field(description="How many further gaps there are.")
    quarantined: list[tuple[int, int]] = Field(
        description="First and last number of what comes after `after` and could not be stored: do not wait for it. "
        "The first 1000."
    )


#: The headers that name the chunks which a download lacks, of whichever stream they were: `5, 8-9`, and after so many
#: ranges how many more there are: `5, 8-9; more=12`. Those on their way are told apart from those that never come.
MISSING = "Reprieve-Missing-Chunks"
LATE = "Reprieve-Late-Chunks"
#: Bytes of a download that are worth a turn at the desk.
TURN_BYTES = 256 * 1024
NDJSON = "application/x-ndjson"
#: Gaps that a page lists.
LISTED_GAPS = 100

#: No stored text holds a NUL.
PLAIN = r"^[^\x00]*$"
Label = Annotated[str, StringConstraints(pattern=r"^[^\x00=]+=[^\x00]*$")]
RunId = UUID
RunKey = Annotated[str | None, Header(alias="Idempotency-Key", description="The same key gives the same run.")]


@router.post(
    "",
    status_code=201,
    dependencies=[MayRun],
    responses={
        200: {"description": "The run that the idempotency key gave before.", "model": RunRecord},
        **answers(400, 401, 403, 409, 413, 422, 503),
    },
)
def create(wanted: RunRequest, request: Request, response: Response, idempotency_key: RunKey = None) -> RunRecord:
    """Start a run: 201 and its address, or 200 with the run that the idempotency key gave before."""
    run, is_new = enqueue_once(
        wanted.adapter,
        wanted.config,
        labels=wanted.labels,
        max_runtime=wanted.max_runtime_seconds,
        max_attempts=wanted.max_attempts,
        idempotency_key=idempotency_key,
        caller=tracing.caller_of(request.headers),
    )
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/runs/{run.id}"
    return RunRecord.of(run)


@router.get("", dependencies=[MayRead], responses=answers(401, 403, 422, 503))
def list_runs(
    wired: Wired,
    status: Annotated[list[Status], Query(description="Only these; may be repeated.")] = [],  # noqa: B006 - FastAPI's
    adapter: Annotated[str | None, Query(pattern=PLAIN, description="Only of this one.")] = None,
    label: Annotated[list[Label], Query(description="NAME=VALUE; may be repeated, all must hold.")] = [],  # noqa: B006
    before: Annotated[UUID | None, Query(description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 50,
) -> RunPage:
    """List runs, the newest first."""
    found = wired.runs.list(statuses=status, adapter=adapter, labels=_labels(label), before=before, limit=limit + 1)
    page = found[:limit]
    return RunPage(runs=[RunRecord.of(run) for run in page], next=page[-1].id if len(found) > limit else None)


def _labels(pairs: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


@router.get("/{run_id}", dependencies=[MayRead], responses=answers(401, 403, 404, 422, 503))
def get(run_id: RunId, wired: Wired) -> RunRecord:
    """One run and its attempts."""
    return RunRecord.of(wired.runs.get(run_id))


@router.post("/{run_id}/cancel", dependencies=[MayRun], responses=answers(401, 403, 404, 422, 503))
def cancel(run_id: RunId) -> RunRecord:
    """End a run and its work. One that has already ended stays as it is."""
    return RunRecord.of(cancel_run(run_id))


@router.get("/{run_id}/events", dependencies=[MayRead], responses=answers(401, 403, 404, 422, 503))
def events(run_id: RunId, wired: Wired) -> Events:
    """What happened to a run."""
    wired.runs.get(run_id)
    return Events(events=[EventRecord.of(event) for event in wired.runs.events(run_id)])


@router.get("/{run_id}/explain", dependencies=[MayRead], responses=answers(401, 403, 404, 422, 503))
def explained(run_id: RunId, wired: Wired) -> Explained:
    """Why a run is as it is: its proof of life, what happened, and the evidence of a reap."""
    told = explain(wired, run_id)
    return Explained(sentences=told.sentences, **dict(told.record))


# -- logs


@router.get("/{run_id}/log", dependencies=[MayRead], responses=answers(401, 403, 404, 410, 422, 503))
async def log(
    run_id: RunId,
    desk: LogDesk,
    attempt: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="The last one by default.")] = None,
    after: Annotated[int, Query(ge=0, le=2**62, description="After this sequence number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = LARGEST_PAGE,
) -> LogPage:
    """A part of an attempt's log. A run that no worker has taken yet has an empty one; one that is gone has none."""
    return await desk.serve(_page, run_id, attempt, after, limit)


def _page(wired: Services, run_id: UUID, attempt: int | None, after: int, limit: int) -> LogPage:
    run = wired.runs.get(run_id)
    number = attempt or max(run.attempt, 1)
    if number > max(run.attempt, 1):
        raise HTTPException(404, f"Run {run_id} has no attempt {number} (yet): it has had {run.attempt}.")
    of_attempt = run.attempts[number - 1] if run.attempts else None
    chunks, gaps = _part(wired, run_id, number, after, limit) if of_attempt else ([], [])
    if gaps and not chunks and not wired.logs.read(run_id, number, 0, 1):
        _refuse_if_gone(run_id, number, gaps)
    return LogPage(
        attempt=number,
        chunks=[ChunkRecord.of(chunk) for chunk in chunks],
        next_after=chunks[-1].seq if chunks else after,
        last_seq=of_attempt.last_seq if of_attempt else None,
        ended=of_attempt is not None and of_attempt.finished_at is not None,
        gaps=[GapRecord.of(gap) for gap in gaps[:LISTED_GAPS]],
        more_gaps=max(0, len(gaps) - LISTED_GAPS),
        quarantined=list(_aside(wired, run_id, number).within(after + 1, MAX_SEQ))[:LARGEST_PAGE] if of_attempt else [],
    )


def _part(wired: Services, run_id: UUID, attempt: int, after: int, limit: int) -> tuple[list[Chunk], list[Gap]]:
    """A page of chunks, and the gaps before and between them; where nothing more is stored, also those behind them."""
    reader = LogReader(wired.database, wired.logs, wired.live, run_id)
    chunks: list[Chunk] = []
    gaps: list[Gap] = []
    size = 0
    for item in reader.stored(attempt, after, limit):
        if isinstance(item, Gap):
            gaps.append(item)
            continue
        size += len(item.data)
        if chunks and (len(chunks) == limit or size > ENOUGH_BYTES):
            return chunks, [gap for gap in gaps if gap.first < chunks[-1].seq]
        chunks.append(item)
    return chunks, gaps


def _aside(wired: Services, run_id: UUID, attempt: int) -> SeqRanges:
    """What of an attempt's log is in quarantine."""
    return wired.closings.find(run_id, attempt).aside


def _refuse_if_gone(run_id: UUID, attempt: int, gaps: list[Gap]) -> None:
    """Where nothing is left of what was there, say so: that is no empty log, and not to be tried again."""
    reasons, whose = {gap.why for gap in gaps}, f"The log of run {run_id}, attempt {attempt},"
    if Why.REMOVED in reasons:
        raise LogRemoved(f"{whose} was removed, since it was older than the retention.")
    if reasons and Why.LATE not in reasons:
        raise LogLost(f"{whose} is lost: nothing of it can be read any more. `explain` says what is known of it.")


# -- downloads


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
        parts = [f"chunks {_field([gap])} {gap.why.told}" for gap in self.gaps[:LISTED_GAPS]]
        more = len(self.gaps) - len(parts)
        told = "; ".join(parts) + (f"; and {more} more gaps" if more else "")
        return f"\n[reprieve: this log is not whole: {told}]\n" if parts else ""


def _field(gaps: list[Gap]) -> str:
    """Gaps as a header has them: numbers and ranges, so many of them, and how many more there are."""
    ranges = SeqRanges.of((gap.first, gap.last) for gap in gaps).ranges
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges[:SHOWN_RANGES])
    return shown + (f"; more={len(ranges) - SHOWN_RANGES}" if len(ranges) > SHOWN_RANGES else "")


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
    run_id: RunId,
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
async def lines(run_id: RunId, attempt: Annotated[int, Path(ge=1, le=2**31 - 1)], desk: LogDesk) -> Response:
    """All of an attempt's log, a line of JSON for each chunk, for each gap in its place, and a last one.

    The last line has `whole`, and how many `chunks` and `gaps` there were: a download without it was cut off.
    """
    found = await desk.serve(_measure, run_id, attempt, None)
    headers = found.headers | {"Content-Disposition": f'inline; filename="{run_id}-{attempt}.ndjson"'}
    return StreamingResponse(_served(desk, _lines_of(desk.services, run_id, attempt)), 200, headers, media_type=NDJSON)


def _lines_of(wired: Services, run_id: UUID, attempt: int) -> Iterator[bytes]:
    chunks = gaps = 0
    for item in _items_of(wired, run_id, attempt, None):
        if isinstance(item, Gap):
            gaps += 1
            yield b'{"gap":%s}\n' % GapRecord.of(item).model_dump_json().encode()
        else:
            chunks += 1
            yield ChunkRecord.of(item).model_dump_json(exclude_none=True).encode() + b"\n"
    yield b'{"end":{"whole":%s,"chunks":%d,"gaps":%d}}\n' % (b"false" if gaps else b"true", chunks, gaps)


def _measure(wired: Services, run_id: UUID, attempt: int, stream: str | None) -> Download:
    """What a download will bring; raises where nothing of it is left."""
    run = wired.runs.get(run_id)
    if attempt > run.attempt:
        raise HTTPException(404, f"Run {run_id} has no attempt {attempt} (yet): it has had {run.attempt}.")
    size, anything, of_stream = 0, False, False
    gaps: list[Gap] = []
    for item in _items_of(wired, run_id, attempt, None):
        if isinstance(item, Gap):
            gaps.append(item)
        else:
            anything = True
            if stream in (None, item.stream):
                of_stream = True
                size += len(item.data)
    gone = [gap for gap in gaps if gap.why in (Why.REMOVED, Why.LOST)]
    if not of_stream and (gone or not anything):
        _refuse_if_gone(run_id, attempt, gone or gaps)
    return Download(size, gaps)


def _items_of(wired: Services, run_id: UUID, attempt: int, stream: str | None) -> Iterator[Chunk | Gap]:
    reader = LogReader(wired.database, wired.logs, wired.live, run_id)
    return (item for item in reader.stored(attempt) if stream is None or isinstance(item, Gap) or item.stream == stream)


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
