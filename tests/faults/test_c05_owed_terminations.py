"""C05: a reap ends the work too: the termination is owed in the same transaction, and pinned to its attempt."""

from contextlib import suppress
from dataclasses import replace

import pytest

from reprieve.adapters import host
from reprieve.models.process import ProcessIdentity
from reprieve.models.work import Work
from reprieve.workers.bootstrap import Services
from reprieve.workers.sweep import sweep
from tests.faults.helpers_cdeg import bury, forget_watch, image, nobody_to_ask, on_another_host, reap
from tests.support.processes import sleeping_process
from tests.support.rows import (
    age,
    claim,
    in_process,
    kinds,
    pass_the_wait,
    record_handle,
    record_process,
    running,
    status_of,
    watch_for,
)

pytestmark = pytest.mark.row("C05")


def _detached_handle(services: Services, process: ProcessIdentity) -> dict:
    return process.as_handle() | {"folder": "run/1", "host": services.host}


def _detached(services: Services, process: ProcessIdentity) -> Work:
    work = running(services)
    record_handle(services, work.fence, services.host, _detached_handle(services, process))
    return work


def _child(services: Services, process: ProcessIdentity, **changes: int) -> Work:
    work = in_process(services, **changes)
    record_process(services, work.fence, services.host, process)
    return work


def _termination(services: Services, work: Work) -> str | None:
    return services.runs.get_attempt(work.run_id, work.attempt).termination


@pytest.mark.parametrize("started", [_detached, _child])
def test_a_reaped_runs_work_is_ended_and_a_live_runs_work_is_kept(services: Services, started) -> None:
    with sleeping_process() as silent, sleeping_process() as alive:
        reaped, kept = started(services, silent), started(services, alive)
        age(services, kept.run_id, 290)
        before = image(services, kept)
        assert reap(services, reaped.run_id)["reaped"] == 1
        assert _termination(services, reaped) == "owed"
        bury(services)
        assert not host.is_alive(silent)
        assert host.is_alive(alive)
    assert _termination(services, reaped) == "done"
    assert kinds(services, reaped.run_id)[-2:] == ["reaped", "terminated"]
    assert image(services, kept) == before


def test_a_run_silent_for_just_under_the_window_is_owed_nothing_and_just_over_it_is(services: Services) -> None:
    with sleeping_process() as first, sleeping_process() as second:
        under, over = _detached(services, first), _detached(services, second)
        forget_watch(services)
        watch_for(services, 400)
        age(services, under.run_id, 295)
        age(services, over.run_id, 301)
        with nobody_to_ask():
            sweep(services, by_hand=True)
    assert (status_of(services, under.run_id), _termination(services, under)) == ("running", None)
    assert (status_of(services, over.run_id), _termination(services, over)) == ("failed", "owed")


def test_an_owed_end_of_the_first_attempt_leaves_the_second_attempts_work_alone(services: Services) -> None:
    with sleeping_process() as old, sleeping_process() as new:
        first = _child(services, old, max_attempts=2)
        reap(services, first.run_id)
        bury(services)
        pass_the_wait(services, first.run_id)
        second = claim(services, first.run_id, "worker@test")
        assert second is not None
        record_process(services, second.fence, services.host, new)
        before = image(services, second)
        attempt = services.runs.get_attempt(first.run_id, 1)
        services.adapters.get("process").terminate(attempt.work)
        assert services.terminations.settle(first.run_id, 1) is False
        bury(services)
        assert not host.is_alive(old)
        assert host.is_alive(new)
        assert image(services, second) == before


@pytest.mark.parametrize("adapter_type", ["process", "detached"])
def test_a_number_that_now_belongs_to_another_process_is_not_ended(services: Services, adapter_type: str) -> None:
    with sleeping_process() as process:
        earlier = replace(process, started_at=process.started_at - 60)
        services.adapters.get(adapter_type).terminate(_detached_handle(services, earlier))
        assert host.is_alive(process)
        before_boot = replace(process, namespace="another boot")
        with suppress(host.StillAlive):  # Whether it is gone is not the number's to say.
            services.adapters.get(adapter_type).terminate(_detached_handle(services, before_boot))
        assert host.is_alive(process)
        services.adapters.get(adapter_type).terminate(_detached_handle(services, process))
        assert not host.is_alive(process)


@pytest.mark.parametrize(
    ("namespace", "of_ours", "state"),
    [
        ("another-boot/pid:[1]", True, "done"),
        ("another-boot/pid:[1]", False, "owed"),
        ("{boot}/pid:[1]", True, "done"),
        ("{boot}/pid:[1]", None, "owed"),
    ],
)
def test_a_child_of_another_boot_or_pid_namespace_is_gone_only_if_it_was_of_our_own_slot(
    services: Services, namespace: str, of_ours: bool | None, state: str
) -> None:
    node = services.node
    slot = {True: node.slot, False: "another-slot", None: None}[of_ours]
    with sleeping_process() as process:
        work = in_process(services)
        elsewhere = replace(process, namespace=namespace.format(boot=node.boot))
        record_process(services, work.fence, node.name, elsewhere, slot)
        reap(services, work.run_id)
        bury(services)
        assert host.is_alive(process)
    assert _termination(services, work) == state


def test_ending_work_that_is_gone_already_is_no_error(services: Services) -> None:
    with sleeping_process() as process:
        work = _detached(services, process)
        reap(services, work.run_id)
        services.adapters.get("detached").terminate(services.runs.get_attempt(work.run_id, 1).work)
        assert not host.is_alive(process)
    bury(services)
    bury(services)
    assert kinds(services, work.run_id)[-2:] == ["reaped", "terminated"]


def test_an_end_that_is_owed_to_one_host_is_found_by_that_host_alone(services: Services) -> None:
    with sleeping_process() as process:
        work = running(services)
        record_handle(services, work.fence, "other-host", _detached_handle(services, process))
        reap(services, work.run_id)
        bury(services)
        assert host.is_alive(process)
        assert _termination(services, work) == "owed"
        with on_another_host(services, "other-host") as there:
            bury(there)
        assert not host.is_alive(process)
    assert _termination(services, work) == "done"


def test_an_end_that_failed_stays_owed_and_is_made_later(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(handle: dict) -> None:
        raise ConnectionError("The platform is away.")

    with sleeping_process() as process:
        work = _detached(services, process)
        reap(services, work.run_id)
        with monkeypatch.context() as patched:
            patched.setattr(services.adapters.get("detached"), "terminate", away)
            bury(services)
        assert _termination(services, work) == "owed"
        bury(services)
        assert not host.is_alive(process)
    assert _termination(services, work) == "done"
    assert kinds(services, work.run_id)[-3:] == ["reaped", "termination_failed", "terminated"]
