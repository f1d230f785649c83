"""A whole system of a test's own, each process of which can be killed, stopped and started again."""

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from reprieve.stores.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.support.processes import READY, Process, beat, celery, spawn

Server = EmbeddedPostgres | EmbeddedRedis


class Workers:
    """Workers and beats with this environment, ended with `ending`; workers are of the application `application`."""

    def __init__(
        self, folder: Path, ending: ExitStack, environment: dict[str, str], *, application: str = "reprieve.workers.app"
    ) -> None:
        self.folder = folder
        self.environment = environment
        self._ending = ending
        self._application = application
        self._started: list[Process] = []

    def start(self, queues: str, concurrency: int = 4) -> Process:
        """A worker of these queues, ready when this returns; its node is `{queues}-{number}@fleet`."""
        name = f"{queues.replace(',', '-')}-{len(self._started) + 1}"
        options = ("-Q", queues, "-P", "threads", "-c", str(concurrency), "-n", f"{name}@fleet", "-l", "INFO")
        command = celery("worker", "--without-gossip", "--without-mingle", *options, application=self._application)
        return self._start(name, command, READY)

    def start_beat(self) -> Process:
        command = beat()
        return self._start(f"beat-{len(self._started) + 1}", command, "beat: Starting")

    def _start(self, name: str, command: list[str], ready: str) -> Process:
        process = spawn(name, command, self.environment, self.folder)
        self._started.append(process)
        self._ending.callback(process.stop)
        process.wait_for(ready)
        return process

    def told(self, last: int | None = None) -> str:
        """What the processes have said, or the last so many characters of each."""
        return "\n".join(f"--- {one.name}\n{one.output[-last if last else 0 :]}" for one in self._started)


class Fleet(Workers):
    """The same over servers of their own, below `folder`."""

    def __init__(
        self,
        folder: Path,
        ending: ExitStack,
        *,
        time_scale: int,
        application: str = "reprieve.workers.app",
        extra: dict[str, str] | None = None,
        disk: str | None = None,
    ) -> None:
        """`disk` is the size of a file system of the data folder's own; it has none where none can be mounted."""
        self.data = folder / "data"
        self.disk = disk is not None and _mount(self.data, disk, ending)
        self.postgres = EmbeddedPostgres(folder / "postgres")
        self.redis = EmbeddedRedis(folder / "redis")
        for server in (self.postgres, self.redis):
            ending.callback(server.remove)
            server.start()
        environment = {
            "REPRIEVE_DATABASE_URL": self.postgres.url,
            "REPRIEVE_REDIS_URL": self.redis.url,
            "REPRIEVE_DATA_DIR": str(self.data),
            "REPRIEVE_NODE_NAME": "fleet",
            "REPRIEVE_TIME_SCALE": str(time_scale),
            **(extra or {}),
        }
        super().__init__(folder, ending, environment, application=application)

    @staticmethod
    def restart(server: Server, away: float) -> None:
        """Kill a server, and start it again after so many seconds."""
        server.kill()
        time.sleep(away)
        server.start()


def _mount(folder: Path, size: str, ending: ExitStack) -> bool:
    """Put a file system of this size on a folder; False where that is not allowed."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode == 0:
        ending.callback(subprocess.run, ["umount", "-l", str(folder)], check=False)
    return mounted.returncode == 0
