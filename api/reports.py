"""Reports of remote work, with the token of its run: a thin layer over `workers.reporting` (docs/remote.md)."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field

from reprieve.api.access import GivenToken, MayAdministrate, Wired
from reprieve.api.desks import ReportDesk
from reprieve.api.problems import answers
from reprieve.workers import reporting

router = APIRouter(prefix="/v1/runs/{run_id}", tags=["reports"])

CHUNKS = [{"stream": "stdout", "data": "aGVsbG8K", "at": 1790000000123}]


SAID = {"number": 1, "progress": 0.4, "say": "epoch 3 of 8", "usage": {"tokens": 1200}}


class OutputTaken(BaseModel):
    next_seq: int = Field(description="The number of the first chunk that is not stored: continue from there.")
    stop: bool = Field(description="The run has ended: end the work.")


class HeartbeatTaken(BaseModel):
    stop: bool


class ReportTaken(BaseModel):
    number: int = Field(description="Of the last report that was taken; 0 for none, or while no worker has claimed it.")
    stop: bool = Field(description="The run has ended: end the work.")


class ResultTaken(BaseModel):
    taken: bool = Field(description="False only while no worker has claimed the run: send it again.")


class RunTokenMade(BaseModel):
    token: str = Field(description="Shown only once; it replaces any earlier token of the run.")


@router.post("/output", responses=answers(400, 401, 404, 413, 422, 503))
async def output(
    run_id: UUID,
    desk: ReportDesk,
    token: GivenToken,
    first_seq: Annotated[int, Body(strict=True, examples=[1])],
    chunks: Annotated[list[Any], Body(examples=[CHUNKS])],
) -> OutputTaken:
    """Append output. If the number is not the next one, the answer gives the next one."""
    return OutputTaken(**await desk.serve(reporting.append, run_id, token, first_seq, chunks))


@router.post("/heartbeat", responses=answers(401, 404, 422, 503))
async def heartbeat(run_id: UUID, desk: ReportDesk, token: GivenToken) -> HeartbeatTaken:
    """The work is alive."""
    return HeartbeatTaken(**await desk.serve(reporting.heartbeat, run_id, token))


@router.post("/report", responses=answers(401, 404, 413, 422, 503))
async def report(
    run_id: UUID, desk: ReportDesk, token: GivenToken, said: Annotated[dict[str, Any], Body(examples=[SAID])]
) -> ReportTaken:
    """Say how far the work is, what it does, what it has used, what has come of it: any of these."""
    return ReportTaken(**await desk.serve(reporting.say, run_id, token, said))


@router.post("/finish", responses=answers(400, 401, 404, 422, 503))
async def finish(
    run_id: UUID,
    desk: ReportDesk,
    token: GivenToken,
    outcome: Annotated[dict[str, Any], Body(examples=[{"exit_status": 0}])],
    last_seq: Annotated[int, Body(strict=True, examples=[41])],
) -> ResultTaken:
    """The work has ended. The first result counts."""
    return ResultTaken(**await desk.serve(reporting.record_result, run_id, token, outcome, last_seq))


@router.post("/token", status_code=201, dependencies=[MayAdministrate], responses=answers(401, 403, 404, 422, 503))
def token(run_id: UUID, wired: Wired) -> RunTokenMade:
    """A new token for a remote run, good for that run only."""
    return RunTokenMade(token=reporting.new_token(wired, run_id))
