"""A request to an address that somebody else chose: to the internet only, unless more is allowed, and with an end.

A name may resolve to another address each time (DNS rebinding). So it is resolved here, once for each try, and the
connection is made to the very address that was looked at; the name stays in `Host`, and is what TLS verifies. Redirects
are not followed, no proxy of the environment is used, and a host that drips its answer is left after the whole time.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from functools import cache

import httpx2

from reprieve.models.notices import Allowed

#: Seconds that a connection may take, that a receiver may be silent, and that all of it may take.
CONNECT_TIMEOUT, SILENCE_TIMEOUT, WHOLE_TIMEOUT = 5.0, 10.0, 20.0


class NotPosted(Exception):
    """Raised when a receiver has not taken what was sent to it; the text says why, and quotes no address's path."""


@cache
def _tls() -> ssl.SSLContext:
    """What the system trusts, and what `SSL_CERT_FILE` names."""
    return ssl.create_default_context()


async def post(url: str, body: bytes, headers: Mapping[str, str], allowed: Allowed, *, method: str = "POST") -> None:
    """Send this; returns when it was answered with a 2xx. Raises `NotPosted`."""
    try:
        async with asyncio.timeout(WHOLE_TIMEOUT):
            status = await _send(method, httpx2.URL(url), body, headers, allowed)
    except TimeoutError:
        raise NotPosted(f"it was not answered within {WHOLE_TIMEOUT:.0f} s") from None
    except httpx2.InvalidURL:
        raise NotPosted("its address is none") from None
    except httpx2.TimeoutException as error:
        raise NotPosted(f"its receiver did not answer in time ({type(error).__name__})") from None
    except (httpx2.HTTPError, OSError) as error:
        raise NotPosted(f"its receiver cannot be reached ({_cause(error)})") from None
    if 300 <= status < 400:
        raise NotPosted(f"it was answered with {status}: redirects are not followed")
    if not 200 <= status < 300:
        raise NotPosted(f"it was answered with {status}")


def _cause(error: Exception) -> str:
    """The kind of an error, and what it says of it, which is of a name, a port, a certificate."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


async def _send(method: str, url: httpx2.URL, body: bytes, headers: Mapping[str, str], allowed: Allowed) -> int:
    """The status of the answer, whose body nobody needs.

    By the transport alone: a client follows redirects if it is told to, and logs each address as a whole.
    """
    addresses = await _addresses_of(url, allowed)
    async with httpx2.AsyncHTTPTransport(verify=_tls(), trust_env=False) as transport:
        for address in addresses[:-1]:
            with suppress(httpx2.ConnectError, httpx2.ConnectTimeout):
                return await _status(transport, _request(method, url, address, body, headers))
        return await _status(transport, _request(method, url, addresses[-1], body, headers))


def _request(method: str, url: httpx2.URL, address: str, body: bytes, headers: Mapping[str, str]) -> httpx2.Request:
    timeout = httpx2.Timeout(SILENCE_TIMEOUT, connect=CONNECT_TIMEOUT)
    request = httpx2.Request(
        method,
        url.copy_with(host=address),
        content=body or None,
        headers={**headers, "Host": url.netloc.decode("ascii")},
        extensions={"sni_hostname": url.raw_host.decode("ascii"), "timeout": timeout.as_dict()},
    )
    return next(httpx2.BasicAuth(url.username, url.password).auth_flow(request)) if url.userinfo else request


async def _status(transport: httpx2.AsyncHTTPTransport, request: httpx2.Request) -> int:
    answer = await transport.handle_async_request(request)
    await answer.aclose()
    return answer.status_code


async def _addresses_of(url: httpx2.URL, allowed: Allowed) -> list[str]:
    """Where the host of this address is, as far as a notice may be sent there. Raises `NotPosted`."""
    loop, host = asyncio.get_running_loop(), url.raw_host.decode("ascii").strip("[]")
    try:
        found = await loop.getaddrinfo(host, url.port or 443, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        raise NotPosted("its host is not known") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    taken = [one for one in addresses if allowed.takes(host, one)]
    if not taken:
        raise NotPosted(
            "its host is not a public address, and not one of REPRIEVE_NOTICE_ALLOWED of the worker that sends it"
        )
    return taken
