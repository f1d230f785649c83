"""The address of a server as one URL: read, completed with what is set beside it, and quoted, in one place.

Every client gets a URL that was written here, never what somebody typed: a password with a raw `/`, `@` or `#` would
be cut in two by each client in a way of its own, and half of it be taken for a host and named in an error. What cannot
be read is refused by a sentence that quotes nothing of it.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Self
from urllib.parse import parse_qsl, quote, unquote

UNREADABLE = (
    "cannot be read as a URL. Each of / + @ : % # ? and spaces in a user name or password must be quoted there (%2F "
    "for /); or leave the password out of the URL and set it by itself, where any will do"
)

_FORM = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?", re.IGNORECASE)
_HOST = re.compile(r"([^:\[\]]*|\[[0-9a-fA-F:.]+(?:%25[^\]]+)?\])(?::(\d{1,5}))?")
_HALF_QUOTED = re.compile(r"%(?![0-9a-fA-F]{2})")


@dataclass(frozen=True, slots=True)
class Url:
    """The parts of a URL, unquoted. `hosts` are pairs of a host, an IPv6 address without brackets, and a port."""

    scheme: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    hosts: tuple[tuple[str, int | None], ...] = ()
    path: str = ""
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, naming what would work, which quotes nothing of the text."""
        form = _FORM.fullmatch(text.strip())
        if form is None or _HALF_QUOTED.search(text):
            raise ValueError(UNREADABLE)
        scheme, authority, path, query = form.groups(default="")
        who, _, where = authority.rpartition("@")
        if "@" in who or "@" in path or "@" in query:
            raise ValueError(UNREADABLE)
        user, _, password = who.partition(":")
        try:
            return cls(
                scheme.lower(),
                _unquoted(user) or None,
                _unquoted(password) or None,
                tuple(_hosts(where)),
                _unquoted(path.removeprefix("/")),
                tuple(parse_qsl(query, keep_blank_values=True, errors="strict")),
            )
        except ValueError as error:
            raise ValueError(str(error) if str(error) == WRONG_PORT else UNREADABLE) from None

    def __str__(self) -> str:
        """The URL with everything quoted, password and all."""
        return self._written(self.password)

    @property
    def shown(self) -> str:
        """The URL for people: without its password, and without what may hold one."""
        return replace(self, query=())._written("…" if self.password else None)

    def _written(self, password: str | None) -> str:
        who = quote(self.user or "", safe="")
        if password:
            who += ":" + (password if password == "…" else quote(password, safe=""))  # noqa: S105 - none, but a mark
        hosts = ",".join(_written_host(host, port) for host, port in self.hosts)
        query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in self.query)
        at = "@" if who else ""
        return f"{self.scheme}://{who}{at}{hosts}/{quote(self.path, safe='/')}{'?' if query else ''}{query}"

    @property
    def asked(self) -> Mapping[str, str]:
        """What the query asks for; the last of a name that comes twice."""
        return dict(self.query)

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Raises ValueError, for a name in the query that nobody heeds, with those that would do."""
        for name in self.asked:
            if name not in known:
                shown = name if re.fullmatch(r"\w{1,40}", name) else "a name"
                others = f"known are {', '.join(known)}" if known else "it takes none"
                raise ValueError(f"has {shown} in its query, which nothing heeds; {others}")

    def without(self, names: Iterable[str]) -> Self:
        """The URL without these in its query."""
        dropped = set(names)
        return replace(self, query=tuple(pair for pair in self.query if pair[0] not in dropped))

    @property
    def is_local(self) -> bool:
        """Whether it never leaves this machine: loopback, a Unix socket, or no host at all."""
        hosts = self.asked.get("host", "").split(",") if not self.hosts else [host for host, _ in self.hosts]
        return all(is_local(host) for host in hosts)


WRONG_PORT = "has a port that is none; they go from 1 to 65535"


def is_local(host: str) -> bool:
    """Whether a host is this machine by its very name, which nobody else can answer to."""
    if not host or host.startswith(("/", "@")) or host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _hosts(where: str) -> Iterable[tuple[str, int | None]]:
    for one in where.split(",") if where else ():
        form = _HOST.fullmatch(one)
        if form is None or not one:
            raise ValueError(UNREADABLE)
        if form[2] and not 0 < int(form[2]) < 65536:
            raise ValueError(WRONG_PORT)
        yield _unquoted(form[1].strip("[]")), int(form[2]) if form[2] else None


def _written_host(host: str, port: int | None) -> str:
    shown = f"[{host.replace('%', '%25')}]" if ":" in host else quote(host, safe="")
    return shown if port is None else f"{shown}:{port}"


def _unquoted(text: str) -> str:
    plain = unquote(text, errors="strict")
    if "\0" in plain:
        raise ValueError("no client takes a NUL")
    return plain
