"""A20: that a worker is short of descriptors, memory or disk says nothing of its work, which goes on, here or not."""

import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from reprieve.adapters import host, ownership
from reprieve.adapters.shipper import LogShipper
from reprieve.models.capacity import FILES_OF_A_RUN, FILES_OF_A_WORKER, Files
from reprieve.models.chunks import Chunk
from reprieve.models.process import ProcessIdentity
from reprieve.models.work import Outcome, Work
from reprieve.stores.reading import LogReader
from reprieve.workers import consumer, files, following
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from reprieve.workers.explaining import explain
from reprieve.workers.hints import send_execute
from reprieve.workers.supervisor import Supervisor
from tests.conftest import StartWorker
from tests.support.following import follow_to_the_end
from tests.support.nodes import a_node
from tests.support.odd_worker import TROUBLES
from tests.support.processes import READY, celery, sleeping_process, spawn
from tests.support.rows import (
    chunk,
    claim,
    in_process,
    ingest,
    kinds,
    new_run,
    pass_the_wait,
    record_handle,
    record_process,
    running,
    status_of,
)
from tests.support.shipping import direct_shipper
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("A20")

PRINTS = "for i in $(seq 1 40); do echo line $i; done; sleep 0.5; echo end"
PRINTED = b"".join(b"line %d\n" % number for number in range(1, 41)) + b"end\n"


def output(services: Services, run_id: UUID) -> bytes:
    return b"".join(one.data for one in services.logs.read(run_id, 1) if one.stream == "stdout")


def assert_whole(services: Services, runs: list[UUID], worker: Callable[[], str], timeout: float) -> None:
    def done() -> bool:
        with services.database.begin() as connection:
            return not connection.execute(text("SELECT 1 FROM runs WHERE finished_at IS NULL LIMIT 1")).all()

    eventually(done, timeout=timeout, interval=0.5, what=lambda: worker()[-6000:])
    ended = {run_id: services.runs.get(run_id) for run_id in runs}
    wrong = [(one.status, one.error_message) for one in ended.values() if one.status != "succeeded"]
    assert not wrong
    assert {one.attempt for one in ended.values()} == {1}
    eventually(
        lambda: all(output(services, run_id) == PRINTED for run_id in runs),
        timeout=60,
        interval=0.5,
        what=lambda: str([output(services, one) for one in runs if output(services, one) != PRINTED][:2]),
    )


def test_a_worker_that_may_open_130_files_brings_80_detached_runs_to_their_end(
    services: Services, environment: dict[str, str], tmp_path: Path
) -> None:
    options = ("-Q", "runs,logs", "-P", "threads", "-c", "80", "-n", "few@test", "-l", "INFO")
    command = celery("worker", "--without-gossip", "--without-mingle", *options)
    limited = ["sh", "-c", 'ulimit -n 130; exec "$@"', "sh", *command]
    worker = spawn("few", limited, {**environment, "REPRIEVE_TIME_SCALE": "1"}, tmp_path)
    try:
        worker.wait_for(READY)
        assert "This process may open 130 files at once, and 80 runs at once may need" in worker.output
        runs = [new_run(services, config={"command": ["sh", "-c", PRINTS]}).id for _ in range(80)]
        for run_id in runs:
            send_execute(run_id)
        assert_whole(services, runs, lambda: worker.output, timeout=150)
        assert worker.popen.poll() is None
    finally:
        worker.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_work_whose_output_finds_the_disk_full_waits_until_there_is_room(
    services: Services, start_worker: StartWorker, small_disk: Path
) -> None:
    extra = {"REPRIEVE_DATA_DIR": str(small_disk), "REPRIEVE_TIME_SCALE": "1"}
    worker = start_worker("runs,logs", extra=extra)
    filler = small_disk / "filler"
    with filler.open("wb") as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 65536)
            file.flush()
    inside: dict[str, Any] = {"adapter": "process", "out_of_process_liveness": False}
    runs = [new_run(services, config={"command": ["sh", "-c", PRINTS]}, **inside).id for _ in range(5)]
    for run_id in runs:
        send_execute(run_id)
    worker.wait_for("takes nothing just now")
    assert {status_of(services, one) for one in runs} <= {"queued", "running"}, worker.output
    filler.unlink()
    assert_whole(services, runs, lambda: worker.output, timeout=150)


def test_trouble_that_passes_costs_a_run_neither_its_work_nor_an_attempt(
    services: Services, start_worker: StartWorker
) -> None:
    worker = start_worker("runs,logs", application="tests.support.odd_worker", extra={"ODD_WORKER": "1"})
    runs: dict[UUID, tuple[str, bool]] = {}
    for what in TROUBLES:
        for outside in (False, True):
            adapter = "odd-outside" if outside else "odd-inside"
            config = {"what": what, "times": 1, "prints": outside}
            run = new_run(services, adapter=adapter, out_of_process_liveness=outside, config=config)
            runs[run.id] = (what, outside)
            send_execute(run.id)
    eventually(
        lambda: all(status_of(services, one) == "succeeded" for one in runs),
        timeout=90,
        what=lambda: str([(runs[one], status_of(services, one)) for one in runs]) + worker.output[-3000:],
    )
    for run_id, (what, outside) in runs.items():
        told = kinds(services, run_id)
        assert services.runs.get(run_id).attempt == 1
        assert told.count("claimed") == (1 if outside else 2), what
        assert ("attached" in told) is outside, what
        assert ("noted" in told) is not outside, what
    assert worker.popen.poll() is None


# -- one follower


def troubled(services: Services, work: Work, act: Callable[[RunContext], Any]) -> tuple[str, RunContext]:
    shipper = direct_shipper(services)
    context = RunContext(services, shipper, work)
    return follow_to_the_end(services, context, lambda *_: act(context)), context


def no_files(*_: object) -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_an_attempt_that_began_nothing_is_taken_back(services: Services) -> None:
    work = in_process(services)
    result, context = troubled(services, work, no_files)
    run = services.runs.get(work.run_id)
    assert (result, run.status, run.attempt, run.epoch, run.attempts) == ("returned", "queued", 0, work.epoch, [])
    assert run.not_before is not None
    (note,) = [one.detail["note"] for one in services.runs.events(work.run_id) if one.kind == "noted"]
    assert "could not begin it (OSError: [Errno 24] Too many open files)" in note
    assert any(note in sentence for sentence in explain(services, work.run_id).sentences)
    with pytest.raises(following.Released):
        context.on_log("stdout", b"too late: the number is another's now\n")
    assert claim(services, work.run_id, "another") is None
    pass_the_wait(services, work.run_id)
    again = claim(services, work.run_id, "another")
    assert again is not None
    assert (again.attempt, again.epoch) == (1, work.epoch + 1)


@pytest.mark.parametrize("cause", [True, False])
def test_an_adapters_own_error_is_trouble_where_trouble_is_its_cause(services: Services, cause: bool) -> None:
    def start(_: RunContext) -> None:
        try:
            no_files()
        except OSError as error:
            raise ValueError("it cannot be started") from (error if cause else None)

    work = in_process(services)
    assert troubled(services, work, start)[0] == ("returned" if cause else "adapter_error")


def test_what_is_recorded_as_started_elsewhere_is_left_to_another_worker(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "TROUBLE_PAUSE", 0.01)
    work = running(services)

    def start(context: RunContext) -> None:
        context.on_dispatch({"name": "a-1"})
        no_files()

    assert troubled(services, work, start)[0] == "released"
    assert (status_of(services, work.run_id), kinds(services, work.run_id)[-1]) == ("running", "dispatched")
    assert services.adoptions.to_adopt(a_node("any"), ["detached"], 10) == [(work.run_id, 1, work.epoch)]


@pytest.mark.parametrize(("attempts", "status"), [(2, "queued"), (1, "failed")])
def test_a_child_that_its_adapter_let_go_of_is_lost_with_its_follower_and_owed_its_end(
    services: Services, attempts: int, status: str
) -> None:
    work = in_process(services, max_attempts=attempts)

    def start(context: RunContext) -> None:
        context.on_spawn(2**22 - 1, 2**22 - 1, 1.0)
        no_files()

    assert troubled(services, work, start)[0] == "lost"
    run = services.runs.get(work.run_id)
    assert (run.status, run.attempt, run.attempts[0].termination) == (status, 1, "owed")
    assert run.error_code == (None if status == "queued" else "process_lost")


def test_an_attempt_with_output_keeps_its_number(services: Services) -> None:
    work = in_process(services, max_attempts=2)

    def start(context: RunContext) -> None:
        context.on_log("stdout", b"begun\n")
        no_files()

    assert troubled(services, work, start)[0] == "lost"
    assert (services.runs.get(work.run_id).attempt, status_of(services, work.run_id)) == (1, "queued")


def test_output_that_cannot_be_taken_over_is_no_error_of_the_work(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, shipper = in_process(services), direct_shipper(services)

    def broken(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "the folder of the spool is gone")

    monkeypatch.setattr(shipper, "add", broken)
    context = RunContext(services, shipper, work)

    def start(*_: object) -> Outcome:
        context.on_log("stdout", b"line\n")
        return Outcome()

    assert follow_to_the_end(services, context, start) == "returned"


# -- taken back, or not


def take_back(services: Services, work: Work) -> float | None:
    return services.claims.take_back(work.fence, "why", 1.0, 3)


def recorded_process(services: Services, work: Work) -> None:
    record_process(services, work.fence, "host", ProcessIdentity(1, 1, 1.0, "ns"))


@pytest.mark.parametrize(
    "begin",
    [
        recorded_process,
        lambda services, work: record_handle(services, work.fence, None, {}),
        lambda services, work: ingest(services, [chunk(work, 1)]),
        lambda *_: None,
    ],
    ids=["process", "handle", "output", "nothing"],
)
def test_only_an_attempt_that_left_nothing_is_taken_back(
    services: Services, begin: Callable[[Services, Work], object], request: pytest.FixtureRequest
) -> None:
    work = running(services)
    begin(services, work)
    taken = take_back(services, work)
    assert (taken is not None) is ("nothing" in request.node.callspec.id)
    assert status_of(services, work.run_id) == ("running" if taken is None else "queued")


def test_nobody_but_its_own_worker_takes_an_attempt_back(services: Services) -> None:
    work = running(services)
    other = services.claims.take_back(work.fence._replace(epoch=work.epoch - 1), "why", 1.0, 3)
    assert (other, status_of(services, work.run_id)) == (None, "running")
    assert take_back(services, work) is not None
    assert take_back(services, work) is None


def test_an_attempt_before_it_stays_what_it_was(services: Services) -> None:
    work = in_process(services, max_attempts=2)
    recorded_process(services, work)
    following.finish(services, [following.end_of_given_up(work, "lost", services.timing)])
    services.terminations.settle(work.run_id, 1)
    pass_the_wait(services, work.run_id)
    second = claim(services, work.run_id, "w")
    assert second is not None
    assert take_back(services, second) is not None
    run = services.runs.get(work.run_id)
    assert (run.attempt, [one.attempt for one in run.attempts], run.status) == (1, [1], "queued")
    assert run.started_at == run.attempts[0].started_at


def test_the_wait_doubles_up_to_a_limit(services: Services) -> None:
    work: Work | None = running(services)
    waits = []
    for _ in range(5):
        assert work is not None
        waits.append(take_back(services, work))
        pass_the_wait(services, work.run_id)
        work = claim(services, work.run_id, "w")
    assert waits == [1, 2, 4, 8, 8]


def test_who_follows_the_output_goes_on_when_the_attempt_comes_again(services: Services) -> None:
    work, read = running(services), []
    follower = LogReader(services.database, services.logs, services.live, work.run_id)
    thread = threading.Thread(target=lambda: read.extend(follower.follow()), daemon=True)
    thread.start()
    assert take_back(services, work) is not None
    pass_the_wait(services, work.run_id)
    again = claim(services, work.run_id, "w")
    assert again is not None
    ingest(services, [chunk(again, 1)])
    following.finish(services, [following.End.by_result(again.fence, Outcome(), 1)])
    thread.join(30)
    assert [one.data for one in read if isinstance(one, Chunk)] == [b"line\n"]


# -- what the worker does beside


def test_a_child_that_cannot_be_looked_at_for_lack_of_descriptors_is_vouched_for_by_its_number(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(services, direct_shipper(services))
    with sleeping_process() as gone:
        pass
    with sleeping_process() as child:
        monkeypatch.setattr(ownership, "look", no_files)
        work, other = in_process(services), in_process(services)
        with supervisor.follow(work) as context, supervisor.follow(other) as lost:
            context._process, lost._process = child, gone
            supervisor.supervise()
            assert services.runs.get(work.run_id).last_proof == "keepalive"
            assert services.runs.get(other.run_id).last_proof == "claim"


def test_a_child_is_vouched_for_without_a_descriptor_for_as_long_as_it_lives(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = RunContext(services, direct_shipper(services), in_process(services))
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        context._process = host.identify(child.pid)
        monkeypatch.setattr(ownership, "look", no_files)
        assert context.proof() == "keepalive"
        child.kill()
        eventually(lambda: context.proof() is None)
    finally:
        child.kill()
        child.wait()
    assert context.proof() is None


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("threading.Thread.start", RuntimeError("can't start new thread")),
        ("asyncio.new_event_loop", OSError(errno.EMFILE, "Too many open files")),
    ],
)
def test_work_for_which_there_is_no_thread_or_descriptor_is_left_to_whoever_has_one(
    services: Services, monkeypatch: pytest.MonkeyPatch, what: str, error: Exception
) -> None:
    work = running(services)
    record_handle(services, work.fence, None, {})
    services.adoptions.hand_over([work.fence])
    supervisor = Supervisor(services, direct_shipper(services))

    def none(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(what, none)
        with pytest.raises(type(error)):
            supervisor.adopt()
    assert services.adoptions.to_adopt(a_node("any"), ["detached"], 10) == [(work.run_id, 1, work.epoch + 1)]


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (OSError(errno.EMFILE, "Too many open files"), ConnectionError),
        (MemoryError(), ConnectionError),
        (RuntimeError("can't start new thread"), ConnectionError),
        (ValueError("ours"), ValueError),
    ],
)
def test_celerys_consumer_connects_again_where_it_would_end_the_worker(
    monkeypatch: pytest.MonkeyPatch, error: Exception, becomes: type[Exception]
) -> None:
    def start(*_: object) -> None:
        raise error

    monkeypatch.setattr(consumer.CeleryConsumer.Blueprint, "start", start)
    blueprint = consumer.Consumer.Blueprint(steps=[])
    parent = SimpleNamespace(connection_errors=(OSError,), channel_errors=())
    with pytest.raises(becomes) as raised:
        blueprint.start(parent)
    assert not isinstance(raised.value, OSError) or raised.value.errno is None


def test_the_shipper_begins_once_there_is_a_thread_and_a_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reprieve.adapters import shipper as module
    from reprieve.adapters import spool
    from reprieve.adapters.spool import SpooledLog
    from reprieve.models.chunks import encode

    sent: list[Any] = []
    made = LogShipper(tmp_path, sent.append, lambda _: {})
    monkeypatch.setattr(module, "DISK_INTERVAL", 0.01)
    start, lock = threading.Thread.start, spool._lock
    threads, locks = iter([1, 1]), iter([1, 1])

    def few_threads(self: threading.Thread) -> None:
        if self.name == "log-shipper" and next(threads, None):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", few_threads)
    monkeypatch.setattr(spool, "_lock", lambda folder: no_files() if next(locks, None) else lock(folder))
    made.add(SpooledLog(UUID(int=1), 1, 1), [encode((0, "stdout", b"line\n", None))])
    eventually(lambda: sent)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1
    made.close(0.1)


# -- how many files


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "short"),
    [
        (1024, 2**20, 1024, False),
        (256, 2**20, FILES_OF_A_WORKER + FILES_OF_A_RUN * 100, False),
        (256, 512, 512, True),
        (130, 130, 130, True),
        (2**20, 2**20, 2**20, False),
    ],
)
def test_the_limit_of_files_is_raised_as_far_as_is_needed_and_may_be(
    soft: int, hard: int, raised: int, short: bool
) -> None:
    files = Files(soft, hard, 100)
    assert (files.raised, files.shortage is not None) == (raised, short)


def test_a_shortage_says_what_there_is_what_is_needed_and_what_to_do() -> None:
    told = Files(130, 130, 80).shortage
    assert told is not None
    for part in ("130 files", "80 runs", str(FILES_OF_A_WORKER + FILES_OF_A_RUN * 80), "ulimit -n", "--concurrency"):
        assert part in told


def test_a_limit_that_is_none_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.resource, "getrlimit", lambda _: (files.resource.RLIM_INFINITY,) * 2)
    assert files.files_for(10_000).shortage is None
