"""E03: what is refreshed is narrow, and a sweep reads nothing that is wide."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import TextClause, event, text

from reprieve.models.process import ProcessIdentity
from reprieve.stores.questions import HANDLES
from reprieve.stores.runs.store import RETRIES
from reprieve.stores.sweeps import SUSPECT_IDS, SUSPECTS
from reprieve.workers.bootstrap import Services
from reprieve.workers.sweep import sweep
from tests.faults.helpers_cdeg import forget_watch
from tests.support.rows import age, in_process, record_handle, record_process, running, watch_for

pytestmark = pytest.mark.row("E03")

WIDE_TYPES = ("jsonb", "json", "bytea", "xml", "ARRAY", "USER-DEFINED")
#: What is wide, or may be: of a run, of its attempts, of its log.
WIDE = ("config", "labels", "handle", "outcome", "data", "error_message", "run_specs", "log_segments", "*")


def _plan(services: Services, statement: TextClause, **parameters: Any) -> dict:
    now = services.database.now()
    with services.database.begin() as connection:
        explain = text(f"EXPLAIN (VERBOSE, FORMAT JSON) {statement.text}")
        return connection.execute(explain, {"cutoff": now, "now": now, **parameters}).scalar_one()[0]["Plan"]


def _nodes(plan: dict) -> Iterator[dict]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


@contextmanager
def _statements(services: Services) -> Iterator[list[str]]:
    """Collects the statements that are sent to the database."""
    sent: list[str] = []

    def collect(connection, cursor, statement, *rest) -> None:
        sent.append(statement)

    event.listen(services.database.engine, "before_cursor_execute", collect)
    try:
        yield sent
    finally:
        event.remove(services.database.engine, "before_cursor_execute", collect)


def _suspects_of_every_kind(services: Services) -> None:
    """Silent and overdue runs with as much beside their rows as there can be, and a live one."""
    wide = {"command": ["true"], "stdin": "x" * 100_000}
    silent, child, overdue, _ = (
        running(services, config=wide),
        in_process(services, config=wide, max_attempts=2),
        running(services, config=wide, max_runtime=timedelta(hours=1)),
        running(services, config=wide),
    )
    record_handle(services, silent.fence, "host", {"pad": "x" * 100_000})
    record_process(services, child.fence, "host", ProcessIdentity(1, 1, 1.0, "here"))
    age(services, silent.run_id, 400)
    age(services, child.run_id, 400)
    age(services, overdue.run_id, 3700, "started_at")


def test_the_row_that_is_refreshed_holds_nothing_wide(services: Services) -> None:
    query = text("SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'runs'")
    with services.database.begin() as connection:
        columns = {row.column_name: row.data_type for row in connection.execute(query)}
    assert columns["updated_at"] == "timestamp with time zone"
    assert {name for name, kind in columns.items() if kind in WIDE_TYPES} == set()
    # The text there is: words of ours, names of a type and of a lane, and one bounded sentence, written at the end.
    assert {name for name, kind in columns.items() if kind == "text"} == {
        "adapter",
        "lane",
        "status",
        "error_code",
        "error_message",
        "last_proof",
    }


def test_a_refreshed_row_is_small_whatever_was_asked_for(services: Services) -> None:
    narrow, wide = running(services), running(services, config={"command": ["true"], "stdin": "x" * 1_000_000})
    query = text("SELECT pg_column_size(runs.*) FROM runs WHERE id = :id")
    with services.database.begin() as connection:
        sizes = [connection.execute(query, {"id": work.run_id}).scalar_one() for work in (narrow, wide)]
    assert sizes[0] == sizes[1] < 300


def test_suspects_are_read_from_runs_and_attempts_and_give_ids_and_times_alone(services: Services) -> None:
    plan = _plan(services, SUSPECTS, ids=[str(uuid4())], ends_doubt=[])
    relations = {node["Relation Name"] for node in _nodes(plan) if "Relation Name" in node}
    assert relations == {"runs", "run_attempts", "attempt_logs", "sparings", "run_tokens"}
    # Of what is stored of the log, the highest number only.
    highest = "COALESCE((upper(l.stored) - 1), '0'::bigint)"
    # A node that passes on what another has worked out shows it in parentheses.
    columns = {column[1:-1] if column == f"({highest})" else column for column in plan["Output"]}
    # Of what was said of its silence: since when it is in doubt, and what was said last.
    said = {column for column in columns if "sparings." in column}
    assert len(said) == 3
    # Whether its work reports over HTTP.
    reports = {column for column in columns if "SubPlan" in column}
    assert len(reports) == 1
    columns -= said | reports
    assert {column if column == highest else column.partition(".")[2] for column in columns} == {
        highest,
        "id",
        "epoch",
        "attempt",
        "max_attempts",
        "adapter",
        "out_of_process_liveness",
        "started_at",
        "max_runtime",
        "updated_at",
        "last_proof",
        "worker_node",
        "start_by",
    }


def test_running_runs_are_found_without_reading_those_that_have_ended(services: Services) -> None:
    with services.database.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO runs (id, adapter, out_of_process_liveness, status, finished_at) "
                "SELECT gen_random_uuid(), 'detached', true, 'succeeded', now() FROM generate_series(1, 5000)"
            )
        )
        connection.execute(text("ANALYZE runs"))
    running(services)
    nodes = list(_nodes(_plan(services, SUSPECT_IDS)))
    of_runs = {node["Index Name"] for node in nodes if node.get("Relation Name") == "runs"}
    assert of_runs <= {"runs_running", "runs_in_lane"}
    assert "Seq Scan" not in {node["Node Type"] for node in nodes}
    assert [column.rpartition(".")[2] for column in nodes[0]["Output"]] == ["id"]


@pytest.mark.parametrize("round_", ["the first sweep", "the second sweep"])
def test_a_whole_sweep_reads_nothing_wide(services: Services, round_: str) -> None:
    _suspects_of_every_kind(services)
    forget_watch(services)
    watch_for(services, 400)
    if round_ == "the second sweep":
        sweep(services, by_hand=True)
    with _statements(services) as statements:
        report = sweep(services, by_hand=True)
    assert (report["reaped"], report["spared"]) == ((2, 1) if round_ == "the first sweep" else (0, 1))
    # What a platform is asked about is read for the silent alone, whose adapter can ask; what a run asked for by way
    # of retries, for those alone that are lost.
    few = [one.text.strip().splitlines()[0] for one in (HANDLES, RETRIES)]
    sent = [one.replace("count(*)", "count") for one in statements if not any(first in one for first in few)]
    read = [statement for statement in sent if statement.lstrip().startswith("SELECT")]
    assert any("FROM runs r" in statement for statement in read)
    words = {word for statement in read for word in re.findall(r"[a-z_]+|\*", statement)}
    assert words & set(WIDE) == set(), json.dumps(read)
