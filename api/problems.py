"""Every error as a problem document (RFC 9457): what is wrong, and what to do."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from reprieve.models.errors import ReprieveError
from reprieve.models.faults import database_trouble, is_unfit, sqlstate_of
from reprieve.models.problems import PREFIX, STATUSES, answered_as, name_of

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

#: Fields that a problem names at the most: of a batch, thousands may be wrong.
FIELDS_NAMED = 20

#: The SQLSTATE of a read-only transaction.
READ_ONLY = "25006"

#: Seconds after which a client may repeat a request that could not be answered.
RETRY_AFTER = 5


class WrongField(BaseModel):
    """A part of the request that is wrong."""

    field: str = Field(examples=["query.limit"])
    detail: str = Field(examples=["Input should be less than or equal to 1000"])


class Problem(BaseModel):
    """A problem document."""

    type: str = Field(examples=["urn:reprieve:problem:run-not-found"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no run 01997a5e-7d5c-7000-8000-000000000000."])
    errors: list[WrongField] = []


def problem(status: int, detail: str, errors: list[WrongField] | None = None, name: str | None = None) -> JSONResponse:
    title = HTTPStatus(status).phrase
    body = Problem(
        type=PREFIX + (name or title.lower().replace(" ", "-")),
        title=title,
        status=status,
        detail=detail,
        errors=errors or [],
    )
    return JSONResponse(body.model_dump(exclude_defaults=True), status, headers=_headers(status), media_type=MEDIA_TYPE)


def _headers(status: int) -> dict[str, str]:
    if status == HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": str(RETRY_AFTER)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these problems, for the OpenAPI document."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: schema}, "model": Problem}
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Register the handlers with the app."""
    app.add_exception_handler(ReprieveError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(DBAPIError, _database)
    app.add_exception_handler(PoolExhausted, _database)
    app.add_exception_handler(Exception, _unforeseen)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    kind = answered_as(error)
    return problem(STATUSES[kind], str(error), name=name_of(kind)) if kind else problem(500, str(error))


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what this is registered for
    wrong = error.errors()
    named, more = [_field(one) for one in wrong[:FIELDS_NAMED]], len(wrong) - FIELDS_NAMED
    message = "; ".join(f"{one.field}: {one.detail}" for one in named) + (f"; and {more} more" if more > 0 else "")
    return problem(422, f"The request cannot be taken: {message}.", named)


def _field(wrong: Any) -> WrongField:
    return WrongField(field=".".join(str(part) for part in wrong["loc"]), detail=str(wrong["msg"]))


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - what this is registered for
    headers, detail = dict(error.headers or {}), str(error.detail)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _allowed(request) or headers.get("Allow", "")
        detail = f"{request.method} is not for this path; it takes {headers['Allow']}."
    answer = problem(error.status_code, detail)
    answer.headers.update(headers)
    return answer


def _allowed(request: Request) -> str:
    """All methods of a path: where it has several routes, the router names only those of the first."""
    paths: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    methods = (name for path, item in paths.items() if compile_path(path)[0].match(request.url.path) for name in item)
    return ", ".join(sorted(name.upper() for name in methods))


async def _database(request: Request, error: Exception) -> JSONResponse:
    """503 if a retry may help; anything else that the database refused is our bug."""
    message = database_trouble(error)
    if message is None:
        return await _unforeseen(request, error)
    logger.error("%s (%s)", message, type(getattr(error, "orig", None) or error).__name__)
    return problem(503, f"{message} {_what_follows(request, error)}" if is_unfit(error) else message)


def _what_follows(request: Request, error: Exception) -> str:
    """What to do after a database error, which may have come after the change was committed, or during it."""
    if request.method in ("GET", "HEAD") or sqlstate_of(error) == READ_ONLY:
        return "Nothing was changed. Try again in a moment."
    return (
        "It is not known whether anything was changed: repeat the request with the same Idempotency-Key, or look first."
    )


async def _unforeseen(_: Request, error: Exception) -> JSONResponse:
    logger.error("A request failed.", exc_info=error)
    return problem(500, "The request failed for a reason that is in the API's log.")
