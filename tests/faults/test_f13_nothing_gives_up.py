"""F13: nothing of ours gives up because something else is away: worker, beat and API wait for as long as it takes."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import pytest

from reprieve.stores.embedded import EmbeddedPostgres, EmbeddedRedis
from reprieve.stores.migrate import migrate
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from tests.support.forking import REPRIEVE
from tests.support.processes import READY, Process, celery, processes_of, run_command, spawn
from tests.support.waiting import answers, eventually

pytestmark = pytest.mark.row("F13")

#: More than the 100 after which Celery gives up.
TRIES = 130
REFUSED = "Trying again"


@pytest.fixture
def broker(tmp_path: Path, environment: dict[str, str]) -> Iterator[EmbeddedRedis]:
    """A Redis of this test's own, which is not up yet; processes that get `environment` use it."""
    redis = EmbeddedRedis(tmp_path / "redis")
    redis.start()
    environment["REPRIEVE_REDIS_URL"] = redis.url
    redis.stop()
    yield redis
    redis.remove()


@pytest.fixture
def begin(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Process]]:
    with ExitStack() as ending:

        def start(name: str, *arguments: str) -> Process:
            process = spawn(name, celery(*arguments, application="tests.support.impatient"), environment, tmp_path)
            ending.callback(process.stop)
            return process

        yield start


WORKER = ("worker", "-Q", "runs,logs,control", "-P", "threads", "-c", "8", "-l", "INFO", "--without-mingle")
BEAT = ("beat", "-S", "reprieve.workers.pulse:Scheduler", "-l", "INFO", "--pidfile=")


def refused(process: Process, since: int = 0) -> None:
    """It has been refused more often than Celery would bear, and is there."""

    def often() -> bool:
        assert process.popen.poll() is None, process.output[-3000:]
        return process.output[since:].count(REFUSED) > TRIES

    eventually(often, timeout=90, interval=0.2, what=lambda: process.output[-3000:])


def ask_for(environment: dict[str, str], *command: str) -> UUID:
    """As a service does that has this broker."""
    done = run_command([REPRIEVE, "run", "--", *command], env={**os.environ, **environment}, text=True)
    assert done.returncode == 0, done.stderr
    return UUID(done.stdout.strip())


def test_a_worker_outlasts_its_broker_at_the_start_and_in_mid_run_and_so_do_its_children(
    services: Services,
    environment: dict[str, str],
    broker: EmbeddedRedis,
    begin: Callable[..., Process],
    tmp_path: Path,
) -> None:
    environment["REPRIEVE_TIME_SCALE"] = "1"
    worker = begin("worker", *WORKER)
    refused(worker)
    broker.start()
    worker.wait_for(READY, timeout=60)
    go = tmp_path / "go"
    run_id = ask_for(environment, "sh", "-c", f"echo before; while [ ! -e {go} ]; do sleep 0.2; done; echo after")
    eventually(lambda: services.logs.last_seq(run_id, 1) == 1)
    broker.stop()
    refused(worker, since=len(worker.output))
    assert processes_of(run_id)
    go.touch()
    eventually(lambda: services.runs.get(run_id).status == "succeeded", timeout=60)
    broker.start()
    eventually(lambda: services.logs.last_seq(run_id, 1) == 2, timeout=60)
    again = ask_for(environment, "true")
    eventually(lambda: services.runs.get(again).status == "succeeded", timeout=90)
    assert services.runs.get(run_id).attempt == 1


def test_beat_outlasts_its_broker_at_the_start_and_later(
    services: Services, broker: EmbeddedRedis, begin: Callable[..., Process]
) -> None:
    beat = begin("beat", *BEAT)
    refused(beat)
    broker.start()
    beat.wait_for("Sending due task", timeout=60)
    broker.stop()
    lost = len(beat.output)
    eventually(lambda: beat.output[lost:].count("Error") > 2, timeout=60, what=lambda: beat.output[-3000:])
    broker.start()
    eventually(lambda: broker_has_messages(broker), timeout=60, what=lambda: beat.output[-3000:])
    assert beat.popen.poll() is None


def broker_has_messages(broker: EmbeddedRedis) -> bool:
    with app.connection_for_read(broker.url) as connection:
        before: int = connection.default_channel.client.llen("control")
    return before > 0


def test_celery_is_told_to_try_for_as_long_as_it_takes() -> None:
    assert app.conf.broker_connection_max_retries is None
    assert app.conf.broker_connection_retry
    assert app.conf.broker_connection_retry_on_startup
    assert "max_retries" not in app.conf.broker_transport_options


def test_the_api_waits_for_a_database_that_is_away_as_it_starts(
    environment: dict[str, str], tmp_path: Path, services: Services
) -> None:
    with ExitStack() as ending:
        postgres = EmbeddedPostgres(tmp_path / "postgres")
        ending.callback(postgres.remove)
        postgres.start()
        other = type(services.database)(postgres.url)
        migrate(other)
        other.dispose()
        postgres.stop()
        address = "127.0.0.1:18437"
        of_api = {**environment, "REPRIEVE_DATABASE_URL": postgres.url, "REPRIEVE_API_ADDRESS": address}
        api = spawn("api", [REPRIEVE, "api"], of_api, tmp_path)
        ending.callback(api.stop)
        api.wait_for("The API waits for the database")
        postgres.start()
        eventually(lambda: answers(f"http://{address}/health/live"), timeout=60, what=lambda: api.output)


def test_a_migration_waits_for_a_database_that_is_away_for_as_long_as_it_is_told(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with ExitStack() as ending:
        postgres = EmbeddedPostgres(tmp_path / "postgres")
        ending.callback(postgres.remove)
        postgres.start()
        postgres.stop()
        there = {**environment, "REPRIEVE_DATABASE_URL": postgres.url}
        done = run_command([REPRIEVE, "migrate", "--wait=0"], env={**os.environ, **there}, text=True)
        assert done.returncode != 0
        assert "waiting" not in done.stderr
        assert "Traceback" not in done.stderr
        migration = spawn("migration", [REPRIEVE, "migrate"], there, tmp_path)
        ending.callback(migration.stop)
        migration.wait_for("The database is not there yet; waiting 60 s for it: ")
        postgres.start()
        assert migration.popen.wait(60) == 0, migration.output
        assert "The database is at revision" in migration.output
