"""Runs put into a state that would take minutes to come by; times are the database's own."""

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from redis import Redis
from sqlalchemy import text
from uuid_utils.compat import uuid7

from reprieve.models.chunks import Chunk, blocks_of
from reprieve.models.process import ProcessIdentity
from reprieve.models.records import Run
from reprieve.models.requests import NewRun
from reprieve.models.status import EventKind
from reprieve.models.work import Fence, Work
from reprieve.stores.runs.attempts import Start
from reprieve.stores.runs.claims import CLAIM, OF_CLAIMED, work_of
from reprieve.stores.runs.conditions import CLAIMABLE
from reprieve.stores.runs.insertion import NOBODY, By, insert
from reprieve.stores.statements import Executor
from reprieve.stores.throttle import proof_key
from reprieve.testing.waiting import eventually
from reprieve.workers import ingest as ingesting
from reprieve.workers.bootstrap import Services


def wanted(**changes: Any) -> NewRun:
    values: dict[str, Any] = {
        "adapter": "detached",
        "out_of_process_liveness": True,
        "config": {"command": ["true"]},
    }
    return NewRun(uuid7(), **values | changes)


def new_run(services: Services, by: By = NOBODY, **changes: Any) -> Run:
    """A queued run, written without sending any message."""
    ((run, _),) = insert(services.database, [wanted(**changes)], by)
    return run


CLAIM_ONE = CLAIM.format(
    more=OF_CLAIMED,
    chosen="chosen AS MATERIALIZED (SELECT r.id FROM runs r "
    f"WHERE r.id = :run_id AND {CLAIMABLE} AND r.attempt < r.max_attempts "
    "AND (CAST(:adapters AS text[]) IS NULL OR r.adapter = ANY(CAST(:adapters AS text[]))) FOR NO KEY UPDATE)",
)


def claim(
    services: Services,
    run_id: uuid.UUID,
    worker_node: str,
    worker_id: uuid.UUID | None = None,
    adapters: Sequence[str] | None = None,
) -> Work | None:
    """Claim this very run, which a worker does not: it takes those that were asked for first."""
    ours = None if adapters is None else list(adapters)
    return _claim(services.database, run_id, worker_node, worker_id=worker_id, adapters=ours)


def _claim(executor: Executor, run_id: uuid.UUID, worker_node: str, **more: Any) -> Work | None:
    values = {"run_id": run_id, "worker_node": worker_node, "worker_id": None, "adapters": None} | more
    return next((work_of(row, row.max_runtime) for row in executor.run(CLAIM_ONE, values)), None)


def running(services: Services, **changes: Any) -> Work:
    """A run that a worker, which does not exist, has claimed; those that exist never saw it queued."""
    with services.database.together() as transaction:
        ((run, _),) = insert(transaction, [wanted(**changes)])
        work = _claim(transaction, run.id, "worker@nowhere")
    assert work is not None
    return work


def record_process(
    services: Services, fence: Fence, host: str, process: ProcessIdentity, slot: str | None = None
) -> None:
    """Record a child that an attempt has spawned; raises `Superseded` when the attempt is not running."""
    services.attempts.persist(Start.of_process(fence, host, process, slot))


def record_handle(
    services: Services, fence: Fence, host: str | None, handle: dict[str, Any], slot: str | None = None
) -> None:
    """The same of work that is dispatched elsewhere."""
    services.attempts.persist(Start.of_handle(fence, host, handle, slot))


def whole_log(services: Services, run_id: uuid.UUID, attempt: int = 1) -> bytes:
    """What an attempt has printed, once all that its end names is stored: an end overtakes the last output."""
    eventually(lambda: services.closings.find(run_id, attempt).is_whole, what=f"the whole log of {run_id}")
    return b"".join(chunk.data for chunk in services.logs.read(run_id, attempt, limit=100_000))


def in_process(services: Services, **changes: Any) -> Work:
    return running(services, adapter="process", out_of_process_liveness=False, **changes)


def age(services: Services, run_id: uuid.UUID, seconds: float, column: str = "updated_at") -> None:
    """Move a time of a run into the past."""
    statement = text(f"UPDATE runs SET {column} = clock_timestamp() - :age WHERE id = :id")
    with services.database.begin() as connection:
        connection.execute(statement, {"age": timedelta(seconds=seconds), "id": run_id})


def make_due(services: Services) -> None:
    """Have the pause be over after which owed work that failed is tried again."""
    with services.database.begin() as connection:
        connection.execute(text("UPDATE setbacks SET next_try_at = clock_timestamp()"))
        connection.execute(text("UPDATE notices SET next_try_at = clock_timestamp() WHERE state = 'owed'"))


def watch_for(services: Services, seconds: float, *, window: timedelta | None = None) -> None:
    """Have the reaper been watching and hearing for so long, its last sweep a moment ago, with this window."""
    statement = text(
        "INSERT INTO reaper_watch (id, watching_since, last_sweep_at, window_length, hearing_since, heard_at) "
        "VALUES (1, clock_timestamp() - :age, clock_timestamp() - interval '20 s', :window, clock_timestamp() - :age, "
        "clock_timestamp() - interval '1 s') "
        "ON CONFLICT (id) DO UPDATE SET watching_since = EXCLUDED.watching_since, "
        "last_sweep_at = EXCLUDED.last_sweep_at, window_length = EXCLUDED.window_length, "
        "hearing_since = EXCLUDED.hearing_since, heard_at = EXCLUDED.heard_at"
    )
    with services.database.begin() as connection:
        connection.execute(statement, {"age": timedelta(seconds=seconds), "window": window or services.timing.window})


def happened(services: Services, run_id: uuid.UUID, kind: EventKind, *ago: float) -> None:
    """Have this happened to a run so many seconds ago, and once more for each further number."""
    statement = text("INSERT INTO run_events (run_id, attempt, kind, at) VALUES (:run, 1, :kind, now() - :ago)")
    with services.database.begin() as connection:
        for seconds in ago:
            connection.execute(statement, {"run": run_id, "kind": kind, "ago": timedelta(seconds=seconds)})


def settle(services: Services, work: Work) -> None:
    """Confirm the work of a lost attempt gone, and let its retry's wait pass."""
    services.terminations.settle(work.run_id, work.attempt)
    pass_the_wait(services, work.run_id)


def pass_the_wait(services: Services, run_id: uuid.UUID) -> None:
    """Have the time be over for which a retry waits."""
    with services.database.begin() as connection:
        connection.execute(text("UPDATE runs SET not_before = NULL WHERE id = :id"), {"id": run_id})


def updated_at(services: Services, run_id: uuid.UUID) -> Any:
    return services.runs.get(run_id).updated_at


def since_started(services: Services, run_id: uuid.UUID) -> float:
    """Seconds since the run was claimed, by the database's clock; 0 before that."""
    statement = text("SELECT extract(epoch FROM clock_timestamp() - started_at) FROM runs WHERE id = :id")
    with services.database.begin() as connection:
        return float(connection.execute(statement, {"id": run_id}).scalar_one() or 0)


def status_of(services: Services, run_id: uuid.UUID) -> str:
    return services.runs.get(run_id).status


def kinds(services: Services, run_id: uuid.UUID) -> list[str]:
    return [event.kind for event in services.runs.events(run_id)]


def chunk(work: Work | Fence, seq: int, data: bytes = b"line\n", *, attempt: int = 1, stream: str = "stdout") -> Chunk:
    attempt = work.attempt if isinstance(work, Work) else attempt
    return Chunk(work.run_id, attempt, work.epoch, seq, stream, data)


def ingest(services: Services, chunks: Sequence[Chunk]) -> dict[str, int]:
    """What the log workers do with a message of these chunks."""
    return ingesting.ingest(services, blocks_of(chunks))


def expire_key(services: Services, redis: Redis, run_id: uuid.UUID) -> None:
    """Have a run's throttle key be gone, as if its time had passed."""
    redis.delete(proof_key(run_id))
    services.throttle._held.clear()
