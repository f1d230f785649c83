"""What Prometheus is told: what the rows say, and nothing that no rule or page could be wrong about."""

import json
import re
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families as parse

from reprieve.adapters import shipper, spool  # noqa: F401 - counts too
from reprieve.adapters.metrics import REGISTRY
from reprieve.api.metrics import Facts
from reprieve.models.status import Proof
from reprieve.models.work import End, Outcome
from reprieve.stores.embedded.address import choose_port
from reprieve.workers import metrics as of_workers  # noqa: F401
from reprieve.workers.app import app
from reprieve.workers.bootstrap import Services
from reprieve.workers.finish import finish
from reprieve.workers.refresh import give_proof
from reprieve.workers.sweep import sweep
from tests.conftest import StartWorker
from tests.support.rows import age, chunk, in_process, ingest, new_run, running

AGES = "reprieve_proof_of_life_age_seconds"
ROOT = Path(__file__).parents[2]
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())


def scraped(client: TestClient) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels, in the order of their names."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parse(answer.text)
        for sample in family.samples
    }


def test_what_is_told_is_what_the_rows_say(services: Services, client: TestClient) -> None:
    loud, quiet = running(services), running(services)
    age(services, loud.run_id, 20)
    age(services, quiet.run_id, 310)
    age(services, in_process(services).run_id, 0, "quiet_at")
    new_run(services)
    ended = running(services)
    finish(services, [End.by_result(ended.fence, Outcome(), 1)])
    told = scraped(client)
    assert told["reprieve_runs", "detached", "queued"] == 1
    assert told["reprieve_runs", "detached", "running"] == 2
    assert told["reprieve_runs", "process", "running"] == 1
    assert (told["reprieve_workers", "taking"], told["reprieve_workers", "draining"]) == (0, 0)
    assert (told["reprieve_quiet_runs", "process"], told["reprieve_quiet_runs", "detached"]) == (1, 0)
    ages = {name[2]: value for name, value in told.items() if name[:2] == (f"{AGES}_bucket", "detached")}
    assert (ages["15"], ages["30"], ages["300"], ages["360"], ages["+Inf"]) == (0, 1, 1, 2, 2)
    assert told[f"{AGES}_gsum", "detached"] == pytest.approx(330, abs=10)
    assert told["reprieve_attempts_owed", "closing"] == 1
    assert told["reprieve_attempts_owed", "termination"] == 0


def test_the_reaper_is_missed_before_its_first_sweep_and_told_of_afterwards(
    services: Services, client: TestClient
) -> None:
    before = scraped(client)
    assert before["reprieve_healthy",] == 0
    assert ("reprieve_sweep_age_seconds",) not in before
    sweep(services, by_hand=True)
    assert 0 <= scraped(client)["reprieve_sweep_age_seconds",] < 30


def test_messages_that_wait_are_counted_queue_by_queue(services: Services, client: TestClient) -> None:
    before = scraped(client)
    assert before["reprieve_queue_messages", "runs"] == 0
    for _ in range(3):
        app.send_task("logs.close_owed")
    after = scraped(client)
    assert (after["reprieve_queue_messages", "archive"], after["reprieve_queue_messages", "runs"]) == (3, 0)


def refreshes(proof: Proof, result: str) -> float:
    return REGISTRY.get_sample_value("reprieve_refreshes_total", {"proof": proof, "result": result}) or 0.0


def test_proofs_of_life_are_counted_by_what_became_of_them(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    results = ("written", "throttled", "void", "failed")
    before = {result: refreshes(Proof.HEARTBEAT, result) for result in results}
    alive, ended, other = running(services), running(services), running(services)
    finish(services, [End.by_result(ended.fence, Outcome(), 0)])
    for _ in range(2):
        give_proof(services, [alive.fence], Proof.HEARTBEAT)
    give_proof(services, [ended.fence], Proof.HEARTBEAT)

    def fail(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr("reprieve.workers.refresh.write_proof", fail)
    with pytest.raises(ConnectionError):
        give_proof(services, [other.fence], Proof.HEARTBEAT)
    counted = {result: refreshes(Proof.HEARTBEAT, result) - before[result] for result in results}
    assert counted == {"written": 1, "throttled": 1, "void": 1, "failed": 1}


def chunks(result: str) -> float:
    return REGISTRY.get_sample_value("reprieve_ingested_chunks_total", {"result": result}) or 0.0


def test_output_is_counted_as_new_or_repeated(services: Services) -> None:
    work, before = running(services), {result: chunks(result) for result in ("new", "repeated")}
    for _ in range(2):
        ingest(services, [chunk(work, 1), chunk(work, 2)])
    assert {result: chunks(result) - before[result] for result in before} == {"new": 2, "repeated": 2}


def test_a_worker_answers_prometheus_where_it_is_told_to(services: Services, start_worker: StartWorker) -> None:
    port = choose_port()
    start_worker("control", name="told", extra={"REPRIEVE_METRICS_ADDRESS": f"127.0.0.1:{port}"})
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert "reprieve_sweep_seconds_bucket" in answer.read().decode()


def test_a_port_that_is_taken_costs_a_worker_its_metrics_and_nothing_else(
    services: Services, start_worker: StartWorker
) -> None:
    port = choose_port()
    extra = {"REPRIEVE_METRICS_ADDRESS": f"127.0.0.1:{port}"}
    start_worker("control", name="first", extra=extra)
    second = start_worker("control", name="second", extra=extra)
    second.wait_for("where this worker cannot answer")
    assert second.popen.poll() is None


@pytest.fixture
def names(services: Services, client: TestClient) -> set[str]:
    """The names of all samples that Prometheus may be told."""
    running(services)
    sweep(services, by_hand=True)
    with services.database.begin() as connection:
        connection.exec_driver_sql("UPDATE reaper_watch SET heard_at = clock_timestamp()")
    there = {name for name, *_ in scraped(client)}
    for family in REGISTRY.collect():
        there |= {family.name + _counted(family), *(sample.name for sample in family.samples)}
        if family.type == "histogram":
            there.add(f"{family.name}_bucket")
    return there


def _counted(family: Metric) -> str:
    return "_total" if family.type == "counter" else ""


def test_every_metric_that_an_alert_names_exists_and_each_says_what_to_do(names: set[str]) -> None:
    rules = ALERTS["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 5
    for rule in rules:
        named = set(re.findall(r"reprieve_\w+", rule["expr"]))
        assert named, rule
        assert named <= names, rule
        assert {"summary", "what_to_do"} <= rule["annotations"].keys()


def test_every_metric_that_the_dashboard_shows_exists(names: set[str]) -> None:
    shown = json.loads((ROOT / "deploy" / "grafana" / "reprieve.json").read_text())["panels"]
    for panel in shown:
        for target in panel["targets"]:
            named = set(re.findall(r"reprieve_\w+", target["expr"]))
            assert named, panel["title"]
            assert named <= names, panel["title"]


def test_every_metric_is_in_the_reference_and_no_other(services: Services) -> None:
    running(services)
    sweep(services, by_hand=True)
    with services.database.begin() as connection:
        connection.exec_driver_sql("UPDATE reaper_watch SET heard_at = clock_timestamp()")
    ours = {
        family.name + _counted(family)
        for family in (*Facts(services).collect(), *REGISTRY.collect())
        if family.name.startswith("reprieve_")
    }
    listed = re.findall(r"^\| `(reprieve_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(ours)
