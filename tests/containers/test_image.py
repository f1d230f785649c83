"""The image: what is in it, that it is the same whenever the same commit is built, and that each role lives in it."""

import json
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reprieve.cli.roles import ROLES
from tests.containers.engine import ROOT, Engine
from tests.support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1500)]

BUILD = ROOT / "deploy" / "image" / "build.py"
INVENTORY = "/usr/share/reprieve/sbom.cdx.json"
#: What our own layers may hold, in MB; the base is another's.
MOST = 175
#: How a careful deployment runs it: nothing may be written but /tmp and /data, and nobody knows the user.
STRICTLY = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--user", "12345"),
)
DATABASE = "postgresql://reprieve:for-this-test@image-test-postgres/reprieve?sslmode=disable"
SETTINGS = {
    "REPRIEVE_DATABASE_URL": DATABASE,
    "REPRIEVE_REDIS_URL": "redis://image-test-redis/0",
    "REPRIEVE_API_ADDRESS": "0.0.0.0:8000",
    "REPRIEVE_API_TOKENS": "read=for-this-test-only",
    "REPRIEVE_FLOWER_PASSWORD": "for-this-test",
    "FLOWER_ADDRESS": "0.0.0.0",
}


def build(engine: Engine, clone: Path, tag: str, *more: str) -> str:
    """The id of the image that this clone gives."""
    command = [sys.executable, str(clone / "deploy" / "image" / "build.py"), "--tag", tag, "--network=host", *more]
    done = subprocess.run(command, env=engine.environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return str(engine.inspect(tag)["Id"])


@pytest.fixture(scope="module")
def image(engine: Engine) -> Iterator[str]:
    build(engine, ROOT, "image-test")
    yield "image-test"
    engine.docker("image", "rm", "--force", "image-test")


@pytest.fixture(scope="module")
def network(engine: Engine, image: str) -> Iterator[str]:
    """A network with PostgreSQL and Redis, the first with our tables."""
    name = "image-test"
    servers = {
        f"{name}-postgres": ["--env=POSTGRES_USER=reprieve", "--env=POSTGRES_PASSWORD=for-this-test", "postgres:18"],
        f"{name}-redis": ["redis:7", "redis-server", "--protected-mode", "no"],
    }
    engine.docker("network", "create", name)
    try:
        for server, more in servers.items():
            engine.docker("run", "--detach", "--name", server, "--network", name, *more)
        eventually(lambda: run(engine, name, image, "reprieve", "migrate").returncode == 0, timeout=120, interval=1)
        yield name
    finally:
        engine.docker("rm", "--force", "--volumes", *servers, check=False)
        engine.docker("network", "rm", name, check=False)


def run(engine: Engine, network: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return engine.docker("run", "--rm", "--network", network, *settings(), *arguments, check=False)


def settings() -> list[str]:
    return [f"--env={name}={value}" for name, value in SETTINGS.items()]


@pytest.fixture
def start(engine: Engine, image: str, network: str) -> Iterator[Any]:
    """Start a container of the image, in the background; it is removed after the test."""
    started: list[str] = []

    def begin(command: list[str], *options: str) -> str:
        done = engine.docker("run", "--detach", "--network", network, *settings(), *options, image, *command)
        started.append(done.stdout.strip())
        return started[-1]

    yield begin
    if started:
        engine.docker("rm", "--force", "--volumes", *started)


def of(engine: Engine, image: str, program: str, *options: str) -> str:
    """What a Python program prints in a container of the image."""
    return engine.docker("run", "--rm", *options, image, "python", "-c", program).stdout.strip()


def is_well(engine: Engine, container: str) -> bool:
    return engine.docker("exec", container, "reprieve", "healthcheck", check=False).returncode == 0


def log_of(engine: Engine, container: str) -> str:
    done = engine.docker("logs", "--tail", "40", container)
    return done.stdout + done.stderr


# -- what it is


def test_it_says_what_it_is(engine: Engine, image: str) -> None:
    config = engine.inspect(image)["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels["title"] == "Reprieve"
    assert (labels["version"], labels["licenses"]) == (project["version"], project["license"])
    assert labels["revision"].removesuffix("-changed") == commit.stdout.strip()
    assert labels["created"] == engine.inspect(image)["Created"]
    assert labels["base.name"] == "python:3.11-slim"
    assert config["User"] == "10001", "by number, or Kubernetes cannot see that it is not root"
    assert (config["StopSignal"], config["Volumes"]) == ("SIGTERM", {"/data": {}})
    assert config["Healthcheck"]["Test"] == ["CMD", "reprieve", "healthcheck"]


def test_without_a_command_it_says_how_it_is_used(engine: Engine, image: str) -> None:
    done = engine.docker("run", "--rm", image)
    assert "Usage: reprieve" in done.stdout
    assert "migrate" in done.stdout


def test_a_role_that_is_not_there_is_a_sentence(engine: Engine, image: str) -> None:
    done = engine.docker("run", "--rm", image, "reprieve", "start", "worker-rums", check=False)
    assert done.returncode == 2
    assert "There is no role 'worker-rums'; there are worker-runs" in done.stderr


def test_its_layers_are_small_and_hold_neither_tests_nor_what_pip_leaves(engine: Engine, image: str) -> None:
    found = own_files(engine, image)
    names = {entry.name for entry in found}
    unwanted = ("/tests/", "/.cache/", "var/lib/apt/lists/", "var/cache/", "var/log/", "kubernetes/aio/", "root/")
    assert not [name for name in names if any(part in f"/{name}" for part in unwanted)]
    assert not [name for name in names if name.endswith("direct_url.json")], "the path of a wheel that is gone"
    assert sum(entry.size for entry in found) / 1e6 < MOST
    assert len({entry.mtime for entry in found}) == 1, "a layer is the same again only if its times are"
    assert {entry.mode & 0o7022 for entry in found if not is_owned(entry)} <= {0}, "others could write to it"
    assert {entry.uid for entry in found if is_owned(entry)} == {10001}


def is_owned(entry: tarfile.TarInfo) -> bool:
    return entry.name in {"data", "home/reprieve"}


def own_files(engine: Engine, image: str) -> list[tarfile.TarInfo]:
    """All that the layers which are not the base's hold."""
    base = len(engine.inspect("python:3.11-slim")["RootFS"]["Layers"])
    layers: dict[str, list[tarfile.TarInfo]] = {}
    manifest: list[dict[str, Any]] = []
    command = ["docker", "image", "save", image]
    with subprocess.Popen(command, env=engine.environment, stdout=subprocess.PIPE) as saving:
        with tarfile.open(fileobj=saving.stdout, mode="r|") as archive:
            for entry in archive:
                content = archive.extractfile(entry)
                if content is not None and entry.name.endswith("layer.tar"):
                    with tarfile.open(fileobj=content, mode="r|") as layer:
                        layers[entry.name] = list(layer)
                elif content is not None and entry.name == "manifest.json":
                    manifest = json.loads(content.read())
    return [entry for name in manifest[0]["Layers"][base:] for entry in layers.get(name, [])]


def test_two_clones_of_one_commit_give_the_same_image(engine: Engine, tmp_path: Path) -> None:
    found = []
    try:
        for number, umask in enumerate((0o022, 0o077)):
            clone = tmp_path / str(number)
            subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True, umask=umask)
            found.append(build(engine, clone, f"image-test-{number}", "--no-cache"))
    finally:
        engine.docker("image", "rm", "--force", "image-test-0", "image-test-1", check=False)
    assert found[0] == found[1]


# -- what is in it


def test_the_inventory_lists_every_distribution_and_every_package_and_nothing_else(engine: Engine, image: str) -> None:
    program = (
        "import importlib.metadata as m, json; print(json.dumps(sorted("
        "{(d.name.lower().replace('_', '-'), d.version) for d in m.distributions()})))"
    )
    installed = {tuple(one) for one in json.loads(of(engine, image, program))}
    packages = engine.docker("run", "--rm", image, "dpkg-query", "-W", "-f", "${Package} ${Version}\\n").stdout
    inventory = json.loads(engine.docker("run", "--rm", image, "cat", INVENTORY).stdout)
    assert inventory["bomFormat"] == "CycloneDX"
    listed: dict[str, set[tuple[str, str]]] = {"pypi": set(), "deb": set(), "generic": set()}
    for one in inventory["components"]:
        listed[one["purl"].partition("/")[0].removeprefix("pkg:")].add(
            (one["name"].lower().replace("_", "-"), one["version"])
        )
    assert listed["pypi"] == installed
    assert {("python", of(engine, image, "import platform; print(platform.python_version())"))} == listed["generic"]
    assert ("reprieve", tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]) in installed
    debian = {tuple(line.split()) for line in packages.splitlines()}
    assert {name for name, _ in listed["deb"] - debian} == {"tini"}, "copied, and not installed"
    assert debian <= listed["deb"]


def test_every_extra_that_a_role_may_need_is_there_and_whole(engine: Engine, image: str) -> None:
    program = (
        "import re2, zstandard, obstore, uuid_utils, psycopg2, yaml, msgpack, aiohttp, flower.app, alembic\n"
        "import opentelemetry.sdk.trace, opentelemetry.exporter.otlp.proto.http.trace_exporter\n"
        "from kubernetes import client, config, watch, dynamic\n"
        "import reprieve.adapters.kubernetes.adapter, reprieve.api.app\n"
        "client.CoreV1Api(client.ApiClient(client.Configuration())); client.V1Job(); client.BatchV1Api\n"
        "print(zstandard.ZstdDecompressor().decompress(zstandard.compress(b'whole')).decode())"
    )
    assert of(engine, image, program) == "whole"
    done = engine.docker("run", "--rm", image, "python", "-m", "pip", "check")
    assert "No broken requirements" in done.stdout


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_role_compiles_next_to_nothing_when_it_starts(role: str, engine: Engine, start: Any) -> None:
    """Its file system is read-only, as a rule: whatever is not compiled there would be, at each start."""
    container = start(["reprieve", "start", role], "--env=PYTHONDONTWRITEBYTECODE=", "--user=0")
    eventually(lambda: is_well(engine, container), timeout=120, what=lambda: log_of(engine, container))
    changed = engine.docker("diff", container).stdout.splitlines()
    compiled = sorted(Path(line.split()[1]).name.split(".")[0] for line in changed if line.endswith(".pyc"))
    assert len(compiled) <= 3, compiled


# -- its first process


@pytest.mark.parametrize("options", [[], ["--init"]], ids=["without", "with"])
def test_orphans_are_collected_with_an_init_of_the_engines_and_without(
    options: list[str], engine: Engine, start: Any
) -> None:
    program = (
        "import os, time\n"
        "for _ in range(20):\n"
        "    if os.fork() == 0:\n"
        "        if os.fork() == 0: time.sleep(0.2)\n"
        "        os._exit(0)\n"
        "for _ in range(20): os.wait()\n"
        "print('left', flush=True); time.sleep(600)\n"
    )
    container = start(["python", "-c", program], *options)
    eventually(lambda: "left" in log_of(engine, container), timeout=60)

    def processes() -> list[str]:
        look = "cat /proc/[0-9]*/stat 2>/dev/null | sed 's/.*) //' | cut -c1"
        return engine.docker("exec", container, "sh", "-c", look).stdout.split()

    # The inits, the program, and what looks: no orphan runs, and none is a zombie.
    eventually(lambda: len(processes()) <= 7 and "Z" not in processes(), timeout=30, what=lambda: str(processes()))


@pytest.mark.parametrize("options", [[], ["--init"]], ids=["without", "with"])
def test_an_exit_status_is_passed_through(options: list[str], engine: Engine, image: str) -> None:
    done = engine.docker("run", "--rm", *options, image, "sh", "-c", "exit 7", check=False)
    assert done.returncode == 7


def test_a_worker_knows_that_its_end_is_its_containers_whatever_is_above_it(
    engine: Engine, image: str, start: Any
) -> None:
    program = "from reprieve.workers.identity import ends_container; print(ends_container())"
    beside = start(["sleep", "600"])
    for options in ([], ["--init"], ["--pid", f"container:{beside}"]):
        assert of(engine, image, program, *options) == "True", options
    below = (
        "import subprocess, sys; print(subprocess.run([sys.executable, '-c', sys.argv[1]], stdout=-1).stdout.decode())"
    )
    done = engine.docker("run", "--rm", image, "python", "-c", below, program)
    assert done.stdout.strip() == "False", "a child of something else that goes on"


# -- its roles


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_role_lives_as_a_user_that_nobody_knows_and_ends_when_asked(role: str, engine: Engine, start: Any) -> None:
    container = start(["reprieve", "start", role], *STRICTLY, "--health-interval=1s")
    eventually(
        lambda: engine.inspect(container)["State"]["Health"]["Status"] == "healthy",
        timeout=120,
        what=lambda: log_of(engine, container),
    )
    engine.docker("stop", "--time", "30", container)
    state = engine.inspect(container)["State"]
    assert state["ExitCode"] in {0, 143}, log_of(engine, container)


@pytest.mark.parametrize("options", [[], ["--init"]], ids=["without an init", "with one"])
@pytest.mark.parametrize("adapter", ["process", "detached"])
def test_a_worker_that_is_stopped_lets_what_runs_in_its_container_end(
    adapter: str, options: list[str], engine: Engine, image: str, network: str, start: Any
) -> None:
    worker = start(["reprieve", "start", "worker-runs"], *STRICTLY, *options)

    def ask(*command: str) -> str:
        done = run(engine, network, image, "reprieve", *command)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    asked = ask("run", "--adapter", adapter, "--", "sh", "-c", "sleep 10; echo whole")

    def status() -> str:
        return str(json.loads(ask("ps", "--json"))[0]["status"])

    eventually(lambda: status() == "running", timeout=60, interval=0.5, what=lambda: log_of(engine, worker))
    engine.docker("stop", "--time", "60", worker)
    assert engine.inspect(worker)["State"]["ExitCode"] in {0, 143}, log_of(engine, worker)
    assert status() == "succeeded", ask("explain", asked)


@pytest.mark.parametrize("role", ["api", "flower"])
def test_a_server_that_is_up_and_does_not_answer_is_seen(role: str, engine: Engine, start: Any) -> None:
    container = start(["reprieve", "start", role])
    eventually(lambda: is_well(engine, container), timeout=120, what=lambda: log_of(engine, container))
    send = "import os, signal, sys; os.kill(int(sys.argv[1]), getattr(signal, sys.argv[2]))"
    main = engine.docker("exec", container, "sh", "-c", "cat /proc/1/task/1/children").stdout.split()[0]
    engine.docker("exec", container, "python", "-c", send, main, "SIGSTOP")
    assert not is_well(engine, container)
    engine.docker("exec", container, "python", "-c", send, main, "SIGCONT")
    eventually(lambda: is_well(engine, container), timeout=60)


def test_a_check_takes_little(engine: Engine, start: Any) -> None:
    container = start(["reprieve", "start", "api"])
    eventually(lambda: is_well(engine, container), timeout=120, what=lambda: log_of(engine, container))
    measure = (
        "import resource, subprocess\n"
        "for _ in range(10): subprocess.run(['reprieve', 'healthcheck'], check=True, stdout=-3)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print((used.ru_utime + used.ru_stime) / 10)"
    )
    assert float(engine.docker("exec", container, "python", "-c", measure).stdout) < 0.1, "seconds of CPU"
