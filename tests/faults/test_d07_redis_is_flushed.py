"""D07: Redis is never the only copy: it is flushed in mid-run, and no line is lost."""

import sys
from collections.abc import Callable

import pytest
from redis import Redis

from reprieve import enqueue_run
from reprieve.workers.bootstrap import Services
from tests.support.processes import Process
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("D07")

LINES = 600
PRINTER = f"""
import time
for number in range({LINES}):
    print(f"line {{number}}", flush=True)
    time.sleep(0.02)
"""


def test_a_log_is_whole_though_redis_was_flushed_again_and_again(
    services: Services, redis: Redis, start_worker: Callable[..., Process]
) -> None:
    start_worker("runs", name="runs")
    run = enqueue_run("detached", {"command": [sys.executable, "-I", "-S", "-c", PRINTER]})
    # Nobody takes messages yet: what is flushed is the only message with these lines.
    eventually(lambda: redis.llen("logs") >= 3, timeout=60)
    redis.flushall()
    start_worker("logs", name="logs", concurrency=2)
    for _ in range(3):
        seen = services.logs.last_seq(run.id, 1)
        eventually(lambda seen=seen: services.logs.last_seq(run.id, 1) > seen, timeout=60)
        assert services.runs.get(run.id).status == "running"
        redis.flushall()
    eventually(lambda: services.runs.get(run.id).status == "succeeded", timeout=60)
    last_seq = services.runs.get(run.id).attempts[0].last_seq or 0
    eventually(lambda: services.closings.state(run.id, 1).stored.covers(1, last_seq), timeout=90)
    data = b"".join(chunk.data for chunk in services.logs.hot(run.id, 1))
    assert data == b"".join(b"line %d\n" % number for number in range(LINES))
