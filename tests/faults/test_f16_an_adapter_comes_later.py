"""F16: a worker that is older than an adapter leaves its runs in the queue, for one that has it, and says so."""

from datetime import timedelta
from uuid import UUID

import pytest
from typer.testing import CliRunner

from reprieve.adapters import registry
from reprieve.adapters.registry import Adapters
from reprieve.cli.main import app
from reprieve.models.places import Room
from reprieve.workers.bootstrap import Services
from reprieve.workers.hints import send_execute
from tests.conftest import StartWorker
from tests.support.odd_worker import OddInside, Unbuildable
from tests.support.rows import age, kinds, new_run, running, status_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("F16")

ODD = {"ODD_WORKER": "1"}
OLD = ODD | {"ODD_WORKER_WITHOUT": "odd-inside"}
APPLICATION = "tests.support.odd_worker"
#: A config for which the adapter does at once what it should.
WELL = {"what": "EIO", "times": 0}


def odd(services: Services, adapter: str = "odd-inside") -> UUID:
    return new_run(services, adapter=adapter, out_of_process_liveness=False, config=WELL).id


def notes(services: Services, run_id: UUID) -> list[str]:
    return [event.detail["note"] for event in services.runs.events(run_id) if event.kind == "noted"]


def test_runs_of_an_adapter_that_comes_later_wait_for_it_and_then_run(
    services: Services, start_worker: StartWorker
) -> None:
    old = start_worker("runs", application=APPLICATION, extra=OLD, name="old")
    runs = [odd(services) for _ in range(5)]
    for run_id in runs:
        send_execute(run_id)
    eventually(lambda: all(notes(services, run_id) for run_id in runs), what=lambda: old.output[-3000:])
    # Said again and again, and told once.
    for _ in range(3):
        send_execute(runs[0])
        eventually(lambda: old.output.count(f"Run {runs[0]} stays in the queue") > 1)
    for run_id in runs:
        assert notes(services, run_id) == [
            "Waits for a worker that has the adapter 'odd-inside'; worker old@test has not."
        ]
        assert (status_of(services, run_id), services.runs.get(run_id).attempt) == ("queued", 0)
    told = CliRunner().invoke(app, ["explain", str(runs[0])], catch_exceptions=False).output
    assert "UTC: Waits for a worker that has the adapter 'odd-inside'; worker old@test has not." in told
    new = start_worker("runs", application=APPLICATION, extra=ODD, name="new")
    eventually(
        lambda: all(status_of(services, run_id) == "succeeded" for run_id in runs),
        timeout=60,
        what=lambda: old.output[-2000:] + new.output[-2000:],
    )
    # Both are up, and only one has it.
    later = [odd(services) for _ in range(10)]
    for run_id in later:
        send_execute(run_id)
    eventually(lambda: all(status_of(services, run_id) == "succeeded" for run_id in later), timeout=60)
    assert {services.runs.get(run_id).attempts[0].worker_node for run_id in runs + later} == {"new@test"}
    assert {services.runs.get(run_id).attempt for run_id in runs + later} == {1}


def test_an_adapter_that_is_broken_here_counts_as_not_had(services: Services, start_worker: StartWorker) -> None:
    broken = start_worker("runs", application=APPLICATION, extra=ODD, name="broken")
    run_id = odd(services, "unbuildable")
    send_execute(run_id)
    eventually(lambda: notes(services, run_id), what=lambda: broken.output[-3000:])
    assert status_of(services, run_id) == "queued"
    assert broken.output.count("The adapter 'unbuildable' cannot be used here") == 1
    start_worker("runs", application=APPLICATION, extra=ODD | {"ODD_WORKER_BUILDS": "1"}, name="whole")
    eventually(lambda: status_of(services, run_id) == "succeeded", timeout=60)


# -- the statements


@pytest.mark.parametrize(("adapters", "claimed"), [(["odd-inside"], True), (["process"], False)])
def test_the_claim_itself_asks_for_the_adapter(services: Services, adapters: list[str], claimed: bool) -> None:
    run_id = odd(services)
    works = services.claims.claim([Room(tuple(adapters), 5)], "w").works
    assert [work.run_id for work in works] == ([run_id] if claimed else [])


def test_that_an_adapter_is_lacking_is_told_once_whoever_lacks_it(services: Services) -> None:
    run_id = odd(services)
    for worker in ("one", "two", "one"):
        assert services.claims.lack([run_id], worker, ["process"]) == {run_id: "odd-inside"}
    assert len(notes(services, run_id)) == 1


def test_nothing_is_lacking_for_a_run_that_waits_for_no_adapter(services: Services) -> None:
    run_id, claimed = odd(services), running(services, adapter="odd-inside", config=WELL)
    assert services.claims.lack([run_id], "w", ["odd-inside"]) == {}
    assert services.claims.lack([claimed.run_id], "w", ["process"]) == {}
    assert notes(services, run_id) == notes(services, claimed.run_id) == []


def test_the_sweep_goes_on_sending_what_nobody_could_use(services: Services) -> None:
    run_id = odd(services)
    services.claims.lack([run_id], "old", ["process"])
    age(services, run_id, 100)
    assert services.resends.unclaimed(timedelta(seconds=60), 6) == [run_id]
    assert "resent" in kinds(services, run_id)


def test_what_cannot_be_built_is_found_once_and_trouble_is_no_verdict(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unlucky(OddInside):
        type = "unlucky"

        def __init__(self, *_: object) -> None:
            raise OSError(24, "Too many open files")

    known = {one.type: one for one in (OddInside, Unbuildable, Unlucky)}
    monkeypatch.setattr(registry, "adapter_classes", lambda: known)
    adapters = Adapters(services.settings.data_dir, lambda: "host")
    assert adapters.usable() == ["odd-inside", "unlucky"]
    monkeypatch.setenv("ODD_WORKER_BUILDS", "1")
    assert adapters.usable() == ["odd-inside", "unlucky"]
