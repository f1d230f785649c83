"""Where a request came to, and from, as a trusted proxy says it: people see its address, and not ours.

Of an address in `REPRIEVE_API_TRUSTED_PROXIES` these headers are believed: X-Forwarded-Proto, -Host, -Port, -For, and
-Prefix, the path below which the proxy has us, and which it takes off. Of a list, the last one counts, which the proxy
itself has written.
"""

import ipaddress
import re
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from reprieve.models.access import Networks, is_root_path

HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\s:/@,\[\]]+)(?::(?P<port>[0-9]{1,5}))?")
#: The port that an address of this scheme need not name.
OF_SCHEME = {"http": "80", "https": "443"}


class Proxied:
    """Makes of what comes through a proxy what its caller asked for: its scheme, host, and path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = dict(scope)
            settings = scope["app"].state.services.settings
            if (root := settings.api_root_path) and not scope.get("root_path"):
                _put_below(scope, root, taken_off=not is_below(scope["path"], root))
            if _is_in(scope.get("client"), settings.api_trusted_proxies):
                _believe(scope)
        await self._app(scope, receive, send)


def path_of(scope: Scope) -> str:
    """The path of our own: without that below which we are."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if is_below(path, root) else path


def is_below(path: str, root: str) -> bool:
    return bool(root) and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/")


def _believe(scope: Scope) -> None:
    headers = Headers(scope=scope)
    proto, host = _last(headers, "x-forwarded-proto").lower(), _last(headers, "x-forwarded-host")
    port, client = _last(headers, "x-forwarded-port"), _last(headers, "x-forwarded-for")
    prefix = _last(headers, "x-forwarded-prefix").rstrip("/")
    if proto in OF_SCHEME:
        scope["scheme"] = proto
    if (host or port) and (named := HOST.fullmatch(host or headers.get("host", ""))):
        # A port in X-Forwarded-Host is what the caller's browser said; one in our own Host may be ours.
        port = (named["port"] if host else "") or port or named["port"] or ""
        is_needed = port.isdecimal() and port != OF_SCHEME.get(scope["scheme"])
        scope["headers"] = list(scope["headers"])
        MutableHeaders(scope=scope)["host"] = f"{named['name']}:{port}" if is_needed else named["name"]
    if client:
        scope["client"] = (client, 0)
    if prefix and is_root_path(prefix) and not scope.get("root_path"):
        _put_below(scope, prefix, taken_off=True)


def _put_below(scope: Scope, root: str, *, taken_off: bool) -> None:
    """The path of a scope has its root path before it, as ASGI has it."""
    scope["root_path"] = root
    if taken_off:
        scope["path"] = root + scope["path"]


def _last(headers: Headers, name: str) -> str:
    """What the proxy that is next to us has written."""
    given = headers.getlist(name)
    return given[-1].rpartition(",")[2].strip() if given else ""


def _is_in(client: Sequence[object] | None, trusted: Networks) -> bool:
    if not client or not trusted:
        return False
    try:
        address = ipaddress.ip_address(str(client[0]))
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in trusted)
