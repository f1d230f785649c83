"""The few requests to the API server that the adapter makes, each with a time limit, on an event loop.

What is asked and what an answer is worth is in `answers.py`; how the server is reached, in `connection.py`.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Self
from urllib.parse import urlencode

import httpx2

from reprieve.adapters.kubernetes.answers import (
    PAGE_SIZE,
    ApiError,
    Json,
    Page,
    error_of,
    json_of,
    object_of,
    page_of,
    path_of,
)
from reprieve.adapters.kubernetes.connection import Connection

#: Seconds that a request may take to connect, and then between two pieces of its answer.
CONNECT_TIMEOUT = 3.05
READ_TIMEOUT = 10.0
#: How many requests may be under way at once, streams apart: a server that is back is not overrun by a whole fleet.
MOST_AT_ONCE = 32
#: How many streams may be connecting at once: of thousands that shake hands together, all would be too late.
CONNECTING_AT_ONCE = 16


class Silent(ApiError):
    """Raised when nothing came for as long as may be."""


class Api:
    """The API server, for one event loop. Every call raises `ApiError` and `NotConnected`.

    A stream has a connection of its own: thousands of open ones in one pool would make each request look through them.
    """

    def __init__(self, connection: Connection, connect_timeout: float, read_timeout: float) -> None:
        self._connection = connection
        self._timeouts = (connect_timeout, read_timeout)
        self._connections: httpx2.AsyncHTTPTransport | None = None
        self._connecting = asyncio.Semaphore(CONNECTING_AT_ONCE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._connections is not None:
            await self._connections.aclose()

    async def begin(self) -> None:
        await self._connection.begin()

    async def get_one(self, namespace: str, kind: str, name: str) -> Json:
        """The object."""
        return object_of(await self._json("GET", path_of(namespace, kind, name)), name)

    async def find(self, namespace: str, kind: str, name: str) -> Json | None:
        """The same; None when the API server says that it is not there."""
        try:
            return await self.get_one(namespace, kind, name)
        except ApiError as error:
            if error.is_absence_of(name):
                return None
            raise

    async def create(self, path: str, body: Json) -> Json:
        """The object as it was created."""
        return object_of(await self._json("POST", path, body=body), body["metadata"]["name"])

    async def delete(self, path: str, uid: str) -> None:
        """Delete the object, if it still is the one with this uid, and what belongs to it."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        await self._json("DELETE", path, body={"apiVersion": "v1", "kind": "DeleteOptions"} | options)

    async def list_all(self, path: str, query: Mapping[str, str]) -> list[Json]:
        """All pages. A list that could not be read to its end is an `ApiError`: what it lacks may still be there."""
        async with aclosing(self.pages(path, query)) as pages:
            return [item async for page in pages for item in page.items]

    async def pages(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[Page]:
        """The same, a page at a time. None is from a cache that may be old: no `resourceVersion` is asked for."""
        token = ""
        while True:
            asked = {**query, "limit": str(PAGE_SIZE)} | ({"continue": token} if token else {})
            page = page_of(await self._json("GET", path, asked))
            yield page
            token = page.following
            if not token:
                return

    async def _json(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Json | None = None
    ) -> Json:
        await self.begin()
        if self._connections is None:
            self._connections = self._connection.transport(most=MOST_AT_ONCE)
        async with self._answer(self._connections, method, path, query or {}, self._timeouts[1], body) as response:
            return json_of(await _whole(response))

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        query: Mapping[str, str],
        silence: float | None,
        options: list[tuple[int, int, int]] | None = None,
    ) -> AsyncIterator[httpx2.Response]:
        """An answer that goes on, whose status says success; it is cut after so many seconds of `silence`."""
        await self.begin()
        turn = _Turn(self._connecting)
        async with self._connection.transport(options=options) as own, turn:
            async with self._answer(own, "GET", path, query, silence, extensions={"trace": turn.follow}) as response:
                turn.give_up()
                yield response

    @asynccontextmanager
    async def _answer(
        self,
        connections: httpx2.AsyncHTTPTransport,
        method: str,
        path: str,
        query: Mapping[str, str],
        silence: float | None,
        body: Json | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[httpx2.Response]:
        """An answer whose status says success, with its body unread."""
        headers = {"Accept": "application/json, */*"} | await self._connection.headers()
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        connect = self._timeouts[0]
        limits = {"connect": connect, "write": self._timeouts[1], "read": silence}
        request = httpx2.Request(
            method,
            self._connection.url + path + (f"?{urlencode(query)}" if query else ""),
            headers=headers,
            content=content,
            extensions={"timeout": limits} | self._connection.extensions | dict(extensions or {}),
        )
        try:
            response = await connections.handle_async_request(request)
        except httpx2.ReadTimeout:
            raise Silent("no answer (ReadTimeout)") from None
        except (httpx2.HTTPError, OSError) as error:
            raise ApiError(f"no answer ({type(error).__name__})") from None
        try:
            if not 200 <= response.status_code <= 299:
                raise error_of(response.status_code, response.headers, await _whole(response))
            yield response
        finally:
            await response.aclose()


class _Turn:
    """To connect a stream; it is over when there is a connection, for an answer may be long in coming."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns = turns
        self._has_it = False

    async def __aenter__(self) -> None:
        await self._turns.acquire()
        self._has_it = True

    async def __aexit__(self, *_: object) -> None:
        self.give_up()

    async def follow(self, event: str, _: object) -> None:
        """What `httpx2` tells of a request."""
        if event == "http11.send_request_headers.started":
            self.give_up()

    def give_up(self) -> None:
        if self._has_it:
            self._has_it = False
            self._turns.release()


async def pieces(response: httpx2.Response) -> AsyncGenerator[bytes]:
    """What arrives, until it ends. Raises `ApiError` when it is cut, or silent for too long."""
    try:
        async with aclosing(response.aiter_raw()) as raw:
            async for piece in raw:
                yield piece
    except httpx2.ReadTimeout:
        raise Silent("the answer was cut, for nothing came of it any more") from None
    except (httpx2.HTTPError, OSError) as error:
        raise ApiError(f"the answer was cut ({type(error).__name__})") from None


async def _whole(response: httpx2.Response) -> bytes:
    async with aclosing(pieces(response)) as all_of_it:
        return b"".join([piece async for piece in all_of_it])
