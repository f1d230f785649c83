"""`reprieve exec` as it is used: a process, against a server that is away, loses replies and takes things twice."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest

from reprieve import cancel_run
from reprieve.adapters import registry
from reprieve.adapters.remote import RemoteAdapter
from reprieve.cli.exec import TOKEN_VARIABLE, ReportingContext
from reprieve.client.enqueue import enqueue_run
from reprieve.models.work import Work
from reprieve.workers.bootstrap import Services
from tests.faults.helpers_cdeg import reap
from tests.support import processes
from tests.support.forking import REPRIEVE
from tests.support.processes import Child, Process, processes_of
from tests.support.remote import remote_with_token, waiting_with_token
from tests.support.report_server import ReportServer, report_server
from tests.support.rows import claim, kinds, status_of, whole_log
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]


@dataclass
class Exec:
    """A `reprieve exec` that was started, with what it has written so far."""

    popen: Child
    folder: Path

    @property
    def stdout(self) -> bytes:
        return (self.folder / "stdout").read_bytes()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace")

    def wait(self, timeout: float = 60) -> int:
        return self.popen.wait(timeout)


Start = Callable[..., Exec]


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter is known, whichever others are installed here."""
    monkeypatch.setattr(registry, "adapter_classes", lambda: {"remote": RemoteAdapter})


@pytest.fixture
def server(services: Services) -> Iterator[ReportServer]:
    with report_server(services) as server:
        yield server


@pytest.fixture
def start(server: ReportServer, tmp_path: Path) -> Iterator[Start]:
    """Starts the client without any setting, in a folder of its own; ends what is left of it after the test."""
    started: list[tuple[Exec, str]] = []

    def begin(run_id: UUID | str, token: str | None, *command: str, options: tuple[str, ...] = ()) -> Exec:
        folder = tmp_path / f"exec-{len(started)}"
        folder.mkdir()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("REPRIEVE_")}
        environment |= {"NO_PROXY": "127.0.0.1", "TMPDIR": str(folder)}
        arguments = ["exec", "--run", str(run_id), "--server", server.url, *options, "--", *command]
        with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
            given = environment | ({} if token is None else {TOKEN_VARIABLE: token})
            command = [REPRIEVE, *arguments]
            popen = processes.start(command, env=given, cwd=folder, stdout=stdout, stderr=stderr, session=False)
        started.append((Exec(popen, folder), str(run_id)))
        return started[-1][0]

    yield begin
    for one, run_id in started:
        one.popen.kill()
        one.popen.wait()
        for process in processes_of(UUID(run_id)) if len(run_id) == 36 else []:
            process.kill()


def stored(services: Services, work: Work, stream: str = "stdout") -> bytes:
    chunks = services.logs.read(work.run_id, 1, limit=100_000)
    assert [chunk.seq for chunk in chunks] == list(range(1, len(chunks) + 1))
    return b"".join(chunk.data for chunk in chunks if chunk.stream == stream)


def outcome(services: Services, work: Work) -> dict[str, object]:
    return services.runs.get_attempt(work.run_id, 1).outcome or {}


TICKING = ("sh", "-c", "while :; do echo tick; sleep 0.1; done")


def test_a_command_is_reported_byte_for_byte_and_its_exit_status_is_ours(
    services: Services, server: ReportServer, start: Start
) -> None:
    work, token = remote_with_token(services)
    program = "import os, sys; os.write(1, bytes(range(256)) * 500); os.write(2, b'err\\xff\\n'); sys.exit(3)"
    done = start(work.run_id, token, sys.executable, "-c", program)
    assert done.wait() == 3, done.stderr
    assert stored(services, work) == done.stdout == bytes(range(256)) * 500
    assert stored(services, work, "stderr") == b"err\xff\n"
    assert "err" in done.stderr
    run = services.runs.get(work.run_id)
    assert (run.status, run.error_code, outcome(services, work)["exit_status"]) == ("failed", "exit_status", 3)
    assert run.attempts[0].last_seq == services.logs.last_seq(work.run_id, 1)
    assert list(done.folder.glob("reprieve-exec-*")) == []


def test_a_command_that_succeeds_ends_its_run_so(services: Services, start: Start) -> None:
    work, token = remote_with_token(services)
    done = start(work.run_id, token, "echo", "hello")
    assert (done.wait(), done.stdout) == (0, b"hello\n"), done.stderr
    assert status_of(services, work.run_id) == "succeeded"


def test_output_is_sent_while_the_command_runs(services: Services, start: Start) -> None:
    work, token = remote_with_token(services)
    running = start(work.run_id, token, *TICKING)
    eventually(lambda: stored(services, work).count(b"tick") >= 3)
    assert running.popen.poll() is None


def test_while_the_server_is_away_the_command_goes_on_and_nothing_of_it_is_lost(
    services: Services, server: ReportServer, start: Start
) -> None:
    work, token = remote_with_token(services)
    server.away.set()
    done = start(work.run_id, token, "sh", "-c", "for i in $(seq 2000); do echo line $i; done; echo over >&2; exit 4")
    eventually(lambda: "over" in done.stderr, what=lambda: done.stderr)
    eventually(lambda: server.refused_while_away >= 3)
    assert (stored(services, work), done.popen.poll()) == (b"", None)
    server.away.clear()
    assert done.wait() == 4
    assert stored(services, work) == done.stdout == b"".join(b"line %d\n" % number for number in range(1, 2001))
    assert "it is tried again" in done.stderr
    assert outcome(services, work)["exit_status"] == 4


def test_a_server_that_loses_replies_and_takes_everything_twice_has_each_line_once(
    services: Services, server: ReportServer, start: Start
) -> None:
    work, token = remote_with_token(services)
    server.twice, server.lose_reply = True, lambda number: number % 2 == 1
    program = "for i in $(seq 40); do echo line $i; sleep 0.05; done"
    done = start(work.run_id, token, "sh", "-c", program)
    assert done.wait() == 0, done.stderr
    assert stored(services, work) == done.stdout == b"".join(b"line %d\n" % number for number in range(1, 41))
    sent = [body["first_seq"] for body in server.bodies("output") if body["chunks"]]
    assert len(sent) > len(set(sent))
    assert len(server.bodies("finish")) >= 1
    assert status_of(services, work.run_id) == "succeeded"


def test_output_of_a_run_that_no_worker_has_claimed_yet_waits_for_one(
    services: Services, server: ReportServer, start: Start
) -> None:
    run_id, token = waiting_with_token(services)
    done = start(run_id, token, "echo", "early")
    eventually(lambda: [body for body in server.bodies("output") if body["chunks"]])
    work = claim(services, run_id, "worker@test")
    assert work is not None
    assert done.wait() == 0, done.stderr
    assert stored(services, work) == b"early\n"
    assert status_of(services, run_id) == "succeeded"


def test_a_real_worker_holds_the_place_of_a_run_until_its_result_comes(
    services: Services, start: Start, start_worker: Callable[..., Process]
) -> None:
    worker = start_worker("runs,logs")
    run = enqueue_run("remote", {"note": "over there"})
    token = services.tokens.issue(run.id)
    running = start(run.id, token, "sh", "-c", "echo begun; while [ ! -e go ]; do sleep 0.05; done; echo over")
    eventually(lambda: len(services.logs.read(run.id, 1)) == 1)
    assert f"Run {run.id} attempt 1 is followed here: remote." in worker.output
    (running.folder / "go").touch()
    assert running.wait() == 0, running.stderr
    assert kinds(services, run.id) == ["enqueued", "claimed", "dispatched", "succeeded"]
    assert whole_log(services, run.id) == b"begun\nover\n"


def test_a_client_that_is_started_again_goes_on_after_what_is_stored(services: Services, start: Start) -> None:
    work, token = remote_with_token(services)
    killed = start(work.run_id, token, "sh", "-c", "echo first; exec sleep 600")
    eventually(lambda: stored(services, work) == b"first\n")
    killed.popen.kill()
    again = start(work.run_id, token, "echo", "second")
    assert again.wait() == 0, again.stderr
    assert stored(services, work) == b"first\nsecond\n"
    eventually(lambda: not processes_of(work.run_id), what="the command to end with the client that was killed")


def test_a_full_spool_makes_the_command_wait_and_loses_nothing(
    services: Services, server: ReportServer, start: Start
) -> None:
    work, token = remote_with_token(services)
    server.away.set()
    program = "import os; [os.write(1, bytes([n % 251]) * 65536) for n in range(64)]; open('written', 'w')"
    done = start(work.run_id, token, sys.executable, "-c", program, options=("--spool-bytes", str(1024 * 1024)))
    eventually(lambda: "is full" in done.stderr, what=lambda: done.stderr)
    assert not (done.folder / "written").exists()
    server.away.clear()
    assert done.wait() == 0, done.stderr
    expected = b"".join(bytes([number % 251]) * 65536 for number in range(64))
    assert sha256(stored(services, work)).digest() == sha256(expected).digest()
    assert (done.folder / "written").exists()


# -- ends


@pytest.mark.parametrize(("end", "status"), [(cancel_run, "cancelled"), (None, "failed")], ids=["cancel", "reap"])
def test_a_run_that_has_ended_has_its_command_ended(
    services: Services, start: Start, end: Callable[[UUID], object] | None, status: str
) -> None:
    work, token = remote_with_token(services)
    done = start(work.run_id, token, *TICKING)
    eventually(lambda: stored(services, work))
    if end is None:
        reap(services, work.run_id)
    else:
        end(work.run_id)
    assert done.wait() == 128 + signal.SIGTERM, done.stderr
    assert processes_of(work.run_id) == []
    assert "The run has ended without the command" in done.stderr
    assert status_of(services, work.run_id) == status
    assert services.runs.get_attempt(work.run_id, 1).late_result_at is None
    assert stored(services, work) == done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_command_and_that_is_reported(
    services: Services, start: Start, number: signal.Signals
) -> None:
    work, token = remote_with_token(services)
    done = start(work.run_id, token, *TICKING)
    eventually(lambda: stored(services, work))
    done.popen.send_signal(number)
    assert done.wait() == 128 + signal.SIGTERM, done.stderr
    assert processes_of(work.run_id) == []
    assert (status_of(services, work.run_id), outcome(services, work)["signal"]) == ("failed", signal.SIGTERM)


def test_standard_output_that_is_closed_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    context = ReportingContext(Work(UUID(int=1), 1, 0, "process", {}, {}))
    asyncio.run(context.on_log("stdout", b"a line\n"))


def test_a_second_signal_gives_up_a_report_that_nobody_takes(
    services: Services, server: ReportServer, start: Start
) -> None:
    work, token = remote_with_token(services)
    done = start(work.run_id, token, *TICKING)
    eventually(lambda: stored(services, work))
    server.away.set()
    done.popen.send_signal(signal.SIGTERM)
    eventually(lambda: not processes_of(work.run_id))
    assert done.popen.poll() is None
    done.popen.send_signal(signal.SIGTERM)
    assert done.wait() == 128 + signal.SIGTERM
    assert "is lost to the run" in done.stderr
    assert status_of(services, work.run_id) == "running"


def test_a_command_that_cannot_be_started_is_reported_as_that(services: Services, start: Start) -> None:
    work, token = remote_with_token(services)
    done = start(work.run_id, token, "no-such-program")
    assert done.wait() == 127
    assert "there is no program 'no-such-program' on the PATH" in done.stderr
    run = services.runs.get(work.run_id)
    assert (run.status, run.error_code) == ("failed", "adapter_error")
    assert "there is no program 'no-such-program'" in (run.error_message or "")


# -- the token


def test_the_command_does_not_get_the_token(services: Services, start: Start) -> None:
    work, token = remote_with_token(services)
    done = start(work.run_id, token, "env")
    assert done.wait() == 0, done.stderr
    assert f"REPRIEVE_RUN_ID={work.run_id}".encode() in done.stdout
    assert token.encode() not in done.stdout
    assert TOKEN_VARIABLE.encode() not in done.stdout
    assert token not in done.stderr


def test_without_a_token_nothing_is_started(services: Services, server: ReportServer, start: Start) -> None:
    work, _ = remote_with_token(services)
    done = start(work.run_id, None, "touch", "started")
    assert done.wait() == 2
    assert "REPRIEVE_RUN_TOKEN is not set; set it to what `reprieve token run RUN` printed" in done.stderr
    assert (server.seen, (done.folder / "started").exists()) == ([], False)


def test_a_token_that_the_server_refuses_starts_nothing(services: Services, start: Start) -> None:
    work, _ = remote_with_token(services)
    done = start(work.run_id, "forged-token", "touch", "started")
    assert done.wait() == 2
    assert "Nothing was started, for the server refuses: HTTP status 401: The token is not the one" in done.stderr
    assert "forged-token" not in done.stderr
    assert not (done.folder / "started").exists()


def test_a_run_that_has_ended_starts_nothing(services: Services, start: Start) -> None:
    work, token = remote_with_token(services)
    cancel_run(work.run_id)
    done = start(work.run_id, token, "touch", "started")
    assert done.wait() == 2
    assert f"Nothing was started: run {work.run_id} has ended" in done.stderr
    assert not (done.folder / "started").exists()


def test_a_redirect_does_not_take_the_token_elsewhere(services: Services, server: ReportServer, start: Start) -> None:
    work, token = remote_with_token(services)
    with report_server(services) as elsewhere:
        server.redirect_to = f"{elsewhere.url}/v1/runs/{work.run_id}/output"
        done = start(work.run_id, token, "touch", "started")
        assert done.wait() == 2
    assert "the server refuses: HTTP status 302" in done.stderr
    assert elsewhere.seen == []


def test_when_the_token_is_replaced_the_result_is_refused_and_the_command_keeps_its_status(
    services: Services, start: Start
) -> None:
    work, token = remote_with_token(services)
    done = start(work.run_id, token, "sh", "-c", "echo begun; while [ ! -e go ]; do sleep 0.05; done; exit 5")
    eventually(lambda: stored(services, work) == b"begun\n")
    services.tokens.issue(work.run_id)
    (done.folder / "go").touch()
    assert done.wait() == 5
    assert "The result could not be reported: HTTP status 401" in done.stderr
    assert status_of(services, work.run_id) == "running"


def test_a_part_of_an_id_is_refused(start: Start) -> None:
    done = start("abcd", "token", "true")
    assert done.wait() == 2
    assert "--run 'abcd' is no whole id of a run" in done.stderr
