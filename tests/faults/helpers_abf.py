"""What the tests of rows A, B and F share: minutes that pass at once, rows that fail, workers with a fault.

Imported as a Celery application (`start_worker(application=BROKEN_WORKER, extra={…})`), this module is also a worker
that has the faults its environment names.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import time_machine
from kombu.serialization import dumps, loads
from redis import Redis
from sqlalchemy import event, text

from reprieve import cancel_run, enqueue_run
from reprieve.adapters import registry
from reprieve.adapters.shipper import LogShipper
from reprieve.models import liveness
from reprieve.models.chunks import Block
from reprieve.models.judging import Suspect
from reprieve.models.messages import decode_message, encode_message
from reprieve.models.work import Work
from reprieve.stores.runs.claims import Claimed, ClaimStore
from reprieve.workers.app import app as app  # The application that Celery's `-A` looks for.
from reprieve.workers.bootstrap import Services, build
from reprieve.workers.context import RunContext
from reprieve.workers.ingest import ingest
from reprieve.workers.supervisor import Supervisor
from tests.support.processes import Process, celery, processes_of, spawn
from tests.support.waiting import eventually

BROKEN_WORKER = __name__
CLOCK_SHIFT = "FAULT_CLOCK_SHIFT_SECONDS"
WINDOW = "FAULT_WINDOW_SECONDS"
DIE_AFTER_CLAIM = "FAULT_DIE_AFTER_CLAIM"
WITHOUT_ADAPTER = "FAULT_WITHOUT_ADAPTER"

#: A command that prints, and one that does not, for longer than any test lasts.
CHATTY = ["sh", "-c", "while :; do echo tick; sleep 0.3; done"]
SILENT = ["sleep", "600"]


# -- time


def pass_time(services: Services, redis: Redis, seconds: float = 60) -> None:
    """Let so much time pass for the rows, the reaper's watch, and the keys of the throttle; canaries come back."""
    with services.database.begin() as connection:
        for statement in (
            "UPDATE runs SET updated_at = updated_at - :by, started_at = started_at - :by",
            "UPDATE reaper_watch SET watching_since = watching_since - :by, last_sweep_at = last_sweep_at - :by, "
            "hearing_since = coalesce(hearing_since, watching_since) - :by, heard_at = clock_timestamp()",
        ):
            connection.execute(text(statement), {"by": timedelta(seconds=seconds)})
    for key in redis.scan_iter("proof:*"):
        left = redis.ttl(key)
        if left >= 0:  # A key without an end stays, as it would.
            redis.expire(key, max(0, int(left - seconds)))
    services.throttle._held.clear()  # What Redis said that long ago is asked again.


def lengthen_watch(services: Services, seconds: float = 3600) -> None:
    """Have the reaper, which has swept already, been watching and hearing for so much longer."""
    eventually(lambda: services.sweeps.last_watch(), what="a first sweep")
    with services.database.begin() as connection:
        statement = text(
            "UPDATE reaper_watch SET watching_since = watching_since - :by, "
            "hearing_since = coalesce(hearing_since, watching_since) - :by, heard_at = clock_timestamp()"
        )
        connection.execute(statement, {"by": timedelta(seconds=seconds)})


def database_time_after(services: Services, seconds: float) -> Callable[[], bool]:
    """A condition that holds when so much time has passed from now, by the database's clock."""
    end = services.database.now() + timedelta(seconds=seconds)
    return lambda: services.database.now() > end


# -- output


@dataclass(frozen=True)
class Follower:
    """What an adapter has while it follows a run, without the adapter."""

    context: RunContext
    shipper: LogShipper

    def say(self, output: str) -> None:
        """Hand over output; returns when it is stored."""
        self.context.on_log("stdout", output)
        assert self.shipper.flush(15)


@contextmanager
def shipping(services: Services) -> Iterator[LogShipper]:
    """A shipper whose messages reach `ingest` in the form in which they travel, without a broker between them."""

    def publish(blocks: Sequence[Block]) -> None:
        kind, encoding, message = dumps(encode_message(blocks), "msgpack")
        ingest(services, decode_message(loads(message, kind, encoding, accept=[kind])))

    shipper = LogShipper(services.settings.spool_dir, publish, services.logs.stored)
    try:
        yield shipper
    finally:
        shipper.close(5)


@contextmanager
def following(services: Services, work: Work) -> Iterator[Follower]:
    with shipping(services) as shipper:
        yield Follower(RunContext(services, shipper, work), shipper)


@contextmanager
def supervised(services: Services, work: Work) -> Iterator[tuple[Supervisor, RunContext]]:
    """A supervisor that gives proof of life whenever the test asks it to, and the context of a run that it follows."""
    eager = replace(services, timing=replace(services.timing, keepalive_interval=timedelta(0)))
    with shipping(eager) as shipper:
        supervisor = Supervisor(eager, shipper)
        with supervisor.follow(work) as context:
            yield supervisor, context


def one_turn(supervisor: Supervisor) -> None:
    """A turn as the supervisor's thread makes it: what fails is tried again at the next."""
    try:
        supervisor.supervise()
    except Exception as error:
        print(f"The turn failed: {error}")


# -- the database's share


@contextmanager
def impatient_services(services: Services) -> Iterator[Services]:
    """Services that wait for a lock for half a second only, so that a test need not wait for long."""
    impatient = build(services.settings)

    @event.listens_for(impatient.database.engine, "connect")
    def be_impatient(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = 500; SET statement_timeout = 2000")
        connection.commit()

    yield impatient
    impatient.database.dispose()


@contextmanager
def poisoned(services: Services, run_id: UUID, *, at_commit: bool = False) -> Iterator[None]:
    """While this lasts, the database refuses every UPDATE of this run, at once or only when it is committed."""
    when, deferred = ("AFTER", "DEFERRABLE INITIALLY DEFERRED") if at_commit else ("BEFORE", "")
    with services.database.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'poisoned row'; END $$;"
            f"CREATE {'CONSTRAINT' if at_commit else ''} TRIGGER fault {when} UPDATE ON runs {deferred} "
            f"FOR EACH ROW WHEN (OLD.id = '{run_id}') EXECUTE FUNCTION fault()"
        )
    try:
        yield
    finally:
        with services.database.begin() as connection:
            connection.exec_driver_sql("DROP FUNCTION fault() CASCADE")


@contextmanager
def locked(services: Services, run_id: UUID) -> Iterator[None]:
    """While this lasts, a transaction that has stalled holds the row of this run."""
    with services.database.engine.connect() as connection:
        connection.execute(text("SELECT FROM runs WHERE id = :id FOR NO KEY UPDATE"), {"id": run_id})
        yield
        connection.rollback()


def somebody_waits_for_a_lock(services: Services) -> bool:
    with services.database.begin() as connection:
        return bool(connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar())


# -- sweeps


class BetweenSelectAndUpdate:
    """A sweep store that lets something happen after a page of suspects was read, before any of them is reaped."""

    def __init__(self, services: Services, action: Callable[[list[Suspect]], None]) -> None:
        self._inner = services.sweeps
        self._action = action

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def suspects(self, *arguments: Any) -> Iterator[list[Suspect]]:
        for page in self._inner.suspects(*arguments):
            self._action(page)
            yield page


def interrupted(services: Services, action: Callable[[list[Suspect]], None]) -> Services:
    """Services whose sweeps run into `action` between their SELECT and their UPDATE."""
    return replace(services, sweeps=BetweenSelectAndUpdate(services, action))


def sweep_in_another_process(environment: Mapping[str, str]) -> dict[str, Any]:
    """The report of a sweep, at the real timings, made by a process that knows the database and nothing else."""
    script = (
        "import json; from reprieve.workers.bootstrap import services; from reprieve.workers.sweep import sweep; "
        "print(json.dumps(sweep(services(), by_hand=True)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, **environment, "REPRIEVE_TIME_SCALE": "1"},
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


def last_completed_at(services: Services) -> datetime | None:
    """When the last sweep came to its end."""
    with services.database.begin() as connection:
        completed: datetime | None = connection.execute(text("SELECT last_completed_at FROM reaper_watch")).scalar()
    return completed


def swept_again(services: Services) -> None:
    """Wait until a sweep has come to its end that began after now."""
    for _ in range(2):
        before = last_completed_at(services)
        eventually(lambda before=before: last_completed_at(services) != before, what="another sweep")


def reap_event(services: Services, run_id: UUID) -> dict[str, Any]:
    """What the one reap of this run told."""
    (event,) = [event for event in services.runs.events(run_id) if event.kind == "reaped"]
    return event.detail


# -- processes


@contextmanager
def enqueueing(services: Services) -> Iterator[Callable[..., UUID]]:
    """Gives `enqueue_run`, returning the id; cancels the runs afterwards and leaves none of their processes."""
    run_ids: list[UUID] = []

    def enqueue(*arguments: Any, **options: Any) -> UUID:
        run_ids.append(enqueue_run(*arguments, **options).id)
        return run_ids[-1]

    try:
        yield enqueue
    finally:
        for run_id in run_ids:
            cancel_run(run_id)
            for process in processes_of(run_id):
                with suppress(psutil.NoSuchProcess):
                    process.kill()


@contextmanager
def shifted_beat(environment: Mapping[str, str], folder: Path, seconds: int) -> Iterator[Process]:
    """A beat whose clock is off by so much."""
    command = celery("beat", "-S", "celery.beat:Scheduler", "-l", "INFO", "--pidfile=", application=BROKEN_WORKER)
    beat = spawn("shifted-beat", command, {**environment, CLOCK_SHIFT: str(seconds)}, folder)
    try:
        beat.wait_for("beat: Starting")
        yield beat
    finally:
        beat.stop()


def _shift_clock(seconds: str) -> None:
    time_machine.travel(datetime.now().astimezone() + timedelta(seconds=float(seconds))).start()


def _set_window(seconds: str) -> None:
    liveness.WINDOW = timedelta(seconds=float(seconds))


def _die_after_claim(_: str) -> None:
    claim = ClaimStore.claim

    def claim_and_die(self: ClaimStore, *arguments: Any, **named: Any) -> Claimed:
        claimed = claim(self, *arguments, **named)
        if claimed.works:
            os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()
        return claimed

    ClaimStore.claim = claim_and_die  # type: ignore[assignment,method-assign]


def _do_without(adapter: str) -> None:
    """As a release does that is older than this adapter."""
    known = {name: one for name, one in registry.adapter_classes().items() if name != adapter}
    registry.adapter_classes = lambda: known  # type: ignore[assignment]


_CAUSES = {
    CLOCK_SHIFT: _shift_clock,
    WINDOW: _set_window,
    DIE_AFTER_CLAIM: _die_after_claim,
    WITHOUT_ADAPTER: _do_without,
}
for _variable, _cause in _CAUSES.items():
    if _value := os.environ.get(_variable):
        _cause(_value)
