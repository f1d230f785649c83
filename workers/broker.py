"""The broker: a Redis transport for kombu that survives a lost connection.

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

from reprieve.workers.broker_address import RABBIT, SOCKET_TIMEOUT


def to_ask(app: Celery) -> Connection:
    """A connection for somebody who asks the broker something, and waits for the answer no longer than for any other.

    A worker has no such limit on RabbitMQ, where it waits for messages for as long as there are none.
    """
    connection: Connection = app.connection_for_read()
    if connection.transport_cls in RABBIT:
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
