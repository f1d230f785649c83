"""What each operation asks of the HTTP API, and what its answer says: pure functions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

from pydantic import BaseModel, ValidationError

from reprieve.client.arguments import PAGE
from reprieve.client.http.steps import Answer, Lost, Request
from reprieve.client.http.streams import Events
from reprieve.models.errors import InvalidRequest, NotAllowed, ReprieveError, Unavailable
from reprieve.models.filters import RunFilter
from reprieve.models.output import LogItem, Output, gap_of_json
from reprieve.models.problems import of_type
from reprieve.models.records import EnqueuedRuns, Run, RunPage
from reprieve.models.requests import RunRequest, checked_key

M = TypeVar("M", bound=BaseModel)

RUNS = "/v1/runs"
#: Statuses that say "not now": of the API itself, or of a proxy before it.
NOT_NOW = (408, 425, 429, 502, 503, 504)
#: Seconds that are waited at the most because the server asked for it.
LONGEST_ASKED = 60.0


# -- requests


def enqueue_run(wanted: RunRequest) -> Request:
    """Ask for a run."""
    return _post(RUNS, _content(wanted))


def enqueue_runs(wanted: Sequence[RunRequest]) -> Request:
    """Ask for many runs, or none."""
    contents = []
    for place, one in enumerate(wanted):
        try:
            contents.append(_content(one))
        except InvalidRequest as error:
            raise InvalidRequest(f"Run {place}{one.name}: {error}") from None
    return _post(f"{RUNS}/batch", b'{"runs":[%s]}' % b",".join(contents))


def run_again(run_id: UUID, idempotency_key: str | None) -> Request:
    """With a key of its own, where there is none: asking once more does not start a second one."""
    key = checked_key(f"client-{uuid4()}" if idempotency_key is None else idempotency_key)
    return _post(f"{RUNS}/{run_id}/again", json.dumps({"idempotency_key": key}).encode())


def cancel_run(run_id: UUID) -> Request:
    return Request("POST", f"{RUNS}/{run_id}/cancel")


def get_run(run_id: UUID) -> Request:
    return Request("GET", f"{RUNS}/{run_id}")


def get_result(run_id: UUID) -> Request:
    """Only of a run that has given one."""
    return Request("GET", f"{RUNS}/{run_id}/result")


def list_runs(wanted: RunFilter, before: UUID | None) -> Request:
    """A page of the runs, from the one before this id on."""
    query = [("limit", str(PAGE)), *(("status", status.value) for status in wanted.statuses)]
    query += [("label", f"{name}={value}") for name, value in wanted.labels.items()]
    others: dict[str, str | None] = {
        "adapter": wanted.adapter,
        "error": wanted.error,
        "lane": wanted.lane,
        "since": wanted.since.isoformat() if wanted.since else None,
        "until": wanted.until.isoformat() if wanted.until else None,
        "ended_since": wanted.ended_since.isoformat() if wanted.ended_since else None,
        "text": wanted.text,
        "before": str(before) if before else None,
    }
    query += [(name, value) for name, value in others.items() if value is not None]
    return Request("GET", RUNS, tuple(query))


def read_log(run_id: UUID, attempt: int, after: int) -> Request:
    """All of an attempt's log that comes after this number, a line of JSON for each item."""
    return Request("GET", f"{RUNS}/{run_id}/attempts/{attempt}/log.ndjson", (("after", str(after)),), _AS_IT_COMES)


def follow_log(run_id: UUID, place: str) -> Request:
    """The stream of what comes after this place, `ATTEMPT:SEQ`."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": place, **_AS_IT_COMES}
    return Request("GET", f"{RUNS}/{run_id}/log/live", headers=headers)


#: A proxy that compresses a stream holds it back.
_AS_IT_COMES = {"Accept-Encoding": "identity"}


def _post(path: str, content: bytes) -> Request:
    return Request("POST", path, headers={"Content-Type": "application/json"}, content=content)


def _content(wanted: RunRequest) -> bytes:
    """A run that is asked for, as JSON. It gets a key if it has none: asking again does not start a second one."""
    given = {
        _WITH_UNITS.get(one.name, one.name): getattr(wanted, one.name)
        for one in fields(RunRequest)
        # What was not asked for is not said: a server of before need not know it.
        if getattr(wanted, one.name) != one.default
    }
    body = {"idempotency_key": f"client-{uuid4()}"} | given
    try:
        wanted.check()
        return json.dumps(body, allow_nan=False, default=_as_json).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"It cannot be sent as JSON ({error}): give text, numbers, lists, mappings.") from None


#: What it is called there, where times are plain numbers.
_WITH_UNITS = {
    name: f"{name}_seconds" for name in ("max_runtime", "start_within", "retry_delay", "quiet_after", "max_silence")
} | {"max_memory": "max_memory_bytes"}


def _as_json(value: object) -> object:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form there")


# -- answers


def run_of(answer: Answer) -> Run:
    return _read(Run, answer)


def runs_of(answer: Answer) -> list[Run]:
    return [one.run for one in _read(EnqueuedRuns, answer).runs]


def json_of(answer: Answer) -> Any:
    try:
        return json.loads(answer.content)
    except ValueError as error:
        raise not_understood(type(error).__name__) from None


def page_of(answer: Answer) -> RunPage:
    return _read(RunPage, answer)


def _read(kind: type[M], answer: Answer) -> M:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as error:
        raise not_understood(type(error).__name__) from None


def line_of(attempt: int, line: bytes) -> LogItem | None:
    """An item of a log that is read; None for the last line, which says that it was all."""
    try:
        said = json.loads(line)
        if "end" in said:
            return None
        return gap_of_json(attempt, said["gap"]) if "gap" in said else Output.of_json(attempt, said)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise not_understood(type(error).__name__) from None


class Following:
    """A reader of a stream of output: where it is, by what it has received, over any number of connections."""

    def __init__(self, attempt: int, after: int) -> None:
        self.place = f"{attempt}:{after}"
        self.has_ended = False
        self.begin()

    def begin(self) -> None:
        """A connection begins; what the last one left incomplete comes again."""
        self._events = Events()
        #: Why the server cannot go on just now, and for how many seconds it asks us to stay away.
        self.trouble: str | None = None
        self.asked = 0.0

    def hear(self, data: bytes) -> list[LogItem]:
        """The items that this completes."""
        items: list[LogItem] = []
        for event in self._events.feed(data):
            try:
                items += self._take(event.name, json.loads(event.text))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise not_understood(type(error).__name__) from None
            self.place = event.id or self.place
            self.asked = event.retry or self.asked
        return items

    def _take(self, name: str, said: Mapping[str, Any]) -> list[LogItem]:
        if name == "output":
            return [Output.of_json(said["attempt"], chunk) for chunk in said["chunks"]]
        if name == "gap":
            return [gap_of_json(said["attempt"], said)]
        if name == "unavailable":
            self.trouble = str(said["detail"])
        self.has_ended |= name == "end"
        return []


def not_understood(why: str) -> Unavailable:
    return Unavailable(
        f"The answer is not of the form that this release understands ({why}): is this the address of Reprieve's API, "
        "and is the client as new as the server?"
    )


# -- what went wrong


def is_not_now(reply: Answer | Lost) -> bool:
    """Whether the same may be answered otherwise in a moment."""
    return isinstance(reply, Lost) or reply.status in NOT_NOW


def wait_asked(reply: Answer | Lost) -> float:
    """Seconds that the server asks to wait before it is asked again; 0 where it says nothing, or a date."""
    said = reply.headers.get("retry-after", "") if isinstance(reply, Answer) else ""
    return min(float(said), LONGEST_ASKED) if said.isascii() and said.isdigit() else 0.0


def refusal(reply: Answer | Lost) -> ReprieveError:
    """What an answer that is no success means: the error that a direct call would raise."""
    if isinstance(reply, Lost):
        return Unavailable(f"Reprieve's API does not answer ({reply.why}).")
    problem = _problem(reply)
    said = f"Reprieve's API answers {reply.status}"
    detail = problem.get("detail") if isinstance(problem.get("detail"), str) else None
    kind = of_type(problem.get("type")) or _KINDS.get(reply.status)
    if kind is None or detail is None:
        where = f", and points to {location!r}" if (location := reply.headers.get("location")) else ""
        sentence = f"{said}{where}: {detail}" if detail else f"{said}{where}: is this its address, and of its release?"
        return Unavailable(sentence[:1000])
    return kind(detail)


#: What statuses mean whose problem document names no error of ours.
_KINDS: Mapping[int, type[ReprieveError]] = {
    400: InvalidRequest,
    401: NotAllowed,
    403: NotAllowed,
    413: InvalidRequest,
    422: InvalidRequest,
}


def _problem(answer: Answer) -> Mapping[str, Any]:
    try:
        said = json.loads(answer.content)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
