"""Hints in Redis that make something happen soon: stop signals and live events. Losing any of them loses nothing.

A follower that misses its stop signal learns the same from the database within a keepalive interval; a reader that
misses a live event finds the chunk in the log store. A vouch that is lost is given again at the next keepalive.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from cachetools import TTLCache
from redis import Redis
from redis.exceptions import RedisError

from reprieve.models.chunks import Block
from reprieve.models.paging import pages
from reprieve.models.work import Fence
from reprieve.stores.cache import LONGEST_BLOCK

logger = logging.getLogger(__name__)

#: The stream of stop signals …
STOPS = "stops"
#: … the seconds after its last one at which it is gone …
STOP_SIGNAL_LIFE = 3_600
#: … and how many wait there for a follower that is stalled.
STOP_SIGNALS_KEPT = 10_000
#: Stop signals that are read at once.
STOP_SIGNALS_AT_ONCE = 1_000
#: Seconds for which a process remembers one, for a run that it is only about to follow.
STOP_SIGNAL_REMEMBERED = 60.0
#: Vouches that are looked up at once.
VOUCHES_AT_ONCE = 1_000
#: Events of a run kept for readers of its tail; everything older is in the log store.
LIVE_EVENTS_KEPT = 500
#: Bytes of a block that travel in its event; of a larger one, the event only says that it is there.
LIVE_EVENT_BYTES = 4 * 1024
#: Seconds after its last event at which a run's stream is gone.
LIVE_STREAM_LIFE = 300
#: Seconds for which a reader is taken to watch a run after it last asked for events.
WATCH_LIFE = 30
#: Seconds that one who reads for many waits, before it looks who has joined them.
SHORT_BLOCK = 0.2


def vouch_key(fence: Fence) -> str:
    return f"vouch:{fence.run_id}:{fence.epoch}"


def watch_key(run_id: UUID) -> bytes:
    return b"watch:" + run_id.bytes


def live_key(run_id: UUID) -> str:
    return f"live:{run_id}"


class StopSignals:
    """Signals the followers of runs, on any host, that these have ended without them.

    All are in one stream, of which each worker reads what is new: what that costs grows with the runs that are ended
    so, and not with those that live. Thread-safe, but for `received`, which one thread of a process calls.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._read_to: bytes | str = "0"
        self._recent: TTLCache[UUID, int] = TTLCache(STOP_SIGNALS_KEPT, ttl=STOP_SIGNAL_REMEMBERED)

    def send(self, fences: Iterable[Fence]) -> None:
        """Best effort: a failure is logged, since the database says the same."""
        signals = [fence.run_id.bytes + fence.epoch.to_bytes(8, "big") for fence in fences]
        if not signals:
            return
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for signal in signals:
                    pipeline.xadd(STOPS, {b"": signal}, maxlen=STOP_SIGNALS_KEPT, approximate=True)
                pipeline.expire(STOPS, STOP_SIGNAL_LIFE)
                pipeline.execute()
        except RedisError as error:
            logger.warning("Redis is down (%s): followers will learn from the database that they must stop.", error)

    def received(self, fences: Collection[Fence]) -> set[Fence]:
        """The fences among these with a stop signal: the signal names their epoch or a later one.

        A signal that came before its run was followed here counts for a while.
        """
        if not fences:
            return set()
        with suppress(RedisError):
            self._read()
        if not self._recent:
            return set()
        return {fence for fence in fences if self._recent.get(fence.run_id, -1) >= fence.epoch}

    def _read(self) -> None:
        while streams := cast(Any, self._redis.xread({STOPS: self._read_to}, count=STOP_SIGNALS_AT_ONCE)):
            ((_, entries),) = streams
            for entry, fields in entries:
                self._read_to = entry
                for signal in fields.values():
                    run_id, epoch = UUID(bytes=signal[:16]), int.from_bytes(signal[16:], "big")
                    self._recent[run_id] = max(epoch, self._recent.get(run_id, -1))


class Vouches:
    """What workers that cannot reach the database say for the work that they see alive.

    Redis itself forgets a vouch `life` after it was given: no two hosts' clocks are compared, and one that comes twice
    or is read late says no more. What remains: the clock of Redis may be set back, or a replica take over whose clock
    is behind, while a worker is cut off and dies; a vouch of it then lives longer by as much.
    """

    def __init__(self, redis: Redis, life: timedelta) -> None:
        self._redis = redis
        self._milliseconds = int(life.total_seconds() * 1000)

    def give(self, fences: Iterable[Fence]) -> bool:
        """Whether Redis took it."""
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for fence in fences:
                    pipeline.set(vouch_key(fence), 1, px=self._milliseconds)
                pipeline.execute()
        except RedisError as error:
            logger.error("Neither the database nor Redis (%s) can record that this worker's runs are alive.", error)
            return False
        return True

    def given(self, fences: Iterable[Fence]) -> set[Fence]:
        """Those of these fences that are vouched for, under just their epoch; none while Redis is down."""
        vouched: set[Fence] = set()
        try:
            for page in pages(list(fences), VOUCHES_AT_ONCE):
                answers = cast("list[bytes | None]", self._redis.mget([vouch_key(fence) for fence in page]))
                vouched |= {fence for fence, answer in zip(page, answers, strict=True) if answer is not None}
        except RedisError as error:
            logger.warning("Redis is down (%s): it is not known which runs workers vouch for.", error)
        return vouched


class Request:
    """Something that many ask for and that is to be done once in a while for all of them, by one message."""

    def __init__(self, redis: Redis, name: str, seconds: float) -> None:
        self._redis = redis
        self._key = f"asked:{name}"
        self._milliseconds = int(seconds * 1000)

    def is_first(self) -> bool:
        """Whether nobody has asked within these seconds: the first sends the message. True while Redis is down."""
        try:
            return bool(self._redis.set(self._key, 1, nx=True, px=self._milliseconds))
        except RedisError:
            return True


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """That a block was stored. `block` is None for one too large to travel here: read it from the store."""

    attempt: int
    block: Block | None


class LiveEvents:
    """A bounded Redis stream per run that somebody watches, written after the commit.

    Most runs have no watcher, and publishing an event costs more than storing its content.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def publish(self, blocks: Sequence[Block]) -> None:
        """Publish to the watchers. Best effort: a failure is logged, never raised; the blocks are stored."""
        if not blocks:
            return
        try:
            watched = self._watched({block.run_id for block in blocks})
            with self._redis.pipeline(transaction=False) as pipeline:
                for block in blocks:
                    if block.run_id in watched:
                        pipeline.xadd(live_key(block.run_id), _fields(block), maxlen=LIVE_EVENTS_KEPT, approximate=True)
                for run_id in watched:
                    pipeline.expire(live_key(run_id), LIVE_STREAM_LIFE)
                pipeline.execute()
        except RedisError as error:
            logger.warning("Redis is down (%s): %d blocks were stored without a live event.", error, len(blocks))

    def _watched(self, run_ids: Iterable[UUID]) -> set[UUID]:
        ordered = list(run_ids)
        marks = cast("list[bytes | None]", self._redis.mget([watch_key(run_id) for run_id in ordered]))
        return {run_id for run_id, mark in zip(ordered, marks, strict=True) if mark is not None}

    def position(self, run_id: UUID) -> str:
        """Begin to watch a run: the place of its newest event, from which `wait` goes on.

        Call it before the store is read: whatever is stored later is then announced.
        """
        try:
            self.watch([run_id])
            newest = cast("list[Any]", self._redis.xrevrange(live_key(run_id), count=1))
        except RedisError:
            return "0"
        return newest[0][0].decode() if newest else "0"

    def wait(self, run_id: UUID, after: str) -> tuple[list[LiveEvent], str]:
        """The events after a position, waiting up to `LONGEST_BLOCK` seconds for one, and the position after them.

        Raises `RedisError` when Redis is down: the caller reads the store instead.
        """
        self.watch([run_id])
        events, positions = self._read({run_id: after}, LONGEST_BLOCK, 500)
        return events.get(run_id, []), positions.get(run_id, after)

    def wait_for_any(self, after: Mapping[UUID, str]) -> tuple[dict[UUID, list[LiveEvent]], dict[UUID, str]]:
        """The same for many runs at once: the events of those that had any, and the positions after them.

        A run that is watched from here is to be marked again by `watch`. Raises `RedisError`.
        """
        return self._read(after, SHORT_BLOCK, 100)

    def _read(
        self, after: Mapping[UUID, str], block: float, count: int
    ) -> tuple[dict[UUID, list[LiveEvent]], dict[UUID, str]]:
        """Up to so many events of each of these runs that has any, waiting so many seconds for the first."""
        keys: dict[Any, Any] = {live_key(run_id): place for run_id, place in after.items()}
        answer = cast("list[Any]", self._redis.xread(keys, count=count, block=int(block * 1000)) or [])
        events, positions = {}, {}
        for key, entries in answer:
            run_id = UUID(key.decode().removeprefix("live:"))
            events[run_id] = [_event(run_id, fields) for _, fields in entries]
            positions[run_id] = entries[-1][0].decode()
        return events, positions

    def watch(self, run_ids: Iterable[UUID]) -> None:
        """Have events be written for these runs for the next `WATCH_LIFE` seconds. Raises `RedisError`."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for run_id in run_ids:
                pipeline.set(watch_key(run_id), 1, ex=WATCH_LIFE)
            pipeline.execute()


def _fields(block: Block) -> dict[Any, Any]:
    fields: dict[Any, Any] = {"attempt": block.attempt, "first": block.first_seq, "last": block.last_seq}
    if len(block.payload) <= LIVE_EVENT_BYTES:
        fields["payload"] = block.payload
    return fields


def _event(run_id: UUID, fields: dict[bytes, bytes]) -> LiveEvent:
    attempt = int(fields[b"attempt"])
    payload = fields.get(b"payload")
    if payload is None:
        return LiveEvent(attempt, None)
    return LiveEvent(attempt, Block(run_id, attempt, 0, int(fields[b"first"]), int(fields[b"last"]), payload))
