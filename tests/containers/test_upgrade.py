"""F14: `deploy/compose/upgrade.sh` brings a stack to another version, and nobody waits for the worker that drains."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from threading import Event, Thread

import pytest

from reprieve.models.output import Output
from tests.containers import stack as stacks
from tests.containers.engine import ROOT
from tests.containers.stack import Numbered, Stack, Watch, start, until_ended, wrong
from tests.support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1500), pytest.mark.row("F14")]

#: Seconds for which the API may be away, and by which a line may be late.
AWAY = 30.0
#: In the volume that all workers of runs have.
GO = "/data/go"


class Follower(Thread):
    """Reads a run's output as it comes, and knows by how much a line came late, at the most."""

    def __init__(self, stack: Stack, run: Numbered) -> None:
        super().__init__(daemon=True)
        self._stack, self._run = stack, run
        self.latest, self.lines = 0.0, 0
        self.start()

    def run(self) -> None:
        rest = b""
        with self._stack.client() as client:
            for item in client.follow_log(self._run.id):
                if isinstance(item, Output):
                    *lines, rest = (rest + item.data).split(b"\n")
                    self.lines += len(lines)
                    self.latest = max([self.latest, *(time.time() - float(line.split()[2]) for line in lines)])


class Load(Thread):
    """Asks for short runs, one after the other, for as long as the block lasts."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(daemon=True)
        self._stack, self._over = stack, Event()
        self.runs: list[Numbered] = []

    def __enter__(self) -> "Load":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        with self._stack.client() as client:
            while not self._over.wait(1.5):
                adapter = ("process", "detached")[len(self.runs) % 2]
                self.runs.append(start(client, adapter, lines=8, pause=0.25))


class Upgrade:
    """A call of the script that goes on, and what it has said."""

    def __init__(self, stack: Stack, *arguments: str) -> None:
        self.process: subprocess.Popen[str] = stack.begin("upgrade.sh", *arguments)
        self.said = ""
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.said += line

    def until(self, words: str, timeout: float = 300) -> None:
        def said() -> bool:
            assert words in self.said or self.process.poll() is None, self.said
            return words in self.said

        eventually(said, timeout=timeout, interval=0.2, what=lambda: self.said)

    def interrupt(self) -> str:
        """As Ctrl-C at its terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.end(130)

    def end(self, code: int = 0, timeout: float = 300) -> str:
        assert self.process.wait(timeout) == code, self.said
        self._reader.join()
        return self.said


def test_while_a_worker_drains_the_api_is_there_lines_come_and_runs_begin_and_none_ends_wrongly(
    stack: Stack, tell: Callable[[object], None]
) -> None:
    stack.script("secrets.sh")
    stack.up("--scale", "worker-runs=2")
    before = set(stack.containers("worker-runs"))
    stack.another_version()
    with stack.client() as client:
        long = [start(client, adapter, lines=100, pause=0.2, go=GO) for adapter in ("process", "detached")]
        eventually(lambda: all(client.get_run(one.id).status == "running" for one in long), timeout=60)
    followers = [Follower(stack, one) for one in long]
    began = time.monotonic()
    with Watch(stack) as watch, Load(stack) as load:
        upgrade = Upgrade(stack)
        upgrade.until("take nothing new")
        drains = time.monotonic()
        with stack.client() as client:
            during = [start(client, adapter, lines=3) for adapter in ("process", "detached") * 3]
            for one in during:
                assert client.wait_for(one.id, timeout=60).status == "succeeded"
        assert before & set(stack.containers("worker-runs")), "the child of an old one was to be waited for"
        upgrade.until("still have runs")
        drained = time.monotonic() - drains
        stack.execute("worker-runs", "touch", GO)
        upgrade.end()
    runs = [*long, *during, *load.runs]
    until_ended(stack, runs)
    for follower in followers:
        follower.join(60)
    tell(
        {
            "runs": len(runs),
            "seconds of the upgrade": round(time.monotonic() - began),
            "of which a worker drained": round(drained),
            "API away, at the longest": round(watch.longest, 1),
            "a line late, at the most": round(max(one.latest for one in followers), 1),
            "lines that were followed": sum(one.lines for one in followers),
        }
    )
    assert wrong(stack, runs) == []
    assert watch.longest < AWAY
    assert all(one.latest < AWAY and one.lines >= 100 for one in followers)
    after = set(stack.containers("worker-runs", also_ended=True))
    assert (len(after), after & before) == (2, set())
    assert stack.is_green()


def test_it_may_be_interrupted_wherever_it_is_and_goes_on_when_it_is_called_again(stack: Stack) -> None:
    stack.script("secrets.sh")
    stack.up()
    stack.another_version()
    with stack.client() as client:
        long = start(client, lines=10, go=GO)
        eventually(lambda: client.get_run(long.id).status == "running", timeout=60)
    first = Upgrade(stack)
    first.until("The image is built")
    assert "Left: everything" in first.interrupt()
    assert stack.is_green()

    second = Upgrade(stack)
    second.until("worker-logs: 1 replaced")
    said = second.interrupt()
    assert "What runs goes on. Left: worker-logs and what comes after it" in said
    stack.until_green()

    third = Upgrade(stack)
    third.until("take nothing new")
    assert "beat: is current" in third.said
    assert "Left: to remove" in third.interrupt()
    with stack.client() as client:
        meanwhile = start(client, lines=3)
        assert client.wait_for(meanwhile.id, timeout=60).status == "succeeded"
        assert client.get_run(long.id).status == "running"

    fourth = Upgrade(stack)
    fourth.until("take nothing new")
    stack.execute("worker-runs", "touch", GO)
    fourth.end()
    until_ended(stack, [long, meanwhile])
    assert wrong(stack, [long, meanwhile]) == []
    assert len(stack.containers("worker-runs", also_ended=True)) == 1
    assert stack.is_green()
    nothing = stack.script("upgrade.sh").stdout
    assert nothing.count("is current") == len(stacks.ROLES)


def test_what_others_have_left_half_done_is_mended_and_none_is_there_twice_for_it(stack: Stack) -> None:
    """A command that somebody works in, a drain that was left, a role half replaced, a second call, and an `up`."""
    stack.script("secrets.sh")
    stack.up()
    beside = stack.compose("run", "--detach", "--no-deps", "api", "sleep", "900").stdout.strip()
    with stack.client() as client:
        long = start(client, lines=10, go=GO)
        eventually(lambda: client.get_run(long.id).status == "running", timeout=60)
    stack.set(TMP_SIZE="900m")
    first = Upgrade(stack, "--no-build")
    first.until("take nothing new")
    first.interrupt()

    stack.set(TMP_SIZE="800m")
    half_replaced(stack, "beat")
    stack.compose("create", "--no-build", "flower")
    second = Upgrade(stack, "--no-build")
    second.until("migrated")
    link = stack.folder / "link"
    link.symlink_to(stack.folder / "deploy" / "compose" / "upgrade.sh")
    third = stack.call("sh", str(link), check=False)
    assert (third.returncode, "Another call of this is under way" in third.stderr) == (1, True)
    second.until("take nothing new")
    with subprocess.Popen(
        ["docker", "compose", "--progress", "quiet", "up", "--detach", "--no-build"],
        cwd=stack.folder,
        env=stack.engine.environment,
    ) as habit:  # Stops and removes the same old workers.
        stack.execute("worker-runs", "touch", GO)
        said = second.end()
        assert habit.wait(120) == 0
    assert "beat: 1 replaced" in said
    assert stack.is_green([one for one in (*stacks.SERVERS, *stacks.ROLES) if one != "api"])
    assert stack.inspect(beside)["State"]["Running"]
    stack.engine.docker("rm", "--force", beside)
    assert {role: len(stack.containers(role, also_ended=True)) for role in stacks.ROLES} == dict.fromkeys(
        stacks.ROLES, 1
    )
    until_ended(stack, [long])
    assert wrong(stack, [long]) == []


def half_replaced(stack: Stack, service: str) -> None:
    """As by a `docker compose up` that is killed when it has made the new one, and the old one has ended."""
    [old] = stack.containers(service)
    stack.engine.docker("pause", old)  # It takes its time to end.
    with subprocess.Popen(
        ["docker", "compose", "--progress", "quiet", "up", "--detach", "--no-deps", "--no-build", service],
        cwd=stack.folder,
        env=stack.engine.environment,
        stderr=subprocess.DEVNULL,
    ) as replacing:
        eventually(lambda: len(stack.containers(service, also_ended=True)) == 2, timeout=60)
        replacing.kill()
    stack.engine.docker("unpause", old, check=False)
    stack.engine.docker("kill", old, check=False)
    eventually(lambda: not stack.inspect(old)["State"]["Running"], timeout=60)


def test_a_version_that_does_not_start_is_noticed_at_the_first_role_and_the_others_go_on(stack: Stack) -> None:
    stack.script("secrets.sh")
    stack.up()
    before = stack.containers("api")
    with (stack.folder / "cli" / "roles.py").open("a") as file:
        file.write('\nif __import__("sys").argv[1:2] == ["start"]:\n    raise SystemExit("broken on purpose")\n')
    script = stack.folder / "deploy" / "compose" / "upgrade.sh"
    script.write_text(script.read_text().replace("GREEN=180", "GREEN=15"))
    done = stack.script("upgrade.sh", check=False)
    assert done.returncode == 1
    assert "beat is not green after 15 seconds" in done.stderr
    assert stack.containers("api") == before
    assert stack.is_green([one for one in (*stacks.SERVERS, *stacks.ROLES) if one != "beat"])


def test_a_stack_of_the_version_before_with_its_passwords_in_env_comes_over(stack: Stack) -> None:
    """Its Redis was root's, its health checks and its settings were others."""
    new = (ROOT / "docker-compose.yml").read_text()
    old = (ROOT / "tests" / "containers" / "before" / "docker-compose.yml").read_text()
    old = old.replace("image: reprieve\n", f"image: {stack.project}\n")
    for port, name in ((8000, "API_PORT"), (5555, "FLOWER_PORT")):
        old = old.replace(f"127.0.0.1:{port}:{port}", f"127.0.0.1:{stack.ports[name]}:{port}")
    (stack.folder / "docker-compose.yml").write_text(old)
    stack.set(
        POSTGRES_PASSWORD="'it$s \"odd\"'",
        REDIS_PASSWORD="with+/=",
        FLOWER_PASSWORD='"of flower"',
        API_TOKENS="admin=a-token-of-the-version-before",
    )
    stack.up()
    with stacks.Client(stack.address, "a-token-of-the-version-before", timeout=60) as client:
        earlier = start(client, lines=5)
        assert client.wait_for(earlier.id, timeout=60).status == "succeeded"

    (stack.folder / "docker-compose.yml").write_text(new)
    said = stack.script("upgrade.sh").stdout
    assert "from POSTGRES_PASSWORD; take that out of .env" in said
    assert (stack.folder / "secrets" / "database_password").read_text() == 'it$s "odd"\n'
    assert "redis: its files become its own" in said
    assert stack.token == "a-token-of-the-version-before"
    stack.until_green()
    [redis] = stack.containers("redis")
    assert stack.inspect(redis)["Config"]["User"] == "redis"
    with stack.client() as client:
        later = start(client, lines=5)
    until_ended(stack, [earlier, later])
    assert wrong(stack, [earlier, later]) == []
