"""The whole stack of `docker-compose.yml`: it comes up green, and comes through what containers go through."""

import time
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest

from reprieve.models.output import Output
from tests.containers import stack as stacks
from tests.containers.stack import Numbered, Stack, start, until_ended, wrong
from tests.support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1500)]

#: Of work that outlives its worker, its run says whether it is to be started again after its container is lost.
AGAIN: dict[str, Any] = {"max_attempts": 4, "retry_on": {"error_code": ["adapter_liveness_lost"]}}


class Reader(Thread):
    """Follows a run over HTTP, as its client does, and keeps the numbers of its lines."""

    def __init__(self, stack: Stack, run: Numbered) -> None:
        super().__init__(daemon=True)
        self._stack, self._run, self._data = stack, run, b""
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            with self._stack.client() as client:
                for item in client.follow_log(self._run.id):
                    if isinstance(item, Output):
                        self._data += item.data
        except Exception as error:
            self.error = error

    @property
    def numbers(self) -> list[int]:
        return [int(line.split()[1]) for line in self._data.decode().splitlines()]


def test_a_stack_comes_through_kills_restarts_recreation_scaling_and_a_night_that_it_is_down(
    stack: Stack, tell: Callable[[object], None]
) -> None:
    took: dict[str, float] = {}
    stack.script("secrets.sh")
    took["from up to green"] = stack.up()
    runs: list[Numbered] = []
    lost: list[str] = []

    def some(lines: int = 40) -> None:
        with stack.client() as client:
            runs.extend(start(client, adapter, lines, **AGAIN) for adapter in ("process", "detached"))
            runs.append(start(client, "process", 5, end=3))

    some(lines=200)
    reader = Reader(stack, runs[1])
    said = stack.execute("api", "reprieve", "run", "--follow", "--", "sh", "-c", "echo by exec; exit 3", check=False)
    assert (said.returncode, said.stdout) == (3, "by exec\n")

    # Whatever ends by itself comes back by itself.
    began = time.monotonic()
    for service in ("postgres", "redis", "api", "worker-logs", "worker-control", "worker-archive", "beat", "flower"):
        some(lines=10)
        stack.crash(stack.containers(service)[0])
    stack.until_green()
    took["until all but the workers of runs came back from a kill -9"] = time.monotonic() - began

    # With the container of a worker of runs goes all that runs in it; it is started again.
    with stack.client() as client:
        lost += [one.id for one in runs if client.get_run(one.id).status == "running"]
    assert lost
    stack.crash(stack.containers("worker-runs")[0])
    stack.until_green(["worker-runs"])
    for server in stacks.SERVERS:
        stack.compose("restart", server)
    stack.until_green()

    some()
    stack.compose("up", "--detach", "--no-build", "--no-deps", "--force-recreate", "api", "worker-logs", "flower")
    stack.compose("up", "--detach", "--no-build", "--no-deps", "--scale", "worker-runs=3", "worker-runs")
    stack.until_green()
    some()
    eventually(lambda: stack.execute("api", "reprieve", "workers").stdout.count("@") >= 3, timeout=60, interval=1)
    until_ended(stack, runs)
    eventually(lambda: not reader.is_alive(), timeout=60)
    assert reader.error is None
    # Of each attempt, the reader has what the log has: a beginning, and the last one whole.
    assert reader.numbers[-200:] == list(range(200)), stack.execute("api", "reprieve", "explain", runs[1].id).stdout

    # Down in mid-run, and up again: the volumes stay, and so does what is owed.
    some(lines=60)
    with stack.client() as client:
        eventually(lambda: all(client.get_run(one.id).status != "queued" for one in runs[-3:]), timeout=60)
    stack.down()
    lost += [one.id for one in runs[-3:]]
    took["from up to green, the second time"] = stack.up()
    some(lines=5)
    until_ended(stack, runs)
    tell({"runs": len(runs), "started again": len(lost), "seconds": took})
    assert wrong(stack, runs, may_be_lost=lost) == []
