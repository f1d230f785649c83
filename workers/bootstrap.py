"""The one place where things are wired together. Nothing is built, opened or connected when a module is imported."""

import os
import threading
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from reprieve.adapters.registry import Adapters
from reprieve.models.closing import CLOSED_EVERY
from reprieve.models.liveness import WINDOW, Timing
from reprieve.models.nodes import Node
from reprieve.stores.adoptions import AdoptionStore
from reprieve.stores.archive import LogArchives
from reprieve.stores.cache import connect
from reprieve.stores.closings import Closings
from reprieve.stores.database import Database
from reprieve.stores.export import Export
from reprieve.stores.fleet import FleetStore
from reprieve.stores.hints import LiveEvents, Request, StopSignals, Vouches
from reprieve.stores.leases import Leases
from reprieve.stores.logs import PostgresLogStore
from reprieve.stores.nodes import NodeStore
from reprieve.stores.notices import NoticeStore
from reprieve.stores.owed import Setbacks
from reprieve.stores.questions import QuestionStore
from reprieve.stores.quiet import QuietStore
from reprieve.stores.reading import LogReader
from reprieve.stores.retention import RetentionStore
from reprieve.stores.runs.attempts import AttemptStore
from reprieve.stores.runs.claims import ClaimStore
from reprieve.stores.runs.deadlines import DeadlineStore
from reprieve.stores.runs.lanes import LaneStore
from reprieve.stores.runs.records import RunRecords
from reprieve.stores.runs.reports import ReportStore
from reprieve.stores.runs.resends import ResendStore
from reprieve.stores.runs.store import RunStore
from reprieve.stores.runs.terminations import TerminationStore
from reprieve.stores.runs.usage import UsageStore
from reprieve.stores.samples import SampleStore
from reprieve.stores.sizes import Sizes
from reprieve.stores.spooled import SpooledStore
from reprieve.stores.sweeps import SweepStore
from reprieve.stores.throttle import Throttle
from reprieve.stores.tokens import TokenStore
from reprieve.stores.workers import WorkerStore
from reprieve.workers import current
from reprieve.workers.identity import Identity
from reprieve.workers.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that tasks and commands work with. The stores of PostgreSQL come first."""

    database: Database
    leases: Leases
    runs: RunStore
    records: RunRecords
    claims: ClaimStore
    lanes: LaneStore
    deadlines: DeadlineStore
    attempts: AttemptStore
    reports: ReportStore
    resends: ResendStore
    usage: UsageStore
    terminations: TerminationStore
    workers: WorkerStore
    adoptions: AdoptionStore
    questions: QuestionStore
    sweeps: SweepStore
    quiet: QuietStore
    logs: PostgresLogStore
    archives: LogArchives
    closings: Closings
    spooled: SpooledStore
    setbacks: Setbacks
    retention: RetentionStore
    sizes: Sizes
    samples: SampleStore
    export: Export
    notices: NoticeStore
    tokens: TokenStore
    fleet: FleetStore
    nodes: NodeStore
    throttle: Throttle
    stops: StopSignals
    vouches: Vouches
    live: LiveEvents
    closing: Request
    settings: Settings
    timing: Timing
    adapters: Adapters
    identity: Identity

    @property
    def node(self) -> Node:
        """Who we are on this host; leased from the data folder if this process holds nothing yet."""
        return self.identity.held().node

    @property
    def host(self) -> str:
        return self.node.name

    def log_of(self, run_id: UUID) -> LogReader:
        """A reader of this run's log."""
        return LogReader(self.database, self.logs, self.live, run_id)


def build(settings: Settings) -> Services:
    """Services for these settings; connections are opened when they are first used."""
    database, redis = Database(settings.require_database_url()), connect(settings.require_redis_url())
    timing, identity = settings.timing, Identity(settings)
    return Services(
        **_stores(database, settings, identity),
        throttle=Throttle(redis, timing.refresh_seconds),
        stops=StopSignals(redis),
        vouches=Vouches(redis, timing.tolerated_lag),
        live=LiveEvents(redis),
        closing=Request(redis, "closing", CLOSED_EVERY),
        settings=settings,
        timing=timing,
        adapters=Adapters(settings.data_dir / "adapters", identity.name),
        identity=identity,
    )


def beside(services: Services, connections: int) -> Services:
    """The same services over so many connections to the database that nothing else can take."""
    return replace(services, **_stores(services.database.beside(connections), services.settings, services.identity))


def _stores(database: Database, settings: Settings, identity: Identity) -> dict[str, Any]:
    archives, leases = LogArchives(database, settings.archive_url), Leases(database, identity.name)
    logs = PostgresLogStore(database, archives)
    return {
        "database": database,
        "leases": leases,
        "runs": RunStore(database),
        "records": RunRecords(database),
        "claims": ClaimStore(database),
        "lanes": LaneStore(database),
        "deadlines": DeadlineStore(database),
        "attempts": AttemptStore(database),
        "reports": ReportStore(database),
        "resends": ResendStore(database),
        "usage": UsageStore(database),
        "terminations": TerminationStore(database),
        "workers": WorkerStore(database),
        "adoptions": AdoptionStore(database, logs),
        "questions": QuestionStore(database),
        "sweeps": SweepStore(database, leases, settings.timing.sweep_lease),
        "quiet": QuietStore(database),
        "logs": logs,
        "archives": archives,
        "closings": Closings(database, archives),
        "spooled": SpooledStore(database),
        "setbacks": Setbacks(database),
        "retention": RetentionStore(database),
        "sizes": Sizes(database),
        "samples": SampleStore(database),
        "export": Export(database),
        "notices": NoticeStore(database),
        "tokens": TokenStore(database),
        "fleet": FleetStore(database),
        "nodes": NodeStore(database),
    }


_lock = threading.Lock()
_services: Services | None = None


def services() -> Services:
    """The services of this process, built at the first call (so each pool process builds its own)."""
    global _services
    with _lock:
        if _services is None:
            _services = build(current.settings())
            current.choose(_services.settings)
        return _services


def fleet_services() -> Services:
    """The services of a command that judges or sweeps the fleet, at the time scale of the last sweep.

    A sweep at another scale would begin a new watch, and judge the fleet by times that it does not keep.
    """
    wired = services()
    watch = wired.sweeps.last_watch()
    scale = WINDOW // watch.window if watch else wired.settings.time_scale
    if scale != wired.settings.time_scale:
        wired = build(wired.settings.model_copy(update={"time_scale": scale}))
        use(wired)
    return wired


def use(replacement: Services | None) -> None:
    """Put other services in place; for tests and for commands that choose their own settings."""
    global _services
    with _lock:
        if _services is not None and _services is not replacement:
            _services.database.dispose()
            _services.identity.let_go()
        _services = replacement
        current.choose(replacement.settings if replacement else None)


def _after_fork() -> None:
    """A forked child builds its own, with the same settings: what its parent has open is the parent's."""
    global _services, _lock
    _lock = threading.Lock()
    if _services is not None:
        _services.database.forget()
        _services = None


os.register_at_fork(after_in_child=_after_fork)
