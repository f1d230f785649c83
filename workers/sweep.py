"""`reaper.sweep`: each minute, decide which of the running runs are dead.

    watch     since when have we been looking without a gap?           models.reaping.next_watch
    listen    does output still come through?                          models.reaping.listen, `logs.echo`
    suspect   which runs are silent for longer than the window?        stores.sweeps.SUSPECTS
    ask       what do their platforms say?                             workers.asking
    believe   which are vouched for by workers without a database?     stores.hints.Vouches
    judge     what follows from all that?                              models.reaping.judge
    brake     are these too many at once?                              models.reaping.brake
    reap      end it, if it is still silent; evidence beside it        models.reaping.conviction, workers.finish
    spare     keep why; what is alive is refreshed, and adopted        workers.refresh, stores.adoptions
    bury      end its work, on whichever host that is                  workers.supervision.burying

A sweep is single-flight and repeatable: it decides nothing by itself that the UPDATE does not check again. Its lease is
renewed at each step; one that stood still meanwhile, and thaws after another has swept, writes nothing and stops.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.exc import DBAPIError

from reprieve.models.errors import LeaseLost
from reprieve.models.liveness import NODE_FORGOTTEN_AFTER, RESEND_DOUBLINGS
from reprieve.models.nodes import in_words, may_waive
from reprieve.models.paging import pages
from reprieve.models.reaping import (
    Brake,
    Judgement,
    Suspect,
    Verdict,
    Watch,
    brake,
    conviction,
    dossier,
    is_due,
    judge,
    listen,
    may_orphan,
    next_watch,
    should_ask,
)
from reprieve.models.status import Proof
from reprieve.models.work import Fence
from reprieve.stores.leases import Lease
from reprieve.workers import metrics, tracing
from reprieve.workers.app import app
from reprieve.workers.asking import ask
from reprieve.workers.bootstrap import Services, services
from reprieve.workers.closing import send_owed
from reprieve.workers.finish import finish
from reprieve.workers.hints import send_execute, send_hint
from reprieve.workers.refresh import give_proof

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Suspects judged and reaped together: one UPDATE per page.
PAGE_SIZE = 500


@app.task(name="reaper.sweep")  # type: ignore[untyped-decorator]
def sweep_task() -> dict[str, Any]:
    return sweep(services())


@app.task(name="logs.echo", acks_late=True, acks_on_failure_or_timeout=True)  # type: ignore[untyped-decorator]
def echo_task(sent_at: str) -> None:
    """A canary has come through the log queue, behind all output that was sent before it."""
    services().sweeps.hear(datetime.fromisoformat(sent_at))


def sweep(services: Services, *, by_hand: bool = False) -> dict[str, Any]:
    """One sweep; returns what it did. Skipped while another is under way, or when one has just been made.

    It stops where another has begun since, for it stood still for so long that its lease was over.
    """
    with services.sweeps.single_flight() as lease:
        if lease is None:
            return {"skipped": "another sweep is under way"}
        now, previous = services.database.now(), services.sweeps.last_watch()
        if not by_hand and not is_due(previous, now, services.timing):
            return {"skipped": "a sweep has just been made"}
        try:
            with metrics.SWEEP_SECONDS.time():
                return _sweep(services, lease, next_watch(previous, now, services.timing), now)
        except LeaseLost:
            logger.error("This sweep stood still for too long: another has taken its place, and it stops.")
            return {"stopped": "another sweep has taken its place"}


def _sweep(services: Services, lease: Lease, watch: Watch, now: datetime) -> dict[str, Any]:
    services.sweeps.note_watch(lease, watch)
    send_hint("logs.echo", [now.isoformat()], otherwise="the log pipeline counts as lagging until one comes through")
    report = _judge_all(services, lease, watch, now)
    steps: list[tuple[str, bool, Callable[[Services], int]]] = [
        ("orphaned", may_orphan(watch, now, services.timing), _orphan),
        ("waived", may_waive(watch, now, services.timing), _waive),
        ("resent", True, _resend),
        ("closing", True, send_owed),
    ]
    for name, may, step in steps:
        lease.renew()
        report[name] = step(services) if may else 0
    services.sweeps.complete(lease, json.dumps(report))
    return report


def _judge_all(services: Services, lease: Lease, watch: Watch, now: datetime) -> dict[str, Any]:
    found = services.sweeps.suspects(now - services.timing.window, now, PAGE_SIZE)
    suspects = [one for page in lease.while_going_through(found) for one in page]
    lease.renew()
    answers = ask(services, [one.fence for one in suspects if should_ask(one, now, services.timing)])
    watch, suspects = _listen(services, lease, watch, now), _believe(services, suspects, now)
    verdicts = [
        Verdict(one, judge(one, watch, answers.get(one.run_id), now, services.timing), answers.get(one.run_id))
        for one in suspects
    ]
    verdicts, limit = _brake(services, verdicts)
    reaped = 0
    for page in pages(verdicts, PAGE_SIZE):
        lease.renew()
        evidence = [(one, dossier(one, watch, limit, now, services.timing)) for one in page]
        reaped += _reap(services, evidence, now)
        _spare(services, [pair for pair in evidence if pair[0].judgement.error_code is None])
    judgements = Counter(one.judgement.value for one in verdicts)
    metrics.SUSPECTS.set(len(verdicts))
    return {"judged": len(verdicts), "reaped": reaped, "spared": len(verdicts) - reaped, "judgements": dict(judgements)}


def _listen(services: Services, lease: Lease, watch: Watch, now: datetime) -> Watch:
    """Whether canaries come back; looked at as late as possible, so that the one just sent may count."""
    watch = listen(watch, services.sweeps.heard_at(), now, services.timing)
    services.sweeps.note_watch(lease, watch)
    lag = watch.lag(now)
    if lag is not None:
        metrics.PIPELINE_LAG.set(max(0.0, lag.total_seconds()))
    if watch.hearing_since is None and watch.age(now) > services.timing.tolerated_lag:
        logger.error("The log pipeline lags (last canary %s): silence convicts nobody.", watch.heard_at or "never")
    return watch


def _believe(services: Services, suspects: list[Suspect], now: datetime) -> list[Suspect]:
    """The suspects, with what their workers say of them now; looked at as late as possible, as canaries are."""
    vouched = services.vouches.given([one.fence for one in suspects if one.is_silent(now, services.timing)])
    return [replace(one, vouched_at=now) if one.fence in vouched else one for one in suspects]


def _brake(services: Services, verdicts: list[Verdict]) -> tuple[list[Verdict], Brake]:
    convicted = sum(one.for_silence for one in verdicts)
    limit = Brake(fleet=services.sweeps.fleet() if convicted else 0, convicted=convicted)
    metrics.BRAKED.set(max(0, convicted - limit.allowed))
    if limit.is_on:
        logger.error(
            "%d of %d running runs look dead at once: the %d longest silent are reaped now, the others later.",
            *(limit.convicted, limit.fleet, limit.allowed),
        )
    return brake(verdicts, limit), limit


def _reap(services: Services, judged: Sequence[tuple[Verdict, dict[str, Any]]], now: datetime) -> int:
    """End those of these runs that were convicted, and count them."""
    convictions = [conviction(verdict, evidence, now, services.timing) for verdict, evidence in judged]
    ends = {end.fence.run_id: end for end in convictions if end is not None}
    ended = _in_bulk(lambda some: [run.run_id for run in finish(services, some, pass_over_held=True)], ends)
    for verdict, _ in judged:
        if verdict.suspect.run_id in ended:
            metrics.REAPS.labels(verdict.suspect.adapter, str(verdict.judgement.error_code)).inc()
            metrics.REAPED_SILENCE.observe(verdict.suspect.silence(now).total_seconds())
    if ended and tracing.is_on():
        _trace(services, [verdict for verdict, _ in judged if verdict.suspect.run_id in ended])
    return len(ended)


def _trace(services: Services, reaped: Sequence[Verdict]) -> None:
    places = services.runs.trace_parents([one.suspect.run_id for one in reaped])
    for one in reaped:
        tracing.reaped(one.suspect, str(one.judgement.error_code), places.get(one.suspect.run_id))


def _in_bulk(act: Callable[[Sequence[T]], Iterable[UUID] | None], by_run: Mapping[UUID, T]) -> set[UUID]:
    """Do this for all runs in one statement; if one of them makes it fail, one by one, so that it fails alone.

    That another transaction holds a row of it is such a failure. Returns what `act` returned, all together.
    """
    try:
        return set(act(list(by_run.values())) or ())
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        if len(by_run) == 1:
            logger.exception("The verdict on run %s cannot be carried out; the others are.", *by_run)
            return set()
        return {done for run_id, item in by_run.items() for done in _in_bulk(act, {run_id: item})}


def _spare(services: Services, spared: Sequence[tuple[Verdict, dict[str, Any]]]) -> None:
    """Keep why these were spared; refresh what is alive, and have it followed."""
    suspects = [(one, evidence) for one, evidence in spared if one.judgement is not Judgement.SPARE_PROVEN]
    for one, _ in suspects:
        metrics.SPARED.labels(one.judgement.value).inc()
    _in_bulk(services.sweeps.spare, {one.suspect.run_id: (one.suspect, evidence) for one, evidence in suspects})
    give_proof(
        services, [one.suspect.fence for one, _ in suspects if one.judgement is Judgement.SPARE_ALIVE], Proof.PROBE
    )
    unfollowed = [one.suspect.fence for one, _ in suspects if one.judgement.wants_follower]
    _in_bulk(lambda some: _run_ids(services.adoptions.hand_over(some)), {one.run_id: one for one in unfollowed})


def _run_ids(fences: Iterable[Fence]) -> set[UUID]:
    return {fence.run_id for fence in fences}


def _orphan(services: Services) -> int:
    """Have another worker follow the work of those that are gone, without waiting for its silence."""
    orphaned = services.adoptions.orphan(services.timing.worker_gone_after)
    if orphaned:
        logger.warning("%d runs have lost the worker that followed them; others take them over.", orphaned)
    return orphaned


def _waive(services: Services) -> int:
    """Have retries wait no longer for hosts that are lost."""
    lost_after = services.timing.host_lost_after
    right = (
        f" was not seen for {in_words(lost_after)}. Its work counts as gone: what a worker runs itself ends with it, "
        f"and one that is cut off ends it after {in_words(services.timing.cut_off_limit)}. Should the host return, it "
        "ends what is left."
    )
    waived = services.nodes.waive(lost_after, right)
    services.nodes.forget(NODE_FORGOTTEN_AFTER)
    if waived:
        logger.error("%d terminations are waited for no longer: their hosts are lost.", waived)
    return waived


def _resend(services: Services) -> int:
    """Send the messages again of runs that stay queued without having been claimed."""
    unclaimed = services.resends.unclaimed(services.timing.resend_after, RESEND_DOUBLINGS)
    for run_id in unclaimed:
        send_execute(run_id)
    return len(unclaimed)
