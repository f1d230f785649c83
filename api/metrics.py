"""`/metrics`: the fleet, read from the rows at each scrape. Workers count their own work.

So the figures are right after a restart, and the same from every API process. A source that does not answer costs only
its own metrics; their absence is the alarm.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeHistogramMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from reprieve.api.access import MayRead, Wired
from reprieve.api.problems import answers
from reprieve.models.faults import is_unfit
from reprieve.models.health import ailments
from reprieve.models.owed import Duty
from reprieve.models.status import Status
from reprieve.stores.refusals import REMOVE, WRITE
from reprieve.workers.app import QUEUES
from reprieve.workers.app import app as celery
from reprieve.workers.bootstrap import Services
from reprieve.workers.broker import to_ask

logger = logging.getLogger(__name__)

router = APIRouter(tags=["fleet"])

#: Upper bounds, in seconds, of the ages of proofs of life; the window is 300.
AGE_BOUNDS = (15.0, 30.0, 60.0, 80.0, 120.0, 180.0, 240.0, 300.0, 360.0)


class Facts(Collector):
    """The rows, and the lengths of the queues."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        fleet = (self._runs, self._lanes, self._ages, self._owed, self._notices)
        kept = (self._archive, self._retention, self._tables)
        for source in (*fleet, *kept, self._hosts, self._workers, self._reaper, self._queues):
            try:
                yield from list(source())
            except Exception as error:
                # Whatever the reason: a missing metric is the alarm, and must not take the others with it.
                logger.error("Metrics are missing: %s.", type(error).__name__, exc_info=not is_unfit(error))

    def _runs(self) -> Iterator[Metric]:
        runs = GaugeMetricFamily("reprieve_runs", "Runs that are queued or running.", labels=["status", "adapter"])
        message = "Running runs without output for longer than their quiet_after."
        quiet = GaugeMetricFamily("reprieve_quiet_runs", message, labels=["adapter"])
        for one in self._services.fleet.active():
            runs.add_metric([one.status, one.adapter], one.runs)
            if one.status == Status.RUNNING:
                quiet.add_metric([one.adapter], one.quiet)
        yield runs
        yield quiet

    def _lanes(self) -> Iterator[Metric]:
        """By the rules' patterns, of which there are few; of lanes there may be one for each tenant."""
        runs = GaugeMetricFamily(
            "reprieve_lane_runs",
            "Runs of the lanes that fit a rule: running, ending (ended, and not confirmed gone), waiting, later.",
            labels=["pattern", "state"],
        )
        oldest = GaugeMetricFamily(
            "reprieve_lane_oldest_waiting_seconds", "Age of their oldest run that waits.", labels=["pattern"]
        )
        counts: Counter[tuple[str, str]] = Counter()
        ages: dict[str, float] = {}
        gone_after = self._services.timing.worker_gone_after
        for lane in self._services.lanes.states(gone_after):
            pattern = lane.rule.pattern if lane.rule else ""
            for state in ("running", "ending", "waiting", "later"):
                counts[pattern, state] += getattr(lane, state)
            ages[pattern] = max(ages.get(pattern, 0.0), lane.oldest.total_seconds() if lane.oldest else 0.0)
        for (pattern, state), count in counts.items():
            runs.add_metric([pattern, state], count)
        for pattern, age in ages.items():
            oldest.add_metric([pattern], age)
        yield from (runs, oldest)
        unserved = len(self._services.lanes.unserved(gone_after))
        yield GaugeMetricFamily("reprieve_lanes_unserved", "Lanes in which runs wait that no worker takes.", unserved)

    def _ages(self) -> Iterator[Metric]:
        ages = GaugeHistogramMetricFamily(
            "reprieve_proof_of_life_age_seconds", "Ages of the last proofs of life of running runs.", labels=["adapter"]
        )
        for adapter, one in self._services.fleet.ages(AGE_BOUNDS).items():
            bounds = [*(f"{bound:g}" for bound in AGE_BOUNDS), "+Inf"]
            ages.add_metric([adapter], list(zip(bounds, accumulate(one.buckets), strict=True)), one.seconds)
        yield ages

    def _owed(self) -> Iterator[Metric]:
        owed = GaugeMetricFamily(
            "reprieve_attempts_owed",
            "Attempts that are owed a termination, an adoption, or a closing.",
            labels=["what"],
        )
        for what, count in self._services.fleet.owed().items():
            owed.add_metric([what], count)
        yield owed
        failing = GaugeMetricFamily(
            "reprieve_owed_failing", "What of it failed when it was last tried; `explain` says why.", labels=["what"]
        )
        backlogs = {one.duty: one.items for one in self._services.setbacks.backlogs()}
        for duty in Duty:
            failing.add_metric([duty.value], backlogs.get(duty, 0))
        yield failing

    def _notices(self) -> Iterator[Metric]:
        outbox = self._services.notices.outbox()
        yield GaugeMetricFamily("reprieve_notices_owed", "Notices that are to be sent.", value=outbox.owed)
        message = "For how long the oldest of them has been owed, in seconds; 0 if there is none."
        yield GaugeMetricFamily("reprieve_notices_late_seconds", message, value=outbox.late.total_seconds())
        message = "Notices that became undeliverable within a day."
        yield GaugeMetricFamily("reprieve_notices_undeliverable", message, value=outbox.undeliverable)

    def _archive(self) -> Iterator[Metric]:
        message = (
            "Seconds for which the log archive has been refusing this, without a success in between; 0 if it does not."
        )
        refusing = GaugeMetricFamily("reprieve_archive_refusing_seconds", message, labels=["operation"])
        now = self._services.database.now()
        since = {one.operation: one.since for one in self._services.archives.refusals()}
        for operation in (WRITE, REMOVE):
            refusing.add_metric([operation], (now - since.get(operation, now)).total_seconds())
        yield refusing

    def _retention(self) -> Iterator[Metric]:
        state, now = self._services.retention.state(), self._services.database.now()
        failing = (now - state.failing_since).total_seconds() if state and state.failing_since else 0.0
        message = "Seconds for which the retention of runs has been failing; 0 if it does not."
        yield GaugeMetricFamily("reprieve_retention_failing_seconds", message, value=failing)
        behind = state.behind(now).total_seconds() if state and state.policy else 0.0
        message = (
            "Seconds for which, at the most, a run has been due for its removal that is still there; 0 if it is off."
        )
        yield GaugeMetricFamily("reprieve_retention_behind_seconds", message, value=behind)

    def _tables(self) -> Iterator[Metric]:
        message = "Bytes of a table, with its indexes and partitions."
        sizes = GaugeMetricFamily("reprieve_table_bytes", message, labels=["table"])
        message = "Seconds since the run of a table's first row was asked for."
        oldest = GaugeMetricFamily("reprieve_table_oldest_row_seconds", message, labels=["table"])
        now = self._services.database.now()
        for one in self._services.sizes.tables():
            sizes.add_metric([one.table], one.bytes)
            if one.oldest is not None:
                oldest.add_metric([one.table], max(0.0, (now - one.oldest).total_seconds()))
        yield sizes
        yield oldest

    def _hosts(self) -> Iterator[Metric]:
        nodes, timing = self._services.nodes, self._services.timing
        unseen = sum(one.owed for one in nodes.unseen(timing.window))
        message = "Terminations that are owed by hosts of which nobody has seen a worker for a window."
        yield GaugeMetricFamily("reprieve_terminations_of_unseen_hosts", message, value=unseen)
        twice = len(nodes.held_twice(timing.worker_gone_after))
        yield GaugeMetricFamily("reprieve_names_held_twice", "Names that two live hosts have.", value=twice)

    def _workers(self) -> Iterator[Metric]:
        message = "Workers of runs that are there: taking runs, or draining."
        workers = GaugeMetricFamily("reprieve_workers", message, labels=["state"])
        there = [one for one in self._services.workers.all(self._services.timing.worker_gone_after) if not one.is_gone]
        draining = sum(one.draining for one in there)
        workers.add_metric(["taking"], len(there) - draining)
        workers.add_metric(["draining"], draining)
        yield workers

    def _reaper(self) -> Iterator[Metric]:
        pulse = self._services.sweeps.pulse()
        healthy = not ailments(pulse, self._services.timing)
        yield GaugeMetricFamily("reprieve_healthy", "Whether the reaper sees and hears: 1, or 0.", value=healthy)
        if pulse is not None and pulse.age is not None:
            age = pulse.age.total_seconds()
            yield GaugeMetricFamily("reprieve_sweep_age_seconds", "Age of the last completed sweep.", value=age)
        if pulse is not None and pulse.lag is not None:
            lag = pulse.lag.total_seconds()
            message = "Age of the newest canary that came back through the log queue."
            yield GaugeMetricFamily("reprieve_canary_age_seconds", message, value=lag)

    def _queues(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("reprieve_queue_messages", "Messages that wait in a queue.", labels=["queue"])
        with to_ask(celery) as connection:
            channel = connection.default_channel
            for queue in QUEUES:
                waiting.add_metric([queue], channel.queue_declare(queue, durable=True).message_count)
        yield waiting


@router.get(
    "/metrics",
    dependencies=[MayRead],
    response_class=Response,
    responses={200: {"description": "For Prometheus.", "content": {"text/plain": {}}}, **answers(401, 403)},
)
def metrics(wired: Wired) -> Response:
    """The fleet's metrics, for Prometheus."""
    registry = CollectorRegistry()
    registry.register(Facts(wired))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
