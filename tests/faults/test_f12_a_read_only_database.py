"""F12: a database that was read-only for a while leaves nothing behind: no session, no line, no result is lost."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import InternalError
from typer.testing import CliRunner

from reprieve.cli import doctor
from reprieve.cli.main import app, main
from reprieve.models.faults import is_unfit
from reprieve.models.health import READ_ONLY
from reprieve.stores.database import Database
from reprieve.workers.bootstrap import Services
from tests.conftest import StartWorker
from tests.faults.helpers_abf import enqueueing
from tests.support.http import calling
from tests.support.processes import processes_of
from tests.support.rows import status_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("F12")

OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE usename = current_user AND pid <> pg_backend_pid() AND application_name = 'reprieve'"
)


@contextmanager
def read_only(services: Services, *, ending_sessions: bool = True) -> Iterator[None]:
    """While this lasts, new sessions can only read, and there are no others: as after a switch-over.

    Those that were made meanwhile stay as they are when it is over.
    """
    engine = create_engine(services.settings.require_database_url(), isolation_level="AUTOCOMMIT")
    with engine.connect() as operator:
        operator.execute(text("ALTER ROLE CURRENT_USER SET default_transaction_read_only = on"))
        try:
            if ending_sessions:
                operator.execute(text(OTHERS))
            yield
        finally:
            operator.execute(text("ALTER ROLE CURRENT_USER RESET default_transaction_read_only"))
    engine.dispose()


def write(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(text("UPDATE runs SET status = status"))


def test_a_session_that_cannot_write_is_dropped_with_all_others_of_its_server(services: Services) -> None:
    engine = services.database.engine
    with read_only(services), engine.connect(), engine.connect(), engine.connect():
        pass
    # Three sessions wait in the pool that can only read. The first error is the last.
    with pytest.raises(InternalError) as error:
        write(services.database)
    assert is_unfit(error.value)
    for _ in range(4):
        write(services.database)


def test_the_api_says_503_and_why_and_afterwards_answers_by_itself(services: Services) -> None:
    wanted = {"adapter": "process", "config": {"command": ["true"]}}
    with calling(services, raising=False) as client:
        with read_only(services):
            eventually(lambda: client.get("/v1/runs").status_code == 200)
            answer = client.post("/v1/runs", json=wanted)
            assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
            assert "The database is read-only" in answer.json()["detail"]
            ready = client.get("/health/ready")
            assert (ready.status_code, ready.json()["reasons"][0]) == (503, READ_ONLY)
            assert READ_ONLY in client.get("/v1/fleet").json()["health"]["reasons"]
        assert READ_ONLY not in client.get("/health/ready").json()["reasons"]
        eventually(lambda: client.post("/v1/runs", json=wanted).status_code == 201, timeout=10)


def test_doctor_and_health_name_it_and_the_command_line_does_not_show_a_traceback(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with read_only(services):
        eventually(lambda: doctor.database(services) == (False, READ_ONLY))
        assert READ_ONLY in CliRunner().invoke(app, ["health"]).stdout
        monkeypatch.setattr("sys.argv", ["reprieve", "run", "--", "true"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert "reprieve: The database is read-only." in capsys.readouterr().err
    assert doctor.database(services)[0]


def test_runs_that_print_and_end_while_the_database_is_read_only_lose_nothing(
    services: Services, start_worker: StartWorker
) -> None:
    start_worker(extra={"REPRIEVE_TIME_SCALE": "1"})
    printing = "for i in $(seq 40); do echo line $i; sleep 0.2; done; exit 3"
    with enqueueing(services) as enqueue:
        runs = [enqueue(adapter, {"command": ["sh", "-c", printing]}) for adapter in ("process", "detached") * 2]
        eventually(lambda: all(len(services.logs.read(run_id, 1)) > 3 for run_id in runs), what="the first lines")
        with read_only(services):
            # They end while it lasts.
            eventually(lambda: _silent(services), timeout=60, what="the work to end")
            assert [status_of(services, run_id) for run_id in runs] == ["running"] * 4
        ended = [lambda run_id=run_id: status_of(services, run_id) == "failed" for run_id in runs]
        eventually(lambda: all(one() for one in ended), timeout=60, what="every result")
        assert [services.runs.get(run_id).attempts[0].outcome["exit_status"] for run_id in runs] == [3] * 4
        wanted = b"".join(b"line %d\n" % number for number in range(1, 41))
        for run_id in runs:
            eventually(
                lambda run_id=run_id: b"".join(one.data for one in services.logs.read(run_id, 1)) == wanted,
                timeout=60,
                what="every line",
            )
            assert services.closings.state(run_id, 1).quarantined == []


def _silent(services: Services) -> bool:
    """Whether no command of a run is left on this machine."""
    with services.database.begin() as connection:
        ids = connection.execute(text("SELECT id FROM runs")).scalars().all()
    return not any(processes_of(run_id) for run_id in ids)
