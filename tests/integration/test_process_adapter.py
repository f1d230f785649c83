"""The `process` adapter: what is its own beyond the contract of all adapters that run a command."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from reprieve.adapters import host
from reprieve.adapters import process as module
from reprieve.adapters.process import ProcessAdapter
from reprieve.models.work import Outcome, Work
from reprieve.testing.contexts import RecordingContext, carry_out, following, work
from tests.support.processes import processes_of
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
SUCCESS = Outcome.of_exit(0)

#: Follows a run for as long as it lives, and says the number of its child.
STARTER = """
import sys
from pathlib import Path
from reprieve.adapters.process import ProcessAdapter
from reprieve.testing.contexts import RecordingContext, carry_out, work

class Telling(RecordingContext):
    def on_log(self, stream, chunk, cursor=None):
        print(self.pid, flush=True)

run = work("sh", "-c", "echo up; sleep 100")
carry_out(ProcessAdapter(Path(sys.argv[1]), "here"), run, Telling(run.run_id))
"""


@pytest.fixture
def adapter(tmp_path: Path) -> ProcessAdapter:
    return ProcessAdapter(tmp_path, "here")


@pytest.fixture
def short_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAIN_SECONDS", 0.3)


def shell(script: str) -> Work:
    return work("sh", "-c", script)


def execute(adapter: ProcessAdapter, run: Work) -> tuple[Outcome, RecordingContext]:
    context = RecordingContext(run.run_id)
    return carry_out(adapter, run, context), context


def group_is_empty(group: int) -> bool:
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return False
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return True


def test_the_child_that_was_recorded_stands_above_the_command_and_each_leads_a_session_of_its_own(
    adapter: ProcessAdapter,
) -> None:
    with following(adapter, shell("echo $$ $REPRIEVE_NONCE; sleep 100")) as run:
        run.wait_for(b"\n")
        [(pid, group, started_at, marker)] = run.context.spawned
        command, nonce = run.context.output().decode().split()
        assert pid == group == os.getsid(pid) == psutil.Process(int(command)).ppid()
        assert int(command) == os.getsid(int(command))
        assert (started_at, marker) == (host.started_at(pid), nonce)
        assert run.context.dispatched == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_command_that_another_kills_is_told_by_its_signal(adapter: ProcessAdapter, number: signal.Signals) -> None:
    with following(adapter, shell("printf $$; exec sleep 100")) as run:
        eventually(lambda: run.context.output())
        os.kill(int(run.context.output()), number)
        assert run.outcome() == Outcome.of_exit(-number)


def test_a_command_whose_launcher_is_killed_ends_with_it_and_is_told_by_its_signal(adapter: ProcessAdapter) -> None:
    with following(adapter, shell("setsid sleep 100 & printf up; exec sleep 100")) as run:
        run.wait_for(b"up")
        os.kill(run.context.pid, signal.SIGKILL)
        assert run.outcome() == Outcome.of_exit(-signal.SIGKILL)
        assert processes_of(run.context.run_id) == []


def test_a_launcher_that_is_asked_to_end_passes_it_on_to_the_command(adapter: ProcessAdapter) -> None:
    with following(adapter, shell("trap 'echo bye; exit 7' TERM; printf up; while :; do sleep 0.05; done")) as run:
        run.wait_for(b"up")
        os.kill(run.context.pid, signal.SIGTERM)
        assert run.outcome() == Outcome.of_exit(7)


def test_a_child_that_closes_its_output_is_followed_to_its_end(adapter: ProcessAdapter) -> None:
    outcome, context = execute(adapter, shell("printf said; exec >&- 2>&-; sleep 0.3; exit 4"))
    assert (outcome, context.output()) == (Outcome.of_exit(4), b"said")


def test_a_child_that_has_closed_its_output_can_be_stopped(adapter: ProcessAdapter) -> None:
    with following(adapter, shell("printf said; exec >&- 2>&-; exec sleep 100")) as run:
        run.wait_for(b"said")
        run.context.stop()
        assert run.outcome() == Outcome.of_exit(-signal.SIGTERM)


@pytest.mark.usefixtures("short_drain")
def test_a_grandchild_that_keeps_the_output_open_is_ended_and_does_not_hang_the_run(adapter: ProcessAdapter) -> None:
    outcome, context = execute(adapter, shell("sleep 100 & printf said; exit 3"))
    assert (outcome, context.output()) == (Outcome.of_exit(3), b"said")
    assert group_is_empty(context.pid)


def test_what_a_grandchild_says_soon_after_the_child_has_ended_is_read(adapter: ProcessAdapter) -> None:
    outcome, context = execute(adapter, shell("(sleep 1; printf late) & printf early"))
    assert (outcome, context.output()) == (SUCCESS, b"earlylate")


@pytest.mark.usefixtures("short_drain")
def test_what_a_grandchild_says_when_it_is_asked_to_end_is_read(adapter: ProcessAdapter, tmp_path: Path) -> None:
    grandchild = f"trap 'printf bye; exit' TERM; printf up; touch {tmp_path}/up; while :; do sleep 0.05; done"
    wait = f"while [ ! -e {tmp_path}/up ]; do sleep 0.05; done"
    outcome, context = execute(adapter, shell(f"({grandchild}) & {wait}"))
    assert (outcome, context.output()) == (SUCCESS, b"upbye")


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", STARTER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as popen:
        yield popen
        popen.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_the_child_dies_with_the_worker_that_started_it(starter: subprocess.Popen[str]) -> None:
    assert starter.stdout is not None
    with closing(starter.stdout):
        child = psutil.Process(int(starter.stdout.readline()))
    starter.kill()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, timeout=10)


def test_a_child_is_ended_when_its_output_cannot_be_handed_over(adapter: ProcessAdapter) -> None:
    run = shell("echo x; sleep 100")

    class Refusing(RecordingContext):
        def on_log(self, stream: str, chunk: bytes | str, cursor: str | None = None) -> None:
            raise RuntimeError("no room")

    context = Refusing(run.run_id)
    with pytest.raises(RuntimeError, match="no room"):
        carry_out(adapter, run, context)
    assert group_is_empty(context.spawned[0][1])


def test_what_the_child_left_running_in_its_group_is_ended_even_if_it_holds_no_pipe(adapter: ProcessAdapter) -> None:
    outcome, context = execute(adapter, shell("sleep 100 >/dev/null 2>&1 & exit 0"))
    assert outcome == SUCCESS
    assert group_is_empty(context.spawned[0][1])
