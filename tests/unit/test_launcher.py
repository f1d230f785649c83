"""The launcher's copying of a terminal: what it does when the disk is full, and when there is no terminal."""

import asyncio
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from reprieve.adapters import command_files
from reprieve.adapters.command import launch
from reprieve.adapters.launcher import OWN, Asked
from reprieve.adapters.launchers import FORK_SERVER
from reprieve.models.faults import is_unfit
from reprieve.testing.contexts import work


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_waited_for_and_nothing_is_dropped_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    write, answers = os.write, iter([code, 3, code, 100])

    def write_a_little(fd: int, data: bytes) -> int:
        answer = next(answers)
        if answer == code:
            raise OSError(code, os.strerror(code))
        return write(fd, data[:answer])

    monkeypatch.setattr(command_files, "DISK_INTERVAL", 0)
    monkeypatch.setattr(os, "write", write_a_little)
    with (tmp_path / "stdout").open("ab") as file:
        command_files.write_output(file.fileno(), b"a line\n")
    assert (tmp_path / "stdout").read_bytes() == b"a line\n"


def test_another_error_of_writing_is_not_waited_for() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with pytest.raises(BrokenPipeError):
            command_files.write_output(writing, b"a line\n")
    finally:
        os.close(writing)


def test_the_end_of_a_terminal_is_the_end_of_its_output_and_another_error_is_told() -> None:
    reading, writing = command_files.open_terminal()
    try:
        os.write(writing, b"a line\n")
        os.close(writing)
        assert [command_files.read_output(reading), command_files.read_output(reading)] == [b"a line\n", b""]
    finally:
        os.close(reading)
    with pytest.raises(OSError, match="Bad file descriptor"):
        command_files.read_output(reading)


def test_a_host_without_a_terminal_left_is_unfit_and_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> tuple[int, int]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "openpty", refuse)
    with pytest.raises(OSError, match=r"there is no terminal for it \(No space left on device\)") as refused:
        asyncio.run(launch(work("true", pty=True), OWN))
    assert is_unfit(refused.value)


#: A launcher on a machine without terminals.
WITHOUT_TERMINALS = """
import errno, os, sys
from reprieve.adapters import launcher

def refuse():
    raise OSError(errno.ENOSPC, "No space left on device")

os.openpty = refuse
launcher.run(int(sys.argv[1]), [1, 2], -1)
"""


def test_where_the_launcher_finds_no_terminal_it_says_so_and_starts_nothing(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(Asked(str(tmp_path), "terminal", "", b"", [b"echo", b"started"], {}).encoded())
        with theirs:
            command = [sys.executable, "-c", WITHOUT_TERMINALS, str(theirs.fileno())]
            done = subprocess.run(command, capture_output=True, timeout=60, pass_fds=[theirs.fileno()])
        said = b"".join(iter(lambda: ours.recv(4096), b""))
    assert (done.returncode, done.stdout) == (127, b"")
    assert said.splitlines()[1:] == [b"e 28 there is no terminal for it (No space left on device)"]


#: The server that forks launchers, as far as it imports what stands beside it.
AS_A_SCRIPT = """
import sys
path = sys.argv[1]
script = {"__name__": "__main__", "__file__": path}
exec(compile(open(path).read().removesuffix("main()\\n") + "pass\\n", path, "exec"), script)
import secrets
print(secrets.__file__, script["launcher"].starting.__file__)
"""


def test_what_stands_beside_the_launcher_hides_no_module_of_the_standard_library() -> None:
    command = [sys.executable, "-I", "-S", "-c", AS_A_SCRIPT, str(FORK_SERVER)]
    done = subprocess.run(command, capture_output=True, timeout=60, text=True)
    standard, ours = map(Path, done.stdout.split())
    assert (FORK_SERVER.parent / "secrets.py").exists()
    assert (standard.parent == FORK_SERVER.parent, ours.parent == FORK_SERVER.parent) == (False, True)
