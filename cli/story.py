"""One run of the demo: what must become of it, what did, and what is said of its events."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from rich.markup import escape

from reprieve.models.liveness import Timing
from reprieve.models.rows import RunEvent, RunRow
from reprieve.models.status import EventKind, Status
from reprieve.models.text import shown, span

#: Seconds that a slow machine may add to window and sweep before the demo calls a reap late.
MACHINE_ALLOWANCE = 3.0


@dataclass
class Story:
    """One run, what must become of it, and what did."""

    name: str
    told: str
    expected: str
    run_id: UUID
    must_be_reaped: bool = False
    lines: int | None = None
    """How many lines it prints, where its log is counted: each must be there once, in order."""
    events_told: int = 0
    seen: list[str] = field(default_factory=list)
    found_after: float | None = None

    def learn(self, run: RunRow, events: list[RunEvent]) -> None:
        """Note what a run's row and events say about how it ended."""
        words = {EventKind.ATTACHED: "followed by another worker"}
        reaps_and_words = [event for event in events if event.kind in (EventKind.REAPED, *words)]
        self.seen = [event.detail.get("error_code") or words[EventKind(event.kind)] for event in reaps_and_words]
        if run.status != Status.FAILED:
            self.seen.append(run.status)
        for event in events:
            if event.kind == EventKind.REAPED:
                last_sign = datetime.fromisoformat(event.detail["last_proof_at"])
                self.found_after = (event.at - last_sign).total_seconds()

    def came_out(self, timing: Timing) -> bool:
        if ", then ".join(self.seen) != self.expected:
            return False
        if not self.must_be_reaped:
            return self.found_after is None
        limit = (timing.window + timing.sweep_interval).total_seconds() + MACHINE_ALLOWANCE
        return self.found_after is not None and self.found_after <= limit


def _name(event: RunEvent) -> str:
    """The worker of an event, as Rich takes it for nothing but text."""
    return escape(shown(event.detail.get("worker_node")))


def event_text(event: RunEvent) -> str:
    if event.kind == EventKind.REAPED:
        again = "; queued again" if event.detail["retry"] else ""
        return (
            f"[red]reaped[/] as {event.detail['error_code']}, silent for {span(event.detail['silent_seconds'])}{again}"
        )
    texts = {
        EventKind.CLAIMED: f"attempt {event.attempt} is running on {_name(event)}",
        EventKind.SUCCEEDED: "[green]succeeded[/]",
        EventKind.ATTACHED: f"goes on, followed by {_name(event)}",
        EventKind.TERMINATED: f"the work of attempt {event.attempt} is confirmed gone",
    }
    return texts.get(EventKind(event.kind), event.kind)
