"""RabbitMQ as the broker; Redis stays for throttles, hints and live events."""

from collections.abc import Callable
from pathlib import Path

import pytest

from reprieve.stores.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.servers.conftest import Rabbit
from tests.servers.fleet import keeps_its_promises, prints_once, running_fleet, wrong

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

#: RabbitMQ closes the channel of a consumer that holds a message for longer (30 minutes by default), here soon.
IMPATIENT = "[{rabbit, [{consumer_timeout, 3000}, {channel_tick_interval, 1000}]}].\n"


def test_reprieve_keeps_its_promises_with_rabbitmq_which_may_be_killed(
    postgres: EmbeddedPostgres, redis: EmbeddedRedis, start_rabbit: Callable[..., Rabbit], tmp_path: Path
) -> None:
    rabbit = start_rabbit()
    with running_fleet(tmp_path, postgres.url, redis.url, rabbit.url) as fleet:
        keeps_its_promises(fleet)
        rabbit.kill()
        waiting = fleet.run("echo", "hello", adapter="process")
        rabbit.start()
        fleet.becomes(waiting, "succeeded")
        prints_once(fleet)
        assert wrong(fleet) == []


def test_runs_that_wait_for_longer_than_rabbitmq_lets_a_message_be_held_are_all_run_once(
    postgres: EmbeddedPostgres, redis: EmbeddedRedis, start_rabbit: Callable[..., Rabbit], tmp_path: Path
) -> None:
    rabbit = start_rabbit(IMPATIENT)
    with running_fleet(tmp_path, postgres.url, redis.url, rabbit.url, concurrency=1) as fleet:
        runs = [fleet.run("sleep", "8", adapter="process") for _ in range(4)]
        attempts = [fleet.becomes(run, "succeeded").attempt for run in runs]
        assert attempts == [1] * len(runs)
        assert "timeout" in rabbit.process.output, "no message was held for too long: the test shows nothing"
