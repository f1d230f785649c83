"""`reprieve up` and the commands beside it, as a person uses them: real processes, real signals, real exit statuses."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from reprieve.stores.embedded import EmbeddedPostgres
from reprieve.stores.embedded.address import choose_port
from tests.support.forking import REPRIEVE
from tests.support.hostile import hostile_folder
from tests.support.processes import Process, run_command, spawn
from tests.support.waiting import answers, eventually

PROGRAMS = Path(sys.executable).parent


class Terminal:
    """A shell's view of one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self.environment = {
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            # Empty is unset: what this folder's `reprieve up` wrote counts, not another test's servers.
            "REPRIEVE_DATABASE_URL": "",
            "REPRIEVE_REDIS_URL": "",
            "REPRIEVE_DATA_DIR": str(data_dir),
            "REPRIEVE_NODE_NAME": "terminal",
            # Another stack may begin at the same moment, and take the usual ones.
            "REPRIEVE_API_ADDRESS": f"127.0.0.1:{choose_port()}",
            "FLOWER_PORT": str(choose_port()),
            "REPRIEVE_TIME_SCALE": "30",
        }
        self.data_dir = data_dir

    def __call__(self, *arguments: str, cwd: Path | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("REPRIEVE_")}
        env = {**inherited, **self.environment, **extra}
        return run_command([REPRIEVE, *arguments], env=env, cwd=cwd, text=True, timeout=90)

    def processes(self, argument: str | None = None) -> list[psutil.Process]:
        """Everything that belongs to this data folder, was started with this argument, and still runs."""
        found = []
        for process in psutil.process_iter():
            try:
                command, folder = process.cmdline(), process.environ().get("REPRIEVE_DATA_DIR", "")
            except psutil.Error:
                continue
            if any(str(self.data_dir) in trace for trace in (*command, folder)) and argument in (None, *command):
                found.append(process)
        return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Terminal, Process]]:
    """`reprieve up` on a folder of its own, ended as a terminal's Ctrl-C ends it; then nothing of it may be left."""
    folder = tmp_path_factory.mktemp("up")
    # Its name means something to a shell, to INI files and in addresses (D17).
    terminal = Terminal(folder / "my data; 100%s #1 $(x) 'é'")
    # The commands are not told of the schema: they find it where `up` has left its addresses.
    environment = terminal.environment | {"REPRIEVE_DATABASE_SCHEMA": "a schema of 'its' own"}
    up = spawn("up", ["reprieve", "up"], environment, folder, cwd=hostile_folder(folder))
    try:
        up.wait_for("Ctrl-C ends everything", timeout=90)
        yield terminal, up
        up.send(signal.SIGINT)
        assert up.popen.wait(60) == 0, up.output
        assert terminal.processes() == []
    finally:
        for process in terminal.processes():
            process.kill()
        up.stop()
        EmbeddedPostgres(terminal.data_dir / "postgres").remove()


@pytest.fixture
def terminal(stack: tuple[Terminal, Process]) -> Terminal:
    return stack[0]


def test_a_followed_run_gives_both_streams_and_the_exit_status(terminal: Terminal) -> None:
    done = terminal("run", "--follow", "--", "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (done.returncode, done.stdout) == (5, "out\n"), done.stderr
    assert "err\n" in done.stderr
    assert "exit status 5" in done.stderr


def test_a_run_ended_by_a_signal_gives_the_status_that_a_shell_gives(terminal: Terminal) -> None:
    assert terminal("run", "--follow", "--", "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM


def test_a_run_works_in_the_folder_where_it_was_started(terminal: Terminal, tmp_path: Path) -> None:
    done = terminal("run", "--follow", "--adapter", "detached", "--", "pwd", cwd=tmp_path)
    assert done.stdout.strip() == str(tmp_path)


def test_env_and_labels_reach_the_run(terminal: Terminal) -> None:
    started = terminal("run", "--env", "GREETING=hello", "--label", "team=data", "--", "sh", "-c", "echo $GREETING")
    run_id = started.stdout.strip()
    assert terminal("logs", "-f", run_id).stdout == "hello\n"
    (listed,) = [run for run in json.loads(terminal("ps", "--json").stdout) if run["id"] == run_id]
    assert listed["labels"] == {"team": "data"}


def test_a_secret_reaches_the_run_and_its_output_shows_a_mask(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2\n")
    secret = ("--secret", f"TOKEN=file:{tmp_path}/token")
    done = terminal("run", "--follow", *secret, "--", "sh", "-c", "echo ${#TOKEN} letters: $TOKEN")
    assert (done.returncode, done.stdout) == (0, "7 letters: ***\n"), done.stderr


def test_a_secret_without_a_source_is_refused_with_the_form_that_would_do(terminal: Terminal) -> None:
    for given, told in (("TOKEN", "not of the form NAME=env:VARIABLE"), ("TOKEN=hunter2", "as env:VARIABLE")):
        done = terminal("run", "--secret", given, "--", "true")
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.stderr
        assert "hunter2" not in done.stderr


def test_a_config_is_given_as_json_or_as_a_file_and_refused_with_what_would_do(
    terminal: Terminal, tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"command": ["echo", "from a file"]}')
    for config, printed in ((f"@{file}", "from a file\n"), ('{"command": ["echo", "hello"]}', "hello\n")):
        done = terminal("run", "--follow", "--config", config)
        assert (done.returncode, done.stdout) == (0, printed)
    for config, told in (
        ("{", "--config is no JSON"),
        ("[]", "--config is a list; give an object"),
        ("@nowhere.json", "nowhere.json cannot be read"),
        ('{"comand": []}', "config.comand is not a field; known are"),
    ):
        done = terminal("run", "--config", config)
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.stderr


def test_a_run_is_given_a_terminal_if_it_is_asked_for(terminal: Terminal) -> None:
    command = ("--", "sh", "-c", "test -t 1 && echo terminal || echo pipe")
    assert [terminal("run", "--follow", *option, *command).stdout for option in ((), ("--pty",))] == [
        "pipe\n",
        "terminal\n",
    ]


def test_a_cancelled_run_is_explained(terminal: Terminal) -> None:
    run_id = terminal("run", "--adapter", "detached", "--", "sleep", "300").stdout.strip()
    eventually(lambda: "running" in terminal("explain", run_id[-8:]).stdout, interval=0.5)
    assert terminal("cancel", run_id[-8:]).stdout.strip() == f"{run_id} cancelled"
    assert "had already ended" in terminal("cancel", run_id).stdout
    explained = json.loads(terminal("explain", "--json", run_id).stdout)
    assert explained["run"]["status"] == "cancelled"
    # On a busy machine a sweep may have sent for it once more before it was claimed.
    happened = [event["kind"] for event in explained["events"] if event["kind"] != "resent"]
    assert happened[:2] == ["enqueued", "claimed"]


def test_an_interrupted_follower_leaves_the_run_alone(terminal: Terminal, tmp_path: Path) -> None:
    command = ["reprieve", "run", "--follow", "--", "sh", "-c", "echo begun; sleep 300"]
    follower = spawn("follower", command, terminal.environment, tmp_path)
    try:
        follower.wait_for("begun")
        follower.send(signal.SIGINT)
        assert follower.popen.wait(20) == 130
        assert "the run goes on" in follower.output
        run_id = re.search(r"run ([0-9a-f-]{36})", follower.output)
        assert run_id is not None
        assert terminal("cancel", run_id[1]).stdout.strip().endswith("cancelled")
    finally:
        follower.stop()


def test_logs_of_a_run_go_on_from_any_place(terminal: Terminal) -> None:
    script = "for i in 1 2 3 4; do echo $i; sleep 0.4; done"
    run_id = terminal("run", "--", "sh", "-c", script).stdout.strip()
    assert terminal("logs", "--follow", "--after", "2", run_id).stdout == "3\n4\n"
    assert terminal("logs", run_id).stdout == "1\n2\n3\n4\n"


def test_a_run_without_a_log_yet_has_an_empty_log(terminal: Terminal) -> None:
    run_id = terminal("run", "--", "sleep", "300").stdout.strip()
    done = terminal("logs", run_id)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    terminal("cancel", run_id)


def test_a_sweep_by_hand_says_what_it_did(terminal: Terminal) -> None:
    # One by hand is skipped while another is under way, and says so: it is asked for again.
    reports = (json.loads(terminal("sweep").stdout) for _ in range(20))
    assert next(report for report in reports if "skipped" not in report)["reaped"] == 0


def test_a_killed_worker_is_started_again(terminal: Terminal) -> None:
    def of_logs() -> list[psutil.Process]:
        return terminal.processes("--queues=logs")

    (worker,) = eventually(of_logs, what="the worker, which supervisord may not have started yet")
    worker.kill()
    eventually(lambda: any(process != worker for process in of_logs()))
    assert terminal("run", "--follow", "--", "echo", "still here").stdout == "still here\n"


@pytest.mark.row("G05")
def test_flower_refuses_who_has_no_password_and_shows_no_log_text(stack: tuple[Terminal, Process]) -> None:
    terminal, up = stack
    address = re.search(r"Flower +(\S+)  user reprieve; the password is in (.+)", up.output)
    assert address is not None
    url, password = address[1], Path(address[2]).read_text().strip()
    assert url.startswith("http://127.0.0.1:")
    assert eventually(lambda: status_without_password(f"{url}/api/tasks"), timeout=90) == 401

    def tasks() -> dict[str, Any]:
        token = b64encode(f"reprieve:{password}".encode()).decode()
        request = urllib.request.Request(f"{url}/api/tasks", headers={"Authorization": f"Basic {token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def names() -> set[str]:
        return {task["name"] for task in tasks().values()}

    # Flower knows what it has seen itself: once it sees sweeps, it sees everything.
    eventually(lambda: "reaper.sweep" in names(), interval=0.5)
    terminal("run", "--follow", "--", "echo", "a-secret-line")
    eventually(lambda: names() >= {"runs.execute", "logs.ingest"}, interval=0.5)
    shown = json.dumps(tasks())
    assert "a-secret-line" not in shown
    assert re.search(r"attempt 1 seq 1-\d+: \d+ chunks, \d+ bytes", shown)


def status_without_password(url: str) -> int | None:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code
    except urllib.error.URLError:
        return None  # Flower is still starting.


@pytest.mark.row("G10")
def test_a_run_of_up_finds_no_secret_in_any_process_of_the_stack(stack: tuple[Terminal, Process]) -> None:
    terminal, up = stack
    words = {*re.findall(r"token=(\S+)", up.output), (terminal.data_dir / "flower-password").read_text().strip()}
    addresses = json.loads((terminal.data_dir / "addresses.json").read_text())
    words |= {addresses[name].split("@")[0].rsplit(":", 1)[1] for name in ("database_url", "redis_url")}
    # A process that has just begun has not come to that yet; this run is not about that moment.
    eventually(lambda: not any(word in _environments() for word in words))
    look = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2> /dev/null | tr '\\0' '\\n'"
    said = terminal("run", "--follow", "--", "sh", "-c", look).stdout
    assert "REPRIEVE_DATA_DIR=" + str(terminal.data_dir) in said
    assert [word for word in words if word in said] == []


def _environments() -> str:
    """What the system shows of the environments of all processes."""
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if int(place.parent.name) != os.getpid():
                found.append(place.read_text(errors="replace"))
    return "\n".join(found)


def test_a_second_up_on_the_same_folder_is_refused(terminal: Terminal) -> None:
    done = terminal("up")
    assert done.returncode == 2
    assert "already up" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["run", "--adapter", "proces", "--", "true"],
            "There is no adapter 'proces' here; installed: detached, kubernetes, process",
        ),
        (["run", "--label", "team", "--", "true"], "--label 'team' is not of the form NAME=VALUE"),
        (["run", "--max-runtime", "0", "--", "true"], "max_runtime is 0.0; give seconds above 0"),
        (["logs", "../../etc/passwd"], "is no run id"),
        (["explain", "ffffffff"], "fits no run"),
    ],
)
def test_a_wrong_argument_gets_a_sentence(terminal: Terminal, arguments: list[str], sentence: str) -> None:
    done = terminal(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_database_the_command_says_what_to_do(tmp_path: Path) -> None:
    done = Terminal(tmp_path)("ps")
    assert done.returncode == 2
    assert "REPRIEVE_DATABASE_URL is not set" in done.stderr
    assert "reprieve up" in done.stderr


def test_a_time_scale_without_a_margin_is_refused(tmp_path: Path) -> None:
    done = Terminal(tmp_path)("ps", REPRIEVE_TIME_SCALE="60")
    assert done.returncode == 2
    assert "REPRIEVE" in done.stderr or "Time scale 60" in done.stderr


class Told:
    """What a terminal has been written, without its colours."""

    def __init__(self, terminal: int) -> None:
        self._parts: list[bytes] = []
        threading.Thread(target=self._read, args=(terminal,), daemon=True).start()

    def _read(self, terminal: int) -> None:
        with suppress(OSError):  # The other side is gone.
            while part := os.read(terminal, 65536):
                self._parts.append(part)

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", b"".join(self._parts).decode(errors="replace"))


def test_the_demo_comes_out_leaves_its_page_open_to_who_sits_there_and_then_leaves_nothing(tmp_path: Path) -> None:
    ours, its = pty.openpty()
    env = {**os.environ, "REPRIEVE_API_ADDRESS": f"127.0.0.1:{choose_port()}"}
    demo = subprocess.Popen([PROGRAMS / "reprieve", "demo"], stdin=its, stdout=its, stderr=its, cwd=tmp_path, env=env)
    os.close(its)
    told = Told(ours)
    try:
        eventually(lambda: "still open" in told.text or demo.poll() is not None, timeout=150, what=lambda: told.text)
        page = re.search(r"The page: (http://\S+)", told.text)
        assert page is not None
        assert answers(page[1])
        assert "was silent for" in told.text
        os.write(ours, b"\n")
        assert demo.wait(60) == 0, told.text
    finally:
        demo.kill()
        demo.wait()
    eventually(lambda: "no process is left" in told.text, what=lambda: told.text)
    assert told.text.count("as expected") == 6


def test_the_api_of_up_starts_a_run_and_shows_its_output_as_it_comes(stack: tuple[Terminal, Process]) -> None:
    terminal, up = stack
    found = re.search(r"The page\s+(http://\S+)/\?token=(?P<token>\S+)", up.output)
    assert found is not None
    eventually(lambda: answers(f"{found[1]}/health/live"), timeout=60)
    body = json.dumps({"adapter": "process", "config": {"command": ["sh", "-c", "echo hello; exit 3"]}}).encode()

    def ask(path: str, body: bytes | None = None) -> str:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {found['token']}"}
        with urllib.request.urlopen(urllib.request.Request(f"{found[1]}{path}", body, headers), timeout=60) as answer:
            return answer.read().decode()

    assert terminal("token", "show").stdout.strip() == found["token"]
    run = json.loads(ask("/v1/runs", body))["id"]
    told = ask(f"/v1/runs/{run}/log/live")
    assert "hello" in told
    assert '"status":"failed"' in told
    assert json.loads(ask(f"/v1/runs/{run}"))["attempts"][0]["outcome"]["exit_status"] == 3


def test_the_doctor_of_up_finds_nothing_wrong_but_for_what_only_it_was_told(stack: tuple[Terminal, Process]) -> None:
    terminal, _ = stack

    said: list[dict[str, Any]] = []

    def well() -> bool:
        said[:] = [one for one in json.loads(terminal("doctor", "--json").stdout) if not one["well"]]
        return {one["what"] for one in said} == {"flower"}

    eventually(well, timeout=90, interval=1, what=lambda: str(said))
