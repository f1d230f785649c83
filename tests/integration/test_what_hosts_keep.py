"""What an adapter keeps of an attempt on its host goes once its log is closed, and not before."""

from pathlib import Path
from uuid import uuid4

from reprieve import cancel_run, enqueue_run
from reprieve.adapters.detached import DetachedAdapter
from reprieve.adapters.protocol import Attempt
from reprieve.adapters.shipper import LogShipper
from reprieve.models.work import End, Outcome
from reprieve.workers.bootstrap import Services
from reprieve.workers.closing import close_log
from reprieve.workers.finish import finish
from reprieve.workers.supervisor import Supervisor
from tests.conftest import StartWorker
from tests.support.rows import chunk, ingest, running
from tests.support.waiting import eventually


def test_the_detached_adapter_forgets_the_attempt_that_is_named_and_nothing_else(tmp_path: Path) -> None:
    adapter, run_id = DetachedAdapter(tmp_path / "adapter", "here"), uuid4()
    assert adapter.kept() == []
    others = ["not-a-run/1", f"{run_id}/notes"]
    for name in (f"{run_id}/1", f"{run_id}/2", *others):
        keep(adapter, name)
    assert sorted(adapter.kept()) == [(run_id, 1), (run_id, 2)]
    for _ in range(2):
        adapter.forget((run_id, 1))
    assert adapter.kept() == [(run_id, 2)]
    adapter.forget((run_id, 2))
    assert all((tmp_path / "adapter" / name / "stdout").exists() for name in others)


def keep(adapter: DetachedAdapter, name: str) -> None:
    folder = adapter._folder / name
    folder.mkdir(parents=True)
    (folder / "stdout").write_bytes(b"output")


def tidy(services: Services) -> list[Attempt]:
    """One turn of a worker; returns what is kept after it."""
    shipper = LogShipper(services.settings.spool_dir, lambda blocks: None, services.logs.stored)
    Supervisor(services, shipper).tidy()
    return sorted(detached(services).kept())


def detached(services: Services) -> DetachedAdapter:
    adapter = services.adapters.get("detached")
    assert isinstance(adapter, DetachedAdapter)
    return adapter


def test_the_files_of_a_run_that_goes_on_or_is_not_closed_or_not_known_here_stay(services: Services) -> None:
    goes_on, ended, read, cancelled = (running(services) for _ in range(4))
    stranger = (uuid4(), 1)
    for attempt in [stranger, *((work.run_id, 1) for work in (goes_on, ended, read, cancelled))]:
        keep(detached(services), f"{attempt[0]}/{attempt[1]}")
    for work in (ended, read):
        ingest(services, [chunk(work, 1)])
        finish(services, [End.by_result(work.fence, Outcome(), 1)])
    cancel_run(cancelled.run_id)
    close_log(services, read.run_id, 1)
    assert tidy(services) == sorted([stranger, (goes_on.run_id, 1), (ended.run_id, 1), (cancelled.run_id, 1)])
    close_log(services, ended.run_id, 1)
    assert tidy(services) == sorted([stranger, (goes_on.run_id, 1), (cancelled.run_id, 1)])


def test_the_files_of_a_detached_run_are_gone_soon_after_its_end_and_its_log_is_whole(
    services: Services, start_worker: StartWorker
) -> None:
    start_worker("runs,logs,archive")
    run = enqueue_run("detached", {"command": ["sh", "-c", "echo out; echo err >&2"]})
    eventually(lambda: services.runs.get(run.id).status == "succeeded")
    eventually(lambda: detached(services).kept() == [], timeout=60)
    assert services.runs.get(run.id).attempts[0].log_closed_at is not None
    assert sorted(one.data for one in services.logs.read(run.id, 1)) == [b"err\n", b"out\n"]
