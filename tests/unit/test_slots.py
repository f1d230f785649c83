"""Slots of a data folder: who gets which name, whatever was killed, damaged or not allowed."""

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reprieve.adapters import slots
from reprieve.adapters.slots import Lease, Slots
from reprieve.models.errors import NoIdentity
from reprieve.models.nodes import is_name

MACHINE = "boot-1/pid:[4026531836]"
HERE = "boot-1/pid:[4026532001]"
BESIDE = "boot-1/pid:[4026532002]"
THIRD = "boot-1/pid:[4026532003]"

Hold = Callable[..., Lease]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "nodes"


@pytest.fixture
def hold(folder: Path) -> Iterator[Hold]:
    """Holds a slot as a process of that PID namespace does, until the end of the test."""
    leases: list[Lease] = []

    def take(namespace: str = HERE, wanted: str | None = None, host_name: str = "host", **more: Any) -> Lease:
        leases.append(Slots(folder, namespace).hold(wanted, wanted or host_name, **more))
        return leases[-1]

    yield take
    for lease in leases:
        lease.let_go()


def name_of(lease: Lease) -> str:
    return lease.node.name


# -- who gets which


def test_the_first_slot_of_a_folder_has_the_hosts_name(hold: Hold) -> None:
    lease = hold()
    assert (lease.node.name, lease.node.namespace, lease.is_first) == ("host", HERE, True)


def test_processes_of_one_pid_namespace_share_one_name(hold: Hold, folder: Path) -> None:
    first, second = hold(), hold(host_name="renamed-meanwhile")
    assert second.node == first.node
    assert not second.is_first
    first.let_go()
    # The name is held for as long as one of them is there.
    assert name_of(hold(BESIDE)) == "host-2"
    assert Slots(folder, HERE).look(None) == second.node


def test_three_containers_on_one_folder_have_three_names(hold: Hold) -> None:
    leases = [hold(HERE, host_name="c1"), hold(BESIDE, host_name="c2"), hold(THIRD, host_name="c3")]
    assert [name_of(one) for one in leases] == ["c1", "c2", "c3"]
    assert len({one.node.slot for one in leases}) == 3


def test_names_set_by_hand_are_numbered(hold: Hold) -> None:
    leases = [hold(HERE, "web"), hold(BESIDE, "web"), hold(THIRD, "web")]
    assert [name_of(one) for one in leases] == ["web", "web-2", "web-3"]


def test_a_recreated_container_inherits_the_name_whatever_it_is_called(hold: Hold) -> None:
    first = hold(HERE, host_name="0a1b2c")
    first.let_go()
    again = hold(BESIDE, host_name="9f8e7d")
    assert (again.node.name, again.node.slot, again.is_first) == ("0a1b2c", first.node.slot, True)


def test_a_process_that_comes_back_finds_the_slot_that_its_own_namespace_had(hold: Hold) -> None:
    hold(HERE).let_go()
    hold(HERE), (second := hold(BESIDE)).let_go()
    assert hold(BESIDE).node == second.node


def test_what_the_machine_itself_left_is_not_inherited_by_a_container_before_a_reboot(hold: Hold) -> None:
    first = hold(MACHINE, host_name="metal")
    first.let_go()
    assert name_of(hold(HERE, host_name="container")) == "container"
    assert hold(MACHINE).node == first.node
    first.let_go()


def test_after_a_reboot_the_name_is_inherited_by_whoever_comes(hold: Hold) -> None:
    first = hold(MACHINE, host_name="metal")
    first.let_go()
    assert hold("boot-2/pid:[4026532001]").node.slot == first.node.slot


def test_another_name_by_hand_is_another_node_and_its_own_by_hand_is_the_same(hold: Hold) -> None:
    first = hold(host_name="host")
    assert name_of(hold(wanted="other")) == "other"
    assert hold(wanted="host").node == first.node


def test_a_name_that_was_set_by_hand_is_kept_when_it_is_not_any_more(hold: Hold) -> None:
    hold(wanted="web").let_go()
    assert name_of(hold(host_name="host")) == "web"


def test_a_name_that_is_held_elsewhere_is_left_out(hold: Hold) -> None:
    hold(host_name="host").let_go()
    assert name_of(hold(without={"host"})) == "host-2"


def test_to_look_makes_nothing_and_takes_nothing(hold: Hold, folder: Path) -> None:
    assert Slots(folder, HERE).look(None) is None
    assert not folder.parent.exists()
    lease = hold(HERE)
    assert Slots(folder, HERE).look(None) == lease.node
    assert Slots(folder, BESIDE).look(None) is None
    assert Slots(folder, HERE).look("another") is None
    lease.let_go()
    assert name_of(hold(BESIDE)) == "host"
    assert Slots(folder, HERE).look(None) is None


# -- damage


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"{", b"[]", b'{"id": 1}', b"\xff\xfe", b'{"id": "a", "name": "a b"}']
)
def test_a_slot_whose_record_is_empty_or_garbage_is_mended(hold: Hold, folder: Path, content: bytes) -> None:
    hold(host_name="host").let_go()
    (folder / "1" / "slot.json").write_bytes(content)
    lease = hold(host_name="host")
    assert (lease.node.name, lease.is_first) == ("host", True)
    assert hold(host_name="host").node == lease.node
    assert json.loads((folder / "1" / "slot.json").read_text())["id"] == lease.node.slot


def test_a_record_that_is_damaged_while_it_is_held_is_left_to_its_holder(hold: Hold, folder: Path) -> None:
    held = hold()
    (folder / "1" / "slot.json").write_text("garbage")
    other = hold(host_name="another")
    assert other.node.slot != held.node.slot
    assert name_of(other) == "another"


@pytest.mark.parametrize("content", [b"", b"\0\0", b"\xff"])
def test_a_slot_that_does_not_say_who_holds_it_is_free_when_nobody_does(
    hold: Hold, folder: Path, content: bytes
) -> None:
    first = hold(HERE)
    (folder / "1" / "holder").write_bytes(content)
    assert name_of(hold(BESIDE)) == "host-2"
    first.let_go()
    assert hold(THIRD).node.slot == first.node.slot


def test_other_things_in_the_folder_are_passed_over(hold: Hold, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "notes").write_text("mine")
    (folder / "lost+found").mkdir()
    assert name_of(hold()) == "host"


# -- killed at any step

STEPS = """
import os, sys
sys.path[:0] = {path!r}
from pathlib import Path
from reprieve.adapters.slots import Slots

left = int(sys.argv[1])
def step(frame, event, argument):
    global left
    if frame.f_code.co_filename.endswith("slots.py") and event in ("line", "return"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
    return step
sys.settrace(step)
lease = Slots(Path(sys.argv[2]), sys.argv[3]).hold(None, "host")
sys.settrace(None)
print(lease.node.name, flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_process_killed_between_any_two_steps_leaves_a_folder_that_gives_the_name(tmp_path: Path) -> None:
    """In forks rather than programs: there are hundreds of steps."""
    path = [one for one in sys.path if one]
    code = compile(STEPS.format(path=path), "steps", "exec")
    left, finished = 0, False
    while not finished:
        folder = tmp_path / str(left) / "nodes"
        finished = _killed_after(code, left, folder)
        for namespace in (BESIDE, THIRD):
            lease = Slots(folder, namespace).hold(None, "host")
            assert lease.node.name == "host", left
            assert [one.name for one in folder.glob("new-*")] == [], left
            lease.let_go()
        left += 1
    assert left > 50


def _killed_after(code: Any, left: int, folder: Path) -> bool:
    """Have a child take a slot and kill itself after so many steps; whether it had one by then."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 1)
        sys.argv = ["steps", str(left), str(folder), HERE]
        sys.stdout = os.fdopen(1, "w")
        exec(code, {})
        os._exit(3)
    os.close(writing)
    with os.fdopen(reading, "rb") as output:
        told = output.read()
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    return bool(told)


# -- children and forks


def test_a_child_program_does_not_hold_the_name_after_its_worker(hold: Hold) -> None:
    lease = hold(HERE)
    child = subprocess.Popen(["sleep", "600"], close_fds=False)
    try:
        lease.let_go()
        assert name_of(hold(BESIDE)) == "host"
    finally:
        child.kill()
        child.wait()


def test_a_forked_child_neither_holds_nor_loses_its_parents_name(hold: Hold) -> None:
    lease = hold(HERE)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"held" if lease.is_held else b"free")
        os.close(writing)
        signal.pause()
        os._exit(0)
    try:
        os.close(writing)
        assert os.read(reading, 10) == b"free"
        assert lease.is_held
        assert name_of(hold(BESIDE)) == "host-2"
        lease.let_go()
        # The child is still there, and does not have the name.
        assert hold(THIRD).node == lease.node.__class__(lease.node.name, lease.node.slot, THIRD)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_many_that_come_at_once_share_one_slot_in_one_namespace_and_have_one_each_in_others(folder: Path) -> None:
    program = (
        f"import sys; sys.path[:0] = {[one for one in sys.path if one]!r}\n"
        "from pathlib import Path; from reprieve.adapters.slots import Slots\n"
        "lease = Slots(Path(sys.argv[1]), sys.argv[2]).hold(None, 'host'); print(lease.node.name, flush=True)\n"
        "sys.stdin.read()"
    )
    namespaces = [HERE, BESIDE, THIRD] * 3
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(folder), one], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for one in namespaces
    ]
    try:
        names = [child.stdout.readline().strip() for child in children if child.stdout]
    finally:
        for child in children:
            child.communicate()
    assert sorted(set(names)) == ["host", "host-2", "host-3"]
    assert all(len({name for name, of in zip(names, namespaces, strict=True) if of == one}) == 1 for one in namespaces)


# -- what cannot be


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_in_a_sentence(
    hold: Hold, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(NoIdentity, match=r"has no locks\. Set REPRIEVE_DATA_DIR to a disk of this host"):
        hold()


def test_a_folder_that_may_not_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
    with pytest.raises(NoIdentity, match="a folder that it may write to"):
        _as_nobody(lambda: Slots(folder / "nodes", HERE).hold(None, "host"), tmp_path)
    assert list(folder.iterdir()) == []


def _as_nobody(act: Callable[[], object], folder: Path) -> None:
    """Root may write anywhere: for the time being, this thread's effective user is nobody."""
    if os.geteuid() != 0:
        act()
        return
    for one in (folder, *folder.parents):
        if one.owner() == "root" and not one.stat().st_mode & stat.S_IXOTH:
            one.chmod(one.stat().st_mode | stat.S_IXOTH)
    os.seteuid(65534)
    try:
        act()
    finally:
        os.seteuid(0)


def test_a_process_that_is_stopped_as_it_takes_a_slot_is_not_waited_for_without_end(
    hold: Hold, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(parents=True)
    monkeypatch.setattr(slots, "LONGEST_WAIT", 0.2)
    with (folder / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        with pytest.raises(NoIdentity, match="Is it stopped"):
            hold()
        assert time.monotonic() - began < 10
    assert name_of(hold()) == "host"


def test_every_name_that_is_given_can_be_shown(hold: Hold) -> None:
    assert is_name(name_of(hold()))
