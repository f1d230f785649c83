"""`reprieve healthcheck`: what it takes from the file that a process keeps, and how little it needs for that."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from reprieve.cli import healthcheck
from reprieve.cli.healthcheck import examine
from reprieve.models.pulse import STILL, asked_at, is_turning
from reprieve.workers.pulse import answers

PROGRAM = Path(sys.executable).parent / "reprieve"


@pytest.fixture
def pulse(tmp_path: Path) -> Path:
    return tmp_path / "pulse"


def looked_at(pulse: Path, **more: float) -> tuple[bool, str]:
    return examine({"REPRIEVE_PULSE_FILE": str(pulse)}, **more)


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/well" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answer) as here:
        threading.Thread(target=here.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{here.server_port}"
        here.shutdown()


@pytest.mark.parametrize(
    ("age", "turns"), [(0, True), (STILL, True), (STILL + 0.1, False), (-STILL, True), (-STILL - 0.1, False)]
)
def test_a_loop_may_stand_still_for_a_minute_and_a_clock_may_be_set(age: float, turns: bool) -> None:
    assert is_turning(age) is turns


@pytest.mark.parametrize(
    ("host", "tls", "url"),
    [
        ("0.0.0.0", False, "http://127.0.0.1:8000/x"),
        ("", False, "http://127.0.0.1:8000/x"),
        ("::", True, "https://[::1]:8000/x"),
        ("10.1.2.3", False, "http://10.1.2.3:8000/x"),
        ("fd00::1", False, "http://[fd00::1]:8000/x"),
    ],
)
def test_a_server_is_asked_where_it_can_be_reached_from_beside_it(host: str, tls: bool, url: str) -> None:
    assert asked_at(host, 8000, "/x", tls=tls) == url


def test_a_file_that_was_just_touched_is_a_process_that_turns(pulse: Path) -> None:
    pulse.touch()
    assert looked_at(pulse) == (True, "It turned 0 s ago.")


def test_a_file_that_nobody_touches_is_a_process_that_stands_still(pulse: Path) -> None:
    pulse.touch()
    well, sentence = looked_at(pulse, now=time.time() + STILL + 1)
    assert not well
    assert f"was not touched within {STILL} s" in sentence


def test_without_a_file_no_role_has_started(pulse: Path) -> None:
    well, sentence = looked_at(pulse)
    assert not well
    assert "no role has started yet" in sentence


def test_without_the_setting_it_says_what_to_set() -> None:
    assert examine({}) == (False, "REPRIEVE_PULSE_FILE is not set; set it for the process that is looked at, and here.")


def test_what_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "garbage"):
        well, sentence = looked_at(path)
        assert not well
        assert "cannot be read" in sentence


def test_who_answers_is_asked_however_old_its_file_is(pulse: Path, server: str) -> None:
    answers(pulse, f"{server}/well")
    assert looked_at(pulse, now=time.time() + 1000) == (True, f"{server}/well answers 200.")
    answers(pulse, f"{server}/ill")
    assert looked_at(pulse) == (False, f"{server}/ill answers 503.")


def test_who_listens_and_never_answers_is_seen(pulse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healthcheck, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        answers(pulse, f"http://127.0.0.1:{deaf.getsockname()[1]}/")
        well, sentence = looked_at(pulse)
    assert not well
    assert "does not answer (TimeoutError" in sentence


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/", "https://127.0.0.1:1/", "http://[::1/", "http://x:port/"])
def test_who_does_not_listen_is_seen(pulse: Path, address: str) -> None:
    answers(pulse, address)
    well, sentence = looked_at(pulse)
    assert not well
    assert address in sentence
    assert "does not answer" in sentence


def test_a_folder_that_is_missing_costs_the_file_only_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "missing"

    def write() -> int:
        answers(folder / "pulse", "http://127.0.0.1:1/")
        return caplog.text.count("The pulse cannot be written to")

    assert [write(), write()] == [1, 1]
    folder.mkdir()
    assert write() == 1
    shutil.rmtree(folder)
    assert write() == 2, "it was there in between"
    answers(None, "http://127.0.0.1:1/")


def test_the_command_ends_with_what_it_finds(pulse: Path) -> None:
    def run() -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "REPRIEVE_PULSE_FILE": str(pulse)}
        return subprocess.run([PROGRAM, "healthcheck"], env=environment, capture_output=True, text=True, timeout=60)

    assert run().returncode == 1
    pulse.touch()
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "It turned" in done.stdout


def test_it_imports_nothing_that_takes_long(pulse: Path, server: str) -> None:
    answers(pulse, f"{server}/well")
    program = (
        "import sys; sys.argv[1:] = ['healthcheck']\n"
        "from reprieve.cli.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print(*sys.modules)"
    )
    environment = {**os.environ, "REPRIEVE_PULSE_FILE": str(pulse)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    imported = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert not imported & {"celery", "kombu", "pydantic", "typer", "redis", "sqlalchemy", "asyncio"}
    ours = {name for name in done.stdout.split() if name.startswith("reprieve.")}
    assert ours == {
        "reprieve.cli",
        "reprieve.cli.__main__",
        "reprieve.cli.healthcheck",
        "reprieve.cli.sentences",
        "reprieve.models",
        "reprieve.models.errors",
        "reprieve.models.pulse",
        "reprieve.models.text",
    }
