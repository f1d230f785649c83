"""Where the API is, and who asks: checked before anything is sent."""

from importlib.metadata import version
from math import inf
from typing import Any
from urllib.parse import urlsplit

import httpx2

from reprieve.client.backoff import checked_seconds
from reprieve.client.http.steps import Answer, Open, Send
from reprieve.models.errors import InvalidRequest

NO_ADDRESS = "url is no address of an API; give one like https://reprieve.example.com."
#: Connections that are kept open between calls; of those that are in use there are as many as it takes.
KEPT = 20


class Address:
    """An API's address, the caller's token, and the seconds for which each call tries to be answered."""

    def __init__(self, url: str, token: str | None, timeout: float) -> None:
        """Raises `InvalidRequest`; no text of it quotes the token."""
        self.url = _checked(url)
        if token is not None and not (isinstance(token, str) and _is_one_word(token)):
            raise InvalidRequest("token holds what no token has; give it as `reprieve token create` printed it.")
        self.seconds = checked_seconds("timeout", timeout)
        if not 0 < self.seconds < inf:
            raise InvalidRequest(f"timeout is {timeout!r}; give seconds, more than 0.")
        self._headers = {"User-Agent": f"reprieve/{version('reprieve')}"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    @property
    def options(self) -> dict[str, Any]:
        """How each connection is made. A redirect is not followed: the token is for the server that was named."""
        return {"headers": self._headers, "limits": httpx2.Limits(max_connections=None, max_keepalive_connections=KEPT)}

    def of(self, step: Send | Open) -> dict[str, Any]:
        """A request as `httpx2` has it."""
        silence = step.silence if isinstance(step, Open) else step.seconds
        request = step.request
        return {
            "method": request.method,
            "url": self.url + request.path,
            "params": list(request.query) or None,
            "headers": dict(request.headers),
            "content": request.content,
            "timeout": httpx2.Timeout(step.seconds, read=silence),
        }


def _checked(url: str) -> str:
    try:
        parts, read = urlsplit(url), httpx2.URL(url)
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except (httpx2.InvalidURL, ValueError, TypeError):
        raise InvalidRequest(NO_ADDRESS) from None
    if not is_one or parts.query or parts.fragment or parts.username or parts.password:
        raise InvalidRequest(NO_ADDRESS)
    return str(read).rstrip("/")


def answer_of(response: httpx2.Response, content: bytes = b"") -> Answer:
    """What a plan is told of an answer."""
    return Answer(response.status_code, {name.lower(): value for name, value in response.headers.items()}, content)


def why(error: httpx2.HTTPError) -> str:
    """What happened, for a sentence; the libraries below say some of it by its type alone."""
    return ": ".join(filter(None, (type(error).__name__, str(error))))


def _is_one_word(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text and bool(text)
