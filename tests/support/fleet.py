"""A whole system of a test's own, each process of which can be killed, stopped and started again."""

import time
from contextlib import ExitStack
from pathlib import Path

from stores.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.support.processes import READY, Process, celery, spawn

Server = EmbeddedPostgres | EmbeddedRedis


class Fleet:
    """Servers and workers below `folder`, ended with `ending`. Workers are of the Celery application `application`."""

    def __init__(
        self,
        folder: Path,
        ending: ExitStack,
        *,
        time_scale: int,
        application: str = "workers",
        extra: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._ending = ending
        self._application = application
        self.postgres = EmbeddedPostgres(folder / "postgres")
        self.redis = EmbeddedRedis(folder / "redis")
        for server in (self.postgres, self.redis):
            ending.callback(server.remove)
            server.start()
        self.environment = {
            "REPRIEVE_DATABASE_URL": self.postgres.url,
            "REPRIEVE_REDIS_URL": self.redis.url,
            "REPRIEVE_DATA_DIR": str(folder / "data"),
            "REPRIEVE_NODE_NAME": "fleet",
            "REPRIEVE_TIME_SCALE": str(time_scale),
            **(extra or {}),
        }
        self._started = 0

    def start(self, queue: str, concurrency: int = 4) -> Process:
        """A worker of one queue, ready when this returns; its node is `{queue}-{number}@fleet`."""
        self._started += 1
        name = f"{queue}-{self._started}"
        options = ("-Q", queue, "-P", "threads", "-c", str(concurrency), "-n", f"{name}@fleet", "-l", "INFO")
        command = celery("-A", self._application, "worker", "--without-gossip", "--without-mingle", *options)
        process = spawn(name, command, self.environment, self.folder)
        self._ending.callback(process.stop)
        process.wait_for(READY)
        return process

    def start_beat(self) -> Process:
        self._started += 1
        command = celery("-A", "workers", "beat", "-S", "celery.beat:Scheduler", "--pidfile=", "-l", "INFO")
        process = spawn(f"beat-{self._started}", command, self.environment, self.folder)
        self._ending.callback(process.stop)
        process.wait_for("beat: Starting")
        return process

    @staticmethod
    def restart(server: Server, away: float) -> None:
        """Kill a server, and start it again after so many seconds."""
        server.kill()
        time.sleep(away)
        server.start()
