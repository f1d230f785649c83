"""kombu's Redis transport, made to bear that its connection is gone.

A worker that lost Redis closes its channel and opens another. What it has in hand still belongs to the old one: tasks
that run, or wait for a thread or for their time. As each of them is acknowledged, or given back, kombu 5.7 makes that
channel a new client out of a connection that is no more: an AttributeError, which nobody expects, and which ends the
worker with the children of all its runs. Here it is a lost connection, which every caller expects: the message comes
again after the visibility timeout.
"""

from typing import Any

import redis
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis


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
