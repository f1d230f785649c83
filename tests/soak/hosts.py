"""Hosts of a soak that are not this one: each with a network, a PID namespace, a name and a data folder of its own."""

import signal
import time
from contextlib import ExitStack, suppress

import psutil

from tests.support.containers import UNSHARE, permitted
from tests.support.fleet import Fleet
from tests.support.gateway import Gateway, Way
from tests.support.network import another_host, available
from tests.support.processes import READY, Process, celery, spawn


def can_be_made() -> bool:
    """Whether this machine lets us make such hosts."""
    return available() and permitted()


class FarHost:
    """A worker of runs in a container on a host that a cable connects with this one.

    It has the name of its container, which changes whenever that is made anew, and a data folder that stays.
    """

    def __init__(self, fleet: Fleet, number: int, ending: ExitStack) -> None:
        self._fleet = fleet
        self._number = number
        self._ending = ending
        self._made = 0
        self._network = ending.enter_context(another_host())
        self._to_postgres = ending.enter_context(Gateway(fleet.postgres.url, self._network.here))
        self._to_redis = ending.enter_context(Gateway(fleet.redis.url, self._network.here))
        self.data = fleet.folder / f"far-{number}"
        self.worker = self._make()

    @property
    def node(self) -> str:
        """What its worker is called in rows."""
        return f"{self.worker.name}@far"

    def _make(self) -> Process:
        self._made += 1
        name = f"far-{self._number}-{self._made}"
        options = ("-Q", "runs", "-P", "threads", "-c", "40", "-n", f"{name}@far", "-l", "INFO")
        worker = celery("worker", "--without-gossip", "--without-mingle", *options)
        container = [*UNSHARE, "sh", "-c", f'hostname {name} && exec "$@"', "sh", *worker]
        environment = {
            **self._fleet.environment,
            "REPRIEVE_DATABASE_URL": self._to_postgres.url,
            "REPRIEVE_REDIS_URL": self._to_redis.url,
            "REPRIEVE_DATA_DIR": str(self.data),
            "REPRIEVE_NODE_NAME": "",
        }
        process = spawn(name, self._network.command(*container), environment, self._fleet.folder)
        self._ending.callback(process.stop, 1.0)
        with suppress(AssertionError):  # A database that is away just now keeps it from being ready, not from coming.
            process.wait_for(READY)
        return process

    def recreate(self) -> str:
        """End the container with all that is in it, and make another on its folder; the name of the worker that was."""
        lost = self.node
        self.worker.kill()
        self.worker = self._make()
        return lost

    def cut(self, seconds: float, *, to: bool = True, fro: bool = True) -> None:
        """Let nothing reach it, or nothing come from it, for so long. No reset says so."""
        self._network.cut(to=to, fro=fro)
        time.sleep(seconds)
        self._network.mend()

    def cut_from_postgres(self, seconds: float) -> None:
        """The same between it and PostgreSQL alone."""
        self._to_postgres.turn(Way.SILENT)
        time.sleep(seconds)
        self._to_postgres.turn(Way.OPEN)

    def freeze(self, seconds: float) -> None:
        """Have its worker stand still, the work in its container go on."""
        with suppress(psutil.Error):
            for process in psutil.Process(self.worker.pid).children():
                process.send_signal(signal.SIGSTOP)
                time.sleep(seconds)
                process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ask it to end, as an engine does, and wait."""
        with suppress(psutil.Error):
            for process in psutil.Process(self.worker.pid).children():
                process.terminate()
        with suppress(Exception):
            self.worker.popen.wait(timeout=60)
        self.worker.stop(1.0)
