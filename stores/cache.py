"""The connection to Redis for throttles and hints (the broker has its own).

Redis may be down; every caller has a fallback. So a call waits for 2 seconds at most, and never retries
by itself: redis-py's defaults turned a 5 s timeout into 58 s.
"""

from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from reprieve.stores.redis_address import checked
from reprieve.stores.sentinel import SCHEMES, SentinelAddress
from reprieve.stores.tls import NAMES, Tls

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
