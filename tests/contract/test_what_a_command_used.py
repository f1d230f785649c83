"""What a command used is said when it has ended, and where memory was why: all that descends from it together."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from reprieve.adapters import cgroup
from reprieve.adapters.detached import DetachedAdapter
from reprieve.adapters.launchers import LAUNCHERS
from reprieve.adapters.process import ProcessAdapter
from reprieve.adapters.protocol import Adapter
from reprieve.models.status import ErrorCode
from reprieve.models.used import Used
from reprieve.models.work import Outcome, Work
from reprieve.testing.contexts import RecordingContext, carry_out, following, work
from tests.support.waiting import eventually

MIB = 1024**2

#: A process that burns so many seconds of processor.
BURN = "import time\nwhile time.process_time() < {}: pass\n"
#: One that has so many MiB in memory.
HOLD = "held = bytearray({} * 1024 ** 2)\nfor place in range(0, len(held), 4096): held[place] = 1\n"


@pytest.fixture(params=[ProcessAdapter, DetachedAdapter], ids=["process", "detached"])
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Adapter:
    built: Adapter = request.param(tmp_path / "adapter", "here")
    return built


def python(program: str, **config: Any) -> Work:
    return work(sys.executable, "-I", "-S", "-c", program, **config)


def ended(adapter: Adapter, of: Work) -> Outcome:
    return carry_out(adapter, of, RecordingContext(of.run_id, of.attempt))


def used(outcome: Outcome) -> Used:
    assert outcome.used is not None
    return outcome.used


def test_the_processor_time_and_the_peak_of_memory_of_a_command_are_said(adapter: Adapter) -> None:
    said = used(ended(adapter, python(HOLD.format(64) + BURN.format(0.4))))
    assert 0.39 < (said.cpu_seconds or 0) < 5
    assert 64 * MIB < (said.peak_memory_bytes or 0) < 128 * MIB


def test_a_command_that_fails_says_the_same(adapter: Adapter) -> None:
    outcome = ended(adapter, python(BURN.format(0.2) + "raise SystemExit(3)"))
    assert (outcome.error_code, outcome.detail) == (ErrorCode.EXIT_STATUS, {"exit_status": 3})
    assert (used(outcome).cpu_seconds or 0) > 0.19


@pytest.mark.parametrize(
    "way",
    [
        "import os, subprocess, sys\nsubprocess.run([sys.executable, '-I', '-S', '-c', {program!r}])",
        # One whose parent has ended, in a session of its own: it comes back to the launcher.
        "import os, subprocess, sys, time\n"
        "one = ['sh', '-c', '\"$0\" -I -S -c \"$1\" & exit', sys.executable, {program!r}]\n"
        "subprocess.run(one, start_new_session=True)\ntime.sleep(1.5)",
    ],
    ids=["a child that it waits for", "an orphan in another session"],
)
def test_what_descends_from_it_counts(adapter: Adapter, way: str) -> None:
    said = used(ended(adapter, python(way.format(program=HOLD.format(48) + BURN.format(0.3)))))
    assert (said.cpu_seconds or 0) > 0.29
    assert (said.peak_memory_bytes or 0) > 48 * MIB


def test_what_is_ended_after_the_command_itself_counts_as_well(adapter: Adapter) -> None:
    left = BURN.format(60)
    said = used(ended(adapter, python(f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {left!r}])")))
    assert (said.cpu_seconds or 0) > 0.2


def test_a_command_that_is_stopped_says_what_it_had_used_by_then(adapter: Adapter) -> None:
    with following(adapter, python(BURN.format(0.3) + "print('burned', flush=True)\ntime.sleep(100)")) as run:
        run.wait_for(b"burned\n")
        run.context.stop()
        assert (used(run.outcome()).cpu_seconds or 0) > 0.29


def test_who_ends_it_with_sigkill_is_not_taken_for_memory(adapter: Adapter) -> None:
    outcome = ended(adapter, python("import os\nos.kill(os.getpid(), 9)"))
    assert (outcome.error_code, outcome.error_message) == (
        ErrorCode.EXIT_STATUS,
        "The command was ended by SIGKILL.",
    )


def test_a_command_that_cannot_be_started_used_nothing(adapter: Adapter) -> None:
    assert ended(adapter, work("no-such-program")).used is None


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ('{"returncode": 0}', Used()),
        ('{"returncode": 0, "cpu_seconds": 1.5}', Used(1.5)),
        ('{"returncode": 0, "cpu_seconds": "much", "peak_memory_bytes": -1, "oom_kills": 1e9}', Used()),
        ('{"returncode": 0, "cpu_seconds": Infinity, "peak_memory_bytes": true}', Used()),
        ('{"returncode": 0, "cpu_seconds": 1e15}', Used(1e15)),
        ('{"returncode": 0, "cpu_seconds": 1.1e15}', Used()),
        ('{"returncode": 0, "peak_memory_bytes": 99999999999999999999, "more": {}}', Used()),
    ],
)
def test_a_record_of_an_earlier_release_says_nothing_of_it_and_one_that_says_anything_harms_nobody(
    tmp_path: Path, record: str, expected: Used
) -> None:
    adapter = DetachedAdapter(tmp_path / "adapter", "here")
    with following(adapter, python("import time\ntime.sleep(100)")) as run:
        eventually(lambda: run.context.dispatched != [])
        folder = tmp_path / "adapter" / run.context.handle["folder"]
        (folder / "exit.json").write_text(record)
        assert (run.outcome().error_code, used(run.outcome())) == (None, expected)
        adapter.terminate(run.context.handle)


def test_the_record_of_an_exit_is_one_that_an_earlier_release_reads(tmp_path: Path) -> None:
    adapter = DetachedAdapter(tmp_path / "adapter", "here")
    ended(adapter, python("raise SystemExit(7)"))
    (record,) = (tmp_path / "adapter").glob("*/*/exit.json")
    said = json.loads(record.read_text())
    assert said["returncode"] == 7
    assert said.keys() == {"returncode", "cpu_seconds", "peak_memory_bytes"}


def begin_another_server() -> None:
    """Launchers are in the cgroup that the process which forks them has begun in."""
    with LAUNCHERS._lock:
        if LAUNCHERS._server is not None:
            LAUNCHERS._leave(LAUNCHERS._server)


# -- what the kernel ends when memory is short


def score_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_a_command_and_what_it_starts_are_ended_before_their_launcher_and_their_worker(adapter: Adapter) -> None:
    script = "cat /proc/self/oom_score_adj; echo said; sleep 100"
    with following(adapter, work("sh", "-c", script)) as run:
        run.wait_for(b"said\n")
        mine, launchers = score_of(os.getpid()), score_of(run.context.pid)
        assert (launchers, int(run.context.output().split()[0])) == (mine, min(mine + 500, 1000))
        run.context.stop()


#: A worker in a cgroup (version 1) that may have so many MiB, whose commands want more.
SHORT_OF_MEMORY = """
import json, sys
from pathlib import Path
from reprieve.adapters import kills
from reprieve.adapters.detached import DetachedAdapter
from reprieve.adapters.process import ProcessAdapter
from reprieve.testing.contexts import RecordingContext, carry_out, work

kind, folder, hold = sys.argv[1:]
adapter = {"process": ProcessAdapter, "detached": DetachedAdapter}[kind](Path(folder), "here")
too_much = [sys.executable, "-I", "-S", "-c", hold]
for command in (too_much, ["sh", "-c", '"$@"; exit $?', "sh", *too_much], ["sh", "-c", "exit 1"]):
    one = work(*command)
    outcome = carry_out(adapter, one, RecordingContext(one.run_id))
    print(json.dumps([outcome.error_code, outcome.error_message]))
"""


def test_where_memory_is_short_the_run_dies_and_not_its_worker_and_that_is_said_as_likely(
    adapter: Adapter, tmp_path: Path
) -> None:
    folders = cgroup._own_of_version_1()
    if not folders or not os.access(folders[0] / "cgroup.procs", os.W_OK):
        pytest.skip("no cgroup (version 1) that counts memory can be made here")
    below = folders[0] / f"test-{uuid4().hex}"
    below.mkdir()
    (below / "memory.limit_in_bytes").write_text(str(400 * MIB))
    enter = f'echo 0 > {below}/cgroup.procs && exec "$@"'
    words = [sys.executable, "-c", SHORT_OF_MEMORY, type(adapter).type, str(tmp_path), HOLD.format(4096)]  # type: ignore[attr-defined]
    try:
        ran = subprocess.run(["sh", "-c", enter, "sh", *words], capture_output=True, text=True, check=True)
    finally:
        eventually(lambda: not (below / "cgroup.procs").read_text())
        below.rmdir()
    itself, through_a_shell, failed = map(json.loads, ran.stdout.splitlines())
    for said, first in (
        (itself, "The command was ended by SIGKILL."),
        (through_a_shell, "The command ended with exit status 137."),
    ):
        assert said[0] == "exit_status"
        assert said[1].startswith(f"{first} The kernel killed ")
        assert " for want of memory in its worker's cgroup in the last " in said[1]
        assert "so it is likely that it was for that (at the most 3" in said[1]
    # What was killed a moment before says nothing of what fails by itself.
    assert failed == ["exit_status", "The command ended with exit status 1."]


# -- a limit of its own


@pytest.fixture
def dividing() -> Iterator[Path]:
    """A cgroup that was delegated to this process, which is in the part of it that is for workers."""
    mount, own = cgroup._mount_point(), cgroup._own()
    if mount is None or own is None or "memory" not in (mount / "cgroup.controllers").read_text().split():
        pytest.skip("no cgroup (version 2) that divides memory can be made here")
    (mount / "cgroup.subtree_control").write_text("+memory")
    base = mount / f"test-{uuid4().hex}"
    (base / cgroup.WORKERS).mkdir(parents=True)
    os.setxattr(base, "user.delegate", b"1")
    begin_another_server()
    (base / cgroup.WORKERS / "cgroup.procs").write_text("0")
    try:
        yield base
    finally:
        (own / "cgroup.procs").write_text("0")
        begin_another_server()
        cgroup.kill(base)
        eventually(lambda: not cgroup.members(base))
        cgroup.remove(base)


def limited(of: Work, limit: int) -> Work:
    return replace(of, max_memory_bytes=limit)


def test_a_command_with_more_memory_than_it_may_have_is_ended_as_that_with_its_peak_and_its_limit(
    adapter: Adapter, dividing: Path
) -> None:
    outcome = ended(adapter, limited(python(HOLD.format(256)), 64 * MIB))
    assert outcome.error_code is ErrorCode.OOM_KILLED
    assert outcome.error_message == (
        "It ran out of memory, and the kernel killed it (at the most 64 MiB, limit 64 MiB). "
        "The command was ended by SIGKILL."
    )
    assert outcome.detail == {"signal": signal.SIGKILL}
    assert used(outcome).memory_limit_bytes == 64 * MIB
    assert not list(dividing.glob("reprieve-[0-9a-f]*"))


def test_all_of_an_attempt_goes_when_one_process_of_it_has_too_much(adapter: Adapter, dividing: Path) -> None:
    two = work("sh", "-c", '"$0" -c "$1"; sleep 100', sys.executable, HOLD.format(256))
    outcome = ended(adapter, limited(two, 64 * MIB))
    assert (outcome.error_code, outcome.detail) == (ErrorCode.OOM_KILLED, {"signal": signal.SIGKILL})


def test_a_command_that_stays_within_its_limit_notices_nothing(adapter: Adapter, dividing: Path) -> None:
    outcome = ended(adapter, limited(python(HOLD.format(32) + BURN.format(0.2)), 128 * MIB))
    assert (outcome.error_code, used(outcome).memory_limit_bytes, used(outcome).oom_kills) == (None, 128 * MIB, 0)
    assert 32 * MIB < (used(outcome).peak_memory_bytes or 0) < 128 * MIB


def test_who_was_let_go_leaves_a_cgroup_with_a_limit_as_well(adapter: Adapter, dividing: Path) -> None:
    script = "REPRIEVE_NONCE= setsid sleep 7.531 & sleep 0.2"
    assert ended(adapter, limited(work("sh", "-c", script), 64 * MIB)).error_code is None
    eventually(lambda: not list(dividing.glob("reprieve-[0-9a-f]*")))
    assert len(cgroup.members(dividing / cgroup.WORKERS)) >= 2


def test_a_service_whose_worker_is_in_the_cgroup_to_be_divided_is_told_what_would_do_and_nothing_is_moved(
    adapter: Adapter, dividing: Path
) -> None:
    (dividing / "cgroup.procs").write_text("0")
    outcome = ended(adapter, limited(work("true"), 64 * MIB))
    assert outcome.error_code is ErrorCode.ADAPTER_ERROR
    assert "give its systemd service DelegateSubgroup=reprieve-worker beside Delegate=yes" in (
        outcome.error_message or ""
    )
    assert os.getpid() in cgroup.members(dividing)
    assert not list(dividing.glob("reprieve-[0-9a-f]*"))
    assert ended(adapter, work("true")).error_code is None


IN_A_CONTAINER = """
import sys
from dataclasses import replace
from pathlib import Path
from reprieve.adapters.process import ProcessAdapter
from reprieve.testing.contexts import RecordingContext, carry_out, work

for _ in range(2):
    one = replace(work(sys.executable, "-c", sys.argv[1]), max_memory_bytes=64 * 1024 ** 2)
    outcome = carry_out(ProcessAdapter(Path(), "here"), one, RecordingContext(one.run_id))
    print(outcome.error_code, outcome.error_message)
print(sorted(path.name for path in Path("/sys/fs/cgroup").iterdir() if path.is_dir()))
print(Path("/proc/self/cgroup").read_text())
"""


def test_in_a_container_whose_cgroup_is_its_own_the_worker_makes_room_for_limits_itself(dividing: Path) -> None:
    """As Docker gives it: a cgroup namespace, and the tree from there on."""
    (dividing / "cgroup.subtree_control").write_text("+memory")
    container = dividing / "container"
    container.mkdir()
    script = (
        f"echo 0 > {container}/cgroup.procs && exec unshare --cgroup --mount sh -c '"
        'umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$0" -c "$1" "$2"\' "$0" "$1" "$2"'
    )
    words = ["sh", "-c", script, sys.executable, IN_A_CONTAINER, HOLD.format(256)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split(" ")[0] for line in said[:2]] == ["oom_killed", "oom_killed"]
    assert said[2:4] == ["['reprieve-worker']", "0::/reprieve-worker"]


def test_where_memory_cannot_be_limited_a_run_with_a_limit_fails_with_what_would_do(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "_base", lambda: None)
    outcome = ended(adapter, limited(work("true"), 64 * MIB))
    assert outcome.error_code is ErrorCode.ADAPTER_ERROR
    assert (outcome.error_message or "").startswith(
        "The command could not be started: its memory cannot be limited here, since this worker has no cgroup"
    )
    assert "DelegateSubgroup=reprieve-worker" in (outcome.error_message or "")
    assert ended(adapter, work("true")).error_code is None


def test_a_command_that_cannot_enter_the_cgroup_that_limits_it_is_not_started(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cgroup, "create", lambda marker: tmp_path / "gone")
    monkeypatch.setattr(cgroup, "limit", lambda folder, size: None)
    outcome = ended(adapter, limited(work("touch", str(tmp_path / "began")), 64 * MIB))
    assert "could not be put into the cgroup that limits its memory (No such file" in (outcome.error_message or "")
    assert not (tmp_path / "began").exists()
