"""The connection to Redis for throttles and hints (the broker has its own).

Redis is allowed to be away: every use has an answer for that. So a call waits for 2 seconds at most, and never retries
by itself: redis-py's defaults turned a 5 s timeout into 58 s.
"""

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

#: Seconds to wait for Redis before doing without it.
SOCKET_TIMEOUT = 2.0
#: Seconds that a blocking read may wait; below the socket's timeout, or the two race.
LONGEST_BLOCK = 1.0


def connect(url: str) -> Redis:
    """A client that opens nothing until it is used."""
    return Redis.from_url(
        url,
        socket_timeout=SOCKET_TIMEOUT,
        socket_connect_timeout=SOCKET_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=30,
    )
