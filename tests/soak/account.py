"""What came of a soak: every run's end, every line, every reap, and what was left over."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from redis import Redis
from sqlalchemy import text

from reprieve.models.rows import RunEvent
from reprieve.models.status import EventKind, Proof
from reprieve.workers.bootstrap import Services
from tests.soak.chaos import LONGEST_STALL
from tests.soak.work import Started
from tests.support.processes import processes_marked

#: Seconds by which a reap may come later than the sweep that was due: a sweep takes a while on a busy machine.
SLACK = 10.0


#: What may be owed to an attempt, and the attempts that it is still owed to.
OWED = {
    "a termination": "termination = 'owed'",
    "an adoption": "adoption = 'owed'",
    "the closing of its log": "log_closed_at IS NULL",
}
OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


@dataclass
class Account:
    """Counts, and a sentence for each thing that is not as it should be."""

    ends: Counter[str] = field(default_factory=Counter)
    lines: int = 0
    adoptions: int = 0
    retries: int = 0
    detection: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Lost:
    """The workers that were ended with the children of their runs, and those whose container ended with all in it."""

    workers: set[str]
    containers: set[str]
    mended: dict[str, float]
    """When each worker that was cut off from the database could be asked again, in seconds since the epoch."""


def account(services: Services, runs: list[Started], lost: Lost, redis: Redis) -> Account:
    """Go through everything; the system has ended but for its servers."""
    result = Account()
    for one in runs:
        events = list(services.runs.events(one.run_id))
        result.ends[f"{one.kind.name}: {services.runs.get(one.run_id).status}"] += 1
        result.adoptions += sum(event.kind == EventKind.ATTACHED for event in events)
        result.retries += sum(event.kind == EventKind.CLAIMED for event in events) - 1
        buried = any(_was_in_a_lost_container(event, lost) for event in events)
        result.wrong += _wrong_end(services, one, buried=buried)
        result.wrong += _wrong_reaps(services, one, events, lost, result.detection, buried=buried)
        result.wrong += _wrong_log(services, one, result, buried=buried)
    result.wrong += _left_over(services, redis)
    return result


def _was_in_a_lost_container(event: RunEvent, lost: Lost) -> bool:
    """Whether the work was begun in, or followed from, a container that was ended with all that was in it."""
    return event.kind in (EventKind.CLAIMED, EventKind.ATTACHED) and event.detail.get("worker_node") in lost.containers


def _wrong_end(services: Services, one: Started, *, buried: bool) -> Iterator[str]:
    run = services.runs.get(one.run_id)
    if (run.status, run.error_code) != (one.kind.status, one.kind.error_code):
        if _never_began(services, one) or (buried and run.error_code == "adapter_liveness_lost"):
            return
        yield f"{one.kind.name} {one.run_id} ended as {run.status} ({run.error_code}): {run.error_message}"


def _never_began(services: Services, one: Started) -> bool:
    """Whether its worker was killed between taking it and letting it begin: reaped, and rightly so."""
    run = services.runs.get(one.run_id)
    silent = run.last_proof == Proof.CLAIM and not services.logs.last_seq(one.run_id, run.attempt)
    return run.error_code == "adapter_liveness_lost" and silent


def _wrong_reaps(
    services: Services, one: Started, events: list[RunEvent], lost: Lost, detection: list[float], *, buried: bool
) -> Iterator[str]:
    """A reap is right for work that vanished, for the children of a worker that was killed, and for the overdue."""
    for event in events:
        if event.kind != EventKind.REAPED or event.detail["error_code"] == "timed_out":
            continue
        died = one.died_at()
        if buried and event.detail["error_code"] == "adapter_liveness_lost":
            continue
        if event.detail["last_proof"] == "claim" and event.detail["worker_node"] in lost.workers:
            continue  # Its worker was killed before it had begun: nothing was started that nobody knows of.
        if one.kind.end == "vanish" and died is not None:
            yield from _found_late(
                services, one, event, max(died, lost.mended.get(event.detail["worker_node"], 0.0)), died
            )
            detection.append(event.at.timestamp() - died)
        elif one.kind.adapter != "process" or event.detail["worker_node"] not in lost.workers:
            yield f"{one.kind.name} {one.run_id} was alive and reaped: {event.detail}"


def _found_late(services: Services, one: Started, event: RunEvent, askable: float, died: float) -> Iterator[str]:
    """In time: within a window and a sweep of its death, of when its host could be asked, or the reaper saw and heard.

    What it printed before, and a worker that stood still held back, counts as its last sign when it is stored.
    """
    watching, hearing, last_sign = (
        datetime.fromisoformat(event.detail[name]).timestamp() if event.detail[name] else 0.0
        for name in ("watching_since", "hearing_since", "last_proof_at")
    )
    window = services.timing.window.total_seconds()
    limit = window + services.timing.sweep_interval.total_seconds() + SLACK
    found, counted_from = (
        event.at.timestamp(),
        max(watching, hearing, askable, min(last_sign, died + window * LONGEST_STALL)),
    )
    if found < died:
        yield f"{one.kind.name} {one.run_id} was reaped {died - found:.1f} s before it died"
    elif found - counted_from > limit and not event.detail["brake"]["on"]:
        yield f"{one.kind.name} {one.run_id} was found {found - died:.1f} s after it died ({event.detail})"


def _wrong_log(services: Services, one: Started, result: Account, *, buried: bool) -> Iterator[str]:
    """A run that ended by itself has printed all of its lines in its last attempt; any other, a beginning of them."""
    run = services.runs.get(one.run_id)
    if run.attempt == 0 or _never_began(services, one):
        return
    printed = b"".join(chunk.data for chunk in services.logs.read(one.run_id, run.attempt, limit=1_000_000))
    result.lines += printed.count(b"\n")
    if not buried and (run.status == "succeeded" or run.error_code in ("exit_status", "adapter_liveness_lost")):
        if printed != one.expected:
            yield f"{one.kind.name} {one.run_id}: {len(printed)} bytes of log, not {len(one.expected)}"
    elif not one.expected.startswith(printed):
        yield f"{one.kind.name} {one.run_id}: its log is not the beginning of what it printed"


def _left_over(services: Services, redis: Redis) -> Iterator[str]:
    folder = str(services.settings.data_dir)
    for process in processes_marked("REPRIEVE_DATA_DIR", folder):
        yield f"a process is left: {process}"
    with services.database.begin() as connection:
        for what, where in OWED.items():
            owed = connection.execute(text(f"SELECT run_id, attempt FROM run_attempts WHERE {where}")).all()
            if owed:
                yield f"{len(owed)} attempts are still owed {what}: {[(str(run), number) for run, number in owed[:5]]}"
        others = connection.execute(text(OTHERS)).scalar_one()
    if others > 15:  # Our own pool.
        yield f"{others} connections to the database are left"
    for key in redis.scan_iter("*"):
        if redis.ttl(key) < 0 and key.split(b":")[0] in (b"proof", b"stop", b"live", b"watch"):
            yield f"the key {key!r} has no end"
    spools = list((services.settings.data_dir / "spool").rglob("*.spool"))
    if spools:
        yield f"{len(spools)} files are left in spools"
