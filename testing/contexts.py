"""A context that stands alone, to test an adapter with: it remembers what it is told, and can be told to stop."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID, uuid4

from reprieve.adapters.host import namespace
from reprieve.adapters.loops import Loops
from reprieve.adapters.protocol import (
    Adapter,
    AnyAdapter,
    AsyncAdapter,
    AsyncAttaching,
    AsyncContext,
    Attaching,
    Context,
    follows_without_a_thread,
)
from reprieve.models.errors import Released
from reprieve.models.process import ProcessIdentity
from reprieve.models.saying import NOTHING_SAID, report_of
from reprieve.models.work import Outcome, Work
from reprieve.testing.waiting import eventually


class RecordingContext:
    """Implements `adapters.protocol.Context`. `refusal` is raised when the work is recorded."""

    def __init__(self, run_id: UUID, attempt: int = 1, cursor: str | None = None) -> None:
        self.run_id = run_id
        self.attempt = attempt
        self.cursor = cursor
        self.notes: list[str] = []
        self.chunks: list[tuple[str, bytes, str | None]] = []
        self.spawned: list[tuple[int, int, float, str]] = []
        self.dispatched: list[tuple[dict[str, Any], str | None]] = []
        self.said = NOTHING_SAID
        self.heartbeats = 0
        self.looks = 0
        self.refusal: Exception | None = None
        self._stop = threading.Event()
        self._release = threading.Event()

    def on_log(self, stream: str, chunk: bytes | str, cursor: str | None = None) -> None:
        self._check()
        self.chunks.append((stream, chunk.encode() if isinstance(chunk, str) else chunk, cursor))

    def on_spawn(self, pid: int, process_group_id: int, started_at: float, marker: str = "") -> None:
        self.spawned.append((pid, process_group_id, started_at, marker))
        self._record()

    def on_dispatch(self, handle: dict[str, Any], host: str | None = None) -> None:
        self.dispatched.append((handle, host))
        self._record()

    def _record(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def report(
        self,
        *,
        progress: float | None = None,
        say: str | None = None,
        result: Any = None,
        usage: Mapping[str, float] | None = None,
        number: int | None = None,
    ) -> None:
        self._check()
        report = report_of({"progress": progress, "say": say, "result": result, "usage": usage})
        self.said = self.said.take(self.reported + 1 if number is None else number, report)

    @property
    def reported(self) -> int:
        return self.said.number

    def heartbeat(self) -> None:
        self._check()
        self.heartbeats += 1

    def _check(self) -> None:
        if self._release.is_set():
            raise Released("This worker is to leave the run.")

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def wait(self, seconds: float) -> bool:
        self.looks += 1
        self._stop.wait(seconds)
        self._check()
        return self._stop.is_set()

    # -- what the test calls

    @property
    def is_told(self) -> bool:
        """Whether it was told to stop or to leave."""
        return self._stop.is_set() or self._release.is_set()

    def stop(self) -> None:
        self._stop.set()

    def release(self) -> None:
        self._release.set()

    def output(self, stream: str = "stdout") -> bytes:
        return b"".join(data for name, data, _ in self.chunks if name == stream)

    @property
    def pid(self) -> int:
        """The process that was recorded, whichever way; 0 while there is none."""
        if self.spawned:
            return self.spawned[0][0]
        return int(self.dispatched[0][0]["pid"]) if self.dispatched else 0

    @property
    def handle(self) -> dict[str, Any]:
        """What `terminate` gets: the handle that was dispatched last, or the identity of the child that was spawned."""
        if self.dispatched:
            return self.dispatched[-1][0]
        pid, group, started_at, marker = self.spawned[0]
        return ProcessIdentity(pid, group, started_at, namespace(), marker).as_handle()


class AsyncRecordingContext:
    """Implements `adapters.protocol.AsyncContext` over a recording one, which the test speaks to."""

    #: Seconds between two looks whether the test has told it to stop, or to leave.
    LOOK_INTERVAL = 0.02

    def __init__(self, context: RecordingContext) -> None:
        self.run_id, self.attempt, self.cursor = context.run_id, context.attempt, context.cursor
        self._context = context

    async def on_log(self, stream: str, chunk: bytes | str, cursor: str | None = None) -> None:
        self._context.on_log(stream, chunk, cursor)

    async def on_spawn(self, pid: int, process_group_id: int, started_at: float, marker: str = "") -> None:
        await asyncio.to_thread(self._context.on_spawn, pid, process_group_id, started_at, marker)

    async def on_dispatch(self, handle: dict[str, Any], host: str | None = None) -> None:
        await asyncio.to_thread(self._context.on_dispatch, handle, host)

    async def note(self, sentence: str) -> None:
        await asyncio.to_thread(self._context.note, sentence)

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
        until = asyncio.get_running_loop().time() + seconds
        while not self._context.is_told and (left := until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, self.LOOK_INTERVAL))
        # Raises where it is to leave; a test may have a `wait` of its own.
        return await asyncio.to_thread(self._context.wait, 0)


_is_context: type[Context] = RecordingContext
_is_async_context: type[AsyncContext] = AsyncRecordingContext

_loops = Loops()


def carry_out(adapter: AnyAdapter, run: Work, context: RecordingContext) -> Outcome:
    """Have an adapter of either kind start a run and follow it to its end; returns then."""
    if follows_without_a_thread(adapter):
        return _loops.of(adapter.type).run(_execute(adapter, run, context)).result()
    return cast(Adapter, adapter).execute(run, context)


def follow_on(adapter: AnyAdapter, run: Work, handle: dict[str, Any], context: RecordingContext) -> Outcome:
    """The same for what another has started."""
    if follows_without_a_thread(adapter):
        return _loops.of(adapter.type).run(_attach(adapter, run, handle, context)).result()
    assert isinstance(adapter, Attaching)
    return adapter.attach(run, handle, context)


async def _execute(adapter: AsyncAdapter, run: Work, context: RecordingContext) -> Outcome:
    return await adapter.execute(run, AsyncRecordingContext(context))


async def _attach(adapter: AsyncAdapter, run: Work, handle: dict[str, Any], context: RecordingContext) -> Outcome:
    assert isinstance(adapter, AsyncAttaching)
    return await adapter.attach(run, handle, AsyncRecordingContext(context))


@dataclass
class Following:
    """A run that is being followed on another thread."""

    context: RecordingContext
    result: Future[Outcome]

    def wait_for(self, output: bytes, stream: str = "stdout") -> None:
        eventually(lambda: output in self.context.output(stream) or self.result.done(), interval=0.01)
        assert output in self.context.output(stream)

    def outcome(self) -> Outcome:
        return self.result.result(timeout=60)


def work(*command: str, attempt: int = 1, **config: Any) -> Work:
    return Work(uuid4(), attempt, attempt, "any", {"command": list(command), **config}, {})


@contextmanager
def following(
    adapter: AnyAdapter, run: Work, *, handle: dict[str, Any] | None = None, cursor: str | None = None
) -> Iterator[Following]:
    """Follow a run while the block lasts; whatever still runs at its end is stopped.

    With a `handle`, work that another has started is followed, from `cursor` on.
    """
    context = RecordingContext(run.run_id, run.attempt, cursor)
    with ThreadPoolExecutor(1) as pool:
        try:
            if handle is not None:
                yield Following(context, pool.submit(follow_on, adapter, run, handle, context))
            else:
                yield Following(context, pool.submit(carry_out, adapter, run, context))
        finally:
            context.stop()
