"""C02: a second attempt begins only when the first is confirmed gone, and what is fenced off starts nothing."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from redis import Redis

from reprieve import enqueue_run
from reprieve.adapters import host
from reprieve.adapters.command import launch
from reprieve.adapters.process import ProcessAdapter
from reprieve.models.errors import Superseded
from reprieve.models.process import ProcessIdentity
from reprieve.models.work import Work
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from tests.faults.helpers_cdeg import all_at_once, bury, no_process_left, on_another_host, reap
from tests.support.following import start
from tests.support.processes import processes_of, sleeping_process
from tests.support.rows import age, claim, in_process, kinds, pass_the_wait, record_process, running, status_of
from tests.support.shipping import direct_shipper
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("C02")

#: Holds a lock for as long as any process of its attempt lives. The first attempt has a child of its own.
WORK = """
import fcntl, os, time
def say(word):
    with open("said", "a") as file:
        file.write(word + "\\n")
lock = open("lock", "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    say("overlap")
if os.environ["REPRIEVE_ATTEMPT"] == "1":
    say("survivor" if os.fork() == 0 else "first")
    time.sleep(120)
say("second")
"""


def _enqueue(folder: Path) -> UUID:
    config = {"command": [sys.executable, "-c", WORK], "cwd": str(folder)}
    return enqueue_run("process", config, max_attempts=2).id


def _said(folder: Path) -> list[str]:
    path = folder / "said"
    return sorted(path.read_text().split()) if path.exists() else []


def _lost(services: Services, process: ProcessIdentity, host_name: str) -> Work:
    """An in-process run whose worker is gone, reaped for it, with its second attempt still to come."""
    work = in_process(services, max_attempts=2)
    record_process(services, work.fence, host_name, process)
    assert reap(services, work.run_id)["reaped"] == 1
    assert status_of(services, work.run_id) == "queued"
    pass_the_wait(services, work.run_id)
    return work


def _termination(services: Services, work: Work) -> str | None:
    return services.runs.get_attempt(work.run_id, 1).termination


def _is_held_back(services: Services, run_id: UUID) -> bool:
    """Whether neither a message nor the sweep gets the next attempt started."""
    age(services, run_id, 100_000)
    resent = services.resends.unclaimed(services.timing.resend_after, 6)
    return resent == [] and claim(services, run_id, "worker@test") is None


def test_a_killed_workers_run_is_retried_only_when_nothing_of_the_first_attempt_is_left(
    services: Services, start_worker, tmp_path: Path
) -> None:
    first = start_worker(name="first")
    run_id = _enqueue(tmp_path)
    with no_process_left(run_id):
        eventually(lambda: _said(tmp_path) == ["first", "survivor"])
        # So that it cannot end its command with the worker.
        os.kill(services.runs.get_attempt(run_id, 1).process_pid, signal.SIGSTOP)
        first.kill()
        assert reap(services, run_id)["reaped"] == 1
        assert processes_of(run_id)
        pass_the_wait(services, run_id)
        assert _is_held_back(services, run_id)
        start_worker(name="second")
        eventually(lambda: status_of(services, run_id) == "succeeded")
    assert _said(tmp_path) == ["first", "second", "survivor"]
    attempts = ["claimed", "spawned", "reaped", "terminated", "claimed", "spawned", "succeeded"]
    assert kinds(services, run_id) == ["enqueued", *attempts]


def test_a_worker_that_stalls_and_comes_back_finds_its_run_ended_and_changes_nothing(
    services: Services, redis: Redis, start_worker, tmp_path: Path
) -> None:
    stalled = start_worker("runs", name="stalled")
    run_id = _enqueue(tmp_path)
    with no_process_left(run_id):
        eventually(lambda: _said(tmp_path) == ["first", "survivor"])
        stalled.send(signal.SIGSTOP)
        # What it still waits for at Redis would be given to it, and stay with it.
        eventually(lambda: redis.info("clients")["blocked_clients"] == 0)
        assert reap(services, run_id)["reaped"] == 1
        pass_the_wait(services, run_id)
        start_worker(name="second")
        eventually(lambda: status_of(services, run_id) == "succeeded")
        before = (services.runs.get(run_id).updated_at, kinds(services, run_id))
        stalled.send(signal.SIGCONT)
        stalled.wait_for("attempt 1: not followed here any more: superseded.")
    assert (services.runs.get(run_id).updated_at, kinds(services, run_id)) == before
    assert _said(tmp_path) == ["first", "second", "survivor"]


def test_a_run_whose_old_work_cannot_be_ended_is_not_retried_and_says_so_once(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: ProcessAdapter, handle: dict) -> None:
        raise host.StillAlive("Process group 1 did not end.")

    with sleeping_process() as process, monkeypatch.context() as patched:
        patched.setattr(ProcessAdapter, "terminate", refuses)
        work = _lost(services, process, services.host)
        bury(services)
        bury(services)
        assert _termination(services, work) == "owed"
        assert _is_held_back(services, work.run_id)
        told = [event for event in services.runs.events(work.run_id) if event.kind == "termination_failed"]
        assert [(event.attempt, event.detail["host"]) for event in told] == [(1, services.host)]
        assert "did not end" in told[0].detail["error"]


def test_once_the_old_work_is_confirmed_gone_exactly_one_second_attempt_begins(services: Services) -> None:
    with sleeping_process() as process:
        work = _lost(services, process, services.host)
        assert claim(services, work.run_id, "worker@test") is None
        bury(services)
        assert not host.is_alive(process)
    assert _termination(services, work) == "done"
    claims = all_at_once([lambda: claim(services, work.run_id, "worker@test")] * 8)
    assert [claim.attempt for claim in claims if claim is not None] == [2]


def test_work_of_another_host_is_confirmed_gone_by_that_host_alone(services: Services) -> None:
    with sleeping_process() as process:
        work = _lost(services, process, "other-host")
        bury(services)
        assert host.is_alive(process)
        assert _termination(services, work) == "owed"
        assert _is_held_back(services, work.run_id)
        with on_another_host(services, "other-host") as there:
            bury(there)
        assert not host.is_alive(process)
    assert _termination(services, work) == "done"
    assert claim(services, work.run_id, "worker@test") is not None


def test_an_attempt_that_started_nothing_is_confirmed_gone_at_once(services: Services) -> None:
    work = in_process(services, max_attempts=2)
    assert reap(services, work.run_id)["reaped"] == 1
    pass_the_wait(services, work.run_id)
    bury(services)
    assert not _is_held_back(services, work.run_id)


def _prepare(services: Services, adapter_type: str, folder: Path) -> tuple[Work, Path]:
    """A claimed run whose command, should it ever start, leaves a trace."""
    trace = folder / "trace"
    config = {"command": ["touch", str(trace)]}
    out_of_process = adapter_type == "detached"
    return running(services, adapter=adapter_type, out_of_process_liveness=out_of_process, config=config), trace


def _before_recording(happens: Callable[[], object], context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this happen when the launcher waits and its process is not recorded yet."""
    for name in ("spawning", "dispatching"):
        told = getattr(context, name)
        monkeypatch.setattr(context, name, lambda *args, told=told: (happens(), told(*args))[1])


def _after_recording(happens: Callable[[], object], context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this happen when the launcher's process is recorded and its command not begun yet."""
    for name in ("has_spawned", "has_dispatched"):
        told = getattr(context, name)
        monkeypatch.setattr(context, name, lambda *args, told=told: (told(*args), happens()))


@pytest.mark.parametrize("adapter_type", ["process", "detached"])
def test_a_worker_that_stalled_until_its_run_was_reaped_cannot_start_its_child_any_more(
    services: Services, adapter_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, trace = _prepare(services, adapter_type, tmp_path)
    context = RunContext(services, direct_shipper(services), work)
    _before_recording(lambda: reap(services, work.run_id), context, monkeypatch)
    with pytest.raises(Superseded):
        start(services, services.adapters.get(adapter_type), work, context)
    eventually(lambda: not processes_of(work.run_id))
    assert not trace.exists()
    assert services.runs.get_attempt(work.run_id, 1).work is None


@pytest.mark.parametrize("adapter_type", ["process", "detached"])
def test_a_child_that_was_recorded_and_reaped_before_it_began_never_begins(
    services: Services, adapter_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, trace = _prepare(services, adapter_type, tmp_path)
    context = RunContext(services, direct_shipper(services), work)
    _after_recording(lambda: (reap(services, work.run_id), bury(services)), context, monkeypatch)
    outcome = start(services, services.adapters.get(adapter_type), work, context)
    assert outcome.error_message is not None
    assert "before it could begin" in outcome.error_message
    assert not trace.exists()
    assert _termination(services, work) == "done"


@pytest.mark.parametrize("mode", ["own", "folder"])
def test_a_worker_killed_before_it_recorded_its_child_leaves_nothing_running(mode: str, tmp_path: Path) -> None:
    worker = f"""
import asyncio, os, signal, uuid
from reprieve.adapters.command import launch
from reprieve.models.work import Work
work = Work(uuid.UUID(int=1), 1, 1, "detached", {{"command": ["touch", "trace"]}}, {{}})
launched = asyncio.run(launch(work, {mode if mode == "own" else str(tmp_path)!r}, [1, 2]))
print(launched.identity.pid, launched.identity.started_at, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    script = tmp_path / "worker.py"
    script.write_text(worker)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    pid, started_at = done.stdout.split()
    launcher = ProcessIdentity(int(pid), int(pid), float(started_at), host.namespace())
    eventually(lambda: not host.is_alive(launcher))
    assert not (tmp_path / "trace").exists()


def test_a_child_that_was_let_go_does_begin(tmp_path: Path) -> None:
    work = Work(UUID(int=1), 1, 1, "detached", {"command": ["touch", "trace"], "cwd": str(tmp_path)}, {})

    async def let_go() -> None:
        with (tmp_path / "said").open("wb") as said:
            launched = await launch(work, str(tmp_path), [said.fileno(), said.fileno()])
        await launched.ready()
        assert not (tmp_path / "trace").exists()
        await launched.go()
        await launched.close()

    asyncio.run(let_go())
    eventually((tmp_path / "exit.json").exists)
    assert (tmp_path / "trace").exists()
