"""Hints in Redis that make something happen soon: stop signals and live events. Losing any of them loses nothing.

A follower that misses its stop signal learns the same from the database within a keepalive interval; a reader that
misses a live event finds the chunk in the log store.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from redis import Redis
from redis.exceptions import RedisError

from models.chunks import Chunk
from models.work import Token
from stores.cache import LONGEST_BLOCK

logger = logging.getLogger(__name__)

#: Seconds that a stop signal waits for a follower that is stalled.
STOP_SIGNAL_LIFE = 3_600
#: Events of a run kept for readers of its tail; everything older is in the log store.
LIVE_EVENTS_KEPT = 1_000
#: Bytes of a chunk that travel in its event; of a larger one, the event only says that it is there.
LIVE_EVENT_BYTES = 4 * 1024
#: Seconds after its last event at which a run's stream is gone.
LIVE_STREAM_LIFE = 3_600


def stop_key(run_id: UUID) -> str:
    return f"stop:{run_id}"


def live_key(run_id: UUID) -> str:
    return f"live:{run_id}"


class StopSignals:
    """Tells the follower of a run, wherever it is, that the run has ended without it."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def send(self, tokens: Iterable[Token]) -> None:
        """Best effort: a failure is logged, since the database says the same."""
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for token in tokens:
                    pipeline.set(stop_key(token.run_id), token.epoch, ex=STOP_SIGNAL_LIFE)
                pipeline.execute()
        except RedisError as error:
            logger.warning("Redis is away (%s): followers will learn from the database that they must stop.", error)

    def received(self, tokens: Sequence[Token]) -> set[Token]:
        """Those of these tokens that were told to stop: the signal names their epoch or a later one."""
        if not tokens:
            return set()
        try:
            answers = cast("list[bytes | None]", self._redis.mget([stop_key(token.run_id) for token in tokens]))
        except RedisError:
            return set()
        told = zip(tokens, answers, strict=True)
        return {token for token, epoch in told if epoch is not None and int(epoch) >= token.epoch}


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """That a chunk was stored. `data` is None for one too large to travel here: read it from the store."""

    attempt: int
    seq: int
    stream: str
    data: bytes | None


class LiveEvents:
    """A bounded Redis stream per run, written after the commit."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def publish(self, chunks: Sequence[Chunk]) -> None:
        """Best effort: a failure is logged, never raised; the chunks are stored."""
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for chunk in chunks:
                    pipeline.xadd(live_key(chunk.run_id), _fields(chunk), maxlen=LIVE_EVENTS_KEPT, approximate=True)
                for run_id in {chunk.run_id for chunk in chunks}:
                    pipeline.expire(live_key(run_id), LIVE_STREAM_LIFE)
                pipeline.execute()
        except RedisError as error:
            logger.warning("Redis is away (%s): %d chunks were stored without a live event.", error, len(chunks))

    def position(self, run_id: UUID) -> str:
        """The place of the newest event, from which `wait` goes on; take it before reading the store."""
        try:
            newest = cast("list[Any]", self._redis.xrevrange(live_key(run_id), count=1))
        except RedisError:
            return "0"
        return newest[0][0].decode() if newest else "0"

    def wait(self, run_id: UUID, after: str) -> tuple[list[LiveEvent], str]:
        """The events after a position, waiting up to `LONGEST_BLOCK` seconds for one, and the position after them.

        Raises `RedisError` when Redis is away: the caller reads the store instead.
        """
        answer = self._redis.xread({live_key(run_id): after}, count=500, block=int(LONGEST_BLOCK * 1000))
        if not answer:
            return [], after
        entries = cast("list[Any]", answer)[0][1]
        return [_event(fields) for _, fields in entries], entries[-1][0].decode()


def _fields(chunk: Chunk) -> dict[Any, Any]:
    fields: dict[Any, Any] = {"attempt": chunk.attempt, "seq": chunk.seq, "stream": chunk.stream}
    if len(chunk.data) <= LIVE_EVENT_BYTES:
        fields["data"] = chunk.data
    return fields


def _event(fields: dict[bytes, bytes]) -> LiveEvent:
    return LiveEvent(int(fields[b"attempt"]), int(fields[b"seq"]), fields[b"stream"].decode(), fields.get(b"data"))
