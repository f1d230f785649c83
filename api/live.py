"""Live output by server-sent events: every chunk from a position on, once and in order, until the run has ended.

One *hub* in a process asks for all of its readers: Redis for what is new, and the database, once a second and in one
statement, how far the logs are. A reader holds its position and a few blocks; what it does not get in time, since it is
slow or Redis is down, it reads from the store. So a thousand readers cost one connection, and a slow one no memory.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Annotated, Any
from uuid import UUID

import anyio
from anyio import to_thread
from fastapi import APIRouter, Header, HTTPException, Query, Request, Response
from redis.exceptions import RedisError
from sse_starlette import EventSourceResponse, ServerSentEvent

from reprieve.api.access import MayRead, Wired
from reprieve.api.logs import ChunkRecord
from reprieve.api.problems import answers
from reprieve.models.chunks import Block, Chunk
from reprieve.models.errors import InvalidRequest, LogUnavailable
from reprieve.models.extents import Extent, Extents
from reprieve.models.faults import is_unfit
from reprieve.models.gaps import Gap
from reprieve.models.reading import Item, Reading, Step, explained_by, seem_lost
from reprieve.stores.extents import extents
from reprieve.stores.hints import WATCH_LIFE
from reprieve.workers.bootstrap import Services

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/runs", tags=["runs"])

#: Streams that one process keeps open.
MOST_READERS = 2000
#: Blocks that wait for a reader; anything beyond, it reads from the store.
BLOCKS_KEPT = 16
#: Seconds between two looks at the database for all readers.
LOOK_INTERVAL = 1.0
#: Seconds after which a comment keeps a silent stream open, and after which a reader that takes nothing is dropped.
PING = 15
SEND_TIMEOUT = 30.0
#: Chunks in one event, and read at once.
PAGE = 200
#: Bytes of output that are enough for one who wants no stream; a gap counts as so many.
ENOUGH_AT_ONCE = 2 * 1024 * 1024
GAP_SIZE = 1024
#: Bytes of chunks in one event, or one chunk: a page takes in an event in one go, and answers nobody meanwhile.
EVENT_BYTES = 256 * 1024
#: Threads that read the store for readers, and as many again for closed logs: an archive that hangs holds up no reader
#: of running work.
STORE_THREADS = 8
#: Threads of the hub itself: one for each of its turns.
TURNS = 3
#: Milliseconds after which a reader comes back to a log whose archive did not answer.
COME_BACK = 5000
#: The id of a stream's last event: a browser that reconnects with it is answered that there is no more.
END = "end"


class Subscription:
    """What one reader hears of: how far its run's logs are, and the newest blocks of it."""

    def __init__(self) -> None:
        self.extents: Extents | None = None
        self._blocks: deque[Block] = deque(maxlen=BLOCKS_KEPT)
        self._news = asyncio.Event()

    def tell(self, blocks: list[Block]) -> None:
        self._blocks.extend(blocks)
        self._news.set()

    def take(self) -> list[Block]:
        taken = list(self._blocks)
        self._blocks.clear()
        return taken

    async def wait(self) -> None:
        """Until there is anything new, or the time has come to look again."""
        await self._news.wait()
        self._news.clear()


class Hub:
    """Asks for all readers of this process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._subscriptions: dict[UUID, set[Subscription]] = {}
        self._positions: dict[UUID, str] = {}
        self.store = anyio.CapacityLimiter(STORE_THREADS)
        self.closed = anyio.CapacityLimiter(STORE_THREADS)
        self._turns = anyio.CapacityLimiter(TURNS)
        self.most = MOST_READERS

    @property
    def readers(self) -> int:
        return sum(len(subscribed) for subscribed in self._subscriptions.values())

    @contextmanager
    def subscribe(self, run_id: UUID) -> Iterator[Subscription]:
        subscription = Subscription()
        self._subscriptions.setdefault(run_id, set()).add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions[run_id].discard(subscription)
            if not self._subscriptions[run_id]:
                del self._subscriptions[run_id]
                self._positions.pop(run_id, None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For as long as the block lasts, readers hear of what is new."""
        async with anyio.create_task_group() as tasks:
            for turn in (self._listen, self._look, self._mark):
                tasks.start_soon(self._repeat, turn)
            yield
            tasks.cancel_scope.cancel()

    @staticmethod
    async def _repeat(turn: Any) -> None:
        while True:
            try:
                await turn()
            except Exception as error:
                # Whatever is the matter: all readers of this process hang on this.
                logger.warning("Live output is late: %s.", type(error).__name__, exc_info=not is_unfit(error))
                await asyncio.sleep(LOOK_INTERVAL)

    async def _listen(self) -> None:
        """Bring what is new in Redis."""
        if not self._subscriptions:
            await asyncio.sleep(0.05)
            return
        after = {run_id: self._positions.get(run_id, "0") for run_id in self._subscriptions}
        events, positions = await self._on_thread(self._services.live.wait_for_any, after)
        for run_id, new in events.items():
            blocks = [event.block for event in new if event.block is not None]
            if run_id in self._subscriptions:
                self._positions[run_id] = positions[run_id]
            self._tell(run_id, blocks)

    async def _look(self) -> None:
        """Bring how far the logs are; wakes every reader, for time passes too."""
        await asyncio.sleep(LOOK_INTERVAL)
        if self._subscriptions:
            found = await self._on_thread(extents, self._services.database, list(self._subscriptions))
            for run_id in list(self._subscriptions):
                for subscription in self._subscriptions.get(run_id, ()):
                    subscription.extents = found.get(run_id)
                self._tell(run_id, [])

    async def _mark(self) -> None:
        """Have events be written for what is read."""
        if self._subscriptions:
            await self._on_thread(self._services.live.watch, list(self._subscriptions))
        await asyncio.sleep(WATCH_LIFE / 3)

    async def _on_thread(self, call: Any, *arguments: Any) -> Any:
        return await to_thread.run_sync(call, *arguments, limiter=self._turns)

    def _tell(self, run_id: UUID, blocks: list[Block]) -> None:
        for subscription in self._subscriptions.get(run_id, ()):
            subscription.tell(blocks)


class Reader:
    """Reads one run's log for one stream, from a position on."""

    def __init__(self, services: Services, hub: Hub, run_id: UUID, attempt: int, after: int) -> None:
        self._services = services
        self._hub = hub
        self._run_id = run_id
        self._reading = Reading(attempt, after)

    async def items(self) -> AsyncIterator[Item | Extents]:
        """Chunks that follow each other, gaps that stay, and, at the end of the run, how far its logs are."""
        reading = self._reading
        with self._hub.subscribe(self._run_id) as subscription:
            with suppress(RedisError):
                await self._in_store(self._services.live.watch, [self._run_id])
            subscription.extents = await self._look()
            while (step := reading.step(known := subscription.extents)) is not Step.END:
                if known is not None and step is Step.READ:
                    for item in await self._next(known.of[reading.attempt]):
                        yield item
                    continue
                await subscription.wait()
                for block in subscription.take():
                    if chunks := reading.take_live(block):
                        yield chunks
            if known is not None:
                yield known

    async def items_now(self) -> AsyncIterator[Item | Extents]:
        """The same, of what is in the store now, until that is `ENOUGH_AT_ONCE`."""
        reading, known = self._reading, await self._look()
        size = 0
        while (step := reading.step(known)) is Step.READ and known is not None and size < ENOUGH_AT_ONCE:
            for item in await self._next(known.of[reading.attempt]):
                size += GAP_SIZE if isinstance(item, Gap) else sum(len(chunk.data) for chunk in item)
                yield item
        if step is Step.END and known is not None:
            yield known

    async def _next(self, extent: Extent) -> list[Item]:
        attempt = self._reading.attempt
        limiter = self._hub.closed if extent.archived is not None else self._hub.store
        page = await to_thread.run_sync(
            self._services.logs.read, self._run_id, attempt, self._reading.seq, PAGE, limiter=limiter
        )
        items = self._reading.take(page, extent)
        if seem_lost(items):
            later = await self._look()
            if later is not None and attempt in later.of:
                items = explained_by(extent.as_of(later.of[attempt]), items)
        return items

    async def _look(self) -> Extents | None:
        found: dict[UUID, Extents] = await self._in_store(extents, self._services.database, [self._run_id])
        return found.get(self._run_id)

    async def _in_store(self, call: Any, *arguments: Any) -> Any:
        return await to_thread.run_sync(call, *arguments, limiter=self._hub.store)


@router.get(
    "/{run_id}/log/live",
    dependencies=[MayRead],
    response_class=EventSourceResponse,
    responses={
        200: {"description": "Events `output`, `gap`, `unavailable` and `end`.", "content": {"text/event-stream": {}}},
        204: {"description": "There is nothing more: do not come again."},
        **answers(401, 403, 404, 422, 503),
    },
)
async def live(
    run_id: UUID,
    request: Request,
    wired: Wired,
    attempt: Annotated[int, Query(ge=1, le=2**31 - 1)] = 1,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
    once: Annotated[bool, Query(description="Only what is there now: the stream ends with it; ask again.")] = False,
    last_event_id: Annotated[str | None, Header(description="ATTEMPT:SEQ, as the events have it.")] = None,
) -> Response:
    """A run's output as it comes, all attempts of it. Who comes back says where it was, and misses nothing."""
    hub: Hub = request.app.state.hub
    if last_event_id == END:
        return Response(status_code=204)
    if last_event_id:
        attempt, after = _position_of(last_event_id)
    await to_thread.run_sync(wired.runs.get, run_id, limiter=hub.store)
    most = min(hub.most, MOST_READERS)
    if hub.readers + request.app.state.watcher.readers >= most:
        raise HTTPException(503, f"{most} streams are open here; come again later.", {"Retry-After": "5"})
    reader = Reader(wired, hub, run_id, attempt, after)
    return EventSourceResponse(
        _events(reader.items_now() if once else reader.items()),
        ping=PING,
        send_timeout=SEND_TIMEOUT,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _position_of(event_id: str) -> tuple[int, int]:
    attempt, _, seq = event_id.partition(":")
    if not (attempt.isascii() and attempt.isdigit() and seq.isascii() and seq.isdigit()) or len(event_id) > 40:
        raise InvalidRequest(
            f"Last-Event-ID is {event_id[:40]!r}; give ATTEMPT:SEQ, as an event of this stream has it."
        )
    return max(1, min(int(attempt), 2**31 - 1)), min(int(seq), 2**62)


async def _events(items: AsyncIterator[Item | Extents]) -> AsyncIterator[ServerSentEvent]:
    try:
        async for item in items:
            for part in in_parts(item) if isinstance(item, list) else [item]:
                yield _as_event(part)
    except LogUnavailable as error:  # Without an id: a browser comes back to where it was.
        yield ServerSentEvent(json.dumps({"detail": str(error)}), event="unavailable", retry=COME_BACK)


def in_parts(chunks: list[Chunk]) -> Iterator[list[Chunk]]:
    """Chunks as events hold them: so many bytes each, or one chunk."""
    part: list[Chunk] = []
    size = 0
    for chunk in chunks:
        if part and (size + len(chunk.data) > EVENT_BYTES or len(part) == PAGE):
            yield part
            part, size = [], 0
        part.append(chunk)
        size += len(chunk.data)
    if part:
        yield part


def _as_event(item: Item | Extents) -> ServerSentEvent:
    if isinstance(item, Extents):
        return _event("end", END, {"status": item.status})
    if isinstance(item, Gap):
        gap = {"attempt": item.attempt, "first": item.first, "last": item.last, "why": item.why}
        return _event("gap", f"{item.attempt}:{item.last}", gap)
    attempt, last = item[-1].attempt, item[-1].seq
    chunks = [ChunkRecord.of(chunk).model_dump(mode="json", exclude_none=True) for chunk in item]
    return _event("output", f"{attempt}:{last}", {"attempt": attempt, "chunks": chunks})


def _event(name: str, event_id: str, data: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data, separators=(",", ":")), event=name, id=event_id)
