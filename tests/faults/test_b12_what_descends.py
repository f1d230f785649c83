"""B11, B12, C09, C10: an attempt owns all that descends from its command, wherever that moved, and nothing else."""

import os
import platform
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from reprieve import cancel_run, enqueue_run
from reprieve.adapters import cgroup, host
from reprieve.adapters.detached import DetachedAdapter
from reprieve.adapters.ownership import MARKER
from reprieve.adapters.process import ProcessAdapter
from reprieve.adapters.protocol import Adapter
from reprieve.models.process import ProcessIdentity
from reprieve.models.status import ErrorCode
from reprieve.models.work import Outcome, Work
from reprieve.testing.contexts import RecordingContext, carry_out, following, work
from reprieve.workers.bootstrap import Services
from tests.faults.helpers_cdeg import no_process_left, reap
from tests.support.processes import processes_marked, processes_of
from tests.support.rows import kinds, pass_the_wait, status_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere, only the command itself is sure to be ended"
)

#: Ways in which work leaves the process group of its command, each printing `tick` for ever.
TICK = "while :; do echo tick; sleep 0.2; done"
DAEMON = f"""
import os, subprocess, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        os.execvpe("sh", ["sh", "-c", {TICK!r}], {{"PATH": os.environ["PATH"]}} if sys.argv[1:] else dict(os.environ))
    os._exit(0)
os.wait()
"""
LEAVERS = {
    "timeout": ["sh", "-c", f"timeout 60 sh -c '{TICK}'; echo after"],
    "setsid": ["sh", "-c", f"setsid sh -c '{TICK}'"],
    "setsid in the background": ["sh", "-c", f"setsid sh -c '{TICK}' & wait"],
    "job control": ["bash", "-c", f"set -m; sh -c '{TICK}' & wait"],
    "a daemon of two forks": [sys.executable, "-c", DAEMON + "import time; time.sleep(100)"],
    "a daemon with an empty environment": [sys.executable, "-c", DAEMON + "import time; time.sleep(100)", "empty"],
    "an empty environment": ["sh", "-c", f"env -i setsid sh -c '{TICK}'"],
    "deaf to the request": ["sh", "-c", f"setsid sh -c 'trap \"\" TERM HUP INT; {TICK}' & wait"],
    "stopped": ["sh", "-c", f"setsid sh -c '{TICK}' & sleep 0.5; kill -STOP $!; wait"],
}


@pytest.fixture(params=[ProcessAdapter, DetachedAdapter], ids=["process", "detached"])
def adapter(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Adapter:
    monkeypatch.setattr(host, "TERMINATE_GRACE", 0.5)
    built: Adapter = request.param(tmp_path / "adapter", "here")
    return built


#: Waits until what was started last is what it is to become: before, it is the shell's own, marker and all.
UNTIL_IT_IS = "until grep -q ^sleep /proc/$!/cmdline; do sleep 0.05; done"


def shell(script: str, **config: object) -> Work:
    return work("sh", "-c", script, **config)


def execute(adapter: Adapter, run: Work) -> tuple[Outcome, RecordingContext]:
    context = RecordingContext(run.run_id, run.attempt)
    return carry_out(adapter, run, context), context


@contextmanager
def alone(token: str) -> Iterator[Callable[[], list[psutil.Process]]]:
    """The processes whose arguments or environment hold a word of the test's own; none outlives the block."""

    def found() -> list[psutil.Process]:
        return [one for one in psutil.process_iter() if one.pid != os.getpid() and _mentions(one, token)]

    try:
        yield found
    finally:
        for one in found():
            with suppress(psutil.Error):
                one.kill()


def _mentions(process: psutil.Process, token: str) -> bool:
    with suppress(psutil.Error):
        alive = process.status() != psutil.STATUS_ZOMBIE
        return alive and any(argument == token or f": {token};" in argument for argument in process.cmdline())
    return False


# -- B11: the end of the command is the end of the attempt


@pytest.mark.row("B11")
@pytest.mark.parametrize(
    "script",
    [
        "setsid sleep {token} & echo built; exit 0",
        "(setsid sleep {token} &) ; echo built",
        "nohup sleep {token} & echo built",
    ],
)
def test_a_command_that_has_exited_ends_its_run_whoever_still_holds_its_output(adapter: Adapter, script: str) -> None:
    token = str(700 + uuid4().int % 10**6 / 10**6)
    with alone(token) as left:
        outcome, context = execute(adapter, shell(script.format(token=token)))
        assert outcome == Outcome(detail={"exit_status": 0})
        assert b"built\n" in context.output()
        assert left() == []


@pytest.mark.row("B11")
def test_what_is_left_may_print_for_two_seconds_and_no_longer(adapter: Adapter) -> None:
    outcome, context = execute(adapter, shell("setsid sh -c 'sleep 0.5; echo late; sleep 30; echo never' & echo first"))
    assert (outcome.error_code, context.output()) == (None, b"first\nlate\n")


@pytest.mark.row("B11")
def test_a_daemon_that_ignores_the_request_does_not_hold_the_run_up(adapter: Adapter) -> None:
    outcome, context = execute(adapter, shell("setsid sh -c 'trap \"\" TERM; sleep 100; sleep 100' & exit 3"))
    assert outcome == Outcome.of_exit(3)
    assert processes_of(context.run_id) == []


@pytest.mark.row("B11")
def test_a_daemon_that_prints_for_ever_does_not_hold_the_run_up(adapter: Adapter) -> None:
    outcome, context = execute(adapter, shell("setsid yes & exit 0"))
    assert outcome.error_code is None
    assert processes_of(context.run_id) == []


# -- B12: what is ended is all of it


@pytest.mark.row("B12")
@pytest.mark.parametrize("way", LEAVERS)
def test_a_stop_ends_what_has_left_the_group(adapter: Adapter, way: str) -> None:
    token = f"token-{uuid4().hex}"
    command = [part.replace("tick;", f"tick; : {token};") for part in LEAVERS[way]]
    with alone(token) as left, following(adapter, work(*command)) as run:
        run.wait_for(b"tick\n")
        assert left()
        run.context.stop()
        run.outcome()
        assert left() == []
    assert b"after" not in run.context.output()


@pytest.mark.row("B12")
@pytest.mark.parametrize("way", LEAVERS)
def test_terminate_by_the_record_alone_ends_what_has_left_the_group(adapter: Adapter, way: str) -> None:
    token = f"token-{uuid4().hex}"
    command = [part.replace("tick;", f"tick; : {token};") for part in LEAVERS[way]]
    with alone(token) as left, following(adapter, work(*command)) as run:
        run.wait_for(b"tick\n")
        adapter.terminate(run.context.handle)
        assert left() == []


@pytest.mark.row("B12")
@pytest.mark.parametrize("way", ["timeout", "setsid", "a daemon of two forks", "deaf to the request"])
def test_what_outlived_a_launcher_that_was_killed_is_found_by_its_marker(adapter: Adapter, way: str) -> None:
    token = f"token-{uuid4().hex}"
    command = [part.replace("tick;", f"tick; : {token};") for part in LEAVERS[way]]
    with alone(token) as left, following(adapter, work(*command)) as run:
        run.wait_for(b"tick\n")
        os.kill(run.context.pid, signal.SIGKILL)
        adapter.terminate(run.context.handle)
        assert left() == []
        run.context.stop()


#: Forks for ever, so that no process of it lives for long.
RELAY = """
import os, sys
os.write(1, b"up\\n")
while True:
    if os.fork():
        os._exit(0)
    os.setsid()
"""
#: Each of so many forks for ever.
BOMB = """
import os
os.write(1, b"up\\n")
for _ in range(4):
    os.fork()
while True:
    if os.fork():
        os._exit(0)
"""


@pytest.mark.row("B12")
@pytest.mark.parametrize("program", [RELAY, BOMB], ids=["relay", "bomb"])
def test_what_forks_for_ever_is_caught(adapter: Adapter, program: str) -> None:
    run = work(
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import os\nif os.fork():\n    os.wait()\n    import time\n    time.sleep(100)\n{program}",
    )
    with following(adapter, run) as followed:
        followed.wait_for(b"up\n")
        adapter.terminate(followed.context.handle)
        assert processes_of(run.run_id) == []


@pytest.mark.row("B12")
def test_a_command_that_kills_its_whole_group_and_session_does_not_reach_what_stands_above_it(
    adapter: Adapter,
) -> None:
    outcome, _ = execute(adapter, shell("echo up; kill -9 0"))
    assert outcome == Outcome.of_exit(-signal.SIGKILL)


@pytest.mark.row("B12")
def test_what_is_started_to_clean_up_may_finish_within_the_grace(
    adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "TERMINATE_GRACE", 20.0)
    script = f"trap 'sh -c \"sleep 0.5; touch {tmp_path}/cleaned\"; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    with following(adapter, shell(script)) as run:
        run.wait_for(b"up\n")
        adapter.terminate(run.context.handle)
        assert (tmp_path / "cleaned").exists()


@pytest.mark.row("B12")
def test_the_way_out_is_another_value_of_the_marker(adapter: Adapter) -> None:
    token = str(700 + uuid4().int % 10**6 / 10**6)
    with alone(token) as left:
        script = f"{MARKER}= setsid sleep {token} >/dev/null 2>&1 & {UNTIL_IT_IS}; echo started"
        outcome, context = execute(adapter, shell(script))
        assert outcome.error_code is None
        adapter.terminate(context.handle)
        assert len(left()) == 1


@pytest.mark.row("B12")
def test_whoever_was_let_go_and_holds_the_output_does_not_hold_the_run_up(adapter: Adapter) -> None:
    token = str(700 + uuid4().int % 10**6 / 10**6)
    with alone(token) as left:
        outcome, context = execute(adapter, shell(f"{MARKER}= setsid sleep {token} & {UNTIL_IT_IS}; echo started"))
        assert (outcome.error_code, context.output()) == (None, b"started\n")
        assert len(left()) == 1


@pytest.mark.row("B12")
def test_a_run_inside_a_run_is_its_own(adapter: Adapter) -> None:
    """What a run starts under a marker of its own, as a worker inside it would, is not ended with it."""
    token = str(700 + uuid4().int % 10**6 / 10**6)
    with (
        alone(token) as left,
        following(adapter, shell(f"{MARKER}={uuid4().hex} setsid sleep {token} & {UNTIL_IT_IS}; echo up; wait")) as run,
    ):
        run.wait_for(b"up\n")
        eventually(left)
        run.context.stop()
        run.outcome()
        assert len(left()) == 1


#: Ends its first thread, and ticks in another: the system then lists the process as a zombie.
HEADLESS = """
import ctypes, os, sys, threading, time

def tick():
    while True:
        with open(sys.argv[1], "a") as file:
            print(os.getpid(), file=file)
        time.sleep(0.05)

threading.Thread(target=tick).start()
ctypes.CDLL(None).syscall(60, 0)
"""


@pytest.mark.row("B12")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="a system call by its number")
def test_a_process_whose_first_thread_has_ended_is_ended_too(adapter: Adapter, tmp_path: Path) -> None:
    (tmp_path / "headless.py").write_text(HEADLESS)
    ticks = tmp_path / "ticks"
    script = (
        f"setsid {sys.executable} {tmp_path}/headless.py {ticks} & until [ -s {ticks} ]; do sleep 0.05; done; exit 0"
    )
    outcome, _ = execute(adapter, shell(script))
    assert outcome.error_code is None
    pid = int(ticks.read_text().split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.row("B12")
def test_a_worker_with_more_than_a_thousand_descriptors_starts_its_commands(adapter: Adapter) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("this process may not open so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    with ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            opened.enter_context(Path(os.devnull).open("rb"))
        outcome, context = execute(adapter, shell("sleep 0.3; echo said"))
    assert (outcome.error_code, context.output()) == (None, b"said\n")


# -- with a cgroup of its own


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A cgroup that was delegated to this process, which is in it for as long as the test takes."""
    mount = cgroup._mount_point()
    own = cgroup._own()
    if mount is None or own is None or not os.access(own / "cgroup.procs", os.W_OK):
        pytest.skip("no cgroup (version 2) can be made here")
    base = mount / f"test-{uuid4().hex}"
    base.mkdir()
    os.setxattr(base, "user.delegate", b"1")
    (base / "cgroup.procs").write_text("0")
    try:
        yield base
    finally:
        (own / "cgroup.procs").write_text("0")
        cgroup.kill(base)
        eventually(lambda: not cgroup.members(base))
        cgroup.remove(base)


@pytest.mark.row("B12")
def test_in_a_delegated_cgroup_nothing_leaves_even_with_its_launcher_killed_and_no_environment(
    adapter: Adapter, delegated: Path
) -> None:
    token = f"token-{uuid4().hex}"
    way = LEAVERS["a daemon with an empty environment"]
    command = [part.replace("tick;", f"tick; : {token};") for part in way]
    with alone(token) as left, following(adapter, work(*command)) as run:
        run.wait_for(b"tick\n")
        assert len(list(delegated.glob("reprieve-*"))) == 1
        os.kill(run.context.pid, signal.SIGKILL)
        adapter.terminate(run.context.handle)
        assert left() == []
        run.context.stop()
    assert list(delegated.glob("reprieve-*")) == []


@pytest.mark.row("B12")
def test_a_cgroup_goes_with_its_attempt_and_who_was_let_go_leaves_it(adapter: Adapter, delegated: Path) -> None:
    token = str(700 + uuid4().int % 10**6 / 10**6)
    with alone(token) as left:
        with following(
            adapter, shell(f"{MARKER}= setsid sleep {token} & {UNTIL_IT_IS}; echo started; exec sleep 100")
        ) as run:
            run.wait_for(b"started\n")
            adapter.terminate(run.context.handle)
            assert len(left()) == 1
        assert list(delegated.glob("reprieve-*")) == []


@pytest.mark.row("B12")
def test_a_cgroup_goes_with_a_command_that_ends_by_itself(adapter: Adapter, delegated: Path) -> None:
    token = str(700 + uuid4().int % 10**6 / 10**6)
    with alone(token) as left:
        outcome, _ = execute(adapter, shell(f"{MARKER}= setsid sleep {token} & {UNTIL_IT_IS}; echo started"))
        assert (outcome.error_code, len(left())) == (None, 1)
        eventually(lambda: list(delegated.glob("reprieve-*")) == [])


@pytest.mark.row("B12")
def test_a_command_that_cannot_be_started_leaves_no_cgroup(adapter: Adapter, delegated: Path) -> None:
    for command in ("no-such-program", "/"):
        outcome, _ = execute(adapter, work(command))
        assert outcome.error_code is ErrorCode.ADAPTER_ERROR
    assert list(delegated.glob("reprieve-*")) == []


@pytest.mark.row("B12")
def test_two_who_end_the_same_attempt_both_find_it_gone_whoever_has_removed_its_cgroup(
    delegated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = cgroup.create("one")
    assert place is not None
    (place / "below").mkdir()
    read = Path.read_text

    def remove_it_before(self: Path) -> str:
        if place.exists():
            cgroup.remove(place)
        return read(self)

    monkeypatch.setattr(Path, "read_text", remove_it_before)
    assert cgroup.members(place) == []
    assert cgroup.members(place) == []


@pytest.mark.row("B12")
def test_a_cgroup_that_was_not_handed_over_is_not_divided(delegated: Path) -> None:
    assert cgroup.create("one") == delegated / "reprieve-one"
    os.removexattr(delegated, "user.delegate")
    assert cgroup.create("two") is None


# -- C10: a number that somebody else has now


@pytest.mark.row("C10")
def test_a_stranger_with_the_number_of_our_group_is_left_alone() -> None:
    stranger = subprocess.Popen(["sleep", "100"], start_new_session=True)
    try:
        gone = subprocess.Popen(["true"])
        gone.wait()
        for marker in ("", uuid4().hex):
            ours = ProcessIdentity(gone.pid, stranger.pid, 1.0, host.namespace(), marker)
            host.terminate(ours, grace=0.1)
            host.terminate(ProcessIdentity(stranger.pid, stranger.pid, 1.0, host.namespace(), marker), grace=0.1)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


#: In a PID namespace of its own: a command ends, and its number and group are given to a stranger, who must live.
RECYCLED = """
import os, subprocess, sys, time
from reprieve.adapters import host

ours = subprocess.Popen(["sleep", "100"], start_new_session=True, env={**os.environ, "REPRIEVE_RUN_ID": "x"})
identity = host.identify(ours.pid, sys.argv[1])
ours.kill()
ours.wait()
time.sleep(0.1)
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(ours.pid - 1))
stranger = subprocess.Popen(["sleep", "100"], start_new_session=True)
assert stranger.pid == ours.pid, (stranger.pid, ours.pid)
host.terminate(identity, 0.2)
print("lives" if stranger.poll() is None else "killed")
"""


@pytest.mark.row("C10")
@pytest.mark.parametrize("marker", ["", "a-marker"])
def test_a_number_that_the_kernel_has_given_away_again_is_not_signalled(marker: str) -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", RECYCLED, marker]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2]
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("no PID namespace can be made here")
    assert done.stdout.strip() == "lives", done.stderr


# -- through real workers


@pytest.mark.row("B12")
@pytest.mark.parametrize("adapter_type", ["process", "detached"])
def test_a_cancelled_run_is_terminated_when_nothing_of_it_is_left(
    services: Services, start_worker, adapter_type: str
) -> None:
    start_worker()
    token = f"token-{uuid4().hex}"
    script = f"timeout 60 sh -c 'while :; do echo tick; : {token}; sleep 0.2; done'; echo after"
    with alone(token) as left:
        run_id = enqueue_run(adapter_type, {"command": ["sh", "-c", script]}).id
        eventually(lambda: services.logs.last_seq(run_id, 1) > 0)
        cancel_run(run_id)
        eventually(lambda: "terminated" in kinds(services, run_id))
        assert left() == []
        assert processes_of(run_id) == []


#: Says that it is there in a file for as long as it is, and whether another is.
WRITER = """
import fcntl, os, time
lock = open("lock", "a")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    word = "alone"
except BlockingIOError:
    word = "overlap"
with open("said", "a") as file:
    file.write(f"{word} {os.environ['REPRIEVE_ATTEMPT']}\\n")
if os.environ["REPRIEVE_ATTEMPT"] == "1":
    time.sleep(120)
"""


@pytest.mark.row("C09")
@pytest.mark.parametrize("way", ["timeout 100", "setsid", "setsid --fork", "setsid -w timeout 100"])
def test_a_retry_waits_until_nothing_of_the_first_attempt_is_left_wherever_it_has_moved(
    services: Services, start_worker, tmp_path: Path, way: str
) -> None:
    (tmp_path / "writer.py").write_text(WRITER)
    said = tmp_path / "said"
    script = f"{way} {sys.executable} writer.py; [ $REPRIEVE_ATTEMPT = 2 ] || sleep 100"
    first = start_worker(name="first")
    run_id = enqueue_run("process", {"command": ["sh", "-c", script], "cwd": str(tmp_path)}, max_attempts=2).id
    with no_process_left(run_id):
        eventually(lambda: said.exists() and said.read_text() == "alone 1\n")
        first.kill()
        assert reap(services, run_id)["reaped"] == 1
        pass_the_wait(services, run_id)
        start_worker(name="second")
        eventually(lambda: status_of(services, run_id) == "succeeded", timeout=60)
        eventually(lambda: said.read_text().count("\n") == 2)
    assert said.read_text() == "alone 1\nalone 2\n"


@pytest.mark.row("B12")
def test_all_that_descends_from_a_command_dies_with_its_worker(tmp_path: Path) -> None:
    """Also what has a session of its own: the launcher sees that the worker is gone."""
    program = f"""
from pathlib import Path
from reprieve.adapters.process import ProcessAdapter
from reprieve.testing.contexts import RecordingContext, carry_out, work
run = work("sh", "-c", "setsid sleep 300 & setsid sleep 300 & touch {tmp_path}/up; exec sleep 300")
print(run.run_id, flush=True)
carry_out(ProcessAdapter(Path("."), "here"), run, RecordingContext(run.run_id))
"""
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        run_id = worker.stdout.readline().strip()
        eventually((tmp_path / "up").exists)
        assert len(processes_marked("REPRIEVE_RUN_ID", run_id)) == 4
        worker.kill()
    eventually(lambda: processes_marked("REPRIEVE_RUN_ID", run_id) == [])


@pytest.mark.row("B12")
def test_a_fork_of_the_worker_does_not_keep_the_work_of_a_worker_that_is_gone(tmp_path: Path) -> None:
    program = f"""
import os, threading, time
from pathlib import Path
from reprieve.adapters.process import ProcessAdapter
from reprieve.testing.contexts import RecordingContext, carry_out, work
run = work("sh", "-c", "touch {tmp_path}/up; exec sleep 300")
print(run.run_id, flush=True)
context = RecordingContext(run.run_id)
threading.Thread(target=carry_out, args=(ProcessAdapter(Path("."), "here"), run, context)).start()
while not os.path.exists("{tmp_path}/up"):
    time.sleep(0.01)
if os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(300)
time.sleep(300)
"""
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        run_id, fork = worker.stdout.readline().strip(), int(worker.stdout.readline())
        worker.kill()
        try:
            eventually(lambda: processes_marked("REPRIEVE_RUN_ID", run_id) == [])
        finally:
            os.kill(fork, signal.SIGKILL)
