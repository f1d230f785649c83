"""The address of the broker as Celery's settings for it. Needs neither Celery nor a client of the broker."""

import re
from dataclasses import replace
from typing import Any

from reprieve.stores import sentinel, tls
from reprieve.stores.redis_address import checked
from reprieve.stores.sentinel import SentinelAddress
from reprieve.stores.tls import Tls
from reprieve.stores.urls import Url

#: Seconds to wait for a frozen broker; without it, publishing blocks without end.
SOCKET_TIMEOUT = 2
#: Seconds after which messages that a worker on Redis has not acknowledged come back: several times the longest
#: late-acknowledged task. RabbitMQ knows by itself when a worker is gone.
VISIBILITY_TIMEOUT = 120

#: Schemes of Celery's transport for Redis; the last two are one, as redis-py and as kombu call it.
REDIS = ("redis", "rediss", *sentinel.SCHEMES, "unix", "redis+socket")
RABBIT = ("amqp", "amqps", "pyamqp")


def configuration(url: str) -> dict[str, Any]:
    """Celery's settings for a broker: `broker_url`, `broker_transport_options`, `broker_use_ssl`.

    Raises ValueError, naming what would work, for parts of the URL that have no effect.
    """
    # Celery takes several RabbitMQs, of which it tries one after the other.
    all_read = [Url.parse(one) for one in re.split(r";(?=\w+://)", url)]
    read = all_read[0]
    if read.scheme in REDIS:
        return _of_redis(read)
    options: dict[str, Any] = {"broker_url": url, "broker_transport_options": {}, "broker_use_ssl": False}
    if read.scheme not in RABBIT:
        from kombu.transport import TRANSPORT_ALIASES  # Only here: who has a Redis needs no kombu to say so.

        if read.scheme.partition("+")[0] not in TRANSPORT_ALIASES:
            raise ValueError("is of no broker that Celery knows; amqp:// is a RabbitMQ")
        if read.scheme in ("memory", "filesystem"):
            raise ValueError("is no broker that several processes share; give redis:// or amqp://")
        return options
    secure = Tls.of(read)
    read.refuse_unknown(tls.NAMES if secure else ())
    if secure and len(all_read) > 1:
        raise ValueError("names several brokers over TLS, and each would have to show the name of the first; name one")
    return {
        "broker_url": ";".join(str(one.without(tls.NAMES)) for one in all_read),
        "broker_transport_options": {"write_timeout": SOCKET_TIMEOUT},
        "broker_use_ssl": secure.for_amqp(read.hosts[0][0]) if secure and read.hosts else False,
    }


def _of_redis(read: Url) -> dict[str, Any]:
    patience = {"socket_timeout": SOCKET_TIMEOUT, "socket_connect_timeout": SOCKET_TIMEOUT}
    options: dict[str, Any] = {
        "visibility_timeout": VISIBILITY_TIMEOUT,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        **patience,
    }
    if read.scheme in sentinel.SCHEMES:
        named = SentinelAddress.parse(str(read))
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        # redis-py would ask each Sentinel that is down ten more times, at growing gaps.
        once = patience | {"retry": Retry(NoBackoff(), 0)}
        return {
            "broker_url": named.for_celery,
            "broker_transport_options": options
            | {"master_name": named.master, "sentinel_kwargs": once | named.sentinel_login},
            "broker_use_ssl": named.tls.for_redis if named.tls else False,
        }
    if read.scheme == "redis+socket":
        return {"broker_url": str(read), "broker_transport_options": options, "broker_use_ssl": False}
    checked(str(read))
    secure = Tls.of(read)
    if read.scheme == "unix":
        read = replace(read, scheme="redis+socket", query=(("virtual_host", read.asked.get("db", "0")),))
    return {
        "broker_url": str(read.without(tls.NAMES)),
        "broker_transport_options": options,
        "broker_use_ssl": secure.for_redis if secure else False,
    }
