"""Lanes over HTTP: their rules, and what runs and waits in each."""

from collections.abc import Iterable
from datetime import datetime

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from reprieve.api.access import MayAdministrate, MayRead, Wired
from reprieve.api.problems import answers
from reprieve.models.lanes import LaneState, Rule, checked_limit, checked_pattern
from reprieve.models.text import in_seconds

# A lane's name may have slashes in it, which no escape keeps from being taken for those of the address.
router = APIRouter(prefix="/v1/lanes", tags=["lanes"])


class WantedRule(BaseModel):
    """What the lanes that fit a pattern may do."""

    model_config = ConfigDict(extra="forbid")

    limit: int | None = Field(default=None, description="Runs of each that may be running at once; null: any number.")
    paused: bool = Field(default=False, description="Whether none of their runs begins.")


class RuleRecord(BaseModel):
    """The rule of a pattern: a lane's name, or the beginning of names and an asterisk."""

    pattern: str
    limit: int | None
    paused_at: datetime | None = Field(description="Since when none of their runs begins; null while they do.")

    @classmethod
    def of(cls, rule: Rule) -> "RuleRecord":
        return cls(pattern=rule.pattern, limit=rule.limit, paused_at=rule.paused_at)


class LaneRecord(BaseModel):
    """A lane that has runs, or a rule of its own."""

    lane: str
    limit: int | None
    pattern: str | None = Field(description="Of the rule that it has; null for none.")
    paused_at: datetime | None
    running: int
    ending: int = Field(description="Runs that have ended, and whose work is to be confirmed gone: they hold places.")
    waiting: int
    later: int = Field(description="Runs that wait for a time of their own, or for earlier work to be gone.")
    oldest_waiting_seconds: float | None
    served: bool = Field(description="Whether a living worker takes its runs.")
    why_waiting: str | None = Field(description="Why none of its runs begins just now; null where that is not so.")

    @classmethod
    def of(cls, lane: LaneState) -> "LaneRecord":
        return cls(
            lane=lane.lane,
            limit=lane.limit,
            pattern=lane.rule.pattern if lane.rule else None,
            paused_at=lane.paused_at,
            running=lane.running,
            ending=lane.ending,
            waiting=lane.waiting,
            later=lane.later,
            oldest_waiting_seconds=in_seconds(lane.oldest),
            served=lane.is_served,
            why_waiting=lane.why_waiting,
        )


class LaneList(BaseModel):
    lanes: list[LaneRecord]
    rules: list[RuleRecord]

    @classmethod
    def of(cls, states: Iterable[LaneState], rules: Iterable[Rule]) -> "LaneList":
        return cls(lanes=[LaneRecord.of(one) for one in states], rules=[RuleRecord.of(one) for one in rules])


@router.get("", dependencies=[MayRead], responses=answers(401, 403, 503))
def lanes(wired: Wired) -> LaneList:
    """What runs and waits in each lane, and the rules."""
    states = wired.lanes.states(wired.timing.worker_gone_after)
    return LaneList.of(states, wired.lanes.rules())


@router.put("/{pattern:path}", dependencies=[MayAdministrate], responses=answers(401, 403, 422, 503))
def put(pattern: str, wanted: WantedRule, wired: Wired) -> RuleRecord:
    """Give the lanes that fit a pattern this rule. What is running goes on."""
    checked = checked_pattern(pattern)
    return RuleRecord.of(wired.lanes.put(checked, checked_limit(wanted.limit), paused=wanted.paused))


@router.delete(
    "/{pattern:path}", status_code=204, dependencies=[MayAdministrate], responses=answers(401, 403, 422, 503)
)
def delete(pattern: str, wired: Wired) -> Response:
    """Forget the rule of a pattern, if there is one."""
    wired.lanes.remove(checked_pattern(pattern))
    return Response(status_code=204)
