"""Runs over HTTP: started, listed, looked at, cancelled, and what they printed."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError, TimeoutError

from reprieve import cancel_run
from reprieve.models.work import End, Outcome
from reprieve.stores.database import Database
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from tests.support.rows import chunk, ingest, new_run, running

RUN = {"adapter": "process", "config": {"command": ["true"]}, "labels": {"team": "data"}}


def started(client: TestClient, **changes: Any) -> dict[str, Any]:
    answer = client.post("/v1/runs", json=RUN | changes)
    assert answer.status_code == 201, answer.text
    record: dict[str, Any] = answer.json()
    return record


def test_a_run_is_started_and_its_address_told(client: TestClient, services: Services) -> None:
    answer = client.post("/v1/runs", json=RUN | {"max_runtime_seconds": 60, "max_attempts": 3})
    record = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (201, f"/v1/runs/{record['id']}")
    assert (record["status"], record["max_runtime_seconds"], record["max_attempts"]) == ("queued", 60, 3)
    assert services.runs.get(UUID(record["id"])).spec.config == {"command": ["true"]}
    assert client.get(answer.headers["location"]).json() == record
    assert "config" not in record


def test_the_same_idempotency_key_gives_the_same_run_and_other_work_is_a_conflict(client: TestClient) -> None:
    key = {"Idempotency-Key": "tuesday"}
    first, second = (client.post("/v1/runs", json=RUN, headers=key) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    other = client.post("/v1/runs", json=RUN | {"config": {"command": ["false"]}}, headers=key)
    assert (other.status_code, other.headers["content-type"]) == (409, "application/problem+json")
    assert "use a new key" in other.json()["detail"]


def test_a_key_may_be_in_the_body_where_it_may_hold_what_no_header_can(client: TestClient) -> None:
    key = "отчёт 42"
    first, again = (client.post("/v1/runs", json=RUN | {"idempotency_key": key}) for _ in range(2))
    assert (first.status_code, again.status_code, again.json()) == (201, 200, first.json())
    header = {"Idempotency-Key": "tuesday"}
    assert client.post("/v1/runs", json=RUN | {"idempotency_key": "tuesday"}, headers=header).status_code == 201
    differ = client.post("/v1/runs", json=RUN | {"idempotency_key": "monday"}, headers=header)
    assert (differ.status_code, "give one of them" in differ.json()["detail"]) == (422, True)


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (f"/v1/runs/{UUID(int=7)}", None, "run-not-found"),
        ("/v1/nothing", None, "not-found"),
        ("/v1/runs", RUN | {"adapter": "proces"}, "unknown-adapter"),
        ("/v1/runs", RUN | {"max_attempts": 0}, "invalid-request"),
        ("/v1/runs", RUN | {"max_attempts": "x"}, "unprocessable-entity"),
    ],
)
def test_a_problem_names_the_error_that_it_is_to_a_direct_caller(
    client: TestClient, path: str, body: dict[str, Any] | None, named: str
) -> None:
    answer = client.post(path, json=body) if body else client.get(path)
    assert answer.json()["type"] == f"urn:reprieve:problem:{named}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adapter": "proces"}, "There is no adapter 'proces' here"),
        ({"config": {}}, "config.command"),
        ({"config": {"command": ["true"], "shell": True}}, "config.shell is not a field"),
        ({"max_attempts": 0}, "max_attempts is 0"),
        ({"max_runtime_seconds": -1}, "max_runtime is -1"),
        ({"labels": {"team": 1}}, "body.labels.team"),
        ({"timeout": 3}, "body.timeout"),
    ],
)
def test_what_cannot_be_started_is_a_problem_that_names_the_field(
    client: TestClient, changes: dict[str, Any], said: str
) -> None:
    answer = client.post("/v1/runs", json=RUN | changes)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert said in answer.json()["detail"]
    assert client.get("/v1/runs").json()["runs"] == []


def test_pages_go_on_where_the_last_one_ended_though_new_runs_come(client: TestClient) -> None:
    runs = [started(client)["id"] for _ in range(5)]
    first = client.get("/v1/runs", params={"limit": 2}).json()
    started(client)
    second = client.get("/v1/runs", params={"limit": 2, "before": first["next"]}).json()
    third = client.get("/v1/runs", params={"limit": 2, "before": second["next"]}).json()
    pages = [[run["id"] for run in page["runs"]] for page in (first, second, third)]
    assert pages == [runs[:2:-1], runs[2:0:-1], runs[:1]]
    assert third["next"] is None


def test_runs_are_listed_by_status_adapter_and_labels(client: TestClient, services: Services) -> None:
    data, web = started(client), started(client, labels={"team": "web", "tier": "1"})
    detached, cancelled = started(client, adapter="detached"), started(client)
    cancel_run(cancelled["id"])

    def listed(**params: Any) -> list[str]:
        return sorted(run["id"] for run in client.get("/v1/runs", params=params).json()["runs"])

    assert listed(label=["team=web", "tier=1"]) == [web["id"]]
    assert listed(label=["team=web", "tier=2"]) == []
    assert listed(adapter="detached") == [detached["id"]]
    assert listed(status="cancelled") == [cancelled["id"]]
    assert listed(status=["cancelled", "queued"], label="team=data", adapter="process") == sorted(
        [data["id"], cancelled["id"]]
    )


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"limit": 1001}, "query.limit"),
        ({"limit": 0}, "query.limit"),
        ({"lanes": "night"}, "query.lanes"),
        ({"error": "no such"}, "query.error"),
        ({"since": "2026-01-01T00:00:00"}, "query.since"),
        ({"text": ""}, "query.text"),
        ({"status": "dead"}, "query.status"),
        ({"label": "team"}, "query.label.0"),
        ({"label": "=data"}, "query.label.0"),
        ({"label": "a=\0"}, "query.label.0"),
        ({"adapter": "\0"}, "query.adapter"),
        ({"before": "x"}, "query.before"),
    ],
)
def test_a_list_that_makes_no_sense_is_a_problem(client: TestClient, params: dict[str, Any], said: str) -> None:
    answer = client.get("/v1/runs", params=params)
    assert (answer.status_code, said in answer.json()["detail"]) == (422, True), answer.text


def test_what_is_not_there_is_not_found(client: TestClient, services: Services) -> None:
    run_id, there = uuid4(), new_run(services).id
    for path in ("", "/events", "/explain", "/log", "/attempts/1/output/stdout", "/log/live"):
        answer = client.get(f"/v1/runs/{run_id}{path}")
        assert (answer.status_code, answer.json()["detail"]) == (404, f"There is no run {run_id}.")
    assert client.post(f"/v1/runs/{run_id}/cancel").status_code == 404
    assert client.get(f"/v1/runs/{there}/log", params={"attempt": 2}).status_code == 404
    assert client.get(f"/v1/runs/{there}/attempts/1/output/stdout").status_code == 404
    assert client.get("/v1/rums").json()["status"] == 404


@pytest.mark.parametrize("error", [OperationalError("SELECT", {}, OSError("secret")), TimeoutError("QueuePool")])
def test_a_database_that_does_not_answer_is_told_with_when_to_come_again(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(services.records, "page", fail)
    answer = client.get("/v1/runs")
    assert (answer.status_code, answer.headers["retry-after"], "secret" in answer.text) == (503, "5", False)
    assert "Nothing was changed." in answer.json()["detail"]


def test_trouble_that_comes_after_a_run_was_written_is_not_told_as_if_there_were_none(
    client: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Database.run

    def fail(database: Database, *arguments: Any) -> None:
        commit(database, *arguments)
        raise OperationalError("COMMIT", {}, OSError("server closed the connection unexpectedly"))

    with monkeypatch.context() as patch:
        patch.setattr(Database, "run", fail)
        answer = client.post("/v1/runs", json={"adapter": "process", "config": {"command": ["true"]}})
    assert answer.status_code == 503
    assert "Nothing was changed" not in answer.json()["detail"]
    assert "Idempotency-Key" in answer.json()["detail"]
    assert len(services.records.newest()) == 1


def test_a_run_is_cancelled_once_and_stays_so(client: TestClient) -> None:
    run = started(client)
    for _ in range(2):
        assert client.post(f"/v1/runs/{run['id']}/cancel").json()["status"] == "cancelled"
    kinds = [event["kind"] for event in client.get(f"/v1/runs/{run['id']}/events").json()["events"]]
    assert kinds == ["enqueued", "cancelled"]


def test_a_run_is_explained_in_sentences_and_as_data(client: TestClient, services: Services) -> None:
    work = running(services)
    told = client.get(f"/v1/runs/{work.run_id}/explain").json()
    assert told["sentences"][0] == f"Run {work.run_id}"
    assert "worker@nowhere" in told["sentences"][1]
    assert [event["kind"] for event in told["events"]] == ["enqueued", "claimed"]
    assert (told["run"]["status"], told["logs"][0]["chunks"], told["sparings"]) == ("running", 0, [])


# -- many at once


def test_a_batch_is_answered_with_each_run_in_order_and_whether_it_is_new(
    client: TestClient, services: Services
) -> None:
    wanted = [RUN | {"idempotency_key": "monday"}, RUN | {"max_attempts": 2}, RUN | {"idempotency_key": "monday"}]
    before = client.post("/v1/runs", json=wanted[0]).json()
    answer = client.post("/v1/runs/batch", json={"runs": wanted})
    told = answer.json()["runs"]
    assert (answer.status_code, [one["is_new"] for one in told]) == (200, [False, True, False])
    assert told[0]["run"] == told[2]["run"] == before
    assert client.get(f"/v1/runs/{told[1]['run']['id']}").json() == told[1]["run"]
    assert len(services.records.newest()) == 2
    assert client.post("/v1/runs/batch", json={"runs": []}).json() == {"runs": []}


@pytest.mark.parametrize(
    ("batch", "status", "said"),
    [
        (
            {"runs": [RUN, RUN | {"adapter": "proces", "idempotency_key": "k"}]},
            422,
            "Run 1 (idempotency_key 'k'): ",
        ),
        ({"runs": [RUN, RUN | {"labels": {"team": 1}}]}, 422, "body.runs.1.labels.team"),
        ({"runs": [RUN, RUN | {"shell": True}]}, 422, "body.runs.1.shell"),
        ({"runs": [{}] * 5000}, 422, "and 9980 more"),
        ({"runs": [0] * 10_001}, 422, "at most 10000 items"),
        ({"runs": RUN}, 422, "body.runs"),
        ({"runs": [], "all": True}, 422, "body.all"),
        ({"runs": [RUN | {"labels": {"team": "x" * 2_100_000}}]}, 413, "send less at once"),
    ],
)
def test_a_batch_that_cannot_be_taken_says_where_and_nothing_of_it_is_written(
    client: TestClient, services: Services, batch: dict[str, Any], status: int, said: str
) -> None:
    answer = client.post("/v1/runs/batch", json=batch)
    assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text[:500]
    assert len(answer.content) < 10_000
    assert services.records.newest() == []


# -- logs


def test_a_log_is_read_in_pages_and_every_byte_is_in_it(client: TestClient, services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1, "zwölf\n".encode()), chunk(work, 2, b"\xff\0"), chunk(work, 3, stream="stderr")])
    path = f"/v1/runs/{work.run_id}/log"
    first = client.get(path, params={"limit": 2}).json()
    assert [(one["seq"], one.get("text"), one.get("base64")) for one in first["chunks"]] == [
        (1, "zwölf\n", None),
        (2, None, "/wA="),
    ]
    second = client.get(path, params={"after": first["next_after"]}).json()
    assert [(one["seq"], one["stream"]) for one in second["chunks"]] == [(3, "stderr")]
    assert (second["ended"], second["last_seq"], second["next_after"]) == (False, None, 3)
    finish(services, [End.by_result(work.fence, Outcome(), 3)])
    last = client.get(path, params={"after": 3}).json()
    assert (last["chunks"], last["ended"], last["last_seq"], last["next_after"]) == ([], True, 3, 3)


def test_all_of_a_log_goes_on_behind_any_number(client: TestClient, services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, seq) for seq in (1, 2, 5)])
    finish(services, [End.by_result(work.fence, Outcome(), 5)])
    path = f"/v1/runs/{work.run_id}/attempts/1/log.ndjson"
    whole = client.get(path).text.splitlines()
    assert [line.partition(":")[0] for line in whole] == ['{"seq"', '{"seq"', '{"gap"', '{"seq"', '{"end"']
    assert client.get(path, params={"after": 1}).text.splitlines()[:-1] == whole[1:-1]
    assert client.get(path, params={"after": 4}).text.splitlines()[:-1] == whole[3:-1]
    assert client.get(path, params={"after": 5}).text.splitlines() == ['{"end":{"whole":true,"chunks":0,"gaps":0}}']


def test_a_run_that_no_worker_has_taken_has_an_empty_log(client: TestClient, services: Services) -> None:
    answer = client.get(f"/v1/runs/{new_run(services).id}/log").json()
    assert (answer["attempt"], answer["chunks"], answer["ended"]) == (1, [], False)


def test_a_page_of_a_log_is_bounded_in_bytes_too(client: TestClient, services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, seq, bytes([seq]) * 60_000) for seq in range(1, 41)])
    path, after, pages = f"/v1/runs/{work.run_id}/log", 0, []
    while page := client.get(path, params={"after": after}).json()["chunks"]:
        pages.append(len(page))
        after = page[-1]["seq"]
    assert (sum(pages), max(pages)) == (40, 17)


@pytest.mark.parametrize(
    ("wanted", "status", "first", "last"),
    [
        (None, 200, 0, 25),
        ("bytes=0-0", 206, 0, 0),
        ("bytes=3-9", 206, 3, 9),
        ("bytes=20-", 206, 20, 25),
        ("bytes=-4", 206, 22, 25),
        ("bytes=-99", 206, 0, 25),
        ("bytes=20-99", 206, 20, 25),
        ("bytes=9-3", 200, 0, 25),
        ("lines=1-2", 200, 0, 25),
    ],
)
def test_the_bytes_of_a_stream_or_a_range_of_them(
    client: TestClient, services: Services, wanted: str | None, status: int, first: int, last: int
) -> None:
    work = running(services)
    letters = bytes(range(ord("a"), ord("z") + 1))
    pieces = [letters[:4], letters[4:5], letters[5:20], letters[20:]]
    ingest(services, [chunk(work, seq, piece) for seq, piece in enumerate(pieces, 1)])
    ingest(services, [chunk(work, 5, b"<script>", stream="stderr")])
    headers = {"Range": wanted} if wanted else {}
    answer = client.get(f"/v1/runs/{work.run_id}/attempts/1/output/stdout", headers=headers)
    assert (answer.status_code, answer.content) == (status, letters[first : last + 1])
    assert answer.headers["content-length"] == str(last - first + 1)
    assert answer.headers.get("content-range") == (f"bytes {first}-{last}/26" if status == 206 else None)


@pytest.mark.parametrize("wanted", ["bytes=26-", "bytes=26-30", "bytes=-0"])
def test_a_range_beyond_the_end_is_answered_with_the_size(client: TestClient, services: Services, wanted: str) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1, b"a" * 26)])
    answer = client.get(f"/v1/runs/{work.run_id}/attempts/1/output/stdout", headers={"Range": wanted})
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */26")


def test_output_is_never_taken_for_a_page(client: TestClient, services: Services) -> None:
    work = running(services)
    ingest(services, [chunk(work, 1, b"<script>alert(1)</script>")])
    answer = client.get(f"/v1/runs/{work.run_id}/attempts/1/output/stdout")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert client.get(f"/v1/runs/{work.run_id}/attempts/1/output/..%2Fx").status_code in (404, 422)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("PUT", "/v1/runs", "GET, POST"), ("DELETE", f"/v1/runs/{UUID(int=7)}", "GET")],
)
def test_a_method_that_a_path_does_not_take_is_answered_with_all_that_it_takes(
    client: TestClient, method: str, path: str, allowed: str
) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
    assert answer.json()["detail"] == f"{method} is not for this path; it takes {allowed}."


# -- quiet


def test_a_run_is_snoozed_and_its_record_says_until_when(client: TestClient, services: Services) -> None:
    work = running(services, quiet_after=timedelta(hours=1))
    path = f"/v1/runs/{work.run_id}"
    answer = client.post(f"{path}/snooze", json={"seconds": 3600})
    assert (answer.status_code, answer.json()) == (200, client.get(path).json())
    assert answer.json()["snoozed_until"] is not None
    (event,) = [one for one in client.get(f"{path}/events").json()["events"] if one["kind"] == "snoozed"]
    assert (event["detail"]["until"][:19], event["detail"]["seconds"]) == (answer.json()["snoozed_until"][:19], 3600)
    assert "does not end as stalled" in " ".join(client.get(f"{path}/explain").json()["sentences"])


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("{run}", {"seconds": -1}, 422, "give seconds from 0, which ends a snooze, to 30 days"),
        ("{run}", {"seconds": 1e308}, 422, "give seconds from 0"),
        ("{run}", {}, 422, "body.seconds"),
        ("{run}", {"seconds": 60, "minutes": 1}, 422, "body.minutes"),
        (str(UUID(int=7)), {"seconds": 60}, 404, "There is no run"),
    ],
)
def test_a_snooze_that_cannot_be_is_refused(
    client: TestClient, services: Services, path: str, body: dict[str, Any], status: int, said: str
) -> None:
    run = new_run(services).id
    answer = client.post(f"/v1/runs/{path.format(run=run)}/snooze", json=body)
    assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text
