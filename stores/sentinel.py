"""The address of a Redis that Sentinel names, as one URL: `sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/DB?master=NAME`.

`&sentinel_password=` is the password of the Sentinels themselves, if they have one. Neither redis-py nor Celery has a
URL of its own for all of this: each is given what it takes.
"""

import re
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

SCHEME = "sentinel://"
DEFAULT_PORT = 26379
FORM = "must be sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/DB?master=NAME"


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """Who knows where the master is, its name, and what it asks for."""

    sentinels: tuple[tuple[str, int], ...]
    master: str
    db: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_password: str | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError with what would do."""
        parts = urlsplit(url)
        who, _, hosts = parts.netloc.rpartition("@")
        username, _, password = who.partition(":")
        asked = parse_qs(parts.query)
        found = [re.fullmatch(r"([^:\[\]]+|\[[^\]]+\])(?::(\d+))?", host) for host in hosts.split(",")]
        db = parts.path.strip("/") or "0"
        if (
            not all(found)
            or "master" not in asked
            or not db.isdigit()
            or asked.keys() - {"master", "sentinel_password"}
        ):
            raise ValueError(FORM)
        return cls(
            sentinels=tuple((one[1].strip("[]"), int(one[2] or DEFAULT_PORT)) for one in found if one),
            master=asked["master"][0],
            db=int(db),
            username=unquote(username) or None,
            password=unquote(password) or None,
            sentinel_password=asked.get("sentinel_password", [None])[0],
        )

    @property
    def login(self) -> dict[str, Any]:
        """What the master asks for."""
        known = {"username": self.username, "password": self.password}
        return {name: value for name, value in known.items() if value}

    @property
    def sentinel_login(self) -> dict[str, Any]:
        return {"password": self.sentinel_password} if self.sentinel_password else {}

    @property
    def for_celery(self) -> str:
        """The URL that Celery takes; the name of the master and the Sentinels' password are transport options."""
        who = f"{quote(self.username or '', safe='')}:{quote(self.password, safe='')}@" if self.password else ""
        hosts = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.sentinels)
        return ";".join(f"{SCHEME}{who}{host}/{self.db}" for host in hosts)
