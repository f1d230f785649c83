"""The fleet and the system itself: what is running, which adapters are installed, whether all is well."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from reprieve.adapters.protocol import Attaching, Probing
from reprieve.adapters.registry import adapter_classes
from reprieve.api.access import MayRead, Wired
from reprieve.api.desks import HealthDesk
from reprieve.api.problems import answers
from reprieve.models.faults import NOT_CURRENT
from reprieve.models.health import ailments
from reprieve.models.records import HealthRecord
from reprieve.models.workers import DrainRecord, WorkerRecord
from reprieve.stores.migrate import is_current
from reprieve.workers.bootstrap import Services
from reprieve.workers.health import complaints, setbacks

router = APIRouter(tags=["fleet"])


class ActiveRuns(BaseModel):
    status: str
    adapter: str
    runs: int
    quiet: int = Field(description="Of running runs, those without output for longer than their `quiet_after`.")
    longest_silence_seconds: float = Field(description="Of running runs, the age of the oldest last proof of life.")


class Fleet(BaseModel):
    """What is running, and the state of the reaper."""

    active: list[ActiveRuns]
    failed_last_hour: int = Field(description="Runs that failed, by themselves or by the reaper, to the minute.")
    failed_last_day: int = Field(description="The same; a minute that no sweep has counted yet is not in it.")
    health: HealthRecord
    window_seconds: float
    now: datetime = Field(description="By the database's clock, the one that decides.")


class History(BaseModel):
    """Recent history in steps of equal length; the last one is not over yet."""

    step_seconds: float = Field(description="The interval between two sweeps.")
    started: list[int] = Field(description="Attempts that began.")
    ended: list[int] = Field(description="Runs that succeeded, failed or were cancelled.")
    reaped: list[int] = Field(description="Attempts that were reaped.")


class AdapterRecord(BaseModel):
    """An adapter that is installed where the API runs."""

    type: str
    out_of_process_liveness: bool
    attaches: bool = Field(description="Whether another worker can follow its work.")
    probes: bool = Field(description="Whether its platform can be asked whether work lives.")
    config_schema: dict[str, Any] = Field(description="JSON Schema of a run's config.")


class AdapterList(BaseModel):
    adapters: list[AdapterRecord]


class WorkerList(BaseModel):
    """The workers of runs, and what is to take nothing new, whether it is there or not."""

    workers: list[WorkerRecord]
    drains: list[DrainRecord]


class Ready(BaseModel):
    ready: bool
    reasons: list[str] = Field(
        description="What is wrong, one sentence each, including what does not stop the system from working."
    )


@router.get("/v1/fleet", dependencies=[MayRead], responses=answers(401, 403, 503))
def fleet(wired: Wired) -> Fleet:
    """The fleet at a glance."""
    pulse = wired.sweeps.pulse()
    reasons = complaints(wired, pulse)
    last_hour, last_day = wired.fleet.failures(wired.timing.sweep_interval)
    return Fleet(
        failed_last_hour=last_hour,
        failed_last_day=last_day,
        active=[
            ActiveRuns(
                status=one.status,
                adapter=one.adapter,
                runs=one.runs,
                quiet=one.quiet,
                longest_silence_seconds=one.longest_silence.total_seconds(),
            )
            for one in wired.fleet.active()
        ],
        health=HealthRecord.of(pulse, reasons, wired.sweeps.account()),
        window_seconds=wired.timing.window.total_seconds(),
        now=wired.database.now(),
    )


@router.get("/v1/fleet/history", dependencies=[MayRead], responses=answers(401, 403, 503))
def history(wired: Wired) -> History:
    """The last hour, by the minute: runs that began, ended and were reaped."""
    step = wired.timing.sweep_interval
    steps = wired.fleet.history(step)
    return History(
        step_seconds=step.total_seconds(),
        started=[one.started for one in steps],
        ended=[one.ended for one in steps],
        reaped=[one.reaped for one in steps],
    )


@router.get("/v1/workers", dependencies=[MayRead], responses=answers(401, 403, 503))
def workers(wired: Wired) -> WorkerList:
    """The workers of runs: where each is, what it takes, how much it has."""
    return WorkerList(workers=wired.workers.all(wired.timing.worker_gone_after), drains=wired.workers.drains())


@router.get("/v1/adapters", dependencies=[MayRead], responses=answers(401, 403))
def adapters() -> AdapterList:
    """The adapters and the JSON schemas of their configs."""
    return AdapterList(
        adapters=[
            AdapterRecord(
                type=name,
                out_of_process_liveness=adapter_class.has_out_of_process_liveness,
                attaches=issubclass(adapter_class, Attaching),
                probes=issubclass(adapter_class, Probing),
                config_schema=adapter_class.config_model.model_json_schema(),
            )
            for name, adapter_class in sorted(adapter_classes().items())
        ]
    )


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live")
async def live() -> dict[str, bool]:
    """Whether this process answers. Needs no thread."""
    return {"live": True}


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", responses={503: {"model": Ready, "description": "Something is wrong."}})
async def ready(desk: HealthDesk) -> Response:
    """Whether the system keeps its promises; 503 with the reasons if it does not.

    An archive that refuses is reported, but the API stays ready: until it accepts them, logs are in the database.
    """
    reasons, problems = await desk.serve(_reasons)
    return JSONResponse(Ready(ready=not reasons, reasons=problems).model_dump(), 503 if reasons else 200)


def _reasons(wired: Services) -> tuple[list[str], list[str]]:
    """The reasons why the system does not keep its promises; and those together with lesser complaints."""
    if not is_current(wired.database):
        return [NOT_CURRENT], [NOT_CURRENT]
    reasons = ailments(wired.sweeps.pulse(), wired.timing)
    return reasons, reasons + setbacks(wired)
