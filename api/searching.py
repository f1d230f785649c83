"""Logs across runs over HTTP: the lines that match, a page at a time."""

import time
from contextlib import closing
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from reprieve.api.access import MayRead
from reprieve.api.desks import SearchDesk
from reprieve.api.problems import answers
from reprieve.api.runs import Chosen
from reprieve.models.chunks import STREAM_NAME
from reprieve.workers.bootstrap import Services
from reprieve.workers.searching import MAX_PATTERN, compiled, search

router = APIRouter(prefix="/v1/logs", tags=["logs"])

#: Seconds that a page looks for at the most, but for the run that it is at then.
LONGEST_LOOK = 10.0


class WantedLines(Chosen):
    """Which lines are looked for, in the logs of which runs. A name that is not known is refused, as in a list."""

    model_config = ConfigDict(extra="forbid")

    grep: str = Field(max_length=MAX_PATTERN, description="A regular expression, as RE2 has them.")
    ignore_case: bool = Field(default=False, description="In capitals or not.")
    stream: str | None = Field(default=None, pattern=STREAM_NAME, description="Only of this one.")
    before: UUID | None = Field(default=None, description="`next` of the page before.")
    limit: int = Field(default=100, ge=1, le=1000, description="Lines after which no further run is looked at.")


class FoundLine(BaseModel):
    """A line that matches."""

    run_id: UUID
    attempt: int
    number: int = Field(description="Of the line, from 1, as the page counts them.")
    seq: int = Field(description="The chunk in which it ends.")
    at: datetime
    stream: str
    text: str = Field(description="Without colours; of a long line, what is around the match.")


class NotWhole(BaseModel):
    """A run whose logs were not looked at as a whole."""

    run_id: UUID
    why: str


class FoundLines(BaseModel):
    """A page of lines, those of the newest runs first."""

    lines: list[FoundLine]
    next: UUID | None = Field(description="`before` of the next page; null on the last. A page may have no line.")
    runs: int = Field(description="How many runs were looked at.")
    bytes: int = Field(description="How much of their logs.")
    not_whole: list[NotWhole]


@router.get("", dependencies=[MayRead], responses=answers(401, 403, 422, 503))
async def find(desk: SearchDesk, wanted: Annotated[WantedLines, Query()]) -> FoundLines:
    """Lines that match, of all the runs that are chosen as in a list of runs. It looks for ten seconds at the most."""
    return await desk.serve(_page, wanted)


def _page(wired: Services, asked: WantedLines) -> FoundLines:
    found = FoundLines(lines=[], next=None, runs=0, bytes=0, not_whole=[])
    until = time.monotonic() + LONGEST_LOOK
    matches = compiled(asked.grep, ignore_case=asked.ignore_case)
    with closing(search(wired, asked.wanted, matches, before=asked.before, stream=asked.stream)) as runs:
        for one in runs:
            if isinstance(one, UUID):
                if time.monotonic() > until:
                    found.next = one
                    break
                continue
            run_id = one.run.id
            found.lines += [
                FoundLine(
                    run_id=run_id,
                    attempt=line.attempt,
                    number=line.number,
                    seq=line.seq,
                    at=line.at,
                    stream=line.stream,
                    text=line.text,
                )
                for line in one.lines
            ]
            found.runs, found.bytes = found.runs + 1, found.bytes + one.size
            why = "more lines match than are given" if one.more else one.missing
            if why is not None:
                found.not_whole.append(NotWhole(run_id=run_id, why=why))
            if len(found.lines) >= asked.limit or time.monotonic() > until:
                found.next = run_id
                break
    return found
