"""Who may do what over HTTP: three scopes, each of which includes those before it, and who needs no token at all."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network

#: Whose word is taken for where a request came from.
Networks = tuple[IPv4Network | IPv6Network, ...]

#: Paths of our own: below one of these, nobody could tell which part of an address is whose.
OUR_PATHS = frozenset({"v1", "page", "session", "health"})


def networks_of(given: str) -> Networks:
    """Addresses and networks with commas or spaces between them. Raises `ValueError`."""
    return tuple(ip_network(one, strict=False) for one in re.split(r"[\s,]+", given.strip()) if one)


def is_root_path(path: str) -> bool:
    """Whether this can be the path below which we are: `/reprieve`, or longer."""
    plain = re.fullmatch(r"(/[A-Za-z0-9._~-]+){1,8}", path) is not None and len(path) <= 200
    return plain and not OUR_PATHS & set(path.split("/")) and not {".", ".."} & set(path.split("/"))


class Scope(StrEnum):
    READ = "read"
    """See runs, their logs and the fleet."""
    RUN = "run"
    """Start and cancel runs: whatever the adapters can start, on the workers."""
    ADMIN = "admin"
    """Give out the tokens of remote runs, say who is sent notices, have the reaper look."""

    def includes(self, other: "Scope") -> bool:
        return _ORDER.index(self) >= _ORDER.index(other)


_ORDER = list(Scope)


@dataclass(frozen=True, slots=True)
class Holder:
    """Whoever sends a token: by its name, and what it is good for."""

    name: str
    scope: Scope


#: Headers by which a proxy says that a request is somebody else's, and how the names of others of their kind begin.
PROXY_HEADERS = frozenset(
    {"forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip"}
)
PROXY_PREFIXES = ("x-forwarded", "x-original-", "x-envoy-", "fly-", "cf-")


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known of the sender of a request without a token."""

    from_loopback: bool
    """Whether the connection comes from this machine by its loopback."""
    is_our_user: bool | None
    """Whether the process at its other end is of our own user; None where the system does not say."""
    http_version: str
    headers: Collection[str]
    """The names of the request's headers, in small letters."""

    def why_a_token(self) -> str | None:
        """Why this caller needs a token even where the API is open; None for whom it is open to.

        A proxy on this machine connects from loopback as our own requests do, and is known by its headers, by HTTP/1.0
        (a bare `proxy_pass` of nginx says no more than that), or by its user. One of our own user that speaks HTTP/1.1
        and adds nothing cannot be distinguished from the user.
        """
        if not self.from_loopback:
            return "it comes from another machine"
        if self.is_our_user is False:
            return "it comes from another user of this machine"
        if self.http_version == "1.0" or any(map(_is_of_a_proxy, self.headers)):
            return "it came through a proxy"
        return None


def _is_of_a_proxy(header: str) -> bool:
    return header in PROXY_HEADERS or header.startswith(PROXY_PREFIXES)
