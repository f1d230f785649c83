"""Errors over HTTP: the status that each is answered with, and the name by which a client knows it again."""

import re
from collections.abc import Mapping

from reprieve.models.errors import (
    IdempotencyConflict,
    InvalidRequest,
    LogLost,
    LogRemoved,
    LogUnavailable,
    NoticeNotFound,
    ReprieveError,
    RunNotFound,
    TokenRefused,
    Unavailable,
    UnknownAdapter,
)

#: What the `type` of each problem document begins with.
PREFIX = "urn:reprieve:problem:"

#: The status of each error that a client can cause; any other is our fault.
STATUSES: Mapping[type[ReprieveError], int] = {
    RunNotFound: 404,
    NoticeNotFound: 404,
    IdempotencyConflict: 409,
    InvalidRequest: 422,
    UnknownAdapter: 422,
    TokenRefused: 401,
    LogRemoved: 410,
    LogLost: 410,
    LogUnavailable: 503,
    Unavailable: 503,
}


def name_of(kind: type[ReprieveError]) -> str:
    """`RunNotFound` is `run-not-found`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()


_BY_TYPE = {PREFIX + name_of(kind): kind for kind in STATUSES}


def answered_as(error: Exception) -> type[ReprieveError] | None:
    """The kind in the table above that an error is of; None for one that is our fault."""
    return next((kind for kind in STATUSES if isinstance(error, kind)), None)


def of_type(problem_type: object) -> type[ReprieveError] | None:
    """The error that a problem document's `type` names; None where it names none of ours."""
    return _BY_TYPE.get(problem_type) if isinstance(problem_type, str) else None
