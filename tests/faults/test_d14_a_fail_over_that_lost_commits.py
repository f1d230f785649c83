"""D14: what a fail-over took back of a log is sent again by whoever still holds it, once."""

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from reprieve.adapters import shipper as module
from reprieve.adapters import shipper_kept
from reprieve.adapters.shipper import LogShipper
from reprieve.cli.checks.postgres import commits_are_safe, standbys
from reprieve.models.status import Status
from reprieve.models.work import Work
from reprieve.stores.embedded import EmbeddedPostgres
from reprieve.stores.migrate import migrate
from reprieve.workers import bootstrap
from reprieve.workers import ingest as ingesting
from reprieve.workers.bootstrap import Services
from reprieve.workers.context import RunContext
from reprieve.workers.sweep import sweep
from tests.support.rows import running
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("D14")

Ship = Callable[..., LogShipper]


@pytest.fixture
def ship(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Ship]:
    """Shippers that are soon about everything; each is closed after the test."""
    for name in ("ASK_INTERVAL", "BATCH_AGE", "SHIP_AGAIN_AFTER"):
        monkeypatch.setattr(module, name, 0.1)
    monkeypatch.setattr(shipper_kept, "CHECK_INTERVAL", 0.1)
    monkeypatch.setattr(shipper_kept, "CHECKS", 1_000_000)
    made: list[LogShipper] = []

    def make(services: Services, **options: int) -> LogShipper:
        made.append(
            LogShipper(tmp_path / "spool", partial(ingesting.ingest, services), services.logs.stored, **options)
        )
        return made[-1]

    yield make
    for shipper in made:
        shipper.close(0)


def lines(services: Services, work: Work) -> list[bytes]:
    """The segments as they are: a reader of the whole log would pass over what is stored twice."""
    return [chunk.data for chunk in services.logs.hot(work.run_id, work.attempt)]


def forget_logs(services: Services) -> None:
    """Have the store lose all output, as with the commits that a standby lacks."""
    with services.database.begin() as connection:
        connection.execute(text("TRUNCATE log_segments, attempt_logs"))


def line(number: int) -> bytes:
    return b"line %d\n" % number


@pytest.fixture
def restorable(services: Services, tmp_path: Path) -> Iterator[tuple[EmbeddedPostgres, Services]]:
    """A server of this test's own, and services over it."""
    server = EmbeddedPostgres(tmp_path / "own")
    server.start()
    wired = bootstrap.build(services.settings.model_copy(update={"database_url": SecretStr(server.url)}))
    try:
        migrate(wired.database)
        yield server, wired
    finally:
        wired.database.dispose()
        wired.identity.let_go()
        server.remove()


def test_an_older_copy_of_the_database_under_a_living_worker_costs_no_line(
    restorable: tuple[EmbeddedPostgres, Services], ship: Ship, tmp_path: Path
) -> None:
    server, wired = restorable
    data, copy = server._data(), tmp_path / "copy"
    work = running(wired)
    context = RunContext(wired, ship(wired), work)
    context.on_log("stdout", line(1))
    eventually(lambda: lines(wired, work) == [line(1)])
    server.stop()
    subprocess.run(["cp", "-a", data, copy], check=True)
    server.start()
    for number in range(2, 200):
        context.on_log("stdout", line(number))
    eventually(lambda: len(lines(wired, work)) == 199)
    server.stop()
    subprocess.run(["rm", "-r", data], check=True)
    subprocess.run(["cp", "-a", copy, data], check=True)
    server.start()
    assert len(eventually(lambda: lines(wired, work))) < 199
    context.on_log("stdout", line(200))
    eventually(lambda: len(lines(wired, work)) == 200)
    assert lines(wired, work) == [line(number) for number in range(1, 201)]
    sweep(wired, by_hand=True)
    run = wired.runs.get(work.run_id)
    assert (run.status, run.attempt, run.epoch) == (Status.RUNNING, 1, work.epoch)


def test_what_the_store_has_lost_is_sent_again_and_what_it_has_is_not(services: Services, ship: Ship) -> None:
    works = [running(services) for _ in range(3)]
    contexts = [RunContext(services, ship(services), work) for work in works]
    for number in range(50):
        for context in contexts:
            context.on_log("stdout", line(number))
    whole = [line(number) for number in range(50)]
    eventually(lambda: all(lines(services, work) == whole for work in works))
    with services.database.begin() as connection:
        for table in ("log_segments", "attempt_logs"):
            connection.execute(text(f"DELETE FROM {table} WHERE run_id = :id"), {"id": works[1].run_id})
    eventually(lambda: all(lines(services, work) == whole for work in works))


def test_output_of_files_that_were_put_by_is_sent_again_as_well(services: Services, ship: Ship, tmp_path: Path) -> None:
    work = running(services)
    shipper = ship(services, file_bytes=1)
    context = RunContext(services, shipper, work)
    written = [b"%d" % number * 30_000 for number in range(20)]
    for data in written:
        context.on_log("stdout", data)
    eventually(lambda: lines(services, work) == written)
    eventually(lambda: len(list((tmp_path / "spool").rglob("*.shipped"))) >= 5)
    for _ in range(2):
        forget_logs(services)
        eventually(lambda: lines(services, work) == written)


def test_files_are_kept_until_the_store_has_said_often_enough_that_it_has_them(
    services: Services, ship: Ship, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipper = ship(services, file_bytes=1)
    context = RunContext(services, shipper, running(services))
    for number in range(20):
        context.on_log("stdout", b"%d" % number * 30_000)
    eventually(lambda: len(list((tmp_path / "spool").rglob("*.shipped"))) >= 5)
    monkeypatch.setattr(shipper_kept, "CHECKS", 2)
    eventually(lambda: not list((tmp_path / "spool").rglob("*.shipped")))


def test_shipped_files_have_a_bound_of_their_own_and_take_no_room_from_output(
    services: Services, ship: Ship, tmp_path: Path
) -> None:
    limit = 1024 * 1024
    shipper = ship(services, limit=limit, file_bytes=1)
    context = RunContext(services, shipper, running(services))
    for number in range(200):
        context.on_log("stdout", b"%3d" % number * 10_000)

    def kept() -> float:
        try:
            return sum(path.stat().st_size for path in (tmp_path / "spool").rglob("*.shipped"))
        except FileNotFoundError:  # One was deleted while they were counted.
            return float("inf")

    eventually(lambda: shipper._is_done() and kept() <= limit * shipper_kept.KEPT_SHARE + 2 * 70_000)


def test_a_worker_that_ends_leaves_no_shipped_file(services: Services, ship: Ship, tmp_path: Path) -> None:
    shipper = ship(services, file_bytes=1)
    context = RunContext(services, shipper, running(services))
    for number in range(20):
        context.on_log("stdout", b"%d" % number * 30_000)
    assert shipper.close(30)
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.parametrize(
    ("there", "names", "waits_for", "well"),
    [
        (0, "", "on", True),
        (1, "", "on", False),
        (2, "  ", "remote_apply", False),
        (1, "ANY 1 (a, b)", "on", True),
        (1, "*", "local", False),
        (1, "*", "off", False),
        (1, "*", "remote_write", True),
    ],
)
def test_the_doctor_says_when_commits_wait_for_no_standby_that_is_there(
    there: int, names: str, waits_for: str, well: bool
) -> None:
    assert commits_are_safe(there, names, waits_for)[0] is well


def test_a_server_without_standbys_is_well_and_a_plain_user_may_ask(services: Services) -> None:
    assert standbys(services)[0]
