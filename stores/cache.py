"""The connection to Redis for throttles and hints (the broker has its own).

Redis is allowed to be away: every use has an answer for that. So a call waits for 2 seconds at most, and never retries
by itself: redis-py's defaults turned a 5 s timeout into 58 s.
"""

from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from stores.sentinel import SCHEME, SentinelAddress

#: Seconds to wait for Redis before doing without it.
SOCKET_TIMEOUT = 2.0
#: Seconds that a blocking read may wait; below the socket's timeout, or the two race.
LONGEST_BLOCK = 1.0


def connect(url: str) -> Redis:
    """A client that opens nothing until it is used."""
    patience: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": SOCKET_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
    }
    if not url.startswith(SCHEME):
        return Redis.from_url(url, health_check_interval=30, **patience)
    address = SentinelAddress.parse(url)
    sentinel = Sentinel(address.sentinels, sentinel_kwargs=patience | address.sentinel_login)
    client: Redis = sentinel.master_for(
        address.master, db=address.db, health_check_interval=30, **patience, **address.login
    )
    return client
