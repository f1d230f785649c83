"""Runs over HTTP: asked for, listed, looked at, cancelled; their events and their logs."""

from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, HTTPException, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.access import MayRead, MayRun, Wired
from api.problems import answers
from api.ranges import ByteRange, parse_range
from models.chunks import STREAM_NAME, Chunk
from models.records import EventRecord, ExplanationRecord, RunRecord
from models.sequences import MAX_SEQ, SeqRanges
from models.status import Status
from stores.following import Gap, LogFollower
from workers import tracing
from workers.bootstrap import Services
from workers.enqueue import cancel_run, enqueue_once
from workers.explaining import explain

router = APIRouter(prefix="/v1/runs", tags=["runs"])

#: Runs, and chunks, on one page at the most; and the bytes of chunks that are enough for one.
LARGEST_PAGE = 1000
ENOUGH_BYTES = 1024 * 1024


class NewRun(BaseModel):
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
        at = datetime.fromtimestamp(chunk.at / 1000, UTC)
        try:
            return cls(seq=chunk.seq, at=at, stream=chunk.stream, text=chunk.data.decode())
        except UnicodeDecodeError:
            return cls(seq=chunk.seq, at=at, stream=chunk.stream, base64=b64encode(chunk.data).decode())


class LogPage(BaseModel):
    """A part of an attempt's log, in order."""

    attempt: int
    chunks: list[ChunkRecord]
    next_after: int = Field(description="`after` of the next page; the same again where nothing more is stored yet.")
    last_seq: int | None = Field(description="The number of the attempt's last chunk; null while nobody named it.")
    ended: bool = Field(description="Whether the attempt has ended.")
    quarantined: list[tuple[int, int]] = Field(
        description="First and last number of what comes after `after` and could not be stored: do not wait for it. "
        "The first 1000."
    )


#: The header that names the chunks which a stream's bytes lack, of whichever stream they were: `5, 8-9`.
MISSING = "Reprieve-Missing-Chunks"

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
def create(wanted: NewRun, request: Request, response: Response, idempotency_key: RunKey = None) -> RunRecord:
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


@router.get("/{run_id}/log", dependencies=[MayRead], responses=answers(401, 403, 404, 422, 503))
def log(
    run_id: RunId,
    wired: Wired,
    attempt: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="The last one by default.")] = None,
    after: Annotated[int, Query(ge=0, le=2**62, description="After this sequence number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = LARGEST_PAGE,
) -> LogPage:
    """A part of an attempt's log. A run that no worker has taken yet has an empty one."""
    run = wired.runs.get(run_id)
    number = attempt or max(run.attempt, 1)
    if number > max(run.attempt, 1):
        raise HTTPException(404, f"Run {run_id} has no attempt {number} (yet): it has had {run.attempt}.")
    of_attempt = run.attempts[number - 1] if run.attempts else None
    chunks = _enough(wired.logs.read(run_id, number, after, limit))
    return LogPage(
        attempt=number,
        chunks=[ChunkRecord.of(chunk) for chunk in chunks],
        next_after=chunks[-1].seq if chunks else after,
        last_seq=of_attempt.last_seq if of_attempt else None,
        ended=of_attempt is not None and of_attempt.finished_at is not None,
        quarantined=list(_aside(wired, run_id, number).within(after + 1, MAX_SEQ))[:LARGEST_PAGE] if of_attempt else [],
    )


def _aside(wired: Services, run_id: UUID, attempt: int) -> SeqRanges:
    """What of an attempt's log is in quarantine."""
    return wired.closings.find(run_id, attempt).aside


def _enough(chunks: list[Chunk]) -> list[Chunk]:
    """So many of them that they fit a page; one at least."""
    size = 0
    for place, chunk in enumerate(chunks):
        size += len(chunk.data)
        if size > ENOUGH_BYTES and place:
            return chunks[:place]
    return chunks


@router.get(
    "/{run_id}/attempts/{attempt}/output/{stream}",
    dependencies=[MayRead],
    response_class=Response,
    responses={
        200: {"description": "All of it that is stored by now.", "content": {"text/plain": {}}},
        206: {"description": "The bytes that `Range` asks for.", "content": {"text/plain": {}}},
        **answers(401, 403, 404, 416, 422, 503),
    },
)
def output(
    run_id: RunId,
    attempt: Annotated[int, Path(ge=1, le=2**31 - 1)],
    stream: Annotated[str, Path(pattern=STREAM_NAME, description="stdout, for example.")],
    wired: Wired,
    wanted: Annotated[str | None, Header(alias="Range", description="bytes=FIRST-LAST")] = None,
) -> Response:
    """The bytes of one stream of an attempt, as they were printed. A header names the chunks that are missing."""
    run = wired.runs.get(run_id)
    if attempt > run.attempt:
        raise HTTPException(404, f"Run {run_id} has no attempt {attempt} (yet): it has had {run.attempt}.")
    size, gaps = 0, []
    for item in _items_of(wired, run_id, attempt, stream):
        if isinstance(item, Gap):
            gaps.append((item.first, item.last))
        else:
            size += len(item.data)
    missing = SeqRanges.of(gaps)
    part = parse_range(wanted, size)
    if part is None:
        raise HTTPException(416, f"The stream has {size} bytes.", {"Content-Range": f"bytes */{size}"})
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(part.size),
        "Content-Disposition": f'inline; filename="{run_id}-{attempt}-{stream}.txt"',
    }
    if missing:
        headers[MISSING] = str(missing)
    if part.is_part:
        headers["Content-Range"] = f"bytes {part.first}-{part.first + part.size - 1}/{size}"
    return StreamingResponse(
        _cut(_bytes_of(wired, run_id, attempt, stream), part),
        206 if part.is_part else 200,
        headers,
        media_type="text/plain; charset=utf-8",
    )


def _items_of(wired: Services, run_id: UUID, attempt: int, stream: str) -> Iterator[Chunk | Gap]:
    reader = LogFollower(wired.database, wired.logs, wired.live, run_id)
    return (item for item in reader.stored(attempt) if isinstance(item, Gap) or item.stream == stream)


def _bytes_of(wired: Services, run_id: UUID, attempt: int, stream: str) -> Iterator[bytes]:
    return (item.data for item in _items_of(wired, run_id, attempt, stream) if not isinstance(item, Gap))


def _cut(pieces: Iterator[bytes], part: ByteRange) -> Iterator[bytes]:
    """The part of these pieces that was asked for, and not a byte of what has come since its size was taken."""
    skip, left = part.first, part.size
    for piece in pieces:
        if left <= 0:
            return
        data = piece[skip : skip + left]
        skip = max(0, skip - len(piece))
        if data:
            left -= len(data)
            yield data
