"""Checks of Redis, of the broker, and of who consumes its queues."""

from redis import Redis

from reprieve.cli.checks import Found
from reprieve.stores.cache import connect
from reprieve.workers.app import QUEUES, app
from reprieve.workers.bootstrap import Services
from reprieve.workers.broker import to_ask

#: The oldest Redis that is known to do.
LEAST_REDIS = (6, 2)
#: Seconds that workers get to say what they consume.
ANSWER_TIME = 2.0


def redis(wired: Services) -> Found:
    with connect(wired.settings.require_redis_url()) as client:
        return _redis(client)


def _redis(client: Redis) -> Found:
    told = client.info()
    number = tuple(int(part) for part in str(told["redis_version"]).split(".")[:2])
    if number < LEAST_REDIS:
        return False, f"Redis {told['redis_version']} is older than 6.2, the oldest that will do."
    if told["maxmemory_policy"] != "noeviction":
        return False, (
            f"Redis may evict what it likes (maxmemory-policy {told['maxmemory_policy']}), messages too: "
            "set it to noeviction."
        )
    if not told["aof_enabled"]:
        return (
            False,
            "Redis keeps no append-only file, so what is queued is lost when it restarts: set appendonly yes.",
        )
    return True, f"Redis {told['redis_version']} answers, evicts nothing and keeps an append-only file."


def broker(_: Services) -> Found:
    with to_ask(app) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0)
        return True, f"The broker answers ({connection.transport_cls})."


def queues(_: Services) -> Found:
    with to_ask(app) as connection:
        answers = app.control.inspect(timeout=ANSWER_TIME, connection=connection).active_queues() or {}
    consumed = {queue["name"] for of_worker in answers.values() for queue in of_worker}
    missing = [queue for queue in QUEUES if queue not in consumed]
    if missing:
        return (
            False,
            f"No worker that answers consumes {' or '.join(missing)}: start one (docker-compose.yml has the commands).",
        )
    return True, f"{len(answers)} workers consume all of {', '.join(QUEUES)}."
