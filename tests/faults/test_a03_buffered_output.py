"""A03: a program that buffers its output when it goes to a pipe prints each line at once when it has a terminal."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from reprieve import cancel_run, enqueue_run
from reprieve.workers.bootstrap import Services
from tests.support.processes import Process, processes_of
from tests.support.rows import status_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("A03")

#: Prints lines that it never flushes, says by a file that it has printed the first, and ends when told so by another.
UNFLUSHED = """
import sys, time
from pathlib import Path
print("at work")
Path(sys.argv[1]).touch()
while not Path(sys.argv[2]).exists():
    time.sleep(0.05)
print("done")
"""


def output(services: Services, run_id: UUID) -> bytes:
    return b"".join(chunk.data for chunk in services.logs.read(run_id, 1))


@pytest.mark.parametrize("adapter", ["process", "detached"])
def test_on_a_terminal_output_that_is_not_flushed_arrives_while_its_program_runs_and_on_a_pipe_at_its_end(
    services: Services, start_worker: Callable[..., Process], tmp_path: Path, adapter: str
) -> None:
    start_worker()
    go = tmp_path / "go"

    def started(name: str, **config: Any) -> UUID:
        program = [sys.executable, "-I", "-S", "-c", UNFLUSHED, str(tmp_path / name), str(go)]
        return enqueue_run(adapter, {"command": program, **config}).id

    on_a_pipe, on_a_terminal = started("pipe"), started("terminal", pty=True)
    eventually(lambda: (tmp_path / "pipe").exists() and (tmp_path / "terminal").exists())
    eventually(lambda: output(services, on_a_terminal) == b"at work\n")
    assert [status_of(services, run_id) for run_id in (on_a_pipe, on_a_terminal)] == ["running", "running"]
    assert output(services, on_a_pipe) == b""
    go.touch()
    for run_id in (on_a_pipe, on_a_terminal):
        eventually(lambda run_id=run_id: status_of(services, run_id) == "succeeded")
        eventually(lambda run_id=run_id: output(services, run_id) == b"at work\ndone\n")


@pytest.mark.parametrize("adapter", ["process", "detached"])
def test_a_run_on_a_terminal_is_cancelled_like_any_other(
    services: Services, start_worker: Callable[..., Process], tmp_path: Path, adapter: str
) -> None:
    start_worker()
    program = [sys.executable, "-I", "-S", "-c", UNFLUSHED, str(tmp_path / "up"), str(tmp_path / "never")]
    run_id = enqueue_run(adapter, {"command": program, "pty": True}).id
    eventually(lambda: output(services, run_id) == b"at work\n")
    cancel_run(run_id)
    assert status_of(services, run_id) == "cancelled"
    eventually(lambda: processes_of(run_id) == [], what="the work to be gone")
