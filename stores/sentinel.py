"""The address of a Redis that Sentinel names, as one URL: `sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/DB?master=NAME`.

`sentinels://` is the same over TLS, to the Sentinels and to what they name. `&sentinel_password=` is the password of
the Sentinels themselves, if they have one. Neither redis-py nor Celery has a URL of its own for all of this: each is
given what it takes.
"""

from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote

from reprieve.stores.tls import NAMES, Tls
from reprieve.stores.urls import Url

SCHEMES = ("sentinel", "sentinels")
DEFAULT_PORT = 26379
FORM = "must be sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/DB?master=NAME (sentinels:// over TLS)"


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """Who knows where the master is, its name, and what it asks for."""

    sentinels: tuple[tuple[str, int], ...]
    master: str
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError, naming what would work."""
        try:
            read = Url.parse(url)
        except ValueError as error:
            raise ValueError(f"{FORM}, and {error}") from None
        asked = read.asked
        db = read.path.strip("/") or "0"
        if not read.hosts or not all(host for host, _ in read.hosts) or not asked.get("master") or not db.isdecimal():
            raise ValueError(FORM)
        known = ("master", "sentinel_password", *NAMES)
        if asked.keys() - set(known):
            raise ValueError(f"{FORM}; its query may say {', '.join(known)}")
        return cls(
            sentinels=tuple((host, port or DEFAULT_PORT) for host, port in read.hosts),
            master=asked["master"],
            db=int(db),
            username=read.user,
            password=read.password,
            sentinel_password=asked.get("sentinel_password"),
            tls=Tls.of(read),
        )

    @property
    def login(self) -> dict[str, Any]:
        """What the master asks for."""
        known = {"username": self.username, "password": self.password}
        return {name: value for name, value in known.items() if value}

    @property
    def over_tls(self) -> dict[str, Any]:
        """What a client of redis-py takes, of the Sentinels as of the master."""
        return {"ssl": True, **self.tls.for_redis} if self.tls else {}

    @property
    def sentinel_login(self) -> dict[str, Any]:
        """What the Sentinels ask for."""
        return ({"password": self.sentinel_password} if self.sentinel_password else {}) | self.over_tls

    @property
    def for_celery(self) -> str:
        """The URL that Celery takes; the name of the master and the Sentinels' password are transport options."""
        who = f"{quote(self.username or '', safe='')}:{quote(self.password, safe='')}@" if self.password else ""
        hosts = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.sentinels)
        return ";".join(f"sentinel://{who}{host}/{self.db}" for host in hosts)
