"""What the API server is asked, and what an answer of it is worth. Pure: no I/O, no clock."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

Json = dict[str, Any]

#: How many objects are asked for in one answer to a list.
PAGE_SIZE = 500
#: How the admission plugin ResourceQuota says that there is no room now (`resourcequota/controller.go`).
FULL_QUOTA = ("exceeded quota: ", "status unknown for quota: ")


@dataclass
class ApiError(Exception):
    """Raised when a request was not answered as it should be: not at all, by an error, or by half an answer."""

    message: str
    status: int | None = None
    """The HTTP status; None when there was none, or not to be relied on."""
    reason: str | None = None
    """The API's own word, from the body; None when what answered was not the API server."""
    name: str | None = None
    """The object that it is about."""
    retry_after: float | None = None

    def __str__(self) -> str:
        said = " ".join(str(part) for part in (self.status, self.reason) if part is not None)
        return f"{said}: {self.message}" if said else self.message

    @property
    def is_refusal(self) -> bool:
        """Whether the API server itself refuses the request, and will again.

        Not so for credentials, that may be on their way, nor for a quota, that others leave room in.
        """
        if self.status is None or not self.reason or self.is_full_quota:
            return False
        return 400 <= self.status < 500 and self.status not in (401, 408, 409, 425, 429)

    @property
    def is_full_quota(self) -> bool:
        """Whether a quota has no room for it now, or is not counted yet; the API has no word of its own for that."""
        return self.status == 403 and any(text in self.message for text in FULL_QUOTA)

    @property
    def is_missing_right(self) -> bool:
        """Whether the API server itself says that we may not do this."""
        return self.status == 403 and bool(self.reason) and not self.is_full_quota

    @property
    def is_overload(self) -> bool:
        """Whether it is to be asked the same again, later: what it knew when it was asked last has not changed."""
        return self.status in (429, 500, 502, 503)

    def is_absence_of(self, name: str) -> bool:
        """Whether the API server itself said that the object is not there. A proxy's 404 says nothing."""
        return self.status == 404 and self.reason == "NotFound" and self.name == name


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """From an answer that is an error."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict) or said.get("kind") != "Status":
        said = {"message": body[:200].decode(errors="replace").strip() or "no reason was given"}
    return error_of_status(said, status, _seconds(headers.get("Retry-After")))


def error_of_status(said: Json, status: int | None, retry_after: float | None = None) -> ApiError:
    """From the API's own form of an error."""
    details = said.get("details") or {}
    asked = retry_after if retry_after is not None else details.get("retryAfterSeconds")
    message = str(said.get("message") or "no reason was given")
    return ApiError(message, status, said.get("reason"), details.get("name"), asked)


def _seconds(text: str | None) -> float | None:
    """Of `Retry-After`, in the form that API servers use; dates are not."""
    return float(text) if text is not None and text.isdecimal() else None


def json_of(body: bytes) -> Json:
    """An answer's body. Raises `ApiError`, and so do the others."""
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise ApiError(f"the answer was cut or is no JSON ({type(error).__name__})") from None
    if not isinstance(answer, dict):
        raise ApiError("the answer is not an object")
    return answer


def object_of(answer: Json, name: str) -> Json:
    """The object of this name."""
    if not is_object(answer) or answer["metadata"]["name"] != name:
        raise ApiError("the answer is not the object that was asked for")
    return answer


class Page(NamedTuple):
    """Of a list."""

    items: list[Json]
    following: str
    """What the next page is asked for with; empty at the end."""
    version: str
    """The `resourceVersion` of the list: changes after it are what a watch from there gives."""


def page_of(answer: Json) -> Page:
    items, metadata = answer.get("items"), answer.get("metadata") or {}
    items = [] if items is None else items
    if (
        not str(answer.get("kind")).endswith("List")
        or not isinstance(items, list)
        or not all(is_object(item) for item in items)
    ):
        raise ApiError("the answer is not a list of objects")
    return Page(items, metadata.get("continue") or "", str(metadata.get("resourceVersion") or ""))


def is_object(thing: Any) -> bool:
    """Whether it is what an API server calls so: then its name and uid are there, and say which it is."""
    metadata = thing.get("metadata") if isinstance(thing, dict) else None
    return isinstance(metadata, dict) and {"name", "uid"} <= metadata.keys()


def path_of(namespace: str, kind: str, name: str | None = None, part: str = "") -> str:
    """The path of `jobs`, `pods` or `events`, of one of them, or of a part of it such as its log."""
    group = "/apis/batch/v1" if kind == "jobs" else "/api/v1"
    one = f"/{quote(name, safe='')}" if name is not None else ""
    return f"{group}/namespaces/{quote(namespace, safe='')}/{kind}{one}{part}"


# -- what a watch gives


class Change(NamedTuple):
    """One event of a watch."""

    kind: str
    """`ADDED`, `MODIFIED`, `DELETED`, or `BOOKMARK`, which only says how far the watch is."""
    thing: Json
    version: str
    """Where to resume after it."""


def change_of(line: bytes) -> Change:
    """A line of a watch. Raises `ApiError` where it is none, or says that the watch cannot go on."""
    said = json_of(line)
    kind, thing = said.get("type"), said.get("object")
    if kind == "ERROR" and isinstance(thing, dict):
        code = thing.get("code")
        raise error_of_status(thing, code if isinstance(code, int) else None)
    metadata = thing.get("metadata") if isinstance(thing, dict) else None
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    if not isinstance(thing, dict) or not isinstance(version, str) or not version:
        raise ApiError("the watch says what is no event")
    if kind not in ("ADDED", "MODIFIED", "DELETED", "BOOKMARK") or (kind != "BOOKMARK" and not is_object(thing)):
        raise ApiError("the watch says what is no event")
    return Change(kind, thing, version)


class Lines:
    """Pieces that are cut anywhere, as whole lines."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        *whole, rest = piece.split(b"\n")
        if whole:
            whole[0] = b"".join([*self._begun, whole[0]])
            self._begun = []
        if rest:
            self._begun.append(rest)
        return [line for line in whole if line.strip()]
