"""The `remote` adapter: work that is started elsewhere with the run's token, and reports by itself.

What it prints, its heartbeats and its result come through `workers.reporting`, not through a worker that follows it.
The follower here only holds the place: it gives no proof of life, for it sees nothing, and ends when the run does.
"""

from pathlib import Path
from typing import Any, ClassVar

from reprieve.adapters.kinds import RemoteKind
from reprieve.adapters.protocol import AsyncContext
from reprieve.models.work import Outcome, Work

#: Seconds of one wait. Being told to stop or to leave ends it at once.
WAIT_SECONDS = 3_600.0


class RemoteAdapter(RemoteKind):
    """Starts nothing, and waits until the run has ended."""

    own_limit: ClassVar[int | None] = 100_000

    def __init__(self, folder: Path, host_name: str) -> None:
        """Needs neither: nothing of the work is on this host."""

    async def execute(self, run: Work, context: AsyncContext) -> Outcome:  # noqa: ARG002
        # The handle is empty, since the token is all there is; by it, any worker of any host may take the place over.
        await context.on_dispatch({}, None)
        return await _wait(context)

    async def attach(self, run: Work, handle: dict[str, Any], context: AsyncContext) -> Outcome:  # noqa: ARG002
        return await _wait(context)

    def terminate(self, handle: dict[str, Any]) -> None:
        """Does nothing: the producer cannot be reached. The reply to its next report says *stop*."""


async def _wait(context: AsyncContext) -> Outcome:
    """Until the run has ended; its end is written already, and this outcome changes nothing of it."""
    while not await context.wait(WAIT_SECONDS):
        pass
    return Outcome.failed("Stopped.")
