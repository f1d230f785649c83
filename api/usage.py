"""What runs have used, added up, over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from reprieve.api.access import MayRead, Wired
from reprieve.api.problems import answers
from reprieve.models.records import UsageSummary
from reprieve.models.usage import LATELY

router = APIRouter(prefix="/v1/usage", tags=["runs"])

By = Annotated[str, Query(description="`adapter`, `lane`, `status`, or `label:NAME`.", examples=["label:team"])]
Since = Annotated[
    AwareDatetime | None, Query(description="Only runs asked for at this moment or later; the last 7 days by default.")
]


@router.get("", dependencies=[MayRead], responses=answers(401, 403, 422, 503))
def usage(wired: Wired, by: By = "adapter", since: Since = None) -> UsageSummary:
    """Add up what runs have used: their own numbers, what was measured of them, and the time that they took."""
    return wired.usage.since(since or wired.database.now() - LATELY, by)
