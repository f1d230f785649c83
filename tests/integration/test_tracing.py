"""One trace of a run, as a collector gets it from real workers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from reprieve import enqueue_run
from reprieve.stores.runs.insertion import By
from reprieve.workers import tracing
from reprieve.workers.bootstrap import Services
from reprieve.workers.hints import send_execute
from tests.support.http import calling
from tests.support.rows import age, claim, new_run
from tests.support.spans import Collector, collector
from tests.support.waiting import eventually

#: A service's own place in a trace.
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLER = f"00-{TRACE}-{SPAN}-01"

#: A service that asks for a run within a span of its own, with tracing set up as its own process would.
SERVICE = """
import sys
from opentelemetry import propagate, trace
from reprieve import enqueue_run
from reprieve.workers import tracing
tracing.set_up()
place = propagate.extract({"traceparent": sys.argv[1]})
with trace.get_tracer("service").start_as_current_span("POST /reports", place):
    print(enqueue_run("process", {"command": ["sh", "-c", "echo $TRACEPARENT"]}).id)
"""


@pytest.fixture
def collecting() -> Iterator[Collector]:
    with collector() as made:
        yield made


def sending(collecting: Collector) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collecting.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}


def placed_run(services: Services, command: list[str]) -> UUID:
    """A queued run whose asker was at `CALLER`; nobody has been told of it."""
    return new_run(services, By(trace_parent=CALLER), config={"command": command}).id


def test_the_attempt_is_in_the_trace_of_whoever_asked_and_the_work_is_told_its_place(
    services: Services, start_worker, collecting: Collector
) -> None:
    start_worker("runs,logs", extra=sending(collecting))
    command = [sys.executable, "-c", SERVICE, CALLER]
    env = {**os.environ, **sending(collecting), "REPRIEVE_DATA_DIR": str(services.settings.data_dir)}
    asked = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
    run = asked.stdout.strip()
    eventually(lambda: len(collecting.of(run)) == 2, timeout=30, what=lambda: str(collecting.spans))
    (asking,), (attempt,) = collecting.of(run, "enqueue run"), collecting.of(run, "attempt")
    (own,) = [one for one in collecting.spans if one.name == "POST /reports"]
    assert {own.trace, asking.trace, attempt.trace} == {TRACE}
    assert (own.parent, asking.parent, attempt.parent) == (SPAN, own.id, asking.id)
    assert attempt.attributes["reprieve.result"] == "succeeded"
    assert not attempt.failed
    (chunk,) = eventually(lambda: services.logs.read(run, 1))
    assert chunk.data.decode().strip() == f"00-{TRACE}-{attempt.id}-01"


def test_work_that_is_followed_on_and_work_that_is_reaped_stay_in_their_trace(
    services: Services, start_worker, start_beat, collecting: Collector, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    script = f"until [ -e {told} ]; do sleep 0.1; done; exit 3"
    run = placed_run(services, ["sh", "-c", script])
    try:
        first = start_worker("runs", name="first")
        send_execute(run)
        eventually(lambda: services.runs.get(run).attempts and services.runs.get(run).attempts[0].handle)
        first.kill()
        start_beat()
        start_worker("runs,logs,control", name="second", extra=sending(collecting))
        eventually(lambda: services.runs.get(run).epoch == 2, timeout=60)
        told.touch()
        eventually(lambda: collecting.of(run, "adoption"), timeout=60)
    finally:
        told.touch()
    (adoption,) = collecting.of(run, "adoption")
    assert (adoption.trace, adoption.parent) == (TRACE, SPAN)
    assert adoption.failed
    assert adoption.attributes["reprieve.result"] == "exit_status"

    dead = placed_run(services, ["true"])
    claim(services, dead, "worker@nowhere")
    age(services, dead, 400)
    eventually(lambda: collecting.of(dead, "reap"), timeout=60)
    (reap,) = collecting.of(dead, "reap")
    assert (reap.trace, reap.parent, reap.failed) == (TRACE, SPAN, True)
    assert reap.attributes["reprieve.result"] == "adapter_liveness_lost"
    assert reap.seconds == pytest.approx(400, abs=30)


def test_the_api_takes_the_place_of_its_caller_and_without_a_collector_nothing_is_kept(services: Services) -> None:
    assert not tracing.is_on()
    with calling(services) as client:
        asked = {"adapter": "process", "config": {"command": ["true"]}}
        run = client.post("/v1/runs", json=asked, headers={"traceparent": CALLER}).json()["id"]
    assert list(services.runs.trace_parents([run]).values()) == [CALLER]
    assert list(services.runs.trace_parents([enqueue_run("process", {"command": ["true"]}).id]).values()) == [None]


def test_a_destination_without_the_extra_is_told_and_costs_nothing_else() -> None:
    hidden = (
        "import sys; sys.modules['opentelemetry.sdk.resources'] = None"
        "; from reprieve.workers import tracing; tracing.set_up()"
    )
    env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", hidden], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "pip install 'reprieve[tracing]'" in done.stderr
