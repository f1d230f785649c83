"""Logs over HTTP: a page of chunks, with the gaps in it. Downloads are in `downloads.py`, live output in `live.py`."""

from base64 import b64encode
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from reprieve.api.access import MayRead
from reprieve.api.desks import LogDesk
from reprieve.api.problems import answers
from reprieve.models.chunks import Chunk
from reprieve.models.errors import RunNotFound
from reprieve.models.gaps import Gap, Why, refuse_if_gone
from reprieve.models.sequences import MAX_SEQ, SeqRanges
from reprieve.workers.bootstrap import Services

router = APIRouter(prefix="/v1/runs", tags=["runs"])

#: Chunks on one page at the most, and the bytes of chunks that are enough for one.
LARGEST_PAGE = 1000
ENOUGH_BYTES = 1024 * 1024
#: Gaps that a page lists.
LISTED_GAPS = 100


class ChunkRecord(BaseModel):
    """A piece of output as it was handed over: `text` where it is UTF-8, `base64` where it is not."""

    seq: int
    at: datetime
    stream: str
    text: str | None = None
    base64: str | None = None

    @classmethod
    def of(cls, chunk: Chunk) -> "ChunkRecord":
        text = chunk.text
        base64 = b64encode(chunk.data).decode() if text is None else None
        return cls(seq=chunk.seq, at=chunk.time, stream=chunk.stream, text=text, base64=base64)


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


@router.get("/{run_id}/log", dependencies=[MayRead], responses=answers(401, 403, 404, 410, 422, 503))
async def log(
    run_id: UUID,
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
        raise RunNotFound(f"Run {run_id} has no attempt {number} (yet): it has had {run.attempt}.")
    of_attempt = run.attempts[number - 1] if run.attempts else None
    chunks, gaps = _part(wired, run_id, number, after, limit) if of_attempt else ([], [])
    if gaps and not chunks and not wired.logs.read(run_id, number, 0, 1):
        refuse_if_gone(run_id, number, gaps)
    aside = wired.closings.find(run_id, number).aside if of_attempt else SeqRanges()
    return LogPage(
        attempt=number,
        chunks=[ChunkRecord.of(chunk) for chunk in chunks],
        next_after=chunks[-1].seq if chunks else after,
        last_seq=of_attempt.last_seq if of_attempt else None,
        ended=of_attempt is not None and of_attempt.finished_at is not None,
        gaps=[GapRecord.of(gap) for gap in gaps[:LISTED_GAPS]],
        more_gaps=max(0, len(gaps) - LISTED_GAPS),
        quarantined=list(aside.within(after + 1, MAX_SEQ))[:LARGEST_PAGE],
    )


def _part(wired: Services, run_id: UUID, attempt: int, after: int, limit: int) -> tuple[list[Chunk], list[Gap]]:
    """A page of chunks, and the gaps before and between them; where nothing more is stored, also those behind them."""
    chunks: list[Chunk] = []
    gaps: list[Gap] = []
    size = 0
    for item in wired.log_of(run_id).stored(attempt, after, limit):
        if isinstance(item, Gap):
            gaps.append(item)
            continue
        size += len(item.data)
        if chunks and (len(chunks) == limit or size > ENOUGH_BYTES):
            return chunks, [gap for gap in gaps if gap.first < chunks[-1].seq]
        chunks.append(item)
    return chunks, gaps
