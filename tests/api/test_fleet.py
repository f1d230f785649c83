"""The fleet's last hour, read from what happened."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from reprieve.models.status import EventKind
from reprieve.models.workers import Presence
from reprieve.stores.fleet import COUNTED_AT_ONCE, HISTORY_STEPS
from reprieve.workers.bootstrap import Services
from reprieve.workers.sweep import sweep
from tests.support.nodes import a_node
from tests.support.rows import new_run

MINUTE = timedelta(minutes=1)


def happened(services: Services, kind: EventKind, *steps_ago: float) -> None:
    """Have this happened so many minutes before the beginning of the present one."""
    statement = text(
        "INSERT INTO run_events (run_id, attempt, kind, at) "
        "VALUES (:run, 1, :kind, date_bin('1 min', now(), 'epoch') - :ago * interval '1 min')"
    )
    run = new_run(services).id
    with services.database.begin() as connection:
        for ago in steps_ago:
            connection.execute(statement, {"run": run, "kind": kind.value, "ago": ago})


def counted(services: Services) -> Sequence[int]:
    """The steps that a sweep has counted, by how many minutes ago they began."""
    rows = services.database.run(
        "SELECT extract(epoch FROM date_bin('1 min', now(), 'epoch') - at)::int / 60 AS ago FROM history_steps"
    )
    return sorted(row.ago for row in rows)


@pytest.mark.parametrize("is_counted", [False, True], ids=["that nobody has counted", "that a sweep has counted"])
def test_the_history_counts_what_began_ended_and_was_reaped_by_the_minute(
    client: TestClient, services: Services, is_counted: bool
) -> None:
    happened(services, EventKind.CLAIMED, 0.6, 1, 2.5, 5, 59.01, 60)
    happened(services, EventKind.SUCCEEDED, 1)
    happened(services, EventKind.CANCELLED, 0.9)
    happened(services, EventKind.REAPED, 3.5)
    if is_counted:
        sweep(services, by_hand=True)
    history = client.get("/v1/fleet/history").json()
    assert history["step_seconds"] == 60
    # The present minute, then those before it; a moment belongs to the minute that it begins. The clock may move on.
    started = [ago for ago, count in enumerate(reversed(history["started"])) for _ in range(count)]
    moved = started[0] - 1
    assert moved in (0, 1)
    assert started == [ago + moved for ago in (1, 1, 3, 5) if ago + moved < 60]
    assert history["ended"][-2 - moved] == 2 == sum(history["ended"])
    assert history["reaped"][-5 - moved] == 1 == sum(history["reaped"])
    assert {len(history[name]) for name in ("started", "ended", "reaped")} == {60}


def test_a_minute_is_counted_once_and_not_before_all_that_was_written_in_it_can_be_there(services: Services) -> None:
    happened(services, EventKind.CLAIMED, 0, 1, 2, 3)
    for _ in range(2):
        services.fleet.count(MINUTE)
    ours = counted(services)
    assert 1 not in ours
    assert 0 not in ours
    assert set(ours) >= set(range(3, HISTORY_STEPS - 1))
    # What would be there only now is not counted: the minute is over.
    before = services.fleet.history(MINUTE)
    happened(services, EventKind.CLAIMED, 30)
    assert sum(step.started for step in services.fleet.history(MINUTE)) == sum(step.started for step in before)


def test_two_who_count_at_once_count_once_and_what_is_old_is_forgotten(services: Services) -> None:
    services.database.run(
        "INSERT INTO history_steps SELECT now() - n * interval '1 min', interval '1 min', 1, 1, 1, 1 "
        "FROM unnest(ARRAY[1499, 1501]) n"
    )
    happened(services, EventKind.CLAIMED, 10)
    services.fleet.count(MINUTE)
    services.fleet.count(MINUTE)
    assert sum(step.started for step in services.fleet.history(MINUTE)) == 1
    assert max(counted(services)) in (1498, 1499)


def test_failures_of_the_last_hour_and_day_are_told_by_the_minute(client: TestClient, services: Services) -> None:
    happened(services, EventKind.FAILED, 0, 5, 58, 61, 600, 1430, 1450)
    happened(services, EventKind.SUCCEEDED, 5)
    happened(services, EventKind.REAPED, 7)
    # One that was reaped, and is retried, has not failed.
    services.database.run(
        "INSERT INTO run_events (run_id, attempt, kind, at, detail) "
        "SELECT run_id, attempt, kind, at, '{\"retry\": true}' FROM run_events WHERE kind = 'reaped'"
    )

    def told() -> tuple[int, int]:
        fleet = client.get("/v1/fleet").json()
        return fleet["failed_last_hour"], fleet["failed_last_day"]

    # Before a sweep has counted, only the last hour is counted; each sweep then goes some way back through the day.
    assert told() == (4, 4)
    for _ in range(1440 // COUNTED_AT_ONCE + 1):
        services.fleet.count(MINUTE)
    assert told() == (4, 7)
    happened(services, EventKind.FAILED, 0)
    assert told() == (5, 8)


def test_what_a_release_has_counted_that_knew_no_failures_is_counted_again(services: Services) -> None:
    happened(services, EventKind.FAILED, 10, 10, 20)
    services.database.run(
        "INSERT INTO history_steps (at, length, started, ended, reaped) "
        "SELECT date_bin('1 min', now(), 'epoch') - n * interval '1 min', interval '1 min', 0, 2, 0 "
        "FROM unnest(ARRAY[9, 10, 11]) n"
    )
    assert services.fleet.failures(MINUTE) == (3, 3)
    assert sum(step.ended for step in services.fleet.history(MINUTE)) == 3
    services.fleet.count(MINUTE)
    assert services.fleet.failures(MINUTE) == (3, 3)
    assert services.database.run("SELECT count(*) AS n FROM history_steps WHERE failed IS NULL")[0].n == 0


def test_steps_of_another_length_are_counted_by_themselves(services: Services) -> None:
    happened(services, EventKind.CLAIMED, 10)
    services.fleet.count(MINUTE)
    services.fleet.count(2 * MINUTE)
    assert sum(step.started for step in services.fleet.history(2 * MINUTE)) == 1
    assert sum(step.started for step in services.fleet.history(MINUTE)) == 1


def test_the_history_is_found_by_an_index_and_not_by_reading_all_that_ever_happened(services: Services) -> None:
    happened(services, EventKind.CLAIMED, *(step / 60 for step in range(1, 2000, 4)))
    plan = "EXPLAIN SELECT count(*) FROM run_events WHERE at > now() - interval '1 hour' AND at <= now()"
    with services.database.begin() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        told = "\n".join(connection.execute(text(plan)).scalars())
    assert "run_events_at" in told


def test_the_workers_of_runs_are_listed_and_what_is_drained(client: TestClient, services: Services) -> None:
    services.workers.seen(uuid4(), "runs@here", a_node("here"), Presence(places=5, runs=2, spool_bytes=1024))
    services.workers.drain("here")
    answer = client.get("/v1/workers").json()
    (one,) = answer["workers"]
    assert (one["name"], one["host"], one["runs"], one["places"], one["draining"]) == ("runs@here", "here", 2, 5, True)
    assert [drain["name"] for drain in answer["drains"]] == ["here"]
