"""Many runs over HTTP: chosen once, ended or done again, the same ones however often it is asked."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from reprieve.api import bulk
from reprieve.api.app import create_app
from reprieve.models.access import Scope
from reprieve.models.work import End, Fence, Outcome
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from tests.support.http import LOCAL, bearer, with_token
from tests.support.rows import new_run, running, status_of


def ended(services: Services, **changes: Any) -> UUID:
    work = running(services, **changes)
    assert finish(services, [End.by_result(work.fence, Outcome.failed("No."), 0)])
    return work.run_id


def ask(client: TestClient, deed: str, key: str | None = None, code: int = 200, **body: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    answer = client.post(f"/v1/runs/{deed}", json=body, headers=headers)
    assert answer.status_code == code, answer.text
    return answer.json()


def test_those_that_fit_are_ended_the_newest_first_and_so_many_at_the_most(
    client: TestClient, services: Services
) -> None:
    runs = [new_run(services, labels={"team": "data"}).id for _ in range(4)][::-1]
    others = [new_run(services).id, ended(services, labels={"team": "data"})]
    counted = ask(client, "cancel", label=["team=data"], dry_run=True)
    assert counted == {"chosen": 4, "more": False, "runs": []}
    assert {status_of(services, run) for run in runs} == {"queued"}
    for _ in range(2):  # The same key is about the same runs.
        done = ask(client, "cancel", "one", label=["team=data"], limit=3)
        assert done == {"chosen": 3, "more": True, "runs": [str(run) for run in runs[:3]]}
    assert status_of(services, runs[3]) == "queued"
    assert ask(client, "cancel", "two", label=["team=data"], limit=3)["runs"] == [str(runs[3])]
    assert [status_of(services, run) for run in others] == ["queued", "failed"]


def test_those_that_failed_are_done_again_once_for_a_key(client: TestClient, services: Services) -> None:
    failed = [ended(services, lane="night") for _ in range(3)][::-1]
    new_run(services, lane="night")
    first = ask(client, "again", "one", lane="night")
    assert first["chosen"] == 3
    made = [services.records.get(UUID(run)) for run in first["runs"]]
    assert [run.again_of for run in made] == failed
    # What they have made has ended too, and fits; the request that comes again is not about it.
    finish(services, [End.by_cancel(Fence(run.id, run.epoch), run.status) for run in made])
    assert ask(client, "again", "one", lane="night") == first
    assert ask(client, "again", "two", lane="night")["chosen"] == 6


def test_runs_are_named_by_their_ids_and_those_that_cannot_be_meant_are_passed_over(
    client: TestClient, services: Services
) -> None:
    queued, failed = new_run(services).id, ended(services)
    both = [str(queued), str(failed)]
    done = ask(client, "cancel", "one", runs=both)
    assert (done["chosen"], done["runs"], status_of(services, failed)) == (1, [str(queued)], "failed")
    again = ask(client, "again", "two", runs=both)
    assert {services.records.get(UUID(run)).again_of for run in again["runs"]} == {queued, failed}
    assert ask(client, "again", "three", runs=[]) == {"chosen": 0, "more": False, "runs": []}
    ask(client, "cancel", "four", 404, runs=[str(uuid4())])


def test_a_request_that_was_cut_off_is_done_by_the_next_with_its_key(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "STEP", 1)
    runs = [new_run(services, lane="night").id for _ in range(3)][::-1]
    real, calls = bulk.cancel_each, []

    def cut_off(*given: Any, **by: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise RuntimeError("killed")
        return real(*given, **by)

    monkeypatch.setattr(bulk, "cancel_each", cut_off)
    ask(client, "cancel", "one", 500, lane="night", limit=3)
    assert [status_of(services, run) for run in runs] == ["cancelled", "queued", "queued"]
    later = new_run(services, lane="night").id
    assert ask(client, "cancel", "one", lane="night", limit=3)["runs"] == [str(run) for run in runs]
    assert status_of(services, later) == "queued"


def test_a_run_that_another_transaction_holds_keeps_none_of_the_others_from_their_end(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "STEP", 1)
    *others, held = [new_run(services, lane="night").id for _ in range(3)]
    with services.database.engine.connect() as connection:
        connection.execute(text("SELECT FROM runs WHERE id = :id FOR UPDATE"), {"id": held})
        ask(client, "cancel", "one", 503, lane="night")
    assert [status_of(services, run) for run in (*others, held)] == ["cancelled", "cancelled", "queued"]
    assert len(ask(client, "cancel", "one", lane="night")["runs"]) == 3


def test_a_run_that_has_been_removed_since_it_was_chosen_keeps_no_other_from_being_done_again(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "STEP", 1)
    runs = [ended(services, lane="night") for _ in range(3)][::-1]
    real, calls = bulk.again_each, []

    def removed_meanwhile(*given: Any, **named: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            services.database.run(text("DELETE FROM runs WHERE id = :id"), {"id": runs[1]})
        return real(*given, **named)

    monkeypatch.setattr(bulk, "again_each", removed_meanwhile)
    ask(client, "again", "one", 404, lane="night", limit=3)
    made = ask(client, "again", "one", lane="night", limit=3)["runs"]
    assert [services.records.get(UUID(run)).again_of for run in made] == [runs[0], runs[2]]


def test_what_cannot_be_meant_is_refused_with_a_sentence(client: TestClient, services: Services) -> None:
    run = new_run(services, lane="night").id
    for deed, unfit in (("cancel", "failed"), ("again", "running")):
        for body, said in [
            ({}, "Which runs"),
            ({"limit": 5, "dry_run": True}, "Which runs"),
            ({"runs": [str(run)], "lane": "night"}, "not both"),
            ({"status": [unfit]}, f"not for runs that are {unfit}"),
            ({"lane": "night", "limit": 1001}, "limit"),
            ({"lanes": "night"}, "lanes"),
            ({"label": ["team=data", "team=web"]}, "two values"),
            ({"runs": [str(run)] * 1001}, "runs"),
        ]:
            assert said in ask(client, deed, "key", 422, **body)["detail"], body
        for body in ({"idempotency_key": ""}, {"idempotency_key": "a\0"}):
            assert "idempotency_key" in ask(client, deed, None, 422, lane="night", **body)["detail"]
        for key in (None, "k" * 201):
            assert "idempotency_key" in ask(client, deed, key, 422, lane="night")["detail"]
    assert ask(client, "cancel", "key", lane="night")["chosen"] == 1
    assert "another request" in ask(client, "cancel", "key", 409, lane="day")["detail"]
    assert "another request" in ask(client, "again", "key", 409, lane="night")["detail"]


def test_a_key_of_the_greatest_length_will_do(client: TestClient, services: Services) -> None:
    ended(services, lane="night")
    assert len(ask(client, "again", "k" * 200, lane="night")["runs"]) == 1


def test_a_choice_is_forgotten_after_a_week_and_not_before(client: TestClient, services: Services) -> None:
    for key, days in (("young", 6.9), ("old", 7.1)):
        ask(client, "cancel", key, lane="night")
        with services.database.begin() as connection:
            connection.execute(
                text("UPDATE bulk_requests SET asked_at = now() - :days * interval '1 day' WHERE key = :key"),
                {"days": days, "key": key},
            )
    ask(client, "cancel", "new", lane="night")
    assert {row.key for row in services.database.run("SELECT key FROM bulk_requests")} == {"young", "new"}


def test_one_who_may_only_read_changes_nothing(services: Services) -> None:
    run = ended(services, lane="night")
    reader = TestClient(create_app(with_token(services, Scope.READ)), base_url=LOCAL, headers=bearer())
    for path in ("cancel", "again", f"{run}/again"):
        answer = reader.post(f"/v1/runs/{path}", json={}, headers={"Idempotency-Key": "key"})
        assert answer.status_code == 403, path
    assert len(services.records.newest()) == 1


def test_a_run_is_done_again_by_its_id(client: TestClient, services: Services) -> None:
    run = new_run(services).id
    made = [client.post(f"/v1/runs/{run}/again", headers={"Idempotency-Key": "one"}) for _ in "12"]
    assert [answer.status_code for answer in made] == [201, 200]
    assert {answer.headers["location"] for answer in made} == {f"/v1/runs/{made[0].json()['id']}"}
    assert made[0].json()["again_of"] == str(run)
    body = client.post(f"/v1/runs/{run}/again", json={"idempotency_key": "two"})
    assert body.status_code == 201
    differ = client.post(f"/v1/runs/{run}/again", json={"idempotency_key": "a"}, headers={"Idempotency-Key": "b"})
    assert differ.status_code == 422
    assert client.post(f"/v1/runs/{uuid4()}/again").status_code == 404


def test_a_request_that_a_release_before_this_one_kept_is_the_same_request(
    client: TestClient, services: Services
) -> None:
    new_run(services, labels={"team": "data"})
    done = ask(client, "cancel", "before", label=["team=data"])
    (kept,) = services.database.run("SELECT asked FROM bulk_requests")
    names = {"status", "adapter", "label", "error", "lane", "since", "text", "runs", "limit", "deed"}
    assert set(kept.asked) == names
    assert ask(client, "cancel", "before", label=["team=data"]) == done
