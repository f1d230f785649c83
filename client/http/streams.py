"""Lines, and server-sent events (WHATWG HTML, 9.2), of bytes that come in pieces of any size."""

from collections.abc import Iterator
from dataclasses import dataclass, field


class Lines:
    """Cuts bytes into lines at LF alone: text may hold whatever else Unicode takes for a line's end."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that this completes, without their ends."""
        *complete, rest = data.split(b"\n")
        for line in complete:
            yield b"".join((*self._begun, line)).removesuffix(b"\r")
            self._begun.clear()
        if rest:
            self._begun.append(rest)


@dataclass(slots=True)
class Event:
    """An event as far as it has come; `id` is None where it has none of its own."""

    name: str = "message"
    id: str | None = None
    data: list[str] = field(default_factory=list)
    retry: float | None = None

    @property
    def text(self) -> str:
        return "\n".join(self.data)


class Events:
    """Reads the events of a stream. What an interrupted stream leaves incomplete is no event."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._event = Event()

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that this completes; those without data are none, nor are comments."""
        for line in self._lines.feed(data):
            if line:
                self._take(line.decode(errors="replace"))
                continue
            event, self._event = self._event, Event()
            if event.data:
                yield event

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event.name = value
        elif name == "id":
            self._event.id = value
        elif name == "data":
            self._event.data.append(value)
        elif name == "retry" and value.isascii() and value.isdigit():
            self._event.retry = float(value) / 1000
