"""Server-sent events as a browser's `EventSource` reads them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2


@dataclass(frozen=True)
class Event:
    name: str
    id: str
    data: dict[str, Any]


class Stream:
    """An open stream; `comments` counts what keeps it open."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.comments = 0

    def events(self) -> Iterator[Event]:
        fields: dict[str, str] = {}
        for line in self.response.iter_lines():
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                yield Event(fields["event"], fields["id"], json.loads(fields["data"]))
                fields = {}


@contextmanager
def stream(url: str, *, last_event_id: str | None = None, **params: Any) -> Iterator[Stream]:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_event_id} if last_event_id else {})
    with httpx2.stream("GET", url, headers=headers, params=params, timeout=60) as response:
        yield Stream(response)
