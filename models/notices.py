"""Notices: what happens to a run, told to an address. Who is told of what, how it is signed, when it is tried again.

A notice is a row, written in the transaction of what it tells of, and owed from then on. It is sent at least once, in
the form of Standard Webhooks (standardwebhooks.com); one that is sent again has the same id. Pure.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

from reprieve.models.errors import InvalidRequest
from reprieve.models.owed import NO_ANSWER, TOLD_AFTER
from reprieve.models.text import is_plain_text, span

if TYPE_CHECKING:
    # A service that only asks for runs reads no output.
    from reprieve.models.chunks import Chunk

MAX_URL_LENGTH = 2_000

#: Lines of output that a notice has, the last ones, and the characters of each; sentences, and the characters of each.
LINES, LINE_LENGTH = 20, 500
SENTENCES, SENTENCE_LENGTH = 50, 1_000

#: How long a notice that failed waits; twice as long after each further time, up to the second.
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=5), timedelta(hours=1)
#: How long it is tried, until it is called undeliverable; and how often at the least: one that nobody could send for a
#: day has had no try, and is not given up at its first.
TRIED_FOR, LEAST_TRIES = timedelta(days=1), 10
#: How long one that was sent is kept, and one that could not be; how long the latter is told of by health and metrics.
SENT_KEPT, UNDELIVERABLE_KEPT, UNDELIVERABLE_TOLD = timedelta(days=7), timedelta(days=30), timedelta(days=1)

#: How a secret begins, and how many bytes of it there may be.
SECRET_PREFIX = "whsec_"  # noqa: S105 - the name of a form
SECRET_BYTES = range(24, 65)


class NoticeKind(StrEnum):
    """What a notice tells of."""

    SUCCEEDED = "succeeded"
    """The run has succeeded."""
    FAILED = "failed"
    """The run has failed; a rule for it is told of a reap for good, too."""
    CANCELLED = "cancelled"
    """The run was cancelled."""
    REAPED = "reaped"
    """An attempt was dead, or overdue; the run has failed with it, or waits for another attempt."""
    RETRIED = "retried"
    """The run waits for another attempt; a rule for it is told of such a reap, too."""
    QUIET = "quiet"
    """The run gave no output for longer than its `quiet_after`."""
    SUSPECTED = "suspected"
    """The run gave no sign of life for a window, and was spared; once for each silence."""
    TEST = "test"
    """Somebody tries a rule. No rule has it."""


#: What a rule may be for.
KINDS = tuple(kind for kind in NoticeKind if kind is not NoticeKind.TEST)


class NoticeState(StrEnum):
    """How far a notice is."""

    OWED = "owed"
    """It is to be sent, or to be sent again."""
    SENT = "sent"
    """Its receiver has taken it."""
    UNDELIVERABLE = "undeliverable"
    """It was tried for a day, and nobody tries it any more."""


@dataclass(frozen=True, slots=True)
class Due:
    """A notice that is being tried, for the `tries`-th time."""

    id: UUID
    run_id: UUID | None
    attempt: int
    kind: str
    rule: str | None
    url: str
    receiver: str
    at: datetime
    tries: int
    age: timedelta


@dataclass(frozen=True, slots=True)
class Told:
    """A notice as it can be shown; `reason` is why its last try failed."""

    id: UUID
    run_id: UUID | None
    attempt: int
    kind: str
    rule: str | None
    url: str
    state: str
    at: datetime
    tries: int
    reason: str | None
    next_try_at: datetime
    settled_at: datetime | None

    @property
    def address(self) -> str:
        return address_of(self.url)

    @property
    def failed(self) -> bool:
        """Whether it was tried, and it is known how that went: not well."""
        return self.state != NoticeState.SENT and self.reason not in (None, NO_ANSWER)

    def sentence(self, now: datetime) -> str:
        """What a person who asks about its run is told."""
        what = f"The notice of {self.at:%H:%M:%S} UTC ({self.kind}) to {self.address}"
        if self.state == NoticeState.SENT:
            return f"{what} was taken at {self.settled_at:%H:%M:%S} UTC."
        times = "once" if self.tries == 1 else f"{self.tries} times"
        if self.state == NoticeState.UNDELIVERABLE:
            return f"{what} is undeliverable: it was tried {times}, and is no more. The last time: {self.reason}."
        if not self.tries:
            return f"{what} is to be sent."
        due = f"in {span(self.next_try_at - now)}" if self.next_try_at > now else "now"
        return f"{what} could not be sent, tried {times}: {self.reason}. It is tried again {due}."


@dataclass(frozen=True, slots=True)
class Outbox:
    """How many notices are owed, for how long the oldest; how many could not be sent lately; the newest reasons."""

    owed: int
    late: timedelta
    owed_reason: str | None
    undeliverable: int
    reason: str | None

    @property
    def complaints(self) -> list[str]:
        """What is wrong, a sentence each."""
        lines = []
        if self.late > TOLD_AFTER:
            why = (
                f"The last time: {self.owed_reason}"
                if self.owed_reason
                else "Is a worker of the queue control running?"
            )
            lines.append(f"There are {self.owed} notices to be sent, for up to {span(self.late)}. {_ended(why)}")
        if self.undeliverable:
            lines.append(
                f"{self.undeliverable} notices became undeliverable within a day; `reprieve notices list` names them. "
                f"The last time: {_ended(str(self.reason))}"
            )
        return lines


def _ended(sentence: str) -> str:
    return sentence if sentence[-1:] in ".?!" else f"{sentence}."


def pause_after(tries: int) -> timedelta:
    """How long a notice waits that has failed so many times, at least once."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(tries - 1, 20)))


def last_lines(chunks: Iterable["Chunk"]) -> list[str]:
    """The last lines of this output, each stream's together, with what is not UTF-8 replaced; a long one is cut."""
    whole, begun = deque[bytes](maxlen=LINES), dict[str, bytes]()
    for chunk in chunks:
        *ended, begun[chunk.stream] = (begun.get(chunk.stream, b"") + chunk.data).split(b"\n")
        whole.extend(ended)
    whole.extend(rest for rest in begun.values() if rest)
    return [_cut(line.decode(errors="replace").rstrip("\r")) for line in whole]


def _cut(line: str) -> str:
    return line if len(line) <= LINE_LENGTH else line[:LINE_LENGTH] + "…"


# -- addresses


def _is_url(url: str) -> bool:
    from pydantic import HttpUrl, TypeAdapter, ValidationError  # Not of a command that needs no address.

    try:
        TypeAdapter(HttpUrl).validate_python(url)
    except ValidationError:
        return False
    return True


def checked_url(url: object) -> str:
    """An address that a notice may be sent to; whether it is public is seen when it is. Raises `InvalidRequest`.

    What was given is not quoted: it may hold a password.
    """
    if (
        not isinstance(url, str)
        or not is_plain_text(url)
        or len(url) > MAX_URL_LENGTH
        or not (url.isascii() and url.isprintable())
    ):
        raise InvalidRequest(
            f"an address of a notice is http(s)://HOST/… of at most {MAX_URL_LENGTH} characters of ASCII."
        )
    if re.match(r"https?://[^/?#\\]+([/?#]|$)", url, re.IGNORECASE) and _is_url(url):
        return url
    raise InvalidRequest("an address of a notice is of the form http(s)://HOST/…; this is none.")


def address_of(url: str) -> str:
    """An address as it may be shown: its path, its query and its user are mostly credentials."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}" + ("/…" if parts.path.strip("/") or parts.query else "")


Address = IPv4Address | IPv6Address

#: Ranges of IPv6 in which an IPv4 address is, and the bit at which it ends.
_NAT64, _SIX_TO_FOUR, _COMPATIBLE = IPv6Network("64:ff9b::/96"), IPv6Network("2002::/16"), IPv6Network("::/96")
#: Likewise, for the use of one network (RFC 8215); not every Python knows that.
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
#: Metadata of a cloud at an address that no list calls private: of Oracle (all of this range is for protocols, and not
#: every Python knows that), and of Azure.
_OF_CLOUDS = (IPv4Network("192.0.0.0/24"), IPv4Network("168.63.129.16/32"))


def is_public(address: str) -> bool:
    """Whether an IP address is of the internet: not of this machine, a private network, a link, a cloud's metadata.

    An IPv6 address that stands for one of IPv4 is as public as that.
    """
    return all(map(_is_public, _meant(ip_address(address))))


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and (address.is_site_local or address in _LOCAL_NAT64):
        return False
    if any(address in network for network in _OF_CLOUDS):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _meant(address: Address) -> Iterable[Address]:
    """The addresses at which packets for this one may arrive."""
    if isinstance(address, IPv4Address):
        return [address]
    number = int(address)
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64 or address in _COMPATIBLE:
        # Neither range is anything else: what is not public as IPv4 (`::1` is 0.0.0.1) is not public.
        return [IPv4Address(number & 0xFFFFFFFF)]
    if address in _SIX_TO_FOUR:
        return [address, IPv4Address(number >> 80 & 0xFFFFFFFF)]
    if address.teredo is not None:
        return [address, *address.teredo]
    return [address]


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may be told of runs beside public addresses: these hosts, and addresses in these networks."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[str, ...] = ()

    @classmethod
    def of(cls, named: Sequence[str]) -> "Allowed":
        """Raises ValueError for what is neither a host nor a network."""
        hosts, networks = set[str](), list[str]()
        for one in named:
            try:
                networks.append(str(ip_network(one.strip("[]"))))
            except ValueError:
                if "/" in one or not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", one):
                    raise ValueError("holds what is neither a host's name nor a network, 10.1.0.0/16 say") from None
                hosts.add(one.lower())
        return cls(frozenset(hosts), tuple(networks))

    def takes(self, host: str, address: str) -> bool:
        """Whether a notice for this host may be sent to this address, at which it is."""
        if is_public(address) or host.lower().rstrip(".") in self.hosts:
            return True
        asked = ip_address(address)
        meant = asked.ipv4_mapped if isinstance(asked, IPv6Address) and asked.ipv4_mapped else asked
        return any(meant in ip_network(network) for network in self.networks)


#: For an address that whoever runs the fleet has chosen.
EVERYWHERE = Allowed(networks=("0.0.0.0/0", "::/0"))


# -- signatures


def checked_secrets(text: str) -> tuple[str, ...]:
    """Secrets, `whsec_…`, with commas or spaces between them. Raises ValueError, which quotes none."""
    secrets = tuple(re.split(r"[\s,]+", text.strip()))
    for secret in secrets:
        if not secret.startswith(SECRET_PREFIX) or len(_key(secret)) not in SECRET_BYTES:
            raise ValueError(
                f"must be {SECRET_PREFIX} and then {SECRET_BYTES[0]} to {SECRET_BYTES[-1]} bytes as base64; "
                f"`reprieve notices secret` makes one. Several have commas between them"
            )
    return secrets


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        return b""


def signature(secrets: Iterable[str], notice_id: str, timestamp: int, body: bytes) -> str:
    """What proves that a notice is ours, by each of these secrets: `v1,` and the HMAC of its id, time and body."""
    signed = f"{notice_id}.{timestamp}.".encode() + body
    macs = (hmac.new(_key(secret), signed, hashlib.sha256).digest() for secret in secrets)
    return " ".join(f"v1,{base64.b64encode(mac).decode()}" for mac in macs)
