"""G12: importing us, and asking for a run, changes nothing outside us."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from redis import Redis

from reprieve.client.link import link
from reprieve.workers.bootstrap import Services
from reprieve.workers.hints import send_execute
from tests.conftest import Servers, StartWorker
from tests.support.processes import CELERY, READY, spawn
from tests.support.rows import new_run
from tests.support.waiting import eventually

pytestmark = pytest.mark.row("G12")

#: What a process has of its own that a library may change: before and after everything of ours was imported and used.
TRACE = """
import atexit, json, logging, os, signal, sys, threading, warnings
from pathlib import Path

import celery, celery.signals, kombu.transport, prometheus_client, opentelemetry.trace, sqlalchemy
from celery import current_app
from celery._state import default_app
from celery.utils.dispatch import Signal

mine = celery.Celery("service", broker="memory://")

def trace():
    loggers = [logging.root, *(one for one in logging.root.manager.loggerDict.values() if hasattr(one, "handlers"))]
    signals = {name: len(one.receivers or []) for name, one in vars(celery.signals).items() if isinstance(one, Signal)}
    return {
        "current app": current_app.main,
        "shared tasks": sorted(celery.Celery("another", set_as_current=False, fixups=()).tasks),
        "transports": sorted(kombu.transport.TRANSPORT_ALIASES.items()),
        "receivers": signals,
        "metrics": sorted(prometheus_client.REGISTRY._names_to_collectors),
        "tracer": type(opentelemetry.trace.get_tracer_provider()).__name__,
        "log handlers": [
            f"{logger.name} {one}"
            for logger in loggers
            for one in logger.handlers
            if not isinstance(one, logging.NullHandler)
        ],
        "log levels": sorted(f"{one.name} {one.level}" for one in loggers if one.level),
        "log filters": sorted(f"{one.name} {one.filters}" for one in loggers if one.filters),
        "signals": [str(signal.getsignal(number)) for number in signal.valid_signals()],
        "path": list(sys.path),
        "environment": dict(os.environ),
        "environ of others": Path("/proc/self/environ").read_bytes().decode(),
        "threads": threading.active_count(),
        "hooks": [str(sys.excepthook), str(threading.excepthook)],
        "warnings": list(map(str, warnings.filters)),
        "folder": sorted(os.listdir()),
    }

before = trace()
import reprieve
run = reprieve.enqueue_run("process", {"command": ["true"]})
reprieve.enqueue_runs([{"adapter": "remote", "config": {}}] * 2)
reprieve.cancel_run(run.id)
list(reprieve.list_runs()), reprieve.wait_for(run), list(reprieve.read_log(run)), list(reprieve.follow_log(run))
import reprieve.aio, reprieve.client, reprieve.workers.app
after = trace()
print(json.dumps({name: [before[name], after[name]] for name in before if before[name] != after[name]}))
"""


def test_importing_us_and_asking_for_runs_changes_nothing_of_the_process(
    environment: dict[str, str], servers: Servers, tmp_path: Path
) -> None:
    django = {"DJANGO_SETTINGS_MODULE": "a.service"}  # Celery would act upon it.
    env = {**os.environ, **servers.environment, **environment, **django}
    said = subprocess.run(
        [sys.executable, "-P", "-c", TRACE], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stderr) == (0, "")
    assert json.loads(said.stdout) == {}


def test_a_services_own_tasks_and_our_runs_live_side_by_side_in_one_process(
    services: Services, servers: Servers, environment: dict[str, str], start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    said, own = tmp_path / "said", {"GUEST_BROKER": servers.redis.url.removesuffix("/0") + "/1"}
    command = [*CELERY, "-A", "tests.support.guest_service", "worker", "-P", "threads", "-c", "2", "-l", "INFO"]
    worker = spawn("guest", command, {**environment, **own}, tmp_path, forked=False)
    try:
        worker.wait_for(READY)
        code = f"from tests.support.guest_service import send_mail; send_mail.delay({str(said)!r})"
        env = {**os.environ, **servers.environment, **environment, **own}
        subprocess.run([sys.executable, "-c", code], env=env, check=True)
        eventually(lambda: said.exists() and said.read_text() == "mail\nrun\n", timeout=60, what=lambda: worker.output)
        assert "service:0x" in worker.output
        assert "discretion" not in worker.output
        seen = Path(f"/proc/{worker.pid}/environ").read_text()
        assert f"GUEST_BROKER={own['GUEST_BROKER']}" in seen
        assert f"REPRIEVE_DATABASE_URL={servers.environment['REPRIEVE_DATABASE_URL']}" in seen
    finally:
        worker.stop()


def sent(services: Services, redis: Redis, send: Callable[[UUID], None]) -> tuple[UUID, list[dict[str, Any]]]:
    """The message and the event that Redis gets for a run, with their bodies decoded."""
    run_id = new_run(services).id
    with redis.pubsub(ignore_subscribe_messages=True) as heard:
        heard.psubscribe("*")
        eventually(lambda: heard.subscribed and heard.get_message() is None)
        send(run_id)
        told: list[Any] = []
        eventually(lambda: told.append(heard.get_message()) or any(told))
    event = next(one for one in told if one)
    assert event["channel"] == b"/0.celeryev/task.sent"
    made = [json.loads(text) for text in (redis.lpop("runs"), event["data"])]
    for one in made:
        one["body"] = json.loads(base64.b64decode(one["body"]))
    return run_id, made


def as_of_any(run_id: UUID, message: dict[str, Any]) -> Any:
    """The message without what differs between two messages of one task: the run, the sender, the moment."""
    differs = {"delivery_tag", "reply_to", "origin", "hostname", "timestamp", "clock"}

    def common(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: type(one) if name in differs else common(one) for name, one in value.items()}
        if isinstance(value, list):
            return list(map(common, value))
        return value.replace(str(run_id), "RUN") if isinstance(value, str) else value

    return common(message)


@pytest.fixture
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process's time zone."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "XXX0YYY,0,364"], indirect=True, ids=["0", "5:45", "summer"])
def test_a_runs_message_and_its_event_are_field_by_field_what_celery_would_send(
    services: Services, redis: Redis, zone: None
) -> None:
    theirs, celerys = sent(services, redis, send_execute)
    ours, own = sent(services, redis, lambda run_id: link().hints.announce([run_id]))
    assert celerys[0]["headers"]["id"] == str(theirs)
    assert [as_of_any(ours, one) for one in own] == [as_of_any(theirs, one) for one in celerys]
