"""The documentation: the site builds without a warning, and every command in it is run as it stands."""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from reprieve.stores.addresses import read_addresses
from reprieve.stores.embedded.address import choose_port
from reprieve.stores.embedded.home import INSTALLATION, PACKAGE
from tests.docs.environments import build_wheel, install
from tests.support.processes import Process, spawn
from tests.support.waiting import answers, eventually

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PROGRAMS = Path(sys.executable).parent

#: A block of commands, and the comment before it that says why it is run elsewhere, if it is.
BLOCK = re.compile(
    r"^(?:<!-- elsewhere: (?P<elsewhere>[^\n]+) -->\n)?```(?:console|sh|bash)\n(?P<text>.*?)^```", re.M | re.S
)

#: What a page says is to be installed of ours.
INSTALLED = re.compile(r"^pip install '?reprieve(?:\[([\w,]+)\])?'?( pytest)?$", re.M)

#: `pg_dump` and its like come with the embedded server.
PROGRAMS_OF_POSTGRES = Path(sysconfig.get_path("purelib")) / PACKAGE / INSTALLATION / "bin"

#: What the pages take for the address of the API.
API = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Block:
    page: Path
    text: str
    elsewhere: str | None

    @property
    def commands(self) -> str:
        """What stands behind a prompt, with the lines that go on from it; the rest is what was answered."""
        lines, goes_on = [], False
        for line in self.text.splitlines():
            if line.startswith("$ ") or goes_on:
                lines.append(line.removeprefix("$ "))
                goes_on = line.endswith("\\")
        return "\n".join(lines)


def blocks() -> list[Block]:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
    return [
        Block(page, found["text"], found["elsewhere"]) for page in pages for found in BLOCK.finditer(page.read_text())
    ]


HERE = sorted({block.page for block in blocks() if block.elsewhere is None})


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [PROGRAMS / "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tutorial.html").exists()


def test_every_alert_has_a_section_that_says_what_to_do() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    told = re.findall(r"^## (Reprieve\w+)$", (DOCS / "alerts.md").read_text(), re.M)
    assert told == [rule["alert"] for rule in rules]


def test_a_block_that_is_run_elsewhere_says_where_and_every_other_has_commands() -> None:
    for block in blocks():
        assert block.commands, f"{block.page.name}: a command stands behind a prompt ($)\n{block.text}"
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    text = "\n".join(page.read_text() for page in [ROOT / "README.md", *DOCS.glob("*.md")])
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets


@dataclass(frozen=True)
class Up:
    """`reprieve up`, as the pages have it, at the time scale of the tutorial."""

    environment: dict[str, str]
    api: str
    supervisor: int

    def here(self, commands: str) -> str:
        """The commands with what a page cannot know: where the API is, and which processes are ours to kill."""
        return commands.replace(API, self.api).replace("pkill -9", f"pkill -9 -P {self.supervisor}")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    environment = {
        "PATH": f"{PROGRAMS}:{PROGRAMS_OF_POSTGRES}:{os.environ['PATH']}",
        "REPRIEVE_DATABASE_URL": "",
        "REPRIEVE_REDIS_URL": "",
        "REPRIEVE_DATA_DIR": str(folder / "data"),
        "REPRIEVE_TIME_SCALE": "30",
        # Another stack may begin at the same moment, and take the usual one.
        "REPRIEVE_API_ADDRESS": f"127.0.0.1:{choose_port()}",
    }
    process: Process = spawn("up", ["reprieve", "up"], environment, folder)
    try:
        process.wait_for("The page", timeout=90)
        told = dict(re.findall(r"^(The page)\s+([^\s?]+)", process.output, re.M))
        api = told["The page"].rstrip("/")
        eventually(lambda: answers(f"{api}/health/ready"), timeout=60)
        known = read_addresses(folder / "data")
        urls = {f"REPRIEVE_{name.upper()}": url.get_secret_value() for name, url in known.items()}
        supervisor = int((folder / "data" / "supervisord.pid").read_text())
        yield Up(environment | urls, api, supervisor)
    finally:
        process.stop(timeout=60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with what the pages speak of: the examples, and something to be run."""
    (tmp_path / "docs").symlink_to(DOCS)
    script = tmp_path / "train.sh"
    script.write_text("#!/bin/sh\nfor n in 1 2 3; do echo step $n; sleep 1; done\n")
    script.chmod(0o755)
    (tmp_path / "Makefile").write_text("report all:\n\t@echo the report\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", HERE, ids=lambda page: page.name)
@pytest.mark.timeout(400)
def test_every_command_of_a_page_does_what_it_should(page: Path, up: Up, folder: Path) -> None:
    commands = "\n".join(block.commands for block in blocks() if block.page == page and block.elsewhere is None)
    # What is installed on the way stays here.
    if asked := INSTALLED.findall(commands):
        extras = sorted({extra for found, _ in asked for extra in found.split(",") if extra})
        others = {other.strip() for _, other in asked if other}
        installed = install(folder / "venv", build_wheel(folder / "dist"), ",".join(extras), *others).variables()
    else:
        there = str(folder / "installed")
        installed = {"PATH": up.environment["PATH"], "PIP_TARGET": there, "PYTHONPATH": there}
    done = subprocess.run(
        ["bash", "-euc", up.here(commands)],
        env={**os.environ, **installed, **up.environment, "PATH": installed["PATH"]},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{commands}\n--- out\n{done.stdout}\n--- err\n{done.stderr}"
