"""Processes of this host: which one is meant, whether it lives, and its end with its whole group."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from uuid import uuid4

import psutil
import pytest

from reprieve.adapters import host, ownership
from reprieve.adapters.ownership import MARKER
from reprieve.models.process import ProcessIdentity
from tests.support.waiting import eventually

Start = Callable[..., tuple[subprocess.Popen[str], ProcessIdentity]]

MARK = uuid4().hex
READY = "print('ready', flush=True); "
SLEEP = "import time; " + READY + "time.sleep(100)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
#: A leader whose child, which ignores SIGTERM, is the one that says it is ready.
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]); import time; time.sleep(100)"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a Python program that leads its own group and has said that it is ready; ends the group after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(program: str, marked: bool = False) -> tuple[subprocess.Popen[str], ProcessIdentity]:
        command = [sys.executable, "-I", "-S", "-c", program]
        environment = {**os.environ, MARKER: MARK} if marked else None
        popen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment)
        started.append(popen)
        assert popen.stdout is not None
        assert popen.stdout.readline() == "ready\n"
        identity = host.identify(popen.pid, MARK if marked else "")
        assert identity is not None
        return popen, identity

    yield run
    for popen in started:
        with suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        with popen:
            popen.wait()


def members(group: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


# -- which one is meant


def test_an_identity_stays_the_same_and_survives_its_way_through_a_row(start: Start) -> None:
    popen, identity = start(SLEEP)
    assert host.identify(popen.pid) == identity
    assert ProcessIdentity.from_handle(identity.as_handle()) == identity
    assert host.is_alive(ProcessIdentity.from_handle(identity.as_handle()))


def test_a_process_that_ended_is_not_alive_even_before_its_parent_has_noticed(start: Start) -> None:
    popen, identity = start(SLEEP)
    popen.kill()
    eventually(lambda: psutil.Process(popen.pid).status() == psutil.STATUS_ZOMBIE)
    assert not host.is_alive(identity)
    assert host.identify(popen.pid) is None
    popen.wait()
    assert not host.is_alive(identity)
    assert host.identify(popen.pid) is None


@pytest.mark.parametrize(("later", "same"), [(0.0, True), (0.04, True), (0.06, False), (-0.06, False), (3600, False)])
def test_a_process_of_this_number_is_ours_only_with_our_start_time(start: Start, later: float, same: bool) -> None:
    _, identity = start(SLEEP)
    assert host.is_alive(replace(identity, started_at=identity.started_at + later)) is same


def test_a_process_of_another_boot_or_namespace_is_not_ours(start: Start) -> None:
    _, identity = start(SLEEP)
    assert not host.is_alive(replace(identity, namespace="another-boot/pid:[1]"))


def test_a_start_time_counts_from_the_boot_and_not_by_the_time_of_day() -> None:
    started, uptime = host.started_at(os.getpid()), time.clock_gettime(time.CLOCK_BOOTTIME)
    assert started is not None
    assert 0 < started < uptime + 1


# -- its end


def test_a_group_that_is_asked_to_end_is_not_killed(start: Start) -> None:
    popen, identity = start(SLEEP)
    host.terminate(identity)
    assert popen.wait() == -signal.SIGTERM


def test_a_process_that_ignores_the_request_is_killed_after_the_grace_and_not_before(start: Start) -> None:
    popen, identity = start(STUBBORN)
    asked = time.monotonic()
    host.terminate(identity, grace=0.4)
    assert time.monotonic() - asked >= 0.4
    assert popen.wait() == -signal.SIGKILL


def test_what_descends_from_a_process_is_ended_with_it(start: Start) -> None:
    popen, identity = start(PARENT, marked=True)
    assert len(members(popen.pid)) == 2
    host.terminate(identity, grace=0.2)
    assert members(popen.pid) == []


def test_what_is_left_of_the_work_of_a_process_that_is_gone_is_ended_too(start: Start) -> None:
    popen, identity = start(PARENT, marked=True)
    popen.kill()
    popen.wait()
    assert len(members(popen.pid)) == 1
    host.terminate(identity, grace=0.2)
    assert members(popen.pid) == []


def test_ending_a_group_again_is_no_error(start: Start) -> None:
    popen, identity = start(SLEEP)
    host.terminate(identity)
    popen.wait()
    host.terminate(identity)


def test_a_process_that_only_has_the_number_of_ours_is_left_alone(start: Start) -> None:
    popen, identity = start(SLEEP)
    host.terminate(replace(identity, started_at=1.0), grace=0.2)
    assert popen.poll() is None
    assert host.is_alive(identity)


def test_a_process_of_another_boot_or_namespace_is_left_alone_and_not_taken_for_gone(start: Start) -> None:
    popen, identity = start(SLEEP)
    with pytest.raises(host.StillAlive, match="another PID namespace"):
        host.terminate(replace(identity, namespace="another-boot/pid:[1]"), grace=0.2)
    assert popen.poll() is None


def test_two_who_end_the_same_group_at_once_both_succeed(start: Start) -> None:
    popen, identity = start(STUBBORN)
    failures: list[BaseException] = []

    def end() -> None:
        try:
            host.terminate(identity, grace=0.2)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=end) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert failures == []
    assert popen.wait() == -signal.SIGKILL


def test_work_that_survives_even_the_kill_is_told(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    _, identity = start(SLEEP)
    monkeypatch.setattr(ownership, "send", lambda found, number: None)
    monkeypatch.setattr(host, "KILL_GRACE", 0.1)
    with pytest.raises(host.StillAlive, match=str(identity.pid)):
        host.terminate(identity, grace=0.1)
