"""B10: the end of a run is kept and tried again until it is recorded: broker and database are away when it comes."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import pytest

from reprieve.stores.embedded import EmbeddedPostgres, EmbeddedRedis
from reprieve.stores.migrate import migrate
from reprieve.workers import bootstrap
from reprieve.workers.bootstrap import Services
from reprieve.workers.settings import load_settings
from tests.support.forking import REPRIEVE
from tests.support.processes import READY, celery, run_command, spawn
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("B10")


@pytest.fixture
def alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Services, EmbeddedPostgres, EmbeddedRedis]]:
    """Services over servers of this test's own, which it may stop."""
    with ExitStack() as ending:
        postgres, redis = EmbeddedPostgres(tmp_path / "postgres"), EmbeddedRedis(tmp_path / "redis")
        for server in (postgres, redis):
            ending.callback(server.remove)
            server.start()
        monkeypatch.setenv("REPRIEVE_DATABASE_URL", postgres.url)
        monkeypatch.setenv("REPRIEVE_REDIS_URL", redis.url)
        monkeypatch.setenv("REPRIEVE_DATA_DIR", str(tmp_path / "data"))
        monkeypatch.setenv("REPRIEVE_NODE_NAME", "test-host")
        wired = bootstrap.build(load_settings())
        migrate(wired.database)
        bootstrap.use(wired)
        ending.callback(bootstrap.use, None)
        yield wired, postgres, redis


def _start(*command: str) -> UUID:
    """Start a run as a service of its own would: this process has sent to another broker already."""
    return UUID(run_command([REPRIEVE, "run", "--", *command], text=True).stdout.strip())


def test_a_run_that_ends_while_everything_is_away_is_recorded_when_it_is_back(
    alone: tuple[Services, EmbeddedPostgres, EmbeddedRedis], tmp_path: Path
) -> None:
    services, postgres, redis = alone
    options = ("-Q", "runs,logs", "-P", "threads", "-c", "8", "-l", "INFO")
    worker = spawn("worker", celery("worker", "--without-gossip", *options), {}, tmp_path)
    try:
        worker.wait_for(READY)
        go, done = tmp_path / "go", tmp_path / "done"
        waits = f"echo before; while [ ! -e {go} ]; do sleep 0.1; done; echo the tail; touch {done}; exit 3"
        run_id = _start("sh", "-c", waits)
        eventually(lambda: services.logs.last_seq(run_id, 1) == 1)
        services.database.dispose()
        postgres.stop()
        redis.stop()
        go.touch()
        eventually(done.exists)
        eventually(lambda: "is not recorded yet" in worker.output, timeout=60)
        postgres.start()
        redis.start()
        eventually(lambda: services.runs.get(run_id).status == "failed", timeout=90)
        ended = services.runs.get(run_id)
        assert (ended.error_code, ended.attempts[0].outcome["exit_status"]) == ("exit_status", 3)
        last_seq = ended.attempts[0].last_seq
        eventually(lambda: services.logs.last_seq(run_id, 1) == last_seq, timeout=90)
        data = b"".join(chunk.data for chunk in services.logs.read(run_id, 1) if chunk.stream == "stdout")
        assert data == b"before\nthe tail\n"
    finally:
        worker.stop()
