"""A machine of our own with systemd as its PID 1 and a memory controller in its cgroups: a Debian in user-mode Linux.

A container would share the cgroups of whatever the tests run on, which may be of version 1, or without control of
memory; and it could not be switched off. This kernel is a program, needs no virtualisation, and is as slow as one would
expect: some three times slower than the machine that it runs on, on one processor. It has no network but loopback.
"""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).parents[2]
#: Where a Debian is kept between two calls: it takes a minute to make.
KEPT = ROOT / "build" / "systemd"
PACKAGES = (
    "systemd,systemd-sysv,dbus,procps,python3,python3-venv,postgresql,redis-server,ca-certificates,curl,util-linux"
)
#: What clients need where a machine's way out has an authority of its own.
OF_THIS_MACHINE = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf", "/etc/resolv.conf")
AGENT = """
[Unit]
Description=Does what the tests ask for
After=multi-user.target
[Service]
ExecStart=/usr/bin/python3 /root/agent.py /dev/ttyS0
OOMScoreAdjust=-1000
"""
MEMORY = "2G"
DISK = "6G"


@dataclass(frozen=True)
class Done:
    status: int
    output: str
    errors: str


class Machine:
    """One that may be switched on and off; what is on its disk stays."""

    def __init__(self, folder: Path, disk: Path) -> None:
        self._disk, self._folder = disk, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._heard = b""

    def switch_on(self, timeout: float = 240) -> None:
        """Boot; returns when all that is started at boot was."""
        ours, theirs = socket.socketpair()
        console = (self._folder / "console.log").open("ab")
        command = [
            "linux.uml",
            f"mem={MEMORY}",
            f"ubd0={self._folder / 'changes.cow'},{self._disk}",
            "root=/dev/ubda",
            "rw",
            "con=null",
            "con0=null,fd:1",
            f"ssl0=fd:{theirs.fileno()},fd:{theirs.fileno()}",
            "systemd.show_status=no",
        ]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._folder), "TMPDIR": str(self._folder)}
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        console.close()
        theirs.close()
        self._line, self._heard = ours, b""
        assert self._answer(timeout) == {"ready": True}

    def run(self, script: str, *, check: bool = True, timeout: float = 120) -> Done:
        """Have a script done there by root; raises `AssertionError` with what it said, where it fails and `check`."""
        assert self._line is not None, "the machine is off"
        self._line.sendall(base64.b64encode(script.encode()) + b"\n")
        done = Done(**self._answer(timeout))
        assert not check or done.status == 0, f"{script}\n{done.output[-3000:]}{done.errors[-3000:]}"
        return done

    def said(self, script: str, **options: float) -> str:
        """What a script there writes, without white space around it."""
        return self.run(script, **options).output.strip()  # type: ignore[arg-type]

    def eventually(self, script: str, timeout: float = 120) -> None:
        """Wait for a script there to succeed."""
        deadline = time.monotonic() + timeout
        while (done := self.run(script, check=False)).status != 0:
            assert time.monotonic() < deadline, f"{script}\n{done.output[-3000:]}{done.errors[-3000:]}"
            time.sleep(0.5)

    def switch_off(self) -> None:
        """As a person does it: everything is asked to end."""
        assert self._process is not None
        with suppress(AssertionError, OSError):
            self.run("systemctl poweroff --no-block")
        self._process.wait(180)
        self._forget()

    def pull_the_plug(self) -> None:
        """Nothing of it gets to say anything."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._forget()

    def _forget(self) -> None:
        assert self._process is not None
        assert self._line is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._line.close()
        self._process = self._line = None

    def _answer(self, timeout: float) -> MappingProxyType[str, object]:
        assert self._line is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._heard:
            self._line.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                piece = self._line.recv(65536)
            except TimeoutError:
                raise AssertionError(f"the machine did not answer within {timeout:.0f} s{self._console()}") from None
            assert piece, f"the machine went off{self._console()}"
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        return MappingProxyType(json.loads(base64.b64decode(line)))

    def _console(self) -> str:
        return ":\n" + (self._folder / "console.log").read_text(errors="replace")[-3000:]


@contextmanager
def machine(suite: str, wheel: Path, install: list[str], folder: Path) -> Iterator[Machine]:
    """A machine of this release of Debian on which these commands were done before it is first switched on."""
    root, disk = folder / "root", folder / "disk.img"
    subprocess.run(["cp", "--archive", _debian(suite), root], check=True)
    (root / "srv" / "wheels").mkdir()
    shutil.copy(wheel, root / "srv" / "wheels")
    shutil.copytree(ROOT / "deploy", root / "srv" / "reprieve" / "deploy")
    for script in install:
        done = subprocess.run(
            ["chroot", root, "/bin/bash", "-ec", f"cd /srv/reprieve\n{script}"],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    subprocess.run(["truncate", "--size", DISK, disk], check=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, disk], check=True)
    shutil.rmtree(root)
    one = Machine(folder, disk)
    try:
        one.switch_on()
        yield one
    finally:
        one.pull_the_plug()
        disk.unlink()
        (folder / "changes.cow").unlink(missing_ok=True)


def _debian(suite: str) -> Path:
    """A small Debian with PostgreSQL, Redis and Python, as they come, and an agent that does what it is asked to."""
    kept = KEPT / suite
    if kept.exists():
        return kept
    KEPT.mkdir(parents=True, exist_ok=True)
    making = KEPT / f"{suite}.new"
    shutil.rmtree(making, ignore_errors=True)
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(making)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:]
    for name in OF_THIS_MACHINE:
        if Path(name).exists():
            shutil.copy(name, making / name[1:])
    for cached in (making / "var" / "cache" / "apt" / "archives").glob("*.deb"):
        cached.unlink()
    (making / "etc" / "hostname").write_text("first\n")
    (making / "etc" / "hosts").write_text("127.0.0.1 localhost\n127.0.1.1 first\n")
    shutil.copy(Path(__file__).with_name("agent.py"), making / "root" / "agent.py")
    (making / "etc" / "systemd" / "system" / "agent.service").write_text(AGENT)
    wanted = making / "etc" / "systemd" / "system" / "graphical.target.wants"
    wanted.mkdir()
    (wanted / "agent.service").symlink_to("../agent.service")
    making.rename(kept)
    return kept
