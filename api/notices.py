"""Notices: whom to tell what happens to runs, and what came of telling it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from reprieve.api.access import MayAdministrate, MayRead, Wired
from reprieve.api.problems import answers
from reprieve.models.notice_rules import checked_rule
from reprieve.models.notices import NoticeState
from reprieve.models.records import NoticeList, NoticeRecord, NoticeRuleList, NoticeRuleRecord

router = APIRouter(prefix="/v1/notices", tags=["notices"])

Name = Annotated[str, Path(description="Letters, digits, dots, dashes and underscores.")]


class WantedRule(BaseModel):
    """Whom to tell of what."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(description="Where notices are sent to. It is not shown again as a whole.")
    kinds: list[str] | None = Field(
        default=None,
        description="succeeded, failed, cancelled, reaped, retried, quiet, suspected; all of them by default.",
    )
    labels: dict[str, str] | None = Field(default=None, description="Labels that a run must have.")
    lane: str | None = Field(default=None, description="The lane that a run must be in.")


@router.get("", dependencies=[MayRead], responses=answers(401, 403, 422, 503))
def notices(
    wired: Wired,
    state: NoticeState = NoticeState.OWED,
    run: Annotated[UUID | None, Query(description="Those of this run, whatever their state.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> NoticeList:
    """Notices in a state: what is tried next, or was settled last, comes first."""
    found = wired.notices.in_state(state, limit) if run is None else wired.notices.of_run(run, limit)
    return NoticeList(notices=[NoticeRecord.of(one) for one in found])


@router.get("/rules", dependencies=[MayRead], responses=answers(401, 403, 503))
def rules(wired: Wired) -> NoticeRuleList:
    """The rules, by their names."""
    return NoticeRuleList(rules=[NoticeRuleRecord.of(rule) for rule in wired.notices.rules()])


@router.put("/rules/{name}", dependencies=[MayAdministrate], responses=answers(401, 403, 422, 503))
def put_rule(name: Name, wanted: WantedRule, wired: Wired) -> NoticeRuleRecord:
    """Add a rule, or put it in the place of that of its name."""
    rule = checked_rule(name, wanted.url, wanted.kinds, wanted.labels, wanted.lane)
    wired.notices.put_rule(rule)
    return NoticeRuleRecord.of(rule)


@router.delete(
    "/rules/{name}", dependencies=[MayAdministrate], status_code=204, responses=answers(401, 403, 404, 422, 503)
)
def remove_rule(name: Name, wired: Wired) -> Response:
    """Tell nobody by this rule from now on."""
    wired.notices.remove_rule(name)
    return Response(status_code=204)


@router.post(
    "/rules/{name}/test",
    dependencies=[MayAdministrate],
    status_code=202,
    responses=answers(401, 403, 404, 422, 503),
)
def test_rule(name: Name, wired: Wired) -> NoticeRecord:
    """Send a notice that tells of nothing to the address of a rule; what comes of it, the notice says."""
    return NoticeRecord.of(wired.notices.test(name))


@router.get("/{notice_id}", dependencies=[MayRead], responses=answers(401, 403, 404, 422, 503))
def notice(notice_id: UUID, wired: Wired) -> NoticeRecord:
    """One notice."""
    return NoticeRecord.of(wired.notices.find(notice_id))


@router.post("/{notice_id}/again", dependencies=[MayAdministrate], responses=answers(401, 403, 404, 422, 503))
def again(notice_id: UUID, wired: Wired) -> NoticeRecord:
    """Send a notice once more, with the same id, and try that for another day."""
    return NoticeRecord.of(wired.notices.again(notice_id))
