"""The `detached` adapter: what is its own beyond the contract of all adapters that run a command."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from reprieve.adapters import detached as module
from reprieve.adapters import host
from reprieve.adapters.detached import DetachedAdapter
from reprieve.adapters.protocol import Probing
from reprieve.models.errors import Released
from reprieve.models.process import ProcessIdentity
from reprieve.models.status import Probe
from reprieve.models.work import Outcome, Work
from reprieve.testing.contexts import Following, RecordingContext, carry_out, follow_on, following, work
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]

#: Follows a run for as long as it lives, and says its handle.
STARTER = """
import json, sys
from pathlib import Path
from reprieve.adapters.detached import DetachedAdapter
from reprieve.testing.contexts import RecordingContext, carry_out, work

class Telling(RecordingContext):
    def on_log(self, stream, chunk, cursor=None):
        print(json.dumps(self.handle), flush=True)

run = work("sh", "-c", "echo up; sleep 100")
carry_out(DetachedAdapter(Path(sys.argv[1]), "here"), run, Telling(run.run_id))
"""


@pytest.fixture
def adapter(tmp_path: Path) -> DetachedAdapter:
    return DetachedAdapter(tmp_path / "adapter", "here")


@pytest.fixture
def up(adapter: DetachedAdapter) -> Iterator[Following]:
    """A run that has said `up` and is silent from then on."""
    with following(adapter, shell("printf up; exec sleep 100")) as run:
        run.wait_for(b"up")
        yield run


def shell(script: str, **config: Any) -> Work:
    return work("sh", "-c", script, **config)


def execute(adapter: DetachedAdapter, run: Work) -> tuple[Outcome, RecordingContext]:
    context = RecordingContext(run.run_id, run.attempt)
    return carry_out(adapter, run, context), context


def probe(adapter: DetachedAdapter, handle: Any) -> Probe:
    [answer] = adapter.probe([handle])
    return answer


# -- where it writes


def test_the_handle_names_the_process_its_folder_and_the_one_host_that_can_end_it(up: Following) -> None:
    [(handle, named)] = up.context.dispatched
    identity = ProcessIdentity.from_handle(handle)
    assert host.is_alive(identity)
    assert identity.pid == identity.process_group_id == os.getsid(identity.pid)
    assert (handle["folder"], handle["host"], named) == (f"{up.context.run_id}/1", "here", "here")
    assert json.loads(json.dumps(handle)) == handle
    assert up.context.spawned == []


def test_its_output_is_nobody_elses_to_read(up: Following, tmp_path: Path) -> None:
    folder = tmp_path / "adapter" / up.context.handle["folder"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_each_attempt_writes_to_files_of_its_own(adapter: DetachedAdapter, tmp_path: Path) -> None:
    first = shell("printf $REPRIEVE_ATTEMPT", attempt=1)
    second = Work(first.run_id, 2, 2, first.adapter, first.config, {})
    assert [execute(adapter, run)[1].output() for run in (first, second)] == [b"1", b"2"]


def test_a_cursor_is_the_number_of_bytes_of_both_streams_up_to_and_with_its_chunk(adapter: DetachedAdapter) -> None:
    _, context = execute(adapter, shell("printf err >&2; head -c 100000 /dev/zero"))
    assert len([stream for stream, *_ in context.chunks if stream == "stdout"]) >= 2
    read = {"stdout": 0, "stderr": 0}
    for stream, data, cursor in context.chunks:
        read[stream] += len(data)
        assert cursor == f"{read['stdout']}:{read['stderr']}"
    assert read == {"stdout": 100_000, "stderr": 3}


def test_what_is_written_between_two_looks_just_before_the_end_is_read(
    adapter: DetachedAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command says its only word, and ends, while the adapter looks whether it has ended."""
    look = module._exit

    def look_when_it_has_ended(record: str) -> module._Exit | None:
        (tmp_path / "go").touch()
        return eventually(lambda: [look(record)] if Path(record).exists() else None)[0]

    monkeypatch.setattr(module, "_exit", look_when_it_has_ended)
    _, context = execute(adapter, shell(f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; printf last"))
    assert context.output() == b"last"


# -- proof of life


def test_a_silent_command_gets_a_heartbeat_for_as_long_as_it_is_there(up: Following) -> None:
    seen = up.context.heartbeats
    eventually(lambda: up.context.heartbeats >= seen + 3)


def test_a_command_that_vanished_without_a_record_has_no_outcome_and_no_heartbeat_until_told_to_stop(
    up: Following,
) -> None:
    """It is not the adapter's to bury: the reaper decides."""
    os.killpg(up.context.pid, signal.SIGKILL)
    identity = ProcessIdentity.from_handle(up.context.handle)
    eventually(lambda: not host.is_alive(identity))
    looks = up.context.looks
    eventually(lambda: up.context.looks >= looks + 2)
    heartbeats, looks = up.context.heartbeats, up.context.looks
    eventually(lambda: up.context.looks >= looks + 3)
    assert up.context.heartbeats == heartbeats
    assert not up.result.done()
    up.context.stop()
    assert up.outcome().error_code is not None


def test_a_command_whose_launcher_alone_is_killed_ends_with_it(adapter: DetachedAdapter) -> None:
    with following(adapter, shell("echo $$; exec sleep 100")) as run:
        run.wait_for(b"\n")
        command = psutil.Process(int(run.context.output()))
        assert command.ppid() == run.context.pid
        os.kill(run.context.pid, signal.SIGKILL)
        eventually(lambda: not command.is_running() or command.status() == psutil.STATUS_ZOMBIE, timeout=10)


def test_a_command_that_was_terminated_is_told_by_its_signal(adapter: DetachedAdapter, up: Following) -> None:
    adapter.terminate(up.context.handle)
    assert up.outcome() == Outcome.of_exit(-signal.SIGTERM)


# -- stop


class StopsWhenAllIsWritten(RecordingContext):
    """Told to stop at its first chunk, when much more than that is already in the file."""

    def __init__(self, run: Work, file: Path, size: int) -> None:
        super().__init__(run.run_id)
        self._file = file
        self._size = size

    def on_log(self, stream: str, chunk: bytes | str, cursor: str | None = None) -> None:
        super().on_log(stream, chunk, cursor)
        eventually(lambda: self._file.stat().st_size == self._size)
        self.stop()


def test_what_was_written_before_a_stop_is_all_read(adapter: DetachedAdapter, tmp_path: Path) -> None:
    run = shell("head -c 1000000 /dev/zero; sleep 100")
    context = StopsWhenAllIsWritten(run, tmp_path / "adapter" / str(run.run_id) / "1" / "stdout", 1_000_000)
    carry_out(adapter, run, context)
    assert len(context.output()) == 1_000_000


# -- outliving the worker


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The handle of a run whose worker was killed."""
    command = [sys.executable, "-c", STARTER, str(tmp_path / "adapter")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        with closing(starter.stdout):
            handle = json.loads(starter.stdout.readline())
        starter.kill()
    yield handle
    host.terminate(ProcessIdentity.from_handle(handle), grace=0.2)


def test_a_command_outlives_its_worker_and_is_ended_by_its_handle(
    adapter: DetachedAdapter, orphan: dict[str, Any]
) -> None:
    identity = ProcessIdentity.from_handle(orphan)
    assert host.is_alive(identity)
    assert probe(adapter, orphan) is Probe.ALIVE
    adapter.terminate(orphan)
    assert not host.is_alive(identity)
    assert probe(adapter, orphan) is Probe.ENDED


#: Follows a command on a terminal for as long as it lives; the command prints again when a file is there.
ON_A_TERMINAL = STARTER.replace(
    '"echo up; sleep 100"', 'f"echo up; while [ ! -e {sys.argv[1]}/go ]; do sleep 0.05; done; echo on", pty=True'
)


def test_a_command_on_a_terminal_outlives_its_worker_and_all_that_it_prints_is_in_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    command = [sys.executable, "-c", ON_A_TERMINAL, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        with closing(starter.stdout):
            handle = json.loads(starter.stdout.readline())
        starter.kill()
    try:
        (folder / "go").touch()
        eventually((folder / handle["folder"] / "exit.json").exists)
        assert (folder / handle["folder"] / "stdout").read_bytes() == b"up\non\n"
        assert json.loads((folder / handle["folder"] / "exit.json").read_text())["returncode"] == 0
    finally:
        host.terminate(ProcessIdentity.from_handle(handle), grace=0.2)


#: Dies when it has recorded the work, before it may let the command begin.
DYING = """
import json, os, sys
from pathlib import Path
from reprieve.adapters.detached import DetachedAdapter
from reprieve.testing.contexts import RecordingContext, carry_out, follow_on
from reprieve.models.work import Work
from uuid import UUID

class Dying(RecordingContext):
    def on_dispatch(self, handle, host=None):
        print(json.dumps(handle), flush=True)
        os._exit(1)

run = Work(UUID(sys.argv[2]), 1, 1, "detached", {"command": ["sh", "-c", "echo once >> " + sys.argv[3]]}, {})
carry_out(DetachedAdapter(Path(sys.argv[1]), "here"), run, Dying(run.run_id))
"""


def test_what_a_worker_that_died_had_recorded_and_not_started_is_started_once_by_whoever_attaches(
    adapter: DetachedAdapter, tmp_path: Path
) -> None:
    run = shell(f"echo once >> {tmp_path}/said")
    command = [sys.executable, "-c", DYING, str(tmp_path / "adapter"), str(run.run_id), str(tmp_path / "said")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    handle = json.loads(done.stdout)
    eventually(lambda: probe(adapter, handle) is Probe.ENDED)
    assert not (tmp_path / "said").exists()
    first = attach(adapter, run, handle, None)
    assert first.outcome() == Outcome.of_exit(0)
    assert (first.context.handle["pid"] != handle["pid"], probe(adapter, handle)) == (True, Probe.ENDED)
    assert attach(adapter, run, first.context.handle, None).outcome() == Outcome.of_exit(0)
    assert (tmp_path / "said").read_text() == "once\n"


# -- probe


def test_the_adapter_can_be_asked(adapter: DetachedAdapter) -> None:
    assert isinstance(adapter, Probing)


def test_work_that_runs_is_alive_and_work_that_has_finished_has_ended(adapter: DetachedAdapter, up: Following) -> None:
    _, finished = execute(adapter, work("true"))
    assert adapter.probe([up.context.handle, finished.handle]) == [Probe.ALIVE, Probe.ENDED]
    assert adapter.probe([]) == []


def test_work_that_was_killed_without_a_record_is_dead(adapter: DetachedAdapter, up: Following) -> None:
    os.killpg(up.context.pid, signal.SIGKILL)
    eventually(lambda: probe(adapter, up.context.handle) is Probe.DEAD)


@pytest.mark.parametrize(
    "change", [{"started_at": 1.0}, {"namespace": "another-boot/pid:[1]"}], ids=["other start", "other boot"]
)
def test_the_lock_of_an_attempt_says_that_it_is_alive_and_where_there_is_none_its_process_and_not_a_number(
    adapter: DetachedAdapter, up: Following, tmp_path: Path, change: dict[str, Any]
) -> None:
    assert probe(adapter, up.context.handle | change) is Probe.ALIVE
    (tmp_path / "adapter" / up.context.handle["folder"] / "running.lock").unlink()
    assert probe(adapter, up.context.handle) is Probe.ALIVE
    assert probe(adapter, up.context.handle | change) is Probe.DEAD


def test_work_of_another_host_is_unknown_here(adapter: DetachedAdapter, up: Following, tmp_path: Path) -> None:
    elsewhere = DetachedAdapter(tmp_path / "adapter", "another-host")
    assert probe(elsewhere, up.context.handle) is Probe.UNKNOWN


@pytest.mark.parametrize(
    "change",
    [
        {"pid": None},
        {"pid": "not a number"},
        {"pid": -1},
        {"started_at": "yesterday"},
        {"folder": "../.."},
        {"folder": "/etc"},
        {"folder": "a\0b"},
        {"folder": None},
    ],
    ids=repr,
)
def test_a_handle_that_makes_no_sense_is_unknown_and_the_others_are_answered(
    adapter: DetachedAdapter, up: Following, change: dict[str, Any]
) -> None:
    handles = [up.context.handle | change, up.context.handle]
    assert adapter.probe(handles) == [Probe.UNKNOWN, Probe.ALIVE]


@pytest.mark.parametrize("member", ["pid", "process_group_id", "started_at", "namespace", "folder", "host"])
def test_a_handle_that_lacks_a_member_is_unknown(adapter: DetachedAdapter, up: Following, member: str) -> None:
    handle = {name: value for name, value in up.context.handle.items() if name != member}
    assert probe(adapter, handle) is Probe.UNKNOWN


@pytest.mark.parametrize("record", ["", "{", "[]", '{"returncode": "x"}', "{}"])
def test_a_record_of_an_exit_that_cannot_be_read_leaves_the_work_unknown(
    adapter: DetachedAdapter, tmp_path: Path, record: str
) -> None:
    _, finished = execute(adapter, work("true"))
    (tmp_path / "adapter" / finished.handle["folder"] / "exit.json").write_text(record)
    assert probe(adapter, finished.handle) is Probe.UNKNOWN


# -- followed by another worker


def attach(adapter: DetachedAdapter, run: Work, handle: dict[str, Any], cursor: str | None) -> Following:
    """Follow on from a cursor, on a thread."""
    context = RecordingContext(run.run_id, run.attempt, cursor)
    pool = ThreadPoolExecutor(1)
    result = pool.submit(follow_on, adapter, run, handle, context)
    pool.shutdown(wait=False)
    return Following(context, result)


#: Prints two lines to each stream, waits for a file, prints two more.
BOTH = "echo 1; echo one >&2; echo 2; echo two >&2; while [ ! -e {go} ]; do sleep 0.05; done; echo 3; echo three >&2"


def test_from_each_cursor_on_another_worker_reads_the_rest_and_nothing_twice(
    adapter: DetachedAdapter, tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    run = shell(BOTH.format(go=tmp_path / "go"))
    outcome, first = execute(adapter, run)
    for place in range(len(first.chunks) + 1):
        read = first.chunks[:place]
        cursor = read[-1][2] if read else None
        second = attach(adapter, run, first.handle, cursor)
        assert second.outcome() == outcome
        for stream in ("stdout", "stderr"):
            before = b"".join(data for name, data, _ in read if name == stream)
            assert before + second.context.output(stream) == first.output(stream)


def test_a_follower_that_is_to_leave_leaves_the_work_running_and_another_goes_on(
    adapter: DetachedAdapter, tmp_path: Path
) -> None:
    run = shell(BOTH.format(go=tmp_path / "go"))
    with following(adapter, run) as first:
        first.wait_for(b"2\n")
        first.wait_for(b"two\n", "stderr")
        first.context.release()
        with pytest.raises(Released):
            first.outcome()
        assert host.is_alive(ProcessIdentity.from_handle(first.context.handle))
        second = attach(adapter, run, first.context.handle, first.context.chunks[-1][2])
        eventually(lambda: second.context.heartbeats > 2)
        (tmp_path / "go").touch()
        assert second.outcome() == Outcome.of_exit(0)
        assert (second.context.output(), second.context.output("stderr")) == (b"3\n", b"three\n")


def test_work_that_has_vanished_is_not_vouched_for_nor_buried_by_whoever_attaches(
    adapter: DetachedAdapter, up: Following
) -> None:
    os.killpg(up.context.pid, signal.SIGKILL)
    eventually(lambda: probe(adapter, up.context.handle) is Probe.DEAD)
    second = attach(adapter, work("true"), up.context.handle, None)
    eventually(lambda: second.context.looks > 3)
    assert (second.result.done(), second.context.heartbeats) == (False, 0)
    second.context.stop()
    assert second.outcome().error_code is not None


def test_whoever_attaches_ends_the_work_when_its_run_has_ended(adapter: DetachedAdapter, up: Following) -> None:
    second = attach(adapter, work("true"), up.context.handle, None)
    eventually(lambda: second.context.heartbeats)
    second.context.stop()
    second.outcome()
    assert not host.is_alive(ProcessIdentity.from_handle(up.context.handle))


def test_what_a_command_leaves_running_in_its_group_is_ended_with_it(adapter: DetachedAdapter) -> None:
    outcome, context = execute(adapter, shell("sleep 100 & echo $!; exit 3"))
    assert outcome == Outcome.of_exit(3)
    assert not psutil.pid_exists(int(context.output())) or psutil.Process(int(context.output())).status() == "zombie"


def test_output_that_could_not_be_masked_is_not_read_on_and_says_so(
    adapter: DetachedAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The secret is gone from this worker and the command has ended: nobody knows any more what to mask."""
    monkeypatch.setattr(module, "SECRETS_INTERVAL", 0.05)
    monkeypatch.setenv("TOKEN", "hunter2-hunter2")
    run = shell("echo it is $TOKEN", secrets={"TOKEN": "env:TOKEN"})
    _, first = execute(adapter, run)
    eventually(lambda: not host.is_alive(ProcessIdentity.from_handle(first.handle)))
    monkeypatch.delenv("TOKEN")
    second = attach(adapter, run, first.handle, None)
    eventually(lambda: second.context.notes)
    assert second.context.chunks == []
    monkeypatch.setenv("TOKEN", "hunter2-hunter2")
    assert second.outcome() == Outcome.of_exit(0)
    assert second.context.output() == b"it is ***\n"


def test_a_secret_that_was_changed_since_is_masked_as_the_command_was_given_it(
    adapter: DetachedAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "hunter2-hunter2")
    script = f"echo up; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo it is $TOKEN"
    run = shell(script, secrets={"TOKEN": "env:TOKEN"})
    with following(adapter, run) as first:
        first.wait_for(b"up\n")
        monkeypatch.setenv("TOKEN", "another-one")
        second = attach(adapter, run, first.context.handle, first.context.chunks[-1][2])
        eventually(lambda: second.context.heartbeats)
        (tmp_path / "go").touch()
        second.outcome()
        assert second.context.output() == b"it is ***\n"
