"""G01: values of declared secrets are masked before they leave the adapter, also across a chunk's edge."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from reprieve import enqueue_run
from reprieve.adapters.detached import DetachedAdapter
from reprieve.adapters.process import ProcessAdapter
from reprieve.adapters.protocol import Adapter
from reprieve.adapters.secrets import MAX_FILE_BYTES
from reprieve.models.errors import InvalidRequest
from reprieve.models.rows import Row
from reprieve.models.status import ErrorCode
from reprieve.models.work import Outcome, Work
from reprieve.testing.contexts import RecordingContext, carry_out, following, work
from reprieve.workers.bootstrap import Services
from tests.support.processes import Process
from tests.support.rows import status_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("G01")

SECRET = "hunter2-of-the-fleet"
HALF, REST = SECRET[:8], SECRET[8:]
TOKEN = {"TOKEN": "env:DEPLOY_TOKEN"}

Execute = Callable[[Work], tuple[Outcome, RecordingContext]]


@pytest.fixture(params=[ProcessAdapter, DetachedAdapter], ids=["process", "detached"])
def adapter(request: pytest.FixtureRequest, tmp_path: Path) -> Adapter:
    built: Adapter = request.param(tmp_path / "adapter", "here")
    return built


@pytest.fixture
def execute(adapter: Adapter) -> Execute:
    def run(work: Work) -> tuple[Outcome, RecordingContext]:
        context = RecordingContext(work.run_id, work.attempt)
        return carry_out(adapter, work, context), context

    return run


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker has the secret."""
    monkeypatch.setenv("DEPLOY_TOKEN", SECRET)


def in_two_writes(go: Path, stream: int = 1) -> str:
    """A script that writes one half of its secret, and the other when `go` is there."""
    wait = f"while [ ! -e {go} ]; do sleep 0.02; done"
    return f"printf 'it is {HALF}' >&{stream}; {wait}; printf '{REST}, they say' >&{stream}"


# -- masking


@pytest.mark.usefixtures("token")
@pytest.mark.parametrize(("stream", "name"), [(1, "stdout"), (2, "stderr")])
def test_a_secret_that_comes_in_two_reads_is_masked(adapter: Adapter, tmp_path: Path, stream: int, name: str) -> None:
    with following(adapter, work("sh", "-c", in_two_writes(tmp_path / "go", stream), secrets=TOKEN)) as run:
        run.wait_for(b"it is ", name)
        assert run.context.output(name) == b"it is "
        (tmp_path / "go").touch()
        assert run.outcome() == Outcome.of_exit(0)
        assert run.context.output(name) == b"it is ***, they say"


@pytest.mark.usefixtures("token")
def test_what_was_held_back_as_the_beginning_of_a_secret_comes_at_the_end(execute: Execute) -> None:
    _, context = execute(work("sh", "-c", f"printf 'name? {HALF}'; printf '{HALF}' >&2", secrets=TOKEN))
    assert (context.output(), context.output("stderr")) == (f"name? {HALF}".encode(), HALF.encode())


@pytest.mark.usefixtures("token")
def test_the_bytes_around_a_secret_are_as_they_were_written(execute: Execute) -> None:
    program = "import os; out = os.fdopen(1, 'wb'); out.write((bytes(range(256)) + os.environb[b'TOKEN']) * 999)"
    _, context = execute(work(sys.executable, "-c", program, secrets=TOKEN))
    assert context.output() == (bytes(range(256)) + b"***") * 999


@pytest.mark.usefixtures("token")
def test_a_cursor_is_the_place_after_what_was_handed_over_so_that_whoever_attaches_reads_the_rest(
    tmp_path: Path,
) -> None:
    adapter = DetachedAdapter(tmp_path / "adapter", "here")
    with following(adapter, work("sh", "-c", in_two_writes(tmp_path / "go"), secrets=TOKEN)) as run:
        run.wait_for(b"it is ")
        (tmp_path / "go").touch()
        run.outcome()
    assert run.context.chunks[0] == ("stdout", b"it is ", "6:0")
    assert run.context.chunks[-1][2] == f"{len(f'it is {SECRET}, they say')}:0"


@pytest.mark.usefixtures("token")
def test_what_a_stopped_command_had_said_is_masked_to_its_end(adapter: Adapter) -> None:
    script = f"trap 'printf {REST}; exit' TERM; printf 'up {HALF}'; while :; do sleep 0.02; done"
    with following(adapter, work("sh", "-c", script, secrets=TOKEN)) as run:
        run.wait_for(b"up ")
        run.context.stop()
        run.outcome()
        assert run.context.output() == b"up ***"


# -- where values come from


@pytest.mark.usefixtures("token")
def test_the_variable_and_the_file_reach_the_command_under_the_names_it_knows(execute: Execute, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"first line\nsecond line\n\n")
    told = tmp_path / "told"
    program = "import json, os, sys; open(sys.argv[1], 'w').write(json.dumps(dict(os.environ)))"
    secrets = TOKEN | {"KEY": f"file:{tmp_path}/key"}
    outcome, _ = execute(work(sys.executable, "-c", program, str(told), secrets=secrets))
    assert outcome == Outcome.of_exit(0)
    environment = json.loads(told.read_text())
    assert (environment["TOKEN"], environment["KEY"]) == (SECRET, "first line\nsecond line")


def missing(folder: Path) -> dict[str, str]:
    return {"TOKEN": "env:NOT_THERE"}


def missing_file(folder: Path) -> dict[str, str]:
    return {"TOKEN": f"file:{folder}/not-there"}


def a_pipe(folder: Path) -> dict[str, str]:
    os.mkfifo(folder / "pipe")
    return {"TOKEN": f"file:{folder}/pipe"}


def large(folder: Path) -> dict[str, str]:
    (folder / "large").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    return {"TOKEN": f"file:{folder}/large"}


def with_nul(folder: Path) -> dict[str, str]:
    (folder / "nul").write_bytes(b"abcd\0efgh")
    return {"TOKEN": f"file:{folder}/nul"}


def empty(folder: Path) -> dict[str, str]:
    (folder / "empty").write_bytes(b"\n")
    return {"TOKEN": f"file:{folder}/empty"}


def short(folder: Path) -> dict[str, str]:
    (folder / "short").write_bytes(b"  xyz  \n")
    return {"TOKEN": f"file:{folder}/short"}


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (missing, "comes from the variable NOT_THERE, which this worker's environment does not have"),
        (missing_file, "is not there on this host, or is no file"),
        (a_pipe, "is not there on this host, or is no file"),
        (large, "is larger than 64 KiB"),
        (with_nul, "holds a NUL"),
        (empty, "has fewer than 4 characters; to mask so short a value would shred the log"),
        (short, "has fewer than 4 characters"),
    ],
)
def test_a_secret_that_the_worker_does_not_have_or_that_cannot_be_masked_fails_the_run_before_anything_starts(
    execute: Execute, tmp_path: Path, prepare: Callable[[Path], dict[str, str]], reason: str
) -> None:
    outcome, context = execute(work("touch", str(tmp_path / "started"), secrets=prepare(tmp_path)))
    assert outcome.error_code is ErrorCode.ADAPTER_ERROR
    assert str(outcome.error_message).startswith("The command could not be started: its secret TOKEN ")
    assert reason in str(outcome.error_message)
    assert "xyz" not in str(outcome.error_message)
    assert context.pid == 0
    assert not (tmp_path / "started").exists()


# -- what a run may say


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize("adapter", ["process", "detached"])
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"secrets": {"TOKEN": SECRET}}, "env:VARIABLE or file:/absolute/path; the value itself is never stored"),
        ({"secrets": {"TOKEN": "env:"}}, "config.secrets.TOKEN: say where"),
        ({"secrets": {"TOKEN": "file:relative"}}, "config.secrets.TOKEN: say where"),
        ({"secrets": {"TOKEN": "env:REPRIEVE_DATABASE_URL"}}, "the worker's own; name another one"),
        ({"secrets": {"TOKEN": "env:FLOWER_BASIC_AUTH"}}, "the worker's own"),
        ({"secrets": {"TOKEN": "env:CELERY_BROKER_URL"}}, "the worker's own"),
        ({"secrets": {"A=B": "env:DEPLOY_TOKEN"}}, "must not be empty or hold '='"),
        ({"secrets": TOKEN, "env": {"TOKEN": SECRET}}, "config: env and secrets both name TOKEN; give"),
    ],
)
def test_what_is_no_source_of_a_secret_is_refused_without_being_quoted(
    adapter: str, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        enqueue_run(adapter, {"command": ["true"], **changes})
    assert told in str(refusal.value)
    assert SECRET not in str(refusal.value)


def stored_output(services: Services, run_id: UUID) -> bytes:
    return b"".join(chunk.data for chunk in services.logs.read(run_id, 1))


def everything_stored(services: Services) -> str:
    with services.database.begin() as connection:
        rows = [connection.execute(text(f"SELECT * FROM {name}")).all() for name in Row.metadata.tables]
    return repr(rows)


def test_no_row_holds_the_value_and_the_stored_log_is_masked(
    services: Services, start_worker: Callable[..., Process]
) -> None:
    worker = start_worker(extra={"DEPLOY_TOKEN": SECRET})
    program = "import os; [os.write(1, bytes([byte])) for byte in b'it is ' + os.environb[b'TOKEN']]"
    config = {"command": [sys.executable, "-c", program], "secrets": TOKEN}
    runs = [enqueue_run(adapter, config).id for adapter in ("process", "detached")]
    for run_id in runs:
        eventually(lambda run_id=run_id: status_of(services, run_id) == "succeeded")
        eventually(lambda run_id=run_id: stored_output(services, run_id) == b"it is ***")
        assert services.runs.get(run_id).spec.config["secrets"] == TOKEN
    everything = everything_stored(services)
    assert "env:DEPLOY_TOKEN" in everything
    assert SECRET not in everything
    assert SECRET not in worker.output


def test_an_error_of_the_database_quotes_no_parameter(services: Services) -> None:
    """They may be a run's output, or its environment, and such an error is logged."""
    with pytest.raises(DBAPIError) as error, services.database.begin() as connection:
        connection.execute(text("SELECT 1 / 0, :output"), {"output": SECRET})
    assert "division by zero" in str(error.value)
    assert SECRET not in str(error.value)
