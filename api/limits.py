"""Limits of a request, and the headers of every response."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from reprieve.api.access import TOKEN_NEEDED
from reprieve.api.proxies import path_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Bytes of a request's body: a full report of output, in Base64 and JSON, and some room.
LARGEST_BODY = 2 * 1024 * 1024

#: Log text is not a program: it is never taken for HTML, and no response runs a script.
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'; sandbox",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}


class Limits:
    """Refuses bodies that are too large, whatever their Content-Length says, and adds the headers above.

    The body of a request without any token is never read: receiving one would cost every other caller time.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        taken = 0
        anonymous = _is_anonymous(scope)

        async def counted() -> Message:
            nonlocal taken
            if anonymous:
                raise HTTPException(401, TOKEN_NEEDED)
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > LARGEST_BODY:
                raise HTTPException(413, f"The body is larger than {LARGEST_BODY} bytes; send less at once.")
            return message

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message["headers"]}
                message["headers"] += [pair for pair in HEADERS.items() if pair[0] not in there]
            await send(message)

        await self._app(scope, counted, with_headers)


def _is_anonymous(scope: Scope) -> bool:
    """Whether this is a request to a closed API without anything that could be a token."""
    names = {name for name, _ in scope["headers"]}
    is_open = scope["app"].state.services.settings.api_open
    return path_of(scope).startswith("/v1/") and not is_open and not names & {b"authorization", b"cookie"}
