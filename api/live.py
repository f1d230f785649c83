"""Live output by server-sent events: every chunk from a place on, once and in order, until the run has ended.

One *hub* in a process asks for all of its readers: Redis for what is new, and the database, once a second and in one
statement, how far the logs are. A reader holds its place and a few blocks; what it does not get in time, since it is
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
from reprieve.api.problems import answers
from reprieve.api.runs import ChunkRecord
from reprieve.models.chunks import Block, Chunk, contiguous
from reprieve.models.errors import InvalidRequest, LogUnavailable
from reprieve.models.faults import is_unfit
from reprieve.stores.following import Gap, Place, Places, places
from reprieve.stores.hints import WATCH_LIFE
from reprieve.workers.bootstrap import Services

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/runs", tags=["runs"])

#: Streams that one process keeps open.
MOST_READERS = 2000
#: Blocks that wait for a reader; what is more, it reads from the store.
BLOCKS_KEPT = 16
#: Seconds between two looks at the database for all readers.
LOOK_INTERVAL = 1.0
#: Seconds after which a comment keeps a silent stream open, and after which a reader that takes nothing is let go.
PING = 15
SEND_TIMEOUT = 30.0
#: Chunks in one event, and read at once.
PAGE = 200
#: Threads that read the store for readers; and again as many for logs that are closed: behind an archive that hangs, no
#: running work waits.
STORE_THREADS = 8
#: Threads of the hub itself: one for each of its turns.
TURNS = 3
#: Milliseconds after which a reader comes back to a log whose archive did not answer.
COME_BACK = 5000
#: The id of a stream's last event: a browser that comes back with it is told not to come again.
END = "end"


class Watch:
    """What one reader is told: how far its run's logs are, and the newest blocks of it."""

    def __init__(self) -> None:
        self.places: Places | None = None
        self._blocks: deque[Block] = deque(maxlen=BLOCKS_KEPT)
        self._told = asyncio.Event()

    def tell(self, blocks: list[Block]) -> None:
        self._blocks.extend(blocks)
        self._told.set()

    def take(self) -> list[Block]:
        taken = list(self._blocks)
        self._blocks.clear()
        return taken

    async def wait(self) -> None:
        """Until there is anything new, or the time has come to look again."""
        await self._told.wait()
        self._told.clear()


class Hub:
    """Asks for all readers of this process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._watches: dict[UUID, set[Watch]] = {}
        self._positions: dict[UUID, str] = {}
        self.store = anyio.CapacityLimiter(STORE_THREADS)
        self.closed = anyio.CapacityLimiter(STORE_THREADS)
        self._turns = anyio.CapacityLimiter(TURNS)
        self.most = MOST_READERS

    @property
    def readers(self) -> int:
        return sum(len(watches) for watches in self._watches.values())

    @contextmanager
    def watch(self, run_id: UUID) -> Iterator[Watch]:
        watch = Watch()
        self._watches.setdefault(run_id, set()).add(watch)
        try:
            yield watch
        finally:
            self._watches[run_id].discard(watch)
            if not self._watches[run_id]:
                del self._watches[run_id]
                self._positions.pop(run_id, None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For as long as the block lasts, readers are told."""
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
        if not self._watches:
            await asyncio.sleep(0.05)
            return
        after = {run_id: self._positions.get(run_id, "0") for run_id in self._watches}
        events, positions = await self._on_thread(self._services.live.wait_for_any, after)
        for run_id, told in events.items():
            blocks = [event.block for event in told if event.block is not None]
            if run_id in self._watches:
                self._positions[run_id] = positions[run_id]
            self._tell(run_id, blocks)

    async def _look(self) -> None:
        """Bring how far the logs are; wakes every reader, for time passes too."""
        await asyncio.sleep(LOOK_INTERVAL)
        if self._watches:
            found = await self._on_thread(places, self._services.database, list(self._watches))
            for run_id in list(self._watches):
                for watch in self._watches.get(run_id, ()):
                    watch.places = found.get(run_id)
                self._tell(run_id, [])

    async def _mark(self) -> None:
        """Have events be written for what is read."""
        if self._watches:
            await self._on_thread(self._services.live.watch, list(self._watches))
        await asyncio.sleep(WATCH_LIFE / 3)

    async def _on_thread(self, call: Any, *arguments: Any) -> Any:
        return await to_thread.run_sync(call, *arguments, limiter=self._turns)

    def _tell(self, run_id: UUID, blocks: list[Block]) -> None:
        for watch in self._watches.get(run_id, ()):
            watch.tell(blocks)


class Reader:
    """Reads one run's log for one stream, from a place on."""

    def __init__(self, services: Services, hub: Hub, run_id: UUID, attempt: int, after: int) -> None:
        self._services = services
        self._hub = hub
        self._run_id = run_id
        self.attempt = attempt
        self.seq = after

    async def items(self) -> AsyncIterator[list[Chunk] | Gap | Places]:
        """Chunks that follow each other, gaps that stay, and, at the end of the run, how far its logs are."""
        with self._hub.watch(self._run_id) as watch:
            await self._begin(watch)
            while True:
                async for chunks in self._new(watch):
                    yield chunks
                known = watch.places
                place = self._place(watch)
                if place is not None and (passed := place.passed_over(self.seq)):
                    yield self._pass_over(passed)
                elif known is not None and place is not None and place.is_read(self.seq):
                    async for item in self._rest(place):
                        yield item
                    self.attempt, self.seq = self.attempt + 1, 0
                elif known is not None and known.status.is_final and self.attempt > known.current:
                    yield known
                    return
                else:
                    await watch.wait()

    async def _begin(self, watch: Watch) -> None:
        with suppress(RedisError):
            await self._in_store(self._services.live.watch, [self._run_id])
        found = await self._in_store(places, self._services.database, [self._run_id])
        watch.places = found.get(self._run_id)

    async def _new(self, watch: Watch) -> AsyncIterator[list[Chunk]]:
        """What there is after our place: from Redis where it follows, else from the store."""
        for block in watch.take():
            if chunks := self._following(block):
                yield self._pass(chunks)
        while (place := self._place(watch)) is not None and place.head > self.seq:
            page = await self._read(place)
            chunks = contiguous(self.seq, page)
            if not chunks:
                return  # A gap; it may yet be filled.
            yield self._pass(chunks)

    def _place(self, watch: Watch) -> Place | None:
        return watch.places.of.get(self.attempt) if watch.places else None

    def _following(self, block: Block) -> list[Chunk]:
        if block.attempt != self.attempt or not block.first_seq <= self.seq + 1 <= block.last_seq:
            return []
        return block.chunks()[self.seq + 1 - block.first_seq :]

    def _pass(self, chunks: list[Chunk]) -> list[Chunk]:
        self.seq = chunks[-1].seq
        return chunks

    def _pass_over(self, last: int) -> Gap:
        gap, self.seq = Gap(self.attempt, self.seq + 1, last), last
        return gap

    async def _rest(self, place: Place) -> AsyncIterator[list[Chunk] | Gap]:
        """What is left of an attempt for which nothing more is waited, with the gaps that stay."""
        while page := await self._read(place):
            for run in _runs_of(page):
                for gap in place.gaps(self.attempt, self.seq + 1, run[0].seq - 1):
                    yield gap
                yield self._pass(run)
        for gap in place.gaps(self.attempt, self.seq + 1, place.end):
            yield gap
            self.seq = gap.last

    async def _read(self, place: Place) -> list[Chunk]:
        read, limiter = self._services.logs.read, self._hub.closed if place.is_closed else self._hub.store
        page: list[Chunk] = await to_thread.run_sync(read, self._run_id, self.attempt, self.seq, PAGE, limiter=limiter)
        return page

    async def _in_store(self, call: Any, *arguments: Any) -> Any:
        return await to_thread.run_sync(call, *arguments, limiter=self._hub.store)


def _runs_of(page: list[Chunk]) -> Iterator[list[Chunk]]:
    """The chunks in pieces without a gap."""
    begin = 0
    for place in range(1, len(page) + 1):
        if place == len(page) or page[place].seq != page[place - 1].seq + 1:
            yield page[begin:place]
            begin = place


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
    last_event_id: Annotated[str | None, Header(description="ATTEMPT:SEQ, as the events have it.")] = None,
) -> Response:
    """A run's output as it comes, all attempts of it. Who comes back says where it was, and misses nothing."""
    hub: Hub = request.app.state.hub
    if last_event_id == END:
        return Response(status_code=204)
    if last_event_id:
        attempt, after = _place_of(last_event_id)
    await to_thread.run_sync(wired.runs.get, run_id, limiter=hub.store)
    most = min(hub.most, MOST_READERS)
    if hub.readers >= most:
        raise HTTPException(503, f"{most} streams are open here; come again later.", {"Retry-After": "5"})
    reader = Reader(wired, hub, run_id, attempt, after)
    return EventSourceResponse(
        _events(reader),
        ping=PING,
        send_timeout=SEND_TIMEOUT,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _place_of(event_id: str) -> tuple[int, int]:
    attempt, _, seq = event_id.partition(":")
    if not (attempt.isascii() and attempt.isdigit() and seq.isascii() and seq.isdigit()) or len(event_id) > 40:
        raise InvalidRequest(
            f"Last-Event-ID is {event_id[:40]!r}; give ATTEMPT:SEQ, as an event of this stream has it."
        )
    return max(1, min(int(attempt), 2**31 - 1)), min(int(seq), 2**62)


async def _events(reader: Reader) -> AsyncIterator[ServerSentEvent]:
    try:
        async for event in _items_as_events(reader):
            yield event
    except LogUnavailable as error:  # Without an id: a browser comes back to where it was.
        yield ServerSentEvent(json.dumps({"detail": str(error)}), event="unavailable", retry=COME_BACK)


async def _items_as_events(reader: Reader) -> AsyncIterator[ServerSentEvent]:
    async for item in reader.items():
        if isinstance(item, Places):
            yield _event("end", END, {"status": item.status})
        elif isinstance(item, Gap):
            gap = {"attempt": item.attempt, "first": item.first, "last": item.last, "why": item.why}
            yield _event("gap", f"{item.attempt}:{item.last}", gap)
        else:
            chunks = [ChunkRecord.of(chunk).model_dump(mode="json", exclude_none=True) for chunk in item]
            yield _event("output", f"{reader.attempt}:{item[-1].seq}", {"attempt": reader.attempt, "chunks": chunks})


def _event(name: str, event_id: str, data: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data, separators=(",", ":")), event=name, id=event_id)
