"""Which user is at the other end of a local connection, as far as the kernel says."""

import ipaddress
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from reprieve.models.access import Caller

if TYPE_CHECKING:  # `doctor` looks at addresses where no API is installed.
    from starlette.requests import Request

#: Where Linux lists the sockets of this network namespace with their owners: IPv4, IPv6.
_LISTS = {4: Path("/proc/self/net/tcp"), 6: Path("/proc/self/net/tcp6")}

#: The state of an open socket. Linux shows a closed one as root's, no matter who owned it.
_ESTABLISHED = "01"

_End = tuple[str, int]
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def caller(request: "Request") -> Caller:
    """The process that sent this request."""
    client, server = request.scope.get("client"), request.scope.get("server")
    near = client is not None and is_loopback(client[0])
    return Caller(
        from_loopback=near,
        is_our_user=_is_our_user(client, server) if near and client and server else None,
        http_version=request.scope.get("http_version", ""),
        headers=set(request.headers.keys()),
    )


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own."""
    try:
        return _plain(ipaddress.ip_address(host)).is_loopback
    except ValueError:
        return host == "localhost"


def _is_our_user(client: _End, server: _End) -> bool | None:
    """Whether the socket from there to us is our own user's. False if it is not listed; None if there is no list."""
    try:
        near, far = _plain(ipaddress.ip_address(client[0])), _plain(ipaddress.ip_address(server[0]))
        sockets = _LISTS[near.version].read_text()
    except (OSError, ValueError):
        return None
    wanted = [_listed(near, client[1]), _listed(far, server[1])]
    found = (fields for line in sockets.splitlines()[1:] if (fields := line.split())[1:3] == wanted)
    return any(fields[3] == _ESTABLISHED and int(fields[7]) == os.geteuid() for fields in found)


def _plain(address: _Address) -> _Address:
    """An IPv4 address, unwrapped from its IPv6 form."""
    return getattr(address, "ipv4_mapped", None) or address


def _listed(address: _Address, port: int) -> str:
    """An endpoint as Linux lists it: groups of four bytes in host byte order, in hexadecimal."""
    groups = struct.unpack(f"={len(address.packed) // 4}I", address.packed)
    return "".join(f"{group:08X}" for group in groups) + f":{port:04X}"
