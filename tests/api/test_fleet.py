"""The fleet's last hour, read from what happened."""

from uuid import uuid4

from fastapi.testclient import TestClient
from sqlalchemy import text

from reprieve.models.status import EventKind
from reprieve.models.workers import Presence
from reprieve.workers.bootstrap import Services
from tests.support.nodes import a_node
from tests.support.rows import happened, new_run


def test_the_history_counts_what_began_ended_and_was_reaped_by_the_minute(
    client: TestClient, services: Services
) -> None:
    happened(services, new_run(services).id, EventKind.CLAIMED, 10, 20, 130)
    happened(services, new_run(services).id, EventKind.SUCCEEDED, 10)
    happened(services, new_run(services).id, EventKind.CANCELLED, 10)
    happened(services, new_run(services).id, EventKind.REAPED, 130)
    history = client.get("/v1/fleet/history").json()
    assert history["step_seconds"] == 60
    assert history["started"][-3:] == [1, 0, 2]
    assert history["ended"][-3:] == [0, 0, 2]
    assert history["reaped"][-3:] == [1, 0, 0]
    assert {len(history[name]) for name in ("started", "ended", "reaped")} == {60}


def test_the_history_ends_an_hour_ago(client: TestClient, services: Services) -> None:
    happened(services, new_run(services).id, EventKind.CLAIMED, 3570, 3660)
    assert sum(client.get("/v1/fleet/history").json()["started"]) == 1


def test_the_history_is_found_by_an_index_and_not_by_reading_all_that_ever_happened(services: Services) -> None:
    happened(services, new_run(services).id, EventKind.CLAIMED, *range(1, 2000, 4))
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
