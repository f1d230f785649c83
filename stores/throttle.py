"""The throttle of the refresh: at most one UPDATE of `updated_at` per run and refresh interval.

One `SET proof:{run_id} {owner} NX EX 60` per run decides who refreshes. It is one command, so a crash cannot leave a
key without an end (misk #2541). A key whose UPDATE did not happen is released by compare-and-delete, so the next
proof of life tries again (kpi #7270). When Redis fails, a bounded throttle in this process's memory stands in: the
database still gets its refresh.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self
from uuid import UUID, uuid4

from cachetools import TTLCache
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError

from reprieve.models.work import Fence

logger = logging.getLogger(__name__)

#: Runs that the stand-in throttle remembers; beyond it the oldest are refreshed more often, which is harmless.
LOCAL_THROTTLE_RUNS = 10_000

#: Runs whose keys are remembered as being there; beyond it, Redis is asked again.
HELD_RUNS = 100_000

#: Delete the key only if it is still the one we set.
_COMPARE_AND_DELETE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


def proof_key(run_id: UUID) -> str:
    return f"proof:{run_id}"


class Throttle:
    """Who may refresh which run now. Thread-safe; shared by all writers of a process."""

    def __init__(self, redis: Redis, refresh_seconds: int) -> None:
        self._redis = redis
        self._refresh_seconds = refresh_seconds
        self._local: TTLCache[UUID, bool] = TTLCache(LOCAL_THROTTLE_RUNS, ttl=refresh_seconds)
        self._lock = threading.Lock()
        # What Redis has just said need not be asked again for each message of a chatty run.
        self._held: dict[UUID, float] = {}
        self._held_seconds = refresh_seconds / 20

    def permits(self) -> "Permits":
        """A block in which keys are taken, and released if it ends with an exception."""
        return Permits(self)

    def take(self, fences: Iterable[Fence], owner: str) -> set[Fence]:
        """The fences whose runs are due for a refresh, each run's key now taken for `owner`."""
        # A run has one key: where a message bears fences of several epochs, the newest speaks for it.
        wanted = {fence.run_id: fence for fence in sorted(fences) if not self._is_held(fence.run_id)}
        if not wanted:
            return set()
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for run_id in wanted:
                    pipeline.set(proof_key(run_id), owner, nx=True, ex=self._refresh_seconds)
                answers = pipeline.execute()
        except RedisError as error:
            logger.warning("Redis is down (%s): throttling refreshes in memory.", error)
            return {fence for fence in wanted.values() if self._take_locally(fence.run_id)}
        self._hold(wanted)
        return {fence for fence, won in zip(wanted.values(), answers, strict=True) if won}

    def _is_held(self, run_id: UUID) -> bool:
        """Whether the key was there, ours or another's, a moment ago (a twentieth of its life)."""
        return self._held.get(run_id, 0.0) > time.monotonic()

    def _hold(self, run_ids: Iterable[UUID]) -> None:
        until = time.monotonic() + self._held_seconds
        with self._lock:
            if len(self._held) > HELD_RUNS:
                self._held.clear()
            self._held.update(dict.fromkeys(run_ids, until))

    def _take_locally(self, run_id: UUID) -> bool:
        with self._lock:
            if run_id in self._local:
                return False
            self._local[run_id] = True
            return True

    def release(self, fences: Iterable[Fence], owner: str) -> None:
        """Give back keys that `owner` took and did not use; those it no longer owns stay as they are."""
        run_ids = [fence.run_id for fence in fences]
        self._drop(run_ids, lambda pipeline, key: pipeline.eval(_COMPARE_AND_DELETE, 1, key, owner))

    def forget(self, run_ids: Iterable[UUID]) -> None:
        """Delete the keys of runs that were claimed or ended: the next proof of life counts at once."""
        self._drop(list(run_ids), lambda pipeline, key: pipeline.delete(key))

    def _drop(self, run_ids: Sequence[UUID], command: Callable[[Pipeline, str], object]) -> None:
        """Drop what stands in for these keys here, and have Redis drop the keys, if it is there."""
        with self._lock:
            for run_id in run_ids:
                self._local.pop(run_id, None)
                self._held.pop(run_id, None)
        if not run_ids:
            return
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for run_id in run_ids:
                    command(pipeline, proof_key(run_id))
                pipeline.execute()
        except RedisError as error:
            logger.warning("Redis is down (%s): %d throttle keys stay until they expire.", error, len(run_ids))


class Permits:
    """The keys taken in one block. Those whose refresh was not made are released when it ends."""

    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle
        self._owner = uuid4().hex
        self._taken: set[Fence] = set()
        self._made: set[Fence] = set()

    def __enter__(self) -> Self:
        return self

    def take(self, fences: Iterable[Fence]) -> set[Fence]:
        """Those of `fences` whose refresh is now this block's to make."""
        won = self._throttle.take(fences, self._owner)
        self._taken |= won
        return won

    def made(self, fences: Iterable[Fence]) -> None:
        """These refreshes were made: their keys stay, provided that the block (and its transaction) ends well."""
        self._made |= set(fences)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._throttle.release(self._taken if kind else self._taken - self._made, self._owner)
