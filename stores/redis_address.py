"""The address of a Redis, checked before anybody connects. Needs no client of Redis."""

from reprieve.stores import sentinel
from reprieve.stores.sentinel import SentinelAddress
from reprieve.stores.tls import NAMES, Tls
from reprieve.stores.urls import Url

#: What redis-py is given as it is, and what Sentinels name.
SCHEMES = ("redis", "rediss", "unix", *sentinel.SCHEMES)


def checked(url: str) -> Url:
    """A URL of a Redis, read; raises ValueError, naming what would work, for parts that have no effect."""
    read = Url.parse(url)
    if read.scheme in sentinel.SCHEMES:
        SentinelAddress.parse(url)
        return read
    secure = Tls.of(read)
    if read.scheme == "unix":
        read.refuse_unknown(("db",))
        if read.hosts or not read.path:
            raise ValueError("must name a socket by its whole path: unix:///run/redis.sock")
        db = read.asked.get("db", "0")
    else:
        read.refuse_unknown(NAMES if secure else ())
        if len(read.hosts) != 1 or not read.hosts[0][0]:
            raise ValueError(f"must name one host: {read.scheme}://HOST:PORT/0")
        db = read.path.strip("/") or "0"
    if not db.isdecimal():
        raise ValueError("names a database of Redis that is no number; 0 is the usual one")
    return read
