"""What happens to the fleet, by server-sent events: each event once and in the order of their ids.

One *watcher* in a process looks for all of its readers how far the events are complete; a reader holds its position,
and reads its next page when it can send one.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated

import anyio
from anyio import to_thread
from fastapi import APIRouter, Header, HTTPException, Query, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from reprieve.api.access import MayRead
from reprieve.api.live import PING, SEND_TIMEOUT
from reprieve.api.problems import answers
from reprieve.models.errors import InvalidRequest
from reprieve.models.faults import is_unfit
from reprieve.models.records import FleetEvent
from reprieve.stores.events import Settled, events_between
from reprieve.workers.bootstrap import Services

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/events", tags=["fleet"])

#: Streams that one process keeps open; they count among all of its streams, too.
MOST_READERS = 200
#: Seconds between two looks for all readers.
LOOK_INTERVAL = 1.0
#: Events that are read at once.
PAGE = 200
#: Threads that read for all of them.
STORE_THREADS = 4
#: No event has a greater id.
MOST_ID = 2**63 - 1


class Watcher:
    """Looks for all readers of this process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._threads = anyio.CapacityLimiter(STORE_THREADS)
        self.readers = 0
        self._up_to: int | None = None
        self._news, self._wanted = anyio.Event(), anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For as long as the block lasts, readers hear of what is new."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            yield
            tasks.cancel_scope.cancel()

    async def events(self, after: int | None) -> AsyncGenerator[FleetEvent, None]:
        """All events after this id, as they come; without one, from now on."""
        self.readers += 1
        self._wanted.set()
        try:
            while True:
                up_to = self._up_to
                if up_to is None or (after is not None and after >= up_to):
                    await self._news.wait()
                elif after is None:
                    after = up_to
                else:
                    page = await self._page(after, up_to)
                    for event in page:
                        yield event
                    after = page[-1].id if len(page) == PAGE else up_to
        finally:
            self.readers -= 1

    async def _page(self, after: int, up_to: int) -> list[FleetEvent]:
        """The next events; waits for a database that does not answer."""
        while True:
            try:
                return await to_thread.run_sync(
                    events_between, self._services.database, after, up_to, PAGE, limiter=self._threads
                )
            except Exception as error:
                if not is_unfit(error):
                    raise
                await anyio.sleep(LOOK_INTERVAL)

    async def _watch(self) -> None:
        settled = Settled(self._services.database)
        while True:
            if not self.readers:
                # How far events were complete when somebody last looked is no beginning for who comes now.
                settled, self._up_to, self._wanted = Settled(self._services.database), None, anyio.Event()
                await self._wanted.wait()
            try:
                up_to = await to_thread.run_sync(settled.look, limiter=self._threads)
            except Exception as error:
                # Whatever is the matter: all readers of this process hang on this.
                logger.warning("Live events are late: %s.", type(error).__name__, exc_info=not is_unfit(error))
            else:
                if up_to != self._up_to:
                    self._up_to, news, self._news = up_to, self._news, anyio.Event()
                    news.set()
            await anyio.sleep(LOOK_INTERVAL)


@router.get(
    "/live",
    dependencies=[MayRead],
    response_class=EventSourceResponse,
    responses={
        200: {"description": "An event for each, by its kind.", "content": {"text/event-stream": {}}},
        **answers(401, 403, 422, 503),
    },
)
async def live(
    request: Request,
    after: Annotated[int | None, Query(ge=0, le=MOST_ID, description="The id of the last event that is known.")] = None,
    last_event_id: Annotated[str | None, Header(description="The same, as a browser says it.")] = None,
) -> Response:
    """What happens to the fleet's runs as it happens. Who comes back says where it was, and misses nothing."""
    watcher: Watcher = request.app.state.watcher
    if last_event_id:
        after = _id_of(last_event_id)
    hub = request.app.state.hub
    if watcher.readers >= MOST_READERS or hub.readers + watcher.readers >= hub.most:
        raise HTTPException(503, "As many streams are open here as may be; come again later.", {"Retry-After": "5"})
    return EventSourceResponse(
        _as_sent(watcher.events(after)),
        ping=PING,
        send_timeout=SEND_TIMEOUT,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _id_of(given: str) -> int:
    if not (given.isascii() and given.isdigit() and len(given) < 20):
        raise InvalidRequest(f"Last-Event-ID is {given[:40]!r}; give the id of an event of this stream.")
    return min(int(given), MOST_ID)


async def _as_sent(events: AsyncGenerator[FleetEvent, None]) -> AsyncIterator[ServerSentEvent]:
    async with aclosing(events):
        async for event in events:
            yield ServerSentEvent(event.model_dump_json(), event=event.kind.value, id=str(event.id))
