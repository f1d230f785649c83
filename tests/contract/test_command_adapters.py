"""What every adapter promises that runs a command on this host, whether the command outlives the worker or not."""

import json
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from reprieve.adapters import host
from reprieve.adapters.detached import DetachedAdapter
from reprieve.adapters.process import ProcessAdapter
from reprieve.adapters.protocol import Adapter
from reprieve.models.chunks import MAX_CHUNK_BYTES
from reprieve.models.errors import Superseded
from reprieve.models.work import Outcome, Work
from reprieve.testing.contexts import Following, RecordingContext, carry_out, following, work
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
    monkeypatch.setattr(host, "TERMINATE_GRACE", 0.3)


@pytest.fixture
def execute(adapter: Adapter) -> Execute:
    def run(work: Work) -> tuple[Outcome, RecordingContext]:
        context = RecordingContext(work.run_id, work.attempt)
        return carry_out(adapter, work, context), context

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


def open_files() -> list[str]:
    return sorted(path.name for path in Path("/dev/fd").iterdir())


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
    [
        ("/no/such/program", "there is no program /no/such/program"),
        ("no-such-program-anywhere", "there is no program 'no-such-program-anywhere' on the PATH"),
        ("/", "/ is a folder, not a program"),
        ("", "there is no program '' on the PATH"),
    ],
)
def test_a_command_that_cannot_be_started_fails_with_the_reason(execute: Execute, command: str, reason: str) -> None:
    outcome, context = execute(work(command))
    assert outcome == Outcome.failed(f"The command could not be started: {reason}.")
    eventually(lambda: is_gone(context.pid))


#: What stands in a file that is executable, and why it cannot be started.
UNFIT_FILES = {
    "interpreter": (
        b"#!/no/such/interpreter -x\necho hi\n",
        "needs the interpreter /no/such/interpreter, which is not",
    ),
    "crlf": (b"#!/bin/sh\r\necho hi\r\n", "ends with a carriage return (CRLF), so that its interpreter /bin/sh is not"),
    "no first line": (b"\x00\x01\x02\x03", "is no program, and no script whose first line says what runs it"),
    "empty": (b"", "is empty"),
    "another machine": (b"\x7fELF" + bytes(60), "was built for another kind of machine"),
}


@pytest.mark.parametrize("kind", UNFIT_FILES)
def test_what_is_wrong_with_a_program_is_told_by_its_own_name_and_never_by_ours(
    execute: Execute, tmp_path: Path, kind: str
) -> None:
    content, reason = UNFIT_FILES[kind]
    program = tmp_path / "program"
    program.write_bytes(content)
    program.chmod(0o755)
    outcome, _ = execute(work(str(program)))
    assert str(program) in str(outcome.error_message)
    assert reason in str(outcome.error_message)
    assert "python" not in str(outcome.error_message)


def test_a_file_that_may_not_be_run_is_told_apart_from_one_that_is_missing(execute: Execute, tmp_path: Path) -> None:
    (tmp_path / "program").write_text("#!/bin/sh\n")
    outcome, _ = execute(work("program", env={"PATH": str(tmp_path)}))
    assert f"{tmp_path}/program is not executable" in str(outcome.error_message)


def test_more_arguments_than_the_system_takes_are_told_without_naming_our_python(execute: Execute) -> None:
    outcome, context = execute(work("echo", "x" * 4_000_000))
    assert "its arguments and its environment are longer than the system allows" in str(outcome.error_message)
    assert (sys.executable in str(outcome.error_message), context.pid) == (False, 0)


def test_a_folder_to_run_in_that_is_missing_fails_with_its_name(execute: Execute) -> None:
    outcome, context = execute(work("true", cwd="/no/such/folder"))
    assert outcome == Outcome.failed(
        "The command could not be started: there is no folder /no/such/folder to run it in."
    )
    eventually(lambda: is_gone(context.pid))


@pytest.mark.parametrize("error", [Superseded("no longer ours"), RuntimeError("the database is away")])
def test_the_command_is_not_started_when_it_could_not_be_recorded(
    adapter: Adapter, tmp_path: Path, error: Exception
) -> None:
    run = work("touch", str(tmp_path / "started"))
    context = RecordingContext(run.run_id)
    context.refusal = error
    with pytest.raises(type(error), match=str(error)):
        carry_out(adapter, run, context)
    eventually(lambda: is_gone(context.pid))
    assert not (tmp_path / "started").exists()


def test_what_the_host_cannot_start_just_now_is_tried_again_and_said_once(adapter: Adapter, tmp_path: Path) -> None:
    """A program that somebody is writing (ETXTBSY), for example: the work is neither failed nor given up."""
    program = tmp_path / "program"
    shutil.copy(shutil.which("true") or "/bin/true", program)
    with program.open("r+b"), following(adapter, work(str(program))) as run:
        eventually(lambda: run.context.notes and run.context.heartbeats)
        assert not run.result.done()
        program.open("r+b").close()
        before = len(run.context.spawned + run.context.dispatched)
        eventually(lambda: len(run.context.spawned + run.context.dispatched) > before)
        assert len(run.context.notes) == 1
        assert "is tried again" in run.context.notes[0]
        again = run
    with following(adapter, work(str(program))) as run:
        assert run.outcome() == SUCCESS
    assert again.outcome().error_message == (
        "The command could not be started: the run has ended before this host could start it."
    )


def test_a_failed_start_leaves_no_open_file(adapter: Adapter) -> None:
    def fail(run: Work) -> None:
        context = RecordingContext(run.run_id)
        context.refusal = Superseded("no longer ours")
        with pytest.raises(Superseded):
            carry_out(adapter, run, context)

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
    assert len(ours.pop("REPRIEVE_NONCE")) == 32
    assert ours.pop("REPRIEVE_REPORT").endswith(f"/{run.run_id}.3")
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


# -- on a terminal

#: Prints a line without flushing it, says by a file that it has, and goes on when another file is there.
UNFLUSHED = """
import sys, time
from pathlib import Path
print("line")
Path(sys.argv[1], "printed").touch()
while not Path(sys.argv[1], "go").exists():
    time.sleep(0.02)
print("end")
"""


def unflushed(folder: Path, **config: Any) -> Work:
    return work(sys.executable, "-I", "-S", "-c", UNFLUSHED, str(folder), **config)


def test_on_a_terminal_a_line_that_is_not_flushed_arrives_at_once(adapter: Adapter, tmp_path: Path) -> None:
    with following(adapter, unflushed(tmp_path, pty=True)) as run:
        run.wait_for(b"line\n")
        assert not run.result.done()
        (tmp_path / "go").touch()
        assert run.outcome() == SUCCESS
        assert run.context.output() == b"line\nend\n"


def test_without_a_terminal_a_line_that_is_not_flushed_arrives_with_the_last(adapter: Adapter, tmp_path: Path) -> None:
    with following(adapter, unflushed(tmp_path)) as run:
        eventually((tmp_path / "printed").exists)
        assert run.context.chunks == []
        (tmp_path / "go").touch()
        run.outcome()
        assert [data for _, data, _ in run.context.chunks] == [b"line\nend\n"]


def test_a_command_on_a_terminal_sees_one_of_a_fixed_size_that_nobody_can_be_asked_at(execute: Execute) -> None:
    program = """
import os
print([os.isatty(fd) for fd in (0, 1, 2)], tuple(os.get_terminal_size(1)), os.ttyname(1) == os.ttyname(2))
try:
    os.open("/dev/tty", os.O_RDWR)
except OSError as error:
    print(error.strerror)
"""
    _, context = execute(python(program, pty=True))
    assert context.output() == b"[False, True, True] (120, 40) True\nNo such device or address\n"


def test_without_a_terminal_a_command_sees_none(execute: Execute) -> None:
    _, context = execute(python("import os; print([os.isatty(fd) for fd in (0, 1, 2)])"))
    assert context.output() == b"[False, False, False]\n"


def test_any_bytes_pass_a_terminal_as_they_were_written_also_those_that_mean_something_to_one(execute: Execute) -> None:
    program = "import sys; sys.stdout.buffer.write((bytes(range(256)) + b'\\n\\x03\\x04\\x1a\\r\\n') * 1000)"
    outcome, context = execute(python(program, pty=True))
    assert outcome == SUCCESS
    assert context.output() == (bytes(range(256)) + b"\n\x03\x04\x1a\r\n") * 1000


def test_megabytes_arrive_whole_over_a_terminal(execute: Execute) -> None:
    program = "import sys; [sys.stdout.buffer.write(bytes([n % 251]) * 1000) for n in range(5_000)]"
    _, context = execute(python(program, pty=True))
    assert context.output() == b"".join(bytes([n % 251]) * 1000 for n in range(5_000))
    assert max(len(data) for _, data, _ in context.chunks) <= MAX_CHUNK_BYTES


def test_on_a_terminal_both_streams_are_one_in_the_order_of_writing(execute: Execute) -> None:
    _, context = execute(shell("echo 1; echo 2 >&2; echo 3", pty=True))
    assert (context.output("stdout"), context.output("stderr")) == (b"1\n2\n3\n", b"")


def test_text_is_given_on_standard_input_also_beside_a_terminal(execute: Execute) -> None:
    assert execute(work("cat", stdin="Grüße\nzwei", pty=True))[1].output() == "Grüße\nzwei".encode()


@pytest.mark.parametrize("script", ["exit 0", "exit 3", "kill -KILL $$", "exec >&- 2>&-; sleep 0.3; exit 4"])
def test_the_end_of_a_command_on_a_terminal_is_the_outcome_that_it_is_without(execute: Execute, script: str) -> None:
    on_a_terminal, context = execute(shell(f"printf said; {script}", pty=True))
    assert (on_a_terminal, context.output()) == (execute(shell(script))[0], b"said")


def test_a_command_that_cannot_be_started_on_a_terminal_fails_with_the_reason(execute: Execute) -> None:
    outcome, context = execute(work("/no/such/program", pty=True))
    assert outcome.error_message == "The command could not be started: there is no program /no/such/program."
    eventually(lambda: is_gone(context.pid))


@pytest.mark.usefixtures("impatient")
def test_a_stop_ends_the_whole_group_on_a_terminal(adapter: Adapter) -> None:
    with following(adapter, work(sys.executable, "-c", PARENT, pty=True)) as run:
        pids = started_children(run)
        run.context.stop()
        run.outcome()
        assert all(is_gone(pid) for pid in pids)


def test_a_command_on_a_terminal_that_is_asked_to_end_may_say_a_last_word(adapter: Adapter) -> None:
    script = "trap 'printf bye; exit 0' TERM; printf up; while :; do sleep 0.05; done"
    with following(adapter, shell(script, pty=True)) as run:
        run.wait_for(b"up")
        run.context.stop()
        run.outcome()
        # The shell, too, says a word to a terminal when what it waits for is ended.
        assert run.context.output().endswith(b"bye")


@pytest.mark.usefixtures("impatient")
def test_terminate_ends_the_whole_group_on_a_terminal(adapter: Adapter) -> None:
    with following(adapter, work(sys.executable, "-c", PARENT, pty=True)) as run:
        pids = started_children(run)
        adapter.terminate(run.context.handle)
        assert all(is_gone(pid) for pid in pids)


def test_a_grandchild_that_keeps_the_terminal_does_not_hang_the_run(adapter: Adapter, execute: Execute) -> None:
    outcome, context = execute(shell("sleep 100 & printf said; exit 3", pty=True))
    assert (outcome, context.output()) == (Outcome.of_exit(3), b"said")
    adapter.terminate(context.handle)


def test_what_a_grandchild_says_to_the_terminal_soon_after_the_end_is_read(execute: Execute) -> None:
    outcome, context = execute(shell("(sleep 0.7; printf late) & printf early", pty=True))
    assert (outcome, context.output()) == (SUCCESS, b"earlylate")


def test_the_command_on_a_terminal_has_no_file_of_ours_open(execute: Execute) -> None:
    _, context = execute(python("import os; print(sorted(int(fd) for fd in os.listdir('/dev/fd')))", pty=True))
    assert context.output() == b"[0, 1, 2, 3]\n"


@pytest.mark.parametrize(
    ("command", "refusal"),
    [("true", None), ("/no/such/program", None), ("true", Superseded("no longer ours"))],
    ids=["ended", "not started", "not recorded"],
)
def test_a_terminal_leaves_no_file_open(adapter: Adapter, command: str, refusal: Exception | None) -> None:
    def run_it() -> None:
        run = work(command, pty=True)
        context = RecordingContext(run.run_id)
        context.refusal = refusal
        with suppress(Superseded):
            carry_out(adapter, run, context)

    run_it()
    before = open_files()
    for _ in range(3):
        run_it()
    assert open_files() == before


def test_a_command_in_a_folder_that_is_missing_leaves_no_terminal_open(execute: Execute) -> None:
    before = open_files()
    outcome, _ = execute(work("true", cwd="/no/such/folder", pty=True))
    assert "/no/such/folder" in str(outcome.error_message)
    assert open_files() == before


def test_a_secret_is_masked_on_a_terminal(execute: Execute, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_TOKEN", "hunter2")
    run = shell("echo $TOKEN; echo $TOKEN >&2", pty=True, secrets={"TOKEN": "env:DEPLOY_TOKEN"})
    assert execute(run)[1].output() == b"***\n***\n"
