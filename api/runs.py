"""Runs over HTTP: asked for, listed, looked at, cancelled; and their events."""

from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, HTTPException, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from reprieve.api.access import AskedBy, MayRead, MayRun, Wired, root_path
from reprieve.api.problems import answers
from reprieve.client.enqueue import Asker, again_each, enqueue_each
from reprieve.models.errors import InvalidRequest
from reprieve.models.filters import MAX_WORDS, RunFilter, Sort, labels_of
from reprieve.models.lanes import DEFAULT_LANE
from reprieve.models.records import (
    AskedRecord,
    EnqueuedRun,
    EnqueuedRuns,
    EventRecord,
    ExplanationRecord,
    Run,
    RunPage,
    SampleList,
)
from reprieve.models.requests import MOST_AT_ONCE, RunRequest
from reprieve.models.status import ErrorCode, Status
from reprieve.workers import tracing
from reprieve.workers.cancel import cancel_run
from reprieve.workers.explaining import explain
from reprieve.workers.quiet import snooze_run

router = APIRouter(prefix="/v1/runs", tags=["runs"])

#: Runs on one page at the most.
LARGEST_PAGE = 1000


class WantedRun(BaseModel):
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
    idempotency_key: str | None = Field(default=None, description="As the header, and for text that no header holds.")

    lane: str = Field(default=DEFAULT_LANE, description="The lane that it waits in; see `/v1/lanes`.")
    priority: int = Field(default=0, description="From -100 to 100: within its lane, the higher is started first.")
    start_at: AwareDatetime | None = Field(default=None, description="It is not started before this moment.")
    start_within_seconds: float | None = Field(
        default=None,
        description="It fails as `not_started` if it has not begun so long after start_at, or after it was asked for.",
    )
    retry_on: dict[str, list[int | str]] | None = Field(
        default=None, description="Ends that another attempt follows, by their exit_status, error_code or reason."
    )
    retry_delay_seconds: float | None = Field(default=None, description="How long such an attempt waits.")
    notify: list[str] | None = Field(
        default=None, description="Addresses that are sent a notice of what happens to it; see `/v1/notices`."
    )
    quiet_after_seconds: float | None = Field(default=None, description="Silence after which it is called quiet.")
    max_silence_seconds: float | None = Field(default=None, description="Silence that ends it as `stalled`.")
    max_memory_bytes: int | None = Field(
        default=None, description="What an attempt may have in memory; beyond it, it is ended as `oom_killed`."
    )

    @property
    def asked(self) -> RunRequest:
        given = {
            name.removesuffix("_seconds").removesuffix("_bytes"): getattr(self, name)
            for name in type(self).model_fields
        }
        return RunRequest(**given)


class WantedRuns(BaseModel):
    """Runs to be started, all of them or none."""

    model_config = ConfigDict(extra="forbid")

    runs: list[WantedRun] = Field(max_length=MOST_AT_ONCE)


class Snooze(BaseModel):
    """For how long."""

    model_config = ConfigDict(extra="forbid")

    seconds: float = Field(description="From now on; 0 ends a snooze.", examples=[3600])


class Events(BaseModel):
    """What happened to a run, in the order in which it happened."""

    events: list[EventRecord]


class Explained(ExplanationRecord):
    """Why a run is as it is."""

    sentences: list[str] = Field(description="For a person who was woken for it.")


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
        200: {"description": "The run that the idempotency key gave before.", "model": Run},
        **answers(400, 401, 403, 409, 413, 422, 503),
    },
)
def create(
    wanted: WantedRun, request: Request, response: Response, wired: Wired, by: AskedBy, idempotency_key: RunKey = None
) -> Run:
    """Start a run: 201 and its address, or 200 with the run that the idempotency key gave before."""
    asked = replace(wanted.asked, idempotency_key=key_of(idempotency_key, wanted.idempotency_key))
    ((run, is_new),) = enqueue_each([asked], wired.database, asker=Asker(by, tracing.caller_of(request.headers)))
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"{root_path(request)}/v1/runs/{run.id}"
    return run


@router.post(
    "/batch",
    dependencies=[MayRun],
    response_model=EnqueuedRuns,
    responses=answers(400, 401, 403, 409, 413, 422, 503),
)
def create_batch(wanted: WantedRuns, request: Request, wired: Wired, by: AskedBy) -> Response:
    """Start many runs, or none of them: `idempotency_key` of each gives the same run again."""
    asked = [each.asked for each in wanted.runs]
    found = enqueue_each(asked, wired.database, asker=Asker(by, tracing.caller_of(request.headers)))
    told = EnqueuedRuns(runs=[EnqueuedRun(is_new=is_new, run=run) for run, is_new in found])
    # Made here, on a thread: thousands of runs as JSON would hold up all that the event loop serves.
    return Response(told.model_dump_json(), media_type="application/json")


def key_of(header: str | None, field: str | None) -> str | None:
    """The idempotency key, which may be in a header or in the body. Raises `InvalidRequest` for two."""
    if None not in (header, field) and header != field:
        raise InvalidRequest("idempotency_key is another than the header Idempotency-Key says; give one of them.")
    return header if field is None else field


class Chosen(BaseModel):
    """Which runs are meant: all that is said must hold."""

    status: list[Status] = Field(default=[], description="Only these.")
    adapter: str | None = Field(default=None, pattern=PLAIN, description="Only of this one.")
    label: list[Label] = Field(default=[], description="Each NAME=VALUE; all must hold.")
    error: ErrorCode | None = Field(default=None, description="Only those that failed as this.")
    lane: str | None = Field(default=None, pattern=PLAIN, description="Only of this one.")
    since: AwareDatetime | None = Field(default=None, description="Only those asked for at this moment or later.")
    until: AwareDatetime | None = Field(default=None, description="Only those asked for before this moment.")
    ended_since: AwareDatetime | None = Field(
        default=None, description="Only those that ended at this moment or later."
    )
    text: str | None = Field(
        default=None, pattern=PLAIN, min_length=1, max_length=MAX_WORDS, description="In a label, or in the error."
    )

    @property
    def wanted(self) -> RunFilter:
        return RunFilter.of(
            statuses=self.status,
            adapter=self.adapter,
            labels=labels_of((name, value) for name, _, value in (pair.partition("=") for pair in self.label)),
            error=self.error,
            lane=self.lane,
            since=self.since,
            until=self.until,
            ended_since=self.ended_since,
            text=self.text,
        )


class ChosenPage(Chosen):
    """A page of a list. A name that is not known is refused: without it, more runs would fit than were meant."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(
        default=None,
        pattern=r"^[0-9A-Fa-f-]{4,36}$",
        description="Only those whose id begins or ends with this; with nothing else.",
    )
    sort: Sort = Field(
        default=Sort.NEWEST,
        description="longest (running) and silent (since the last sign of life): of status=running.",
    )
    before: UUID | None = Field(default=None, description="`next` of the page before.")
    limit: int = Field(default=50, ge=1, le=LARGEST_PAGE)


@router.get("", dependencies=[MayRead], responses=answers(401, 403, 422, 503))
def list_runs(wired: Wired, chosen: Annotated[ChosenPage, Query()]) -> RunPage:
    """List runs, the newest first. A page may have fewer than `limit`, or none, and a `next`: there may be more."""
    if chosen.id is None:
        return wired.records.page(chosen.wanted, before=chosen.before, limit=chosen.limit, sort=chosen.sort)
    if not chosen.wanted.is_any or chosen.before is not None:
        raise InvalidRequest("id: give this, or what runs are to be chosen by, not both.")
    found = wired.records.of(wired.records.matching(chosen.id, chosen.limit))
    return RunPage(runs=sorted(found, key=lambda run: run.id, reverse=True), next=None)


@router.get("/{run_id}", dependencies=[MayRead], responses=answers(401, 403, 404, 422, 503))
def get(run_id: RunId, wired: Wired) -> Run:
    """One run and its attempts."""
    return wired.records.get(run_id)


@router.get("/{run_id}/request", dependencies=[MayRun], responses=answers(401, 403, 404, 422, 503))
def asked(run_id: RunId, wired: Wired) -> AskedRecord:
    """What a run was asked for with: its config, too, which may hold what is not for everybody who may look."""
    return wired.records.asked(run_id)


@router.get(
    "/{run_id}/result",
    dependencies=[MayRead],
    responses={
        200: {"description": "What the run gave.", "content": {"application/json": {}}},
        **answers(401, 403, 404, 422, 503),
    },
)
def result(run_id: RunId, wired: Wired) -> Response:
    """The newest result that a run gave, as it gave it."""
    given = wired.records.result(run_id)
    if given is None:
        raise HTTPException(404, f"Run {run_id} has given no result.")
    return Response(given, media_type="application/json", headers={"X-Content-Type-Options": "nosniff"})


class WantedAgain(BaseModel):
    """A run that is to be done again."""

    model_config = ConfigDict(extra="forbid")

    idempotency_key: str | None = Field(default=None, description="The same key gives the same new run.")


@router.post(
    "/{run_id}/again",
    status_code=201,
    dependencies=[MayRun],
    responses={
        200: {"description": "The run that the idempotency key gave before.", "model": Run},
        **answers(401, 403, 404, 409, 422, 503),
    },
)
def again(
    run_id: RunId,
    request: Request,
    response: Response,
    wired: Wired,
    by: AskedBy,
    wanted: WantedAgain | None = None,
    idempotency_key: RunKey = None,
) -> Run:
    """Start a new run that does the same as this one: all that it was asked for with but its key and its `start_at`."""
    key = key_of(idempotency_key, wanted.idempotency_key if wanted else None)
    ((run, is_new),) = again_each({run_id: key}, wired.database, asker=Asker(by, tracing.caller_of(request.headers)))
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"{root_path(request)}/v1/runs/{run.id}"
    return run


@router.post("/{run_id}/cancel", dependencies=[MayRun], responses=answers(401, 403, 404, 422, 503))
def cancel(run_id: RunId, by: AskedBy) -> Run:
    """End a run and its work. One that has already ended stays as it is."""
    return cancel_run(run_id, by=by)


@router.post("/{run_id}/snooze", dependencies=[MayRun], responses=answers(401, 403, 404, 422, 503))
def snooze(run_id: RunId, wanted: Snooze, wired: Wired) -> Run:
    """Tell nobody that a run is quiet, and do not end it as stalled, for a while. One that has ended stays as it is."""
    return snooze_run(wired, run_id, wanted.seconds)


@router.get("/{run_id}/events", dependencies=[MayRead], responses=answers(401, 403, 404, 422, 503))
def events(run_id: RunId, wired: Wired) -> Events:
    """What happened to a run."""
    wired.records.get(run_id)
    return Events(events=[EventRecord.of(event) for event in wired.runs.events(run_id)])


@router.get("/{run_id}/attempts/{attempt}/samples", dependencies=[MayRead], responses=answers(401, 403, 404, 422, 503))
def samples(run_id: RunId, attempt: Annotated[int, Path(ge=1, le=2**31 - 1)], wired: Wired) -> SampleList:
    """What an attempt used over its life, to be plotted: processor time and memory of all that it started."""
    wired.records.get(run_id)
    return wired.samples.of(run_id, attempt)


@router.get("/{run_id}/explain", dependencies=[MayRead], responses=answers(401, 403, 404, 422, 503))
def explained(run_id: RunId, wired: Wired) -> Explained:
    """Why a run is as it is: its proof of life, what happened, and the evidence of a reap."""
    told = explain(wired, run_id)
    return Explained(sentences=told.sentences, **dict(told.record))
