"""The connection to Redis for throttles and hints (the broker has its own).

Redis may be down; every caller has a fallback. So a call waits for 2 seconds at most, and never retries
by itself: redis-py's defaults turned a 5 s timeout into 58 s.
"""

from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from reprieve.stores.sentinel import SCHEMES, SentinelAddress
from reprieve.stores.tls import NAMES, Tls
from reprieve.stores.urls import Url

#: Seconds to wait for Redis before doing without it.
SOCKET_TIMEOUT = 2.0
#: Seconds that a blocking read may wait; below the socket's timeout, or the two race.
LONGEST_BLOCK = 1.0


def connect(url: str) -> Redis:
    """A client that connects when it is first used. Raises ValueError, naming what would work, for a bad address."""
    patience: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": SOCKET_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
    }
    read = checked(url)
    if read.scheme not in SCHEMES:
        secure = Tls.of(read)
        tls = secure.for_redis if secure else {}
        return Redis.from_url(str(read.without(NAMES)), health_check_interval=30, **patience, **tls)
    address = SentinelAddress.parse(url)
    sentinel = Sentinel(address.sentinels, sentinel_kwargs=patience | address.sentinel_login)
    client: Redis = sentinel.master_for(
        address.master, db=address.db, health_check_interval=30, **patience, **address.login, **address.over_tls
    )
    return client


def checked(url: str) -> Url:
    """A URL of a Redis, read; raises ValueError, naming what would work, for parts that have no effect."""
    read = Url.parse(url)
    if read.scheme in SCHEMES:
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
