"""The broker: what its transport is told, and kombu's transport for Redis, made to bear that its connection is gone.

A worker that lost Redis closes its channel and opens another. What it has in hand still belongs to the old one: tasks
that run, or wait for a thread or for their time. As each of them is acknowledged, or given back, kombu 5.7 makes that
channel a new client out of a connection that is no more: an AttributeError, which nobody expects, and which ends the
worker with the children of all its runs. Here it is a lost connection, which every caller expects: the message comes
again after the visibility timeout.
"""

from typing import Any

import redis
from celery import Celery
from kombu.connection import Connection
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

from stores.sentinel import SCHEME, SentinelAddress

#: Seconds to wait for a frozen broker; without it, publishing blocks without end.
SOCKET_TIMEOUT = 2
#: Seconds after which messages that a worker on Redis has not acknowledged come back: several times the longest
#: late-acknowledged task. RabbitMQ knows by itself when a worker is gone.
VISIBILITY_TIMEOUT = 120


def address(url: str) -> tuple[str, dict[str, Any]]:
    """The broker's URL as Celery takes it, and the options of its transport."""
    if not url.startswith((SCHEME, "redis://", "rediss://", "redis+socket://")):
        return url, {"write_timeout": SOCKET_TIMEOUT} if url.startswith(("amqp", "pyamqp")) else {}
    options: dict[str, Any] = {
        "visibility_timeout": VISIBILITY_TIMEOUT,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": SOCKET_TIMEOUT,
    }
    if not url.startswith(SCHEME):
        return url, options
    named = SentinelAddress.parse(url)
    patience = {"socket_timeout": SOCKET_TIMEOUT, "socket_connect_timeout": SOCKET_TIMEOUT}
    return named.for_celery, options | {
        "master_name": named.master,
        "sentinel_kwargs": patience | named.sentinel_login,
    }


def to_ask(app: Celery) -> Connection:
    """A connection for somebody who asks the broker something, and waits for the answer no longer than for any other.

    A worker has no such limit on RabbitMQ, where it waits for messages for as long as there are none.
    """
    connection: Connection = app.connection_for_read()
    if connection.transport_cls in ("amqp", "amqps", "pyamqp"):
        connection.transport_options = {**(connection.transport_options or {}), "read_timeout": SOCKET_TIMEOUT}
    return connection


class _LastingChannel:
    """Goes before a channel of kombu's."""

    connection: Any

    def _connparams(self, asynchronous: bool = False) -> Any:
        if getattr(self.connection, "client", None) is None:
            raise redis.ConnectionError("The broker's connection was lost, and this channel with it.")
        return super()._connparams(asynchronous)  # type: ignore[misc]


class Channel(_LastingChannel, kombu_redis.Channel):
    """A channel over one Redis."""


class SentinelChannel(_LastingChannel, kombu_redis.SentinelChannel):
    """A channel over a Redis that Sentinel names."""


class Transport(kombu_redis.Transport):
    Channel = Channel


class SentinelTransport(kombu_redis.SentinelTransport):
    Channel = SentinelChannel


def install() -> None:
    """Have kombu take these for the addresses `redis://`, `rediss://` and `sentinel://`."""
    mine = {"redis": Transport, "rediss": Transport, "sentinel": SentinelTransport}
    TRANSPORT_ALIASES.update({name: f"{cls.__module__}:{cls.__qualname__}" for name, cls in mine.items()})
