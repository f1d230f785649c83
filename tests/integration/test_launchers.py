"""Where launchers come from: one small process forks them, has nothing of any command, and may end at any time."""

import asyncio
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from reprieve.adapters import command, fork_server, host
from reprieve.adapters.command import Channel, Exited, Launched
from reprieve.adapters.detached import DetachedAdapter
from reprieve.adapters.launcher import HEAD, OWN, Asked
from reprieve.adapters.launchers import Launchers, Server
from reprieve.adapters.ownership import MARKER, marker_of
from reprieve.adapters.process import ProcessAdapter
from reprieve.adapters.protocol import AnyAdapter
from reprieve.models.errors import Released
from reprieve.models.faults import is_unfit
from reprieve.models.process import ProcessIdentity
from reprieve.models.work import Outcome, Work
from reprieve.testing.contexts import AsyncRecordingContext, RecordingContext, carry_out, following, work
from tests.support.processes import processes_marked, processes_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is looked at in /proc")

ROOT = Path(__file__).parents[2]
SUCCESS = Outcome.of_exit(0)


@pytest.fixture(params=[ProcessAdapter, DetachedAdapter], ids=["process", "detached"])
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> AnyAdapter:
    built: AnyAdapter = request.param(tmp_path / "adapter", "here")
    return built


@pytest.fixture
def process(tmp_path: Path) -> ProcessAdapter:
    return ProcessAdapter(tmp_path, "here")


@pytest.fixture(autouse=True)
def launchers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Launchers]:
    """Of each test's own."""
    own = Launchers()
    monkeypatch.setattr(command, "LAUNCHERS", own)
    yield own
    for one in (*own._left, *([own._server] if own._server else [])):
        one.leave()
        one.kill()
        one._popen.wait()


@pytest.fixture
def server(process: ProcessAdapter, launchers: Launchers) -> psutil.Process:
    """The one that is asked next."""
    execute(process, work("true"))
    return psutil.Process(server_pid())


def server_pid() -> int:
    server = command.LAUNCHERS._server
    assert server is not None
    return server.pid


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def shell(script: str, **config: Any) -> Work:
    return work("sh", "-c", script, **config)


def execute(adapter: AnyAdapter, run: Work) -> tuple[Outcome, RecordingContext]:
    context = RecordingContext(run.run_id, run.attempt)
    return carry_out(adapter, run, context), context


def environment_of(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().rstrip(b"\0").split(b"\0")


# -- what a launcher shows, and what it has


def test_a_launcher_shows_the_environment_of_its_command_and_is_found_by_it_when_that_has_emptied_its_own(
    adapter: AnyAdapter,
) -> None:
    run = shell("env; exec env -i sh -c 'echo emptied; exec sleep 100'", env={"GIVEN": "Grüße = x\ny"})
    with following(adapter, run) as followed:
        followed.wait_for(b"emptied\n")
        pid = followed.context.pid
        shown = environment_of(pid)
        assert "GIVEN=Grüße = x\ny".encode() in shown
        assert f"REPRIEVE_RUN_ID={run.run_id}".encode() in shown
        assert [one.pid for one in processes_of(run.run_id)] == [pid]
        assert marker_of(pid) == ProcessIdentity.from_handle(followed.context.handle).marker != ""
        assert psutil.Process(pid).environ()[MARKER] == marker_of(pid)
        assert not any(variable.startswith(b"REPRIEVE_ROOM") for variable in shown)


def test_an_environment_for_which_a_server_has_no_room_gets_another_and_what_the_first_has_forked_goes_on(
    adapter: AnyAdapter, server: psutil.Process
) -> None:
    """A launcher shows all of it: from there the next follower knows what to mask."""
    with following(adapter, shell("echo up; exec sleep 100")) as first:
        first.wait_for(b"up\n")
        large = {f"LARGE_{number}": "x" * 100_000 for number in range(10)}
        with following(adapter, shell("echo ${#LARGE_9}; exec sleep 100", env=large)) as second:
            second.wait_for(b"100000\n")
            assert set(environment_of(second.context.pid)) >= {f"{name}={large[name]}".encode() for name in large}
            assert server_pid() != server.pid
            eventually(lambda: is_gone(server))
            assert not first.result.done()
            assert host.is_alive(ProcessIdentity.from_handle(first.context.handle))


def memory_of(pid: int) -> bytes:
    """All that a process may write to."""
    pieces = []
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            place, rights = line.split()[:2]
            if rights.startswith("rw"):
                start, end = (int(one, 16) for one in place.split("-"))
                memory.seek(start)
                pieces.append(memory.read(end - start))
    return b"".join(pieces)


def test_neither_the_server_nor_another_launcher_ever_has_what_a_command_was_given(
    adapter: AnyAdapter, server: psutil.Process
) -> None:
    """They are processes of the user whom every command may be: who can read their memory reads nobody's secrets."""
    given = "a-word-of-its-own-" + "7b1f"
    with following(adapter, shell("echo up; exec sleep 100", env={"GIVEN": given})) as first:
        first.wait_for(b"up\n")
        with following(adapter, shell("echo up; exec sleep 100")) as second:
            second.wait_for(b"up\n")
            assert given.encode() in memory_of(first.context.pid)
            for pid in (server_pid(), second.context.pid):
                assert given.encode() not in memory_of(pid)


def test_neither_the_server_nor_a_launcher_holds_what_another_command_writes_to(
    adapter: AnyAdapter, server: psutil.Process
) -> None:
    """Or the end of its output would be seen only when they end."""
    with ExitStack() as under_way:
        runs = [under_way.enter_context(following(adapter, shell("echo up; exec sleep 100"))) for _ in range(5)]
        for run in runs:
            run.wait_for(b"up\n")
        held = [files_of(run.context.pid) for run in runs]
        assert all(held[0] & other <= {"/dev/null", "anon_inode:[pidfd]"} for other in held[1:])
        of_the_server = sorted(name.partition(":[")[0] for name in files_of(server_pid()))
        assert of_the_server == ["/dev/null", "anon_inode", "socket"]


def libraries_of(pid: int) -> set[str]:
    return {line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if ".so" in line}


def test_a_launcher_loads_nothing_that_its_server_has_not_loaded(adapter: AnyAdapter, server: psutil.Process) -> None:
    with following(adapter, shell("(exit 0 & exit 0); echo begun; exec sleep 100")) as followed:
        followed.wait_for(b"begun\n")
        launcher = psutil.Process(followed.context.pid)
        eventually(lambda: len(launcher.children(recursive=True)) == 1, what="what was left behind to be collected")
        assert libraries_of(launcher.pid) <= libraries_of(server_pid())


def files_of(pid: int) -> set[str]:
    return {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}


def test_a_launcher_that_ends_leaves_no_zombie(adapter: AnyAdapter, server: psutil.Process) -> None:
    for _ in range(3):
        execute(adapter, work("true"))
    with following(adapter, shell("echo up; exec sleep 100")) as run:
        run.wait_for(b"up\n")
        os.kill(run.context.pid, signal.SIGKILL)
        eventually(lambda: psutil.Process(server_pid()).children() == [])
        run.context.stop()


# -- what it has of its worker


def test_a_command_runs_in_the_folder_where_its_worker_is_now(
    adapter: AnyAdapter, server: psutil.Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert execute(adapter, work("pwd"))[1].output() == f"{tmp_path}\n".encode()


def test_a_command_may_open_as_many_files_as_its_worker_now(adapter: AnyAdapter, server: psutil.Process) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 7, hard))
    try:
        assert execute(adapter, shell("ulimit -n"))[1].output() == f"{soft - 7}\n".encode()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


IN_A_FOLDER_THAT_IS_GONE = """
import os, sys
from pathlib import Path
from reprieve.adapters.process import ProcessAdapter
from reprieve.testing.contexts import RecordingContext, carry_out, work
os.chdir(sys.argv[1])
os.rmdir(sys.argv[1])
run = work("sh", "-c", "echo said")
context = RecordingContext(run.run_id)
print(carry_out(ProcessAdapter(Path("/"), "here"), run, context).detail, context.output())
"""


def test_a_worker_whose_folder_is_gone_starts_its_commands(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FOLDER_THAT_IS_GONE, str(tmp_path / "folder")],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        text=True,
    )
    assert done.stdout == "{'exit_status': 0} b'said\\n'\n", done.stderr


def test_bytes_that_are_no_text_reach_a_command_and_its_launcher_as_they_are(
    adapter: AnyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environb, b"OD\xffD", b"\xfe=\xff\n")
    program = "import os, time; os.write(1, os.environb[b'OD\\xffD']); time.sleep(100)"
    with following(adapter, work(sys.executable, "-c", program)) as run:
        run.wait_for(b"\xfe=\xff\n")
        assert b"OD\xffD=\xfe=\xff\n" in environment_of(run.context.pid)


def test_a_megabyte_of_environment_reaches_a_command_and_more_than_the_system_takes_is_told(
    adapter: AnyAdapter,
) -> None:
    large = {f"LARGE_{number}": "x" * 100_000 for number in range(10)}
    assert execute(adapter, shell("env | wc -c", env=large))[0] == SUCCESS
    larger = {f"LARGE_{number}": "x" * 100_000 for number in range(100)}
    for config in ({"env": larger}, {"env": {"LARGE": "x" * 200_000}}):
        outcome, context = execute(adapter, work("true", **config))
        assert "its arguments and its environment are longer than the system allows" in str(outcome.error_message)
        assert context.pid == 0


# -- a server that ends


def test_a_server_that_is_killed_harms_no_run_and_the_next_command_gets_another(
    adapter: AnyAdapter, server: psutil.Process, tmp_path: Path
) -> None:
    script = f"echo up; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo end; exit 3"
    with following(adapter, shell(script)) as run:
        run.wait_for(b"up\n")
        server.kill()
        eventually(lambda: is_gone(server))
        assert execute(adapter, work("true"))[0] == SUCCESS
        assert server_pid() != server.pid
        (tmp_path / "go").touch()
        assert run.outcome() == Outcome.of_exit(3)
        assert run.context.output() == b"up\nend\n"


def test_where_a_server_is_killed_before_it_has_answered_another_one_is_asked(
    adapter: AnyAdapter, server: psutil.Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, ask = threading.Event(), Server.ask

    def tell_that_it_was_asked(self: Server, files: Sequence[int]) -> None:
        ask(self, files)
        asked.set()

    monkeypatch.setattr(Server, "ask", tell_that_it_was_asked)
    server.suspend()
    with following(adapter, shell(f"echo once >> {tmp_path}/said")) as run:
        assert asked.wait(30)
        server.kill()
        assert run.outcome() == SUCCESS
    assert (tmp_path / "said").read_text() == "once\n"
    assert len(run.context.spawned + run.context.dispatched) == 1


def test_a_server_that_does_not_answer_is_ended_and_another_one_asked(
    adapter: AnyAdapter, server: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "ANSWER_SECONDS", 0.3)
    server.suspend()
    assert execute(adapter, work("true"))[0] == SUCCESS
    eventually(lambda: is_gone(server))


def test_servers_that_end_again_and_again_are_the_hosts_trouble_and_no_fault_of_the_work(
    adapter: AnyAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reprieve.adapters.launchers.FORK_SERVER", Path(os.devnull))
    with pytest.raises(OSError, match="was ended before") as raised:
        execute(adapter, work("true"))
    assert is_unfit(raised.value)


def test_a_server_without_a_free_descriptor_is_the_hosts_trouble_until_it_has_some(
    adapter: AnyAdapter, server: psutil.Process
) -> None:
    before, taken = server.rlimit(psutil.RLIMIT_NOFILE), len(("stdin", "stdout", "stderr"))
    for free in range(5):  # Of the three descriptors that come with a request, and the two that wake a launcher.
        server.rlimit(psutil.RLIMIT_NOFILE, (taken + free, before[1]))
        with pytest.raises(OSError, match=r"open files|was ended before") as raised:
            execute(adapter, work("true"))
        assert is_unfit(raised.value)
    server.rlimit(psutil.RLIMIT_NOFILE, before)
    assert execute(adapter, work("true"))[0] == SUCCESS
    assert server_pid() == server.pid
    assert len(files_of(server.pid)) == 3


def test_a_worker_without_a_free_descriptor_starts_nothing_loses_none_and_says_so_by_the_error(
    adapter: AnyAdapter, server: psutil.Process, tmp_path: Path
) -> None:
    execute(adapter, work("true"))
    # Numbers that are free below the highest one would be used first.
    holes = [os.open(os.devnull, os.O_RDONLY) for _ in range(max(open_files()) + 1 - len(open_files()))]
    before, (soft, hard) = open_files(), resource.getrlimit(resource.RLIMIT_NOFILE)
    ended: set[object] = set()
    for free in range(1, 24):
        run = shell(f"touch {tmp_path}/{free}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(before) + free, hard))
        try:
            ended.add(execute(adapter, run)[0].error_code)
        except OSError as error:
            ended.add(error.errno)
            assert not (tmp_path / f"{free}").exists()
        else:
            assert (tmp_path / f"{free}").exists()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for hole in holes:
        os.close(hole)
    assert ended == {None, errno.EMFILE}
    eventually(lambda: len(open_files()) <= len(before) - len(holes) + 1)


def open_files() -> list[int]:
    return [int(path.name) for path in Path("/proc/self/fd").iterdir()]


def test_where_there_can_be_no_other_process_the_channel_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    requests, (ours, theirs) = socket.socketpair(), socket.socketpair()
    with requests[0], requests[1], ours:
        fork_server.fork(requests[0], -1, [theirs.detach()])
        assert ours.recv(100) == b"e 11 Resource temporarily unavailable\n"
        assert ours.recv(100) == b""


def test_what_was_asked_for_by_half_is_not_started(
    server: psutil.Process, launchers: Launchers, tmp_path: Path
) -> None:
    asked = Asked(OWN, "inherited", "", b"", [b"touch", os.fsencode(tmp_path / "started")], {b"PATH": b"/bin:/usr/bin"})
    for length in (0, HEAD - 1, HEAD, HEAD + 10, len(asked.encoded()) - 1):
        ours, theirs = socket.socketpair()
        with ours, theirs, Path(os.devnull).open("wb") as nothing:
            launchers.ask([theirs.fileno(), nothing.fileno(), nothing.fileno()], 0)
            ours.sendall(asked.encoded()[:length])
        eventually(lambda: server.children() == [])
    assert not (tmp_path / "started").exists()


def test_where_the_system_has_no_descriptor_of_a_process_the_sockets_have_to_do(
    adapter: AnyAdapter, launchers: Launchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert execute(adapter, work("true"))[0] == SUCCESS
    server = psutil.Process(server_pid())
    assert "anon_inode:[pidfd]" not in files_of(server.pid)
    assert launchers._server is not None
    launchers._server.leave()
    eventually(lambda: is_gone(server))


def test_that_a_command_has_ended_is_heard_also_with_the_word_that_it_has_begun() -> None:
    async def both() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            channel = Channel(ours)
            theirs.sendall(b"s\nx 256 1\n")
            launched = Launched(ProcessIdentity(1, 1, 1.0, ""), channel)
            await launched.go()
            assert channel.has_more
            assert launched.exited() == Exited(1, left=True)
            assert not channel.has_more
        await launched.close()

    asyncio.run(both())


# -- a worker that ends

#: Follows a run, and says the numbers of its server and its launcher; then forks, and the fork says its own.
FORKING = """
import os, sys, threading, time
from pathlib import Path
from reprieve.adapters import command
from reprieve.adapters.process import ProcessAdapter
from reprieve.testing.contexts import RecordingContext, carry_out, work
run = work("sh", "-c", "echo up; exec sleep 300")
context = RecordingContext(run.run_id)
threading.Thread(target=carry_out, args=(ProcessAdapter(Path("/"), "here"), run, context), daemon=True).start()
while not context.chunks:
    time.sleep(0.01)
print(command.LAUNCHERS._server.pid, context.pid, flush=True)
if os.fork() == 0:
    run = work("sh", "-c", "echo mine")
    context = RecordingContext(run.run_id)
    outcome = asyncio.run(ProcessAdapter(Path("/"), "here").execute(run, AsyncRecordingContext(context)))
    print(os.getpid(), command.LAUNCHERS._server.pid, context.output().decode().strip(), outcome.detail, flush=True)
time.sleep(300)
""".replace("import os, sys", "import asyncio, os, sys").replace("import Rec", "import AsyncRecordingContext, Rec")


def test_a_server_ends_with_its_worker_though_a_fork_of_that_lives_and_the_fork_has_one_of_its_own() -> None:
    with subprocess.Popen([sys.executable, "-c", FORKING], cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        server, launcher = (psutil.Process(int(pid)) for pid in worker.stdout.readline().split())
        fork, its_own, said, *detail = worker.stdout.readline().split()
        try:
            assert (said, detail) == ("mine", ["{'exit_status':", "0}"])
            worker.kill()
            eventually(lambda: is_gone(server) and is_gone(launcher))
            assert not is_gone(psutil.Process(int(its_own)))
        finally:
            worker.kill()
            os.kill(int(fork), signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(int(its_own)) or is_gone(psutil.Process(int(its_own))))


#: Ends at once when it has let a launcher do this: is asked for, has answered, was recorded.
DYING = """
import asyncio, os, signal, sys
from pathlib import Path
from reprieve.adapters import command
from reprieve.adapters.process import ProcessAdapter
from reprieve.testing.contexts import RecordingContext, carry_out, work

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

class Context(RecordingContext):
    def on_spawn(self, *recorded):
        if sys.argv[1] == "answered":
            die()

run = work("sh", "-c", "touch $0; exec sleep 300", sys.argv[2])
print(run.run_id, flush=True)
if sys.argv[1] == "asked":
    command.Channel.say = die
if sys.argv[1] == "told":
    command.Channel.line = die
if sys.argv[1] == "recorded":
    command.Launched.go = die
if sys.argv[1] == "let go":
    command.Launched._expect = die
carry_out(ProcessAdapter(Path("/"), "here"), run, Context(run.run_id))
"""


@pytest.mark.parametrize("step", ["asked", "told", "answered", "recorded", "let go"])
def test_a_worker_that_is_killed_at_any_step_leaves_nothing_running(step: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DYING, step, str(tmp_path / "started")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run_id = done.stdout.strip()
    eventually(lambda: processes_marked("REPRIEVE_RUN_ID", run_id) == [])
    assert step == "let go" or not (tmp_path / "started").exists()


# -- many at once


def test_two_hundred_commands_at_once_all_end_while_one_floods(process: ProcessAdapter, tmp_path: Path) -> None:
    async def one(run: Work) -> tuple[Outcome, bytes]:
        context = RecordingContext(run.run_id)
        return await process.execute(run, AsyncRecordingContext(context)), context.output()

    class Counting(AsyncRecordingContext):
        """Keeps nothing."""

        taken = 0

        async def on_log(self, stream: str, chunk: bytes | str, cursor: str | None = None) -> None:
            self.taken += len(chunk)

    async def all_of_them() -> list[tuple[Outcome, bytes]]:
        run = work("yes")
        told = RecordingContext(run.run_id)
        flood = Counting(told)
        flooding = asyncio.create_task(process.execute(run, flood))
        while flood.taken == 0:
            await asyncio.sleep(0.01)
        ended = await asyncio.gather(*(one(work("echo", str(number))) for number in range(200)))
        before = flood.taken
        while flood.taken == before:
            await asyncio.sleep(0.01)
        told.stop()
        await flooding
        return ended

    ended = asyncio.run(all_of_them())
    assert ended == [(SUCCESS, f"{number}\n".encode()) for number in range(200)]


def test_output_that_is_not_taken_holds_up_its_own_run_alone(process: ProcessAdapter) -> None:
    class Full(AsyncRecordingContext):
        room = asyncio.Event()

        async def on_log(self, stream: str, chunk: bytes | str, cursor: str | None = None) -> None:
            await self.room.wait()
            await super().on_log(stream, chunk, cursor)

    async def both() -> None:
        held, free = (RecordingContext(run.run_id) for run in (work("true"), work("true")))
        full = Full(held)
        waiting = asyncio.create_task(process.execute(shell("echo first; echo second"), full))
        while not held.spawned:
            await asyncio.sleep(0.01)
        assert await process.execute(shell("echo said"), AsyncRecordingContext(free)) == SUCCESS
        assert not waiting.done()
        full.room.set()
        assert (await waiting, held.output()) == (SUCCESS, b"first\nsecond\n")

    asyncio.run(both())


@pytest.mark.row("B11")
def test_whoever_was_let_go_and_prints_for_ever_does_not_hold_the_run_up(adapter: AnyAdapter) -> None:
    outcome, context = execute(adapter, shell(f"{MARKER}= setsid yes & echo $! >&2; sleep 0.5"))
    with suppress(ProcessLookupError):  # Nobody reads any more what it prints.
        os.kill(int(context.output("stderr")), signal.SIGKILL)
    assert outcome == SUCCESS


def test_whoever_is_to_leave_a_child_of_its_own_ends_it_at_once(process: ProcessAdapter) -> None:
    """Nobody else can follow it: it is released where it is no longer this worker's to run."""
    with following(process, shell("echo up; exec sleep 100")) as run:
        run.wait_for(b"up\n")
        run.context.release()
        with pytest.raises(Released):
            run.outcome()
        assert processes_of(run.context.run_id) == []
