"""What an adapter that follows without a thread gets: a `RunContext` that waits on the adapter's event loop."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from reprieve.adapters.host import namespace
from reprieve.adapters.spool import DISK_INTERVAL
from reprieve.models.process import ProcessIdentity
from reprieve.stores.runs.attempts import Start
from reprieve.workers.context import RunContext
from reprieve.workers.recorder import Recorder
from reprieve.workers.waiting import until_fit_without_a_thread


class AsyncRunContext:
    """Implements `adapters.protocol.AsyncContext` over the context of one attempt. Made on the loop that it is used on.

    A spool without room holds up the run whose output it does not take, and no other.
    """

    def __init__(self, context: RunContext, recorder: Recorder) -> None:
        self.run_id = context.run_id
        self.attempt = context.attempt
        self.cursor = context.cursor
        self._context = context
        self._recorder = recorder
        self._loop = asyncio.get_running_loop()
        self._told = asyncio.Event()
        context.when_told(self._tell)

    def _tell(self) -> None:
        with suppress(RuntimeError):  # The loop has ended, and this process with it.
            self._loop.call_soon_threadsafe(self._told.set)

    async def on_log(self, stream: str, chunk: bytes | str, cursor: str | None = None) -> None:
        for one in self._context.encoded(stream, chunk, cursor):
            while not self._context.try_take(one):
                # Also while it is told to stop: what it says last is output as well.
                await asyncio.sleep(DISK_INTERVAL)

    async def on_spawn(self, pid: int, process_group_id: int, started_at: float, marker: str = "") -> None:
        process = ProcessIdentity(pid, process_group_id, started_at, namespace(), marker)
        await self._record(self._context.spawning(process))
        self._context.has_spawned(process)

    async def on_dispatch(self, handle: dict[str, Any], host: str | None = None) -> None:
        await self._record(self._context.dispatching(handle, host))
        self._context.has_dispatched()

    async def _record(self, start: Start) -> None:
        with self._context.awaiting_record():
            await until_fit_without_a_thread(
                lambda: self._recorder.start(start), self._context.say_it_waits, stop=lambda _: self._context.is_told
            )

    async def note(self, sentence: str) -> None:
        await self._recorder.alone(lambda: self._context.note(sentence))

    def report(
        self,
        *,
        progress: float | None = None,
        say: str | None = None,
        result: Any = None,
        usage: Mapping[str, float] | None = None,
        number: int | None = None,
    ) -> None:
        self._context.report(progress=progress, say=say, result=result, usage=usage, number=number)

    @property
    def reported(self) -> int:
        return self._context.reported

    def heartbeat(self) -> None:
        self._context.heartbeat()

    @property
    def stopping(self) -> bool:
        return self._context.stopping

    async def wait(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._told.wait()
        # Raises where it is to leave.
        return self._context.wait(0)
