"""A stack of `docker-compose.yml` on the engine, in a folder of its own that is as somebody has who checked us out."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import yaml

from reprieve.client import Client
from reprieve.models.output import Output
from reprieve.stores.embedded.address import choose_port
from tests.containers.engine import ROOT, Engine
from tests.soak.account import OWED
from tests.support.waiting import answers, eventually

#: The image that each stack of the tests has a name of its own for, and what divides their timings (a sweep every 6 s).
IMAGE = "reprieve-test-stack"
SCALE = 10
#: In the order in which an upgrade replaces them, and those that are there beside them.
ROLES = ("beat", "worker-control", "worker-logs", "worker-archive", "flower", "api", "worker-runs")
SERVERS = ("postgres", "redis")


@dataclass
class Stack:
    """A project of Compose, and what came of it. `folder` is a copy of the repository, with a `.env` of its own."""

    engine: Engine
    folder: Path
    project: str
    ports: dict[str, int]
    durations: dict[str, float] = field(default_factory=dict)

    # -- Compose and the scripts beside it

    def compose(self, *arguments: str, check: bool = True, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        return self.call("docker", "compose", "--progress", "quiet", *arguments, check=check, timeout=timeout)

    def call(self, *command: str, check: bool = True, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.engine.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done

    def script(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.call(str(self.folder / "deploy" / "compose" / name), *arguments, check=check)

    def begin(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        """A script that goes on; in a session of its own, as at another terminal."""
        return subprocess.Popen(
            [self.folder / "deploy" / "compose" / name, *arguments],
            cwd=self.folder,
            env=self.engine.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def up(self, *arguments: str) -> float:
        """Start it, and return after how many seconds all is green."""
        began = time.monotonic()
        self.compose("up", "--detach", "--no-build", *arguments)
        self.until_green()
        return time.monotonic() - began

    def down(self, *arguments: str) -> None:
        self.compose("down", "--timeout", "20", *arguments)

    def remove(self) -> None:
        """With all that it has: containers, networks, volumes."""
        self.compose("down", "--timeout", "0", "--volumes", "--remove-orphans", check=False)
        self.engine.docker("rmi", "--force", self.project, check=False)

    def another_version(self) -> None:
        """The files of another one, so that the image that is built of them is another."""
        with (self.folder / "models" / "__init__.py").open("a") as file:
            file.write(f"# {uuid4()}\n")

    def set(self, **variables: object) -> None:
        """Into `.env`, as somebody writes it who edits it."""
        with (self.folder / ".env").open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in variables.items())

    # -- containers

    def containers(self, service: str, *, also_ended: bool = False) -> list[str]:
        return self.compose("ps", "--quiet", *(["--all"] if also_ended else []), service).stdout.split()

    def inspect(self, container: str) -> dict[str, Any]:
        return self.engine.inspect(container)

    def is_green(self, services: Sequence[str] = (*SERVERS, *ROLES)) -> bool:
        for service in services:
            found = self.containers(service, also_ended=True)
            states = [self.inspect(one)["State"] for one in found]
            if not states or not all(one.get("Health", {}).get("Status") == "healthy" for one in states):
                return False
        return True

    def until_green(self, services: Sequence[str] = (*SERVERS, *ROLES), timeout: float = 150) -> None:
        eventually(lambda: self.is_green(services), timeout=timeout, interval=0.5, what=self.told)

    def told(self) -> str:
        return self.compose("ps", "--all").stdout + self.compose("logs", "--tail=8").stdout[-4000:]

    def crash(self, container: str) -> None:
        """As the kernel does that has no memory left: its first process is killed, and nobody has asked for that."""
        os.kill(self.inspect(container)["State"]["Pid"], signal.SIGKILL)

    def execute(self, service: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.compose("exec", "-T", service, *command, check=check)

    def sql(self, query: str) -> str:
        return self.execute("postgres", "psql", "-U", "reprieve", "-At", "-c", query).stdout.strip()

    # -- from outside

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.ports['API_PORT']}"

    @property
    def token(self) -> str:
        return (self.folder / "secrets" / "api_tokens").read_text().strip().partition("=")[2]

    def client(self) -> Client:
        # A machine that tests much at once takes its time to bring an API back.
        return Client(self.address, self.token, timeout=300)

    @property
    def answers(self) -> bool:
        return answers(f"{self.address}/health/live")


@dataclass
class Numbered:
    """A run that prints `line 0` to `line LINES-1`, each with the time of its printing."""

    id: str
    lines: int
    end: int = 0


#: Lines, seconds between two of them, exit status, and a file that is waited for before the last line; "" for none.
PROGRAM = """
import os, sys, time
lines, pause, end, go = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
number = 0
while number < lines - 1 or (go and not os.path.exists(go)):
    print(f"line {number} {time.time()}", flush=True)
    number += 1
    time.sleep(pause)
print(f"last {number} {time.time()}", flush=True)
sys.exit(end)
"""


def start(
    client: Client,
    adapter: str = "process",
    lines: int = 20,
    pause: float = 0.5,
    end: int = 0,
    go: str = "",
    **more: Any,
) -> Numbered:
    config = {"command": ["python3", "-c", PROGRAM, str(lines), str(pause), str(end), go], "cwd": "/tmp"}
    run = client.enqueue_run(adapter, config, idempotency_key=str(uuid4()), **more)
    return Numbered(str(run.id), lines, end)


def numbers_of(client: Client, run: str, attempt: int | None = None) -> list[int]:
    """The numbers of the lines in a log, in their order; raises where it is not the whole of one."""
    data = b"".join(
        item.data
        for item in client.read_log(run, **({"attempt": attempt} if attempt else {}))
        if isinstance(item, Output)
    )
    return [int(line.split()[1]) for line in data.decode().splitlines()]


def wrong(stack: Stack, runs: Sequence[Numbered], may_be_lost: Sequence[str] = ()) -> list[str]:
    """A sentence for each thing that is not as it should be, once all runs have ended.

    Those that may be lost were in a container that was killed: they have another attempt, and end as they should.
    """
    with stack.client() as client:
        told = [sentence for one in runs for sentence in _wrong_run(client, one, may_be_lost)]
    return [*told, *_left_over(stack)]


def _wrong_run(client: Client, one: Numbered, may_be_lost: Sequence[str]) -> Iterator[str]:
    run = client.get_run(one.id)
    if run.status != ("failed" if one.end else "succeeded"):
        yield f"{one.id} ended as {run.status} ({run.error_code}): {run.error_message}"
    if run.attempt != 1 and one.id not in may_be_lost:
        yield f"{one.id} was started {run.attempt} times, and nothing had ended its container"
    found = numbers_of(client, one.id)
    if found != list(range(len(found))) or len(found) < one.lines:
        yield f"{one.id} printed {one.lines} lines or more, and {len(found)} are there: {found[-3:]}"


def _left_over(stack: Stack) -> Iterator[str]:
    for what, where in OWED.items():
        if (owed := stack.sql(f"SELECT count(*) FROM run_attempts WHERE {where}")) != "0":
            yield f"{owed} attempts are still owed {what}"
    # A worker that lives has one file to write to; whatever another has left is shipped, and gone.
    workers = len(stack.containers("worker-runs"))
    spools = ("find", "/data/spool", "-name", "*.spool")
    until = time.monotonic() + 60
    while len(left := stack.execute("worker-runs", *spools).stdout.split()) > workers and time.monotonic() < until:
        time.sleep(1)
    if len(left) > workers:
        yield f"of {workers} workers, files are left in spools: {left}"


def until_ended(stack: Stack, runs: Sequence[Numbered], timeout: float = 240) -> None:
    with stack.client() as client:

        def unfinished() -> list[str]:
            return [one.id for one in runs if client.get_run(one.id).status in ("queued", "running")]

        def why() -> str:
            return "\n".join(stack.execute("api", "reprieve", "explain", one).stdout for one in unfinished()[:3])

        eventually(lambda: not unfinished(), timeout=timeout, interval=1, what=why)
        nothing = " AND ".join(f"NOT EXISTS (SELECT FROM run_attempts WHERE {where})" for where in OWED.values())
        eventually(lambda: stack.sql(f"SELECT {nothing}") == "t", timeout=120, interval=1, what="that nothing is owed")


class Watch:
    """Asks the API whether it is there, five times a second; knows for how long it was away, at the longest."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._stop = stack, Event()
        self.longest, self.asked = 0.0, 0
        self._thread = Thread(target=self._ask, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        there = time.monotonic()
        while not self._stop.wait(0.2):
            self.asked += 1
            found = self._stack.answers
            now = time.monotonic()
            self.longest = max(self.longest, now - there)
            if found:
                there = now


@contextmanager
def stack(engine: Engine, folder: Path, *, override: dict[str, Any] | None = None) -> Iterator[Stack]:
    """A folder in which `secrets.sh` and `up` may be called; whatever they make is removed behind the block."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, files.split("\0")):
        if (ROOT / name).exists() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    made = Stack(engine, folder, f"reprieve-test-{uuid4().hex[:8]}", {})
    made.ports |= {"API_PORT": choose_port(), "FLOWER_PORT": choose_port()}
    (folder / ".env").write_text("")
    made.set(COMPOSE_PROJECT_NAME=made.project, IMAGE_OF_REPRIEVE=made.project, **made.ports)
    engine.docker("tag", IMAGE, made.project)
    told = {"REPRIEVE_TIME_SCALE": str(SCALE)}
    services = {name: {"environment": told} for name in (*ROLES, "migrate")}
    for name, more in (override or {}).items():
        services[name] = services.get(name, {}) | more
    (folder / "docker-compose.override.yml").write_text(yaml.safe_dump({"services": services}))
    try:
        yield made
    finally:
        made.remove()


def things_of(engine: Engine, project: str) -> list[str]:
    """What the engine has of a project."""
    label = f"label=com.docker.compose.project={project}"
    found: list[str] = []
    for kind, names in (("ps", ["--all"]), ("volume", ["ls"]), ("network", ["ls"])):
        found += engine.docker(kind, *names, "--quiet", "--filter", label).stdout.split()
    return found
