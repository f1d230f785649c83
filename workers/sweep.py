"""`reaper.sweep`: each minute, decide which of the running runs are dead.

    watch     since when have we been looking without a gap?           models.watching.next_watch
    suspect   which runs are silent for longer than the window?        stores.sweeps.SUSPECTS
    ask       what do their platforms say?                             models.judging.should_ask, workers.asking
    hear      does output still come through, and who vouches?         `logs.echo`, stores.hints.Vouches
    decide    what follows: listen, believe, judge, brake              models.reaping.decide
    reap      end it, if it is still silent; evidence beside it        models.reaping.Ruling.end_of, workers.finish
    spare     keep why; what is alive is refreshed, and adopted        workers.refresh, stores.adoptions
    bury      end its work, on whichever host that is                  workers.supervision.burying
    quiet     which runs live, and give no output?                     models.quiet.listen_to, workers.quiet

A sweep is single-flight and repeatable: it decides nothing that the UPDATE does not check again. Its lease is renewed
at each step. A sweep that was frozen, and thaws after another has begun, writes nothing and stops.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from reprieve.models.errors import LeaseLost
from reprieve.models.judging import Judgement, should_ask
from reprieve.models.liveness import NODE_FORGOTTEN_AFTER, RESEND_DOUBLINGS
from reprieve.models.nodes import in_words, may_waive
from reprieve.models.paging import pages
from reprieve.models.reaping import Findings, Ruling, Verdict, decide, end_of_late_to_start
from reprieve.models.status import ErrorCode, Proof, Status
from reprieve.models.watching import Watch, is_due, may_orphan, next_watch
from reprieve.models.work import NO_RETRIES, Fence
from reprieve.stores.leases import Lease
from reprieve.workers import metrics, tracing
from reprieve.workers.app import app
from reprieve.workers.asking import ask
from reprieve.workers.bootstrap import Services, services
from reprieve.workers.bulk import PAGE_SIZE, end_in_bulk, in_bulk
from reprieve.workers.closing import send_owed
from reprieve.workers.hints import send_execute, send_hint
from reprieve.workers.ping import ping
from reprieve.workers.quiet import find_quiet
from reprieve.workers.refresh import give_proof
from reprieve.workers.telling import teller

logger = logging.getLogger(__name__)


@app.task(name="reaper.sweep")  # type: ignore[untyped-decorator]
def sweep_task() -> dict[str, Any]:
    report = sweep(services())
    if "judged" in report:
        ping(services())
    return report


@app.task(name="logs.echo", acks_late=True, acks_on_failure_or_timeout=True)  # type: ignore[untyped-decorator]
def echo_task(sent_at: str) -> None:
    """A canary has come through the log queue, behind all output that was sent before it."""
    services().sweeps.hear(datetime.fromisoformat(sent_at))


def sweep(services: Services, *, by_hand: bool = False) -> dict[str, Any]:
    """Make one sweep; returns what it did. Skipped while another is under way, or when one has just been made.

    It stops if it was frozen for so long that its lease ended and another sweep has begun.
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
        ("not_started", True, partial(_end_not_started, lease=lease)),
        ("resent", True, _resend),
        ("closing", True, send_owed),
    ]
    for name, may, step in steps:
        lease.renew()
        report[name] = step(services) if may else 0
    lease.renew()
    report |= find_quiet(services, lease, watch, now)
    services.sweeps.complete(lease, json.dumps(report))
    # For the picture alone, so behind all that a sweep is for.
    services.fleet.count(services.timing.sweep_interval)
    return report


def _judge_all(services: Services, lease: Lease, watch: Watch, now: datetime) -> dict[str, Any]:
    ruling = decide(watch, _find(services, lease, now), now, services.timing)
    services.sweeps.note_watch(lease, ruling.watch)
    _say(ruling)
    reaped = 0
    for page in pages(ruling.verdicts, PAGE_SIZE):
        lease.renew()
        reaped += _reap(services, ruling, page)
        _spare(services, ruling, page)
    judged, judgements = len(ruling.verdicts), Counter(one.judgement.value for one in ruling.verdicts)
    return {"judged": judged, "reaped": reaped, "spared": judged - reaped, "judgements": dict(judgements)}


def _find(services: Services, lease: Lease, now: datetime) -> Findings:
    """List the suspects and ask about them. Canaries and vouches come last, so that as many as possible count."""
    listed = services.sweeps.suspects(now - services.timing.window, now, PAGE_SIZE)
    suspects = [one for page in lease.while_going_through(listed) for one in page]
    fleet = services.sweeps.fleet() if suspects else 0
    lease.renew()
    return Findings(
        suspects=suspects,
        fleet=fleet,
        answers=ask(services, [one.fence for one in suspects if should_ask(one, now, services.timing)]),
        heard_at=services.sweeps.heard_at(),
        vouched=services.vouches.given([one.fence for one in suspects if one.is_silent(now, services.timing)]),
    )


def _say(ruling: Ruling) -> None:
    """Measure what was decided, and log what makes silence worthless: a lagging pipeline, or too many at once."""
    watch, limit, lag = ruling.watch, ruling.limit, ruling.watch.lag(ruling.now)
    metrics.SUSPECTS.set(len(ruling.verdicts))
    metrics.BRAKED.set(max(0, limit.convicted - limit.allowed))
    if lag is not None:
        metrics.PIPELINE_LAG.set(max(0.0, lag.total_seconds()))
    if watch.hearing_since is None and watch.age(ruling.now) > ruling.timing.tolerated_lag:
        logger.error("The log pipeline lags (last canary %s): silence convicts nobody.", watch.heard_at or "never")
    if limit.is_on:
        logger.error(
            "%d of %d running runs look dead at once: the %d longest silent are reaped now, the others later.",
            *(limit.convicted, limit.fleet, limit.allowed),
        )


def _reap(services: Services, ruling: Ruling, verdicts: Sequence[Verdict]) -> int:
    """End those of these runs that were convicted, and count them."""
    asked = services.runs.retries(one.suspect.run_id for one in verdicts if one.judgement.error_code)
    given = [ruling.end_of(one, asked.get(one.suspect.run_id, NO_RETRIES)) for one in verdicts]
    ends = {end.fence.run_id: end for end in given if end}
    ended = end_in_bulk(services, ends)
    reaped = [one for one in verdicts if one.suspect.run_id in ended]
    for one in reaped:
        end = ends[one.suspect.run_id]
        teller().ended(one.suspect.run_id, end.status, f"{end.error_code}: {end.error_message}")
        metrics.REAPS.labels(one.suspect.adapter, str(one.judgement.error_code)).inc()
        metrics.REAPED_SILENCE.observe(one.suspect.silence(ruling.now).total_seconds())
    if reaped and tracing.is_on():
        _trace(services, reaped)
    return len(ended)


def _trace(services: Services, reaped: Sequence[Verdict]) -> None:
    places = services.runs.trace_parents([one.suspect.run_id for one in reaped])
    for one in reaped:
        tracing.reaped(one.suspect, str(one.judgement.error_code), places.get(one.suspect.run_id))


def _spare(services: Services, ruling: Ruling, verdicts: Sequence[Verdict]) -> None:
    """Keep why those that were not convicted are spared; refresh what is alive, and have it followed."""
    spared = [one for one in verdicts if one.is_spared]
    for one in spared:
        metrics.SPARED.labels(one.judgement.value).inc()
    in_bulk(services.sweeps.spare, {one.suspect.run_id: (one.suspect, ruling.dossier(one)) for one in spared})
    alive = [one.suspect.fence for one in spared if one.judgement is Judgement.SPARE_ALIVE]
    give_proof(services, alive, Proof.PROBE)
    unfollowed = [one.suspect.fence for one in spared if one.judgement.wants_follower]
    in_bulk(lambda some: _run_ids(services.adoptions.hand_over(some)), {one.run_id: one for one in unfollowed})


def _run_ids(fences: Iterable[Fence]) -> set[UUID]:
    return {fence.run_id for fence in fences}


def _orphan(services: Services) -> int:
    """Have other workers follow the work of workers that are gone, without waiting for its silence."""
    orphaned = services.adoptions.orphan(services.timing.worker_gone_after)
    if orphaned:
        logger.warning("%d runs have lost the worker that followed them; others take them over.", orphaned)
    return orphaned


def _waive(services: Services) -> int:
    """Stop retries from waiting for hosts that are lost."""
    lost_after = services.timing.host_lost_after
    right = (
        f" was not seen for {in_words(lost_after)}. Its work counts as gone: what a worker runs itself ends with it, "
        f"and one that is cut off ends it after {in_words(services.timing.cut_off_limit)}. Should the host return, it "
        "ends what is left."
    )
    waived = services.nodes.waive(lost_after, right)
    services.nodes.forget(NODE_FORGOTTEN_AFTER)
    services.workers.forget_drains(NODE_FORGOTTEN_AFTER)
    if waived:
        logger.error("%d terminations are waited for no longer: their hosts are lost.", waived)
    return waived


def _end_not_started(services: Services, lease: Lease) -> int:
    """End the runs that wait still, and were to have begun by now."""
    ended, until = 0, time.monotonic() + services.timing.sweep_interval.total_seconds() / 2
    for late in lease.while_going_through(iter(partial(services.deadlines.late_to_start, PAGE_SIZE), [])):
        ends = {one.fence.run_id: end_of_late_to_start(one.fence, one.start_by) for one in late}
        done = end_in_bulk(services, ends)
        for run_id in done:
            teller().ended(run_id, Status.FAILED, str(ErrorCode.NOT_STARTED))
        ended += len(done)
        # Others hold them, or a worker has just taken them; or there are so many that the next sweep would be late.
        if not done or time.monotonic() > until:
            break
    return ended


def _resend(services: Services) -> int:
    """Send the message again of each run that stays queued without having been claimed."""
    unclaimed = services.resends.unclaimed(services.timing.resend_after, RESEND_DOUBLINGS)
    for run_id in unclaimed:
        send_execute(run_id)
    return len(unclaimed)
