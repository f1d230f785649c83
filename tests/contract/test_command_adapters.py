"""What every adapter promises that runs a command on this host, whether the command outlives the worker or not."""

import json
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from adapters import host
from adapters.detached import DetachedAdapter
from adapters.process import ProcessAdapter
from adapters.protocol import Adapter
from models.chunks import MAX_CHUNK_BYTES
from models.errors import Superseded
from models.status import ErrorCode
from models.work import Outcome, Work
from tests.contract.contexts import Following, RecordingContext, following, work
from tests.support.waiting import eventually

Execute = Callable[[Work], tuple[Outcome, RecordingContext]]

SUCCESS = Outcome(detail={"exit_status": 0})


@pytest.fixture(params=[ProcessAdapter, DetachedAdapter], ids=["process", "detached"])
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Adapter:
    built: Adapter = request.param(tmp_path / "adapter", "here")
    return built


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not end when asked is killed after 0.3 seconds."""
    monkeypatch.setattr(host, "terminate_group", partial(host.terminate_group, grace=0.3))


@pytest.fixture
def execute(adapter: Adapter) -> Execute:
    def run(work: Work) -> tuple[Outcome, RecordingContext]:
        context = RecordingContext(work.run_id, work.attempt)
        return adapter.execute(work, context), context

    return run


def python(program: str, **config: Any) -> Work:
    return work(sys.executable, "-I", "-S", "-c", program, **config)


def shell(script: str, **config: Any) -> Work:
    return work("sh", "-c", script, **config)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# -- output


def test_any_bytes_of_both_streams_arrive_as_they_were_written(execute: Execute) -> None:
    outcome, context = execute(shell(r"printf 'a\377\000b'; printf '\376err' >&2"))
    assert outcome == SUCCESS
    assert context.output("stdout") == b"a\xff\x00b"
    assert context.output("stderr") == b"\xfeerr"
    assert {stream for stream, *_ in context.chunks} == {"stdout", "stderr"}


def test_a_command_that_says_nothing_gives_no_chunk(execute: Execute) -> None:
    outcome, context = execute(work("true"))
    assert (outcome, context.chunks) == (SUCCESS, [])


def test_ten_megabytes_arrive_whole_and_in_pieces_that_need_no_cutting(execute: Execute) -> None:
    program = "import sys; [sys.stdout.buffer.write(bytes([n % 251]) * 1000) for n in range(10_000)]"
    _, context = execute(python(program))
    assert context.output() == b"".join(bytes([n % 251]) * 1000 for n in range(10_000))
    assert max(len(data) for _, data, _ in context.chunks) <= MAX_CHUNK_BYTES


def test_the_first_bytes_arrive_before_the_command_ends_and_without_a_newline(adapter: Adapter) -> None:
    with following(adapter, shell("printf first; sleep 100")) as run:
        run.wait_for(b"first")
        assert not run.result.done()


def test_what_a_command_says_as_its_last_word_is_read(execute: Execute) -> None:
    _, context = execute(python("import os; os.write(1, b'x' * 60_000); os.write(1, b'last'); os._exit(3)"))
    assert context.output().endswith(b"xlast")


# -- the end


@pytest.mark.parametrize("status", [0, 1, 127, 255])
def test_an_exit_status_is_the_outcome(execute: Execute, status: int) -> None:
    assert execute(shell(f"exit {status}"))[0] == Outcome.of_exit(status)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_signal_that_ended_the_command_is_the_outcome(execute: Execute, number: signal.Signals) -> None:
    program = f"import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.kill(os.getpid(), {number})"
    outcome, _ = execute(work(sys.executable, "-c", program))
    assert outcome == Outcome.of_exit(-number)


def test_a_command_gets_its_signals_as_a_shell_would_give_them(execute: Execute) -> None:
    """Python ignores SIGPIPE; a command that inherited that would complain of a broken pipe instead of ending."""
    outcome, context = execute(shell("yes | head -1; exit 5"))
    assert (outcome, context.output(), context.output("stderr")) == (Outcome.of_exit(5), b"y\n", b"")


@pytest.mark.parametrize(
    ("command", "reason"),
    [("/no/such/program", "No such file or directory"), ("no-such-program-anywhere", "No such file"), ("/", "denied")],
)
def test_a_command_that_cannot_be_started_fails_with_the_reason(execute: Execute, command: str, reason: str) -> None:
    outcome, context = execute(work(command))
    assert outcome.error_code is ErrorCode.ADAPTER_ERROR
    assert outcome.error_message is not None
    assert outcome.error_message.startswith("The command could not be started: ")
    assert reason in outcome.error_message
    assert is_gone(context.pid)


def test_a_folder_to_run_in_that_is_missing_fails_with_its_name(execute: Execute) -> None:
    outcome, context = execute(work("true", cwd="/no/such/folder"))
    assert outcome.error_code is ErrorCode.ADAPTER_ERROR
    assert "/no/such/folder" in str(outcome.error_message)
    assert context.pid == 0


@pytest.mark.parametrize("error", [Superseded("no longer ours"), RuntimeError("the database is away")])
def test_the_command_is_not_started_when_it_could_not_be_recorded(
    adapter: Adapter, tmp_path: Path, error: Exception
) -> None:
    run = work("touch", str(tmp_path / "started"))
    context = RecordingContext(run.run_id)
    context.refusal = error
    with pytest.raises(type(error), match=str(error)):
        adapter.execute(run, context)
    assert is_gone(context.pid)
    assert not (tmp_path / "started").exists()


def test_a_failed_start_leaves_no_open_file(adapter: Adapter) -> None:
    def fail(run: Work) -> None:
        context = RecordingContext(run.run_id)
        context.refusal = Superseded("no longer ours")
        with pytest.raises(Superseded):
            adapter.execute(run, context)

    def open_files() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    fail(work("true"))
    before = open_files()
    for _ in range(3):
        fail(work("true"))
    assert open_files() == before


# -- what the command is given


def test_text_is_given_on_standard_input(execute: Execute) -> None:
    assert execute(work("cat", stdin="Grüße\nzwei"))[1].output() == "Grüße\nzwei".encode()


def test_a_command_that_reads_nothing_of_much_input_holds_nobody_up(execute: Execute) -> None:
    assert execute(work("true", stdin="x" * 1_000_000))[0] == SUCCESS


def test_without_text_standard_input_is_empty(execute: Execute) -> None:
    assert execute(work("cat"))[1].output() == b""


def test_a_command_runs_in_the_folder_it_was_given(execute: Execute, tmp_path: Path) -> None:
    assert execute(work("pwd", cwd=str(tmp_path)))[1].output() == f"{tmp_path}\n".encode()


def test_arguments_reach_the_command_as_they_are(execute: Execute) -> None:
    arguments = ["", "a b", "$HOME", "*", "ä\n", "-x"]
    program = "import sys, json; print(json.dumps(sys.argv[1:]))"
    _, context = execute(work(sys.executable, "-c", program, *arguments))
    assert json.loads(context.output()) == arguments


def environment_of(execute: Execute, **config: Any) -> tuple[dict[str, str], Work]:
    run = python("import os, json; print(json.dumps(dict(os.environ)))", **config)
    environment: dict[str, str] = json.loads(execute(run)[1].output())
    return environment, run


def test_a_command_gets_the_environment_it_was_given_over_that_of_the_worker(
    execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INHERITED", "yes")
    monkeypatch.setenv("BOTH", "the worker's")
    environment, _ = environment_of(execute, env={"GIVEN": "Grüße", "BOTH": "the run's"})
    assert (environment["INHERITED"], environment["GIVEN"], environment["BOTH"]) == ("yes", "Grüße", "the run's")


def test_what_is_ours_in_the_environment_of_the_worker_is_not_the_commands_to_know(
    execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REPRIEVE_DATABASE_URL", "REPRIEVE_ANYTHING", "FLOWER_BASIC_AUTH", "CELERY_BROKER_URL"):
        monkeypatch.setenv(name, "postgresql://me:hunter2@h")
    environment, run = environment_of(execute, attempt=3)
    assert "hunter2" not in repr(environment)
    ours = {name: value for name, value in environment.items() if name.startswith("REPRIEVE_")}
    assert ours == {"REPRIEVE_RUN_ID": str(run.run_id), "REPRIEVE_ATTEMPT": "3"}


def test_the_command_has_no_file_of_ours_open(execute: Execute) -> None:
    _, context = execute(python("import os; print(sorted(int(fd) for fd in os.listdir('/dev/fd')))"))
    assert context.output() == b"[0, 1, 2, 3]\n"


# -- stop

#: Says the number of a child that ignores SIGTERM, then waits; so does the child.
PARENT = """
import subprocess, sys, time
ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(100)"
child = subprocess.Popen([sys.executable, "-c", ignore], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(100)
"""


def started_children(run: Following) -> list[int]:
    run.wait_for(b"\n")
    return [run.context.pid, int(run.context.output())]


def test_a_stop_ends_a_command_that_is_silent(adapter: Adapter) -> None:
    with following(adapter, work("sleep", "100")) as run:
        eventually(lambda: run.context.pid)
        run.context.stop()
        assert run.outcome().error_code is not None
        assert is_gone(run.context.pid)


@pytest.mark.usefixtures("impatient")
def test_a_stop_ends_the_whole_group_even_what_ignores_the_request(adapter: Adapter) -> None:
    with following(adapter, work(sys.executable, "-c", PARENT)) as run:
        pids = started_children(run)
        run.context.stop()
        run.outcome()
        assert all(is_gone(pid) for pid in pids)


def test_a_command_that_is_asked_to_end_may_say_a_last_word(adapter: Adapter) -> None:
    script = "trap 'printf bye; exit 0' TERM; printf up; while :; do sleep 0.05; done"
    with following(adapter, shell(script)) as run:
        run.wait_for(b"up")
        run.context.stop()
        run.outcome()
        assert run.context.output() == b"upbye"


@pytest.mark.usefixtures("impatient")
def test_terminate_ends_the_whole_group_by_what_was_recorded_and_again_is_no_error(adapter: Adapter) -> None:
    with following(adapter, work(sys.executable, "-c", PARENT)) as run:
        pids = started_children(run)
        handle = run.context.handle
        adapter.terminate(handle)
        assert all(is_gone(pid) for pid in pids)
        adapter.terminate(handle)
