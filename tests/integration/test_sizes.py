"""How large the tables are, and how old their oldest rows, as doctor and metrics tell."""

from datetime import timedelta

import pytest
from fastapi.testclient import TestClient

from reprieve.cli.checks.postgres import retention, tables
from reprieve.models.rows import Row
from reprieve.models.text import volume
from reprieve.workers.bootstrap import Services
from reprieve.workers.retention import expire_runs
from tests.integration.test_retention import client, ended, kept_for

__all__ = ["client"]


@pytest.mark.parametrize(
    ("size", "told"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_940, "9.9 kB"), (14e9, "14 GB"), (1.5e12, "1.5 TB")],
)
def test_a_size_is_told_in_the_unit_that_fits(size: float, told: str) -> None:
    assert volume(size) == told


def test_each_table_has_its_bytes_with_those_of_its_partitions(services: Services) -> None:
    before = {one.table: one.bytes for one in services.sizes.tables()}
    assert set(before) == set(Row.metadata.tables)
    for _ in range(20):
        ended(services, lines=200)
    after = {one.table: one.bytes for one in services.sizes.tables()}
    assert after["runs"] > 0
    assert after["log_segments"] > before["log_segments"] > 0
    assert [one.bytes for one in services.sizes.tables()] == sorted(after.values(), reverse=True)


def test_the_oldest_row_of_a_table_is_as_old_as_its_run_and_goes_with_it(services: Services) -> None:
    ended(services, 40)
    ended(services, 20)

    def days(table: str) -> int | None:
        oldest = next(one.oldest for one in services.sizes.tables() if one.table == table)
        return oldest and round((services.database.now() - oldest) / timedelta(days=1))

    of_runs = ("runs", "run_specs", "run_attempts", "run_events", "attempt_logs", "log_segments")
    assert [days(table) for table in of_runs] == [40] * len(of_runs)
    assert days("workers") is None
    expire_runs(kept_for(services, "30"))
    assert [days(table) for table in of_runs] == [20] * len(of_runs)


def test_doctor_and_metrics_tell_of_them(services: Services, client: TestClient) -> None:
    assert retention(services) == (True, "Ended runs stay for ever: REPRIEVE_RUN_RETENTION_DAYS is not set.")
    ended(services, 40)
    well, told = tables(services)
    assert well
    assert "run_events" in told
    assert "the oldest run was asked for 40 days ago" in told
    metrics = client.get("/metrics").text
    assert 'reprieve_table_oldest_row_seconds{table="runs"} 3.456' in metrics
    assert 'reprieve_table_bytes{table="runs"}' in metrics
    wired = kept_for(services, "30")
    expire_runs(wired)
    well, told = retention(services)
    assert well
    assert "(30): 1 in the last pass" in told
    services.retention.failed("30", "DiskFull: no room")
    services.database.run("UPDATE retention SET failing_since = failing_since - interval '3 h'")
    well, told = retention(services)
    assert not well
    assert "DiskFull: no room" in told
