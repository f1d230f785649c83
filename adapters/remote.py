"""The `remote` adapter: work that is started elsewhere with the run's token, and reports by itself.

What it prints, its heartbeats and its result come through `workers.reporting`, not through a worker that follows it.
The follower here only holds the place: it gives no proof of life, for it sees nothing, and ends when the run does.
"""

from pathlib import Path
from typing import Any

from reprieve.adapters.kinds import RemoteKind
from reprieve.adapters.protocol import Context
from reprieve.models.work import Outcome, Work

#: Seconds of one wait. Being told to stop or to leave ends it at once.
WAIT_SECONDS = 3_600.0


class RemoteAdapter(RemoteKind):
    """Starts nothing, and waits until the run has ended."""

    def __init__(self, folder: Path, host_name: str) -> None:
        """Needs neither: nothing of the work is on this host."""

    def execute(self, run: Work, context: Context) -> Outcome:  # noqa: ARG002
        # The handle is empty, since the token is all there is; by it, any worker of any host may take the place over.
        context.on_dispatch({}, None)
        return _wait(context)

    def attach(self, run: Work, handle: dict[str, Any], context: Context) -> Outcome:  # noqa: ARG002
        return _wait(context)

    def terminate(self, handle: dict[str, Any]) -> None:
        """Does nothing: the producer cannot be reached. The reply to its next report says *stop*."""


def _wait(context: Context) -> Outcome:
    """Until the run has ended; its end is written already, and this outcome changes nothing of it."""
    while not context.wait(WAIT_SECONDS):
        pass
    return Outcome.failed("Stopped.")
