"""Many runs over HTTP, by what they have in common or by their ids: ended, or done again."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from reprieve.api.access import AskedBy, MayRun, Wired
from reprieve.api.problems import answers
from reprieve.api.runs import Chosen, RunKey, key_of
from reprieve.client.enqueue import Asker, again_each
from reprieve.models.errors import InvalidRequest, RunNotFound
from reprieve.models.filters import Deed, RunFilter
from reprieve.models.paging import pages
from reprieve.models.requests import checked_key
from reprieve.stores.bulk import BulkStore, Choice
from reprieve.workers import tracing
from reprieve.workers.bootstrap import Services
from reprieve.workers.cancel import cancel_each

router = APIRouter(prefix="/v1/runs", tags=["runs"])

#: Runs that one request is about at the most, …
MOST_AT_ONCE = 1000
#: … those that are written by one statement, …
STEP = 100
#: … and the pages of a list that it turns to choose them.
PAGES = 20
#: What a request that a release before this one has kept does not have: where it is not said, nobody keeps it.
NEWER = ("until", "ended_since")
#: Characters of a key. Each new run's own key is made of it and of an id.
MAX_KEY_LENGTH = 200


class WantedBulk(Chosen):
    """Runs that something is to be done to: all that fit what is said of them, the newest first, or these."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"label": ["team=data"], "error": "stalled", "limit": 100}]}
    )

    runs: Annotated[list[UUID], Field(max_length=MOST_AT_ONCE)] | None = Field(default=None, description="These.")
    limit: int = Field(default=100, ge=1, le=MOST_AT_ONCE, description="So many of those that fit at the most.")
    dry_run: bool = Field(default=False, description="Only say how many.")
    idempotency_key: str | None = Field(default=None, description="The same key is about the same runs. Needed.")

    def wanted_for(self, deed: Deed) -> RunFilter:
        """What they are chosen by. Raises `InvalidRequest`."""
        if self.runs is not None and not self.wanted.is_any:
            raise InvalidRequest("runs: give these, or what they are to be chosen by, not both.")
        if self.runs is None and self.wanted.is_any:
            raise InvalidRequest("Which runs? Give runs, or what they are to be chosen by: label, status, error, ….")
        return deed.of(self.wanted)


class BulkDone(BaseModel):
    """What was done to many runs."""

    chosen: int = Field(description="How many runs it is about.")
    more: bool = Field(description="Whether there are more that fit, or may be: ask again, with a new key.")
    runs: list[UUID] = Field(description="Of those, the runs that are cancelled now; or the new runs.")


RESPONSES = answers(401, 403, 404, 409, 422, 503)


@router.post("/cancel", dependencies=[MayRun], responses=RESPONSES)
def cancel(wanted: WantedBulk, wired: Wired, by: AskedBy, idempotency_key: RunKey = None) -> BulkDone:
    """End many runs and their work. Those that have ended meanwhile stay as they are."""
    choice = _choice(wired, Deed.CANCEL, wanted, idempotency_key)
    if wanted.dry_run:
        return BulkDone(chosen=len(choice.run_ids), more=choice.more, runs=[])
    held, cancelled = list[UUID](), set[UUID]()
    for page in pages(choice.run_ids, STEP):
        cancel_each(wired, page, held, by=by)
    cancel_each(wired, held, by=by)
    for page in pages(choice.run_ids, STEP):
        cancelled |= {run.id for run in wired.records.of(page) if run.status == "cancelled"}
    runs = [run_id for run_id in choice.run_ids if run_id in cancelled]
    return BulkDone(chosen=len(choice.run_ids), more=choice.more, runs=runs)


@router.post("/again", dependencies=[MayRun], responses=RESPONSES)
def again(wanted: WantedBulk, request: Request, wired: Wired, by: AskedBy, idempotency_key: RunKey = None) -> BulkDone:
    """Start a new run for each of many that have ended, which does the same again."""
    choice = _choice(wired, Deed.AGAIN, wanted, idempotency_key)
    if wanted.dry_run:
        return BulkDone(chosen=len(choice.run_ids), more=choice.more, runs=[])
    key, new = _key(wanted, idempotency_key), []
    asker = Asker(by, tracing.caller_of(request.headers))
    for page in pages(choice.run_ids, STEP):
        there = {run.id for run in wired.records.of(page)}  # A retention may have removed the others.
        keys = {run_id: f"{key}-{run_id}" for run_id in page if run_id in there}
        new += again_each(keys, wired.database, asker=asker)
    return BulkDone(chosen=len(choice.run_ids), more=choice.more, runs=[run.id for run, _ in new])


def _key(wanted: WantedBulk, header: str | None) -> str:
    key = checked_key(key_of(header, wanted.idempotency_key))
    if key is None or len(key) > MAX_KEY_LENGTH:
        raise InvalidRequest(
            f"Give an idempotency_key of 1 to {MAX_KEY_LENGTH} characters: without one, a request that is sent again "
            "would be about other runs."
        )
    return key


def _choice(wired: Services, deed: Deed, wanted: WantedBulk, header: str | None) -> Choice:
    """The runs that the request is about: chosen now, or when it came with this key before."""
    by = wanted.wanted_for(deed)
    if wanted.dry_run:
        return _chosen(wired, by, wanted)
    key, kept = _key(wanted, header), BulkStore(wired.database)
    unsaid = {name for name in NEWER if getattr(wanted, name) is None}
    asked = wanted.model_dump(mode="json", exclude={"idempotency_key", "dry_run", *unsaid}) | {"deed": deed.value}
    return kept.known(key, asked) or kept.keep(key, asked, _chosen(wired, by, wanted))


def _chosen(wired: Services, by: RunFilter, wanted: WantedBulk) -> Choice:
    if wanted.runs is not None:
        found = {run.id: run.status for run in wired.records.of(wanted.runs)}
        if missing := next((run_id for run_id in wanted.runs if run_id not in found), None):
            raise RunNotFound(f"There is no run {missing}.")
        return Choice([run_id for run_id, status in found.items() if status in by.statuses], more=False)
    ids, before = list[UUID](), None
    for _ in range(PAGES):
        some, before = wired.records.ids(by, before=before, limit=wanted.limit - len(ids))
        ids += some
        if before is None or len(ids) == wanted.limit:
            break
    return Choice(ids, more=before is not None)
