"""Where the API is, and who asks: checked before anything is sent."""

import time
from collections.abc import Callable
from importlib.metadata import version
from math import inf
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from reprieve.client.backoff import checked_seconds
from reprieve.client.http.steps import Answer, Open, Send
from reprieve.models.errors import InvalidRequest, SettingsError

T = TypeVar("T")

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

    def connected(self, library: Callable[..., T]) -> T:
        """The library's client. No redirect is followed: the token is for the server that was named.

        Raises `SettingsError` where the environment names a proxy or certificates that are of no use.
        """
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=KEPT)
        try:
            return library(headers=self._headers, limits=limits)
        except (ImportError, OSError, ValueError) as error:
            raise SettingsError(
                f"No connection can be made as the environment says ({type(error).__name__}: {error}): look at "
                "HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR."
            ) from error

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


class Body:
    """An answer's body, as it comes. One that drips on, and does not end in time, is lost as one that hangs is."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._pieces: list[bytes] = []

    def take(self, piece: bytes) -> None:
        if time.monotonic() > self._until:
            raise httpx2.ReadTimeout("the answer comes too slowly")
        self._pieces.append(piece)

    @property
    def whole(self) -> bytes:
        return b"".join(self._pieces)


def answer_of(response: httpx2.Response, content: bytes = b"") -> Answer:
    """What a plan is told of an answer."""
    return Answer(response.status_code, {name.lower(): value for name, value in response.headers.items()}, content)


def why(error: httpx2.HTTPError) -> str:
    """What happened, for a sentence; the libraries below say some of it by its type alone."""
    return ": ".join(filter(None, (type(error).__name__, str(error))))


def _is_one_word(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text and bool(text)
