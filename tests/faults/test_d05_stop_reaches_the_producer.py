"""D05: the sender of a run that has ended does not send for ever; the tail is kept and told."""

import signal
from collections.abc import Callable
from uuid import UUID

import pytest

from reprieve import cancel_run, enqueue_run
from reprieve.adapters import shipper as module
from reprieve.models.chunks import Block, blocks_of
from reprieve.models.status import Status
from reprieve.models.work import Work
from reprieve.workers import ingest as ingesting
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from tests.faults.helpers_cdeg import image, no_process_left, reap
from tests.support.processes import Process, processes_of
from tests.support.rows import chunk, ingest, kinds, running, status_of
from tests.support.shipping import direct_shipper
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("D05")


def test_a_chunk_after_the_reap_is_stored_and_changes_nothing_of_the_run(services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1)])
    assert reap(services, work.run_id)["reaped"] == 1
    assert ingest(services, [chunk(work, 2, b"after")]) == {"chunks": 1, "new": 1, "refreshed": 0, "refused": 0}
    after = image(services, work)
    assert kinds(services, work.run_id)[-2:] == ["reaped", "late_output"]
    assert ingest(services, [chunk(work, 3)])["refreshed"] == 0
    assert image(services, work) == after
    assert status_of(services, work.run_id) == "failed"
    assert [one.data for one in services.logs.read(work.run_id, 1)] == [b"line\n", b"after", b"line\n"]


@pytest.mark.parametrize("reaped", [False, True])
def test_the_producer_of_a_run_that_was_ended_is_told_and_what_it_printed_is_kept(
    services: Services, start_worker: Callable[..., Process], reaped: bool
) -> None:
    start_worker("logs", name="logs")
    worker = start_worker("runs", name="runs")
    run = enqueue_run("detached", {"command": ["sh", "-c", "while :; do echo tick; sleep 0.05; done"]})
    with no_process_left(run.id):
        eventually(lambda: services.logs.last_seq(run.id, 1) > 3)
        assert processes_of(run.id)
        if reaped:
            # A worker that stands still is taken for dead; when it goes on, its run is over.
            worker.send(signal.SIGSTOP)
            eventually(lambda: reap(services, run.id)["reaped"] == 1)
            worker.send(signal.SIGCONT)
        else:
            cancel_run(run.id)
        eventually(lambda: not processes_of(run.id))
        assert services.runs.get(run.id).status == (Status.FAILED if reaped else Status.CANCELLED)
        # All that the producer has sent arrives, and its spool is given back when it ends.
        worker.stop()
        assert list(services.settings.spool_dir.rglob("*.spool")) == []
        told = b"".join(one.data for one in services.logs.read(run.id, 1, limit=10_000))
        printed = services.settings.data_dir.rglob(f"{run.id}/1/stdout")
        assert told == next(printed).read_bytes()


def test_output_of_a_run_that_does_not_exist_is_kept_aside_and_not_sent_for_ever(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHIP_AGAIN_AFTER", 0.05)
    known = running(services)
    nobody = Work(UUID(int=7), 1, 1, "detached", {}, {})
    shipper = direct_shipper(services)
    for work in (known, nobody):
        RunContext(services, shipper, work).on_log("stdout", b"said\n")
    assert shipper.close(30)
    assert list(services.settings.spool_dir.rglob("*.spool")) == []
    assert [one.data for one in services.logs.read(known.run_id, 1)] == [b"said\n"]
    assert services.logs.read(nobody.run_id, 1) == []
    assert services.logs.stored([(nobody.run_id, 1, 1)])[nobody.run_id, 1, 1].covers(1, 1)


def test_one_block_that_cannot_be_stored_holds_up_no_other_and_is_told(services: Services) -> None:
    works = [running(services) for _ in range(3)]
    good = [block for work in works for block in _blocks(work)]
    bad = Block(works[1].run_id, 1, 1, 2, 9, b"no block at all")
    report = ingesting.ingest(services, [*good[:2], bad, good[2]])
    assert report == {"chunks": 3, "new": 3, "refreshed": 3, "refused": 1}
    state = services.closings.state(works[1].run_id, 1)
    assert [(first, last) for first, last, _ in state.quarantined] == [(2, 9)]
    assert "cannot be unpacked" in state.quarantined[0][2]
    assert [len(services.logs.read(work.run_id, 1)) for work in works] == [1, 1, 1]


def test_a_block_that_the_database_refuses_is_found_among_the_others(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = [running(services) for _ in range(4)]
    with services.database.begin() as connection:
        connection.exec_driver_sql(
            f"ALTER TABLE log_segments ADD CONSTRAINT poisoned CHECK (run_id <> '{works[2].run_id}')"
        )
    try:
        report = ingesting.ingest(services, [block for work in works for block in _blocks(work)])
    finally:
        with services.database.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE log_segments DROP CONSTRAINT poisoned")
    assert (report["new"], report["refused"]) == (3, 1)
    assert [len(services.logs.read(work.run_id, 1)) for work in works] == [1, 1, 0, 1]
    assert "CheckViolation" in services.closings.state(works[2].run_id, 1).quarantined[0][2]


def _blocks(work: Work) -> list[Block]:
    return blocks_of([chunk(work, 1)])
