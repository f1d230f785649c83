"""Runs and what belongs to them as data: what `--json` prints and the HTTP API answers, in one form.

A run's config is left out: it may hold what is nobody's business.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, computed_field

from reprieve.models.lanes import DEFAULT_LANE
from reprieve.models.notices import NoticeKind, NoticeState
from reprieve.models.status import ErrorCode, EventKind, Proof, Status
from reprieve.models.what_runs import what_runs

if TYPE_CHECKING:
    # A service that only asks for runs reads none through SQLAlchemy.
    from reprieve.models.health import Pulse


class Record(BaseModel):
    model_config = ConfigDict(from_attributes=True, frozen=True)


class RowRecord(Record):
    """What a row says, under the names that it has there."""

    @classmethod
    def of(cls, row: object) -> Self:
        return cls.model_validate(row)


class UsedRecord(Record):
    """What an attempt used. What is not known is null."""

    cpu_seconds: float | None = Field(description="Processor time of all that it started, of the system as well.")
    peak_memory_bytes: int | None = Field(description="The most that it had in memory, as far as that was measured.")
    memory_limit_bytes: int | None = Field(description="The limit of its memory, if it had one of its own.")


class AttemptRecord(RowRecord):
    """One execution of a run."""

    attempt: int = Field(description="1 for the first.")
    worker_node: str = Field(description="The worker that follows it, or did last.")
    host: str | None = Field(description="The one host that can act on the work; null when any can, or none need.")
    work: dict[str, Any] | None = Field(description="What was started: the process, or the adapter's handle.")
    started_at: datetime
    finished_at: datetime | None
    outcome: dict[str, Any] | None = Field(description="How it ended by itself: exit_status, or signal.")
    last_seq: int | None = Field(description="The number of its last chunk; null while nobody named it.")
    termination: str | None = Field(
        description="owed while its work is to be confirmed gone, waived where its host is lost, then done."
    )
    reaped_at: datetime | None
    late_output_at: datetime | None = Field(description="When output came after it was reaped: perhaps it was alive.")
    late_result_at: datetime | None = Field(description="When a result came after it was reaped.")
    output_at: datetime | None = Field(default=None, description="Its last output, once it has ended.")
    longest_silence_seconds: float | None = Field(
        default=None, description="The longest time between two proofs of its life, once it has ended."
    )
    used: UsedRecord | None = Field(default=None, description="What it used, once it has ended; null if not known.")


class ReportRecord(RowRecord):
    """What a run says of itself: of its current attempt what is newest, of all of them what they used."""

    progress: float | None = Field(description="How far its current attempt is, from 0 to 1.")
    sentence: str | None = Field(description="What its current attempt does, in its own words.")
    at: datetime | None = Field(description="When its current attempt last said anything.")
    usage: dict[str, int | float] = Field(description="What it has used, by names of its own: sums over its attempts.")
    result_bytes: int | None = Field(description="The size of its result, which `/v1/runs/{id}/result` gives.")


class Run(RowRecord):
    """A run and its attempts."""

    id: UUID
    adapter: str
    out_of_process_liveness: bool = Field(description="Whether its work outlives the worker.")
    status: Status
    attempt: int = Field(description="The number of the current attempt, 0 before the first.")
    epoch: int = Field(description="Grows with each claim and adoption; what an older one writes is refused.")
    max_attempts: int
    max_runtime_seconds: float | None
    labels: dict[str, str]
    error_code: ErrorCode | None
    error_message: str | None
    last_proof: Proof | None = Field(description="The kind of its last proof of life.")
    created_at: datetime
    started_at: datetime | None = Field(description="The start of the current attempt.")
    updated_at: datetime = Field(description="Its last proof of life while it is running.")
    finished_at: datetime | None
    attempts: list[AttemptRecord]
    lane: str = Field(default=DEFAULT_LANE, description="The lane that it waits in.")
    priority: int = Field(default=0, description="Within its lane, the higher is started first.")
    not_before: datetime | None = Field(default=None, description="It is not started before; for a retry, too.")
    start_by: datetime | None = Field(default=None, description="It fails if it has not begun by then.")
    retry_on: dict[str, list[int | str]] | None = Field(default=None, description="Ends that another attempt follows.")
    retry_delay_seconds: float | None = Field(default=None, description="How long such an attempt waits.")
    quiet_after_seconds: float | None = Field(default=None, description="Silence after which it is called quiet.")
    max_silence_seconds: float | None = Field(default=None, description="Silence that ends it as stalled.")
    output_at: datetime | None = Field(default=None, description="Its last output that a refresh knew of.")
    quiet_at: datetime | None = Field(default=None, description="Since when it is called quiet.")
    snoozed_until: datetime | None = Field(default=None, description="Until when nobody is told that it is quiet.")
    again_of: UUID | None = Field(default=None, description="The run that it does again.")
    asked_by: str | None = Field(
        default=None, description="Who asked for it: over HTTP the token's name, else the service, or USER@HOST."
    )
    report: ReportRecord | None = Field(default=None, description="What it says of itself; null where it says nothing.")
    max_memory_bytes: int | None = Field(default=None, description="What an attempt may have in memory at the most.")

    @property
    def is_quiet(self) -> bool:
        """Whether it lives, and gave no output for longer than its `quiet_after`."""
        return self.status is Status.RUNNING and self.quiet_at is not None

    @property
    def came_late(self) -> bool:
        """Whether something came of an attempt after it was reaped: perhaps it was alive."""
        return any(attempt.late_output_at or attempt.late_result_at for attempt in self.attempts)


class AskedRecord(RowRecord):
    """What a run was asked for with, beside what its record says. It may hold what is not for everybody."""

    config: dict[str, Any] = Field(description="As the adapter's `config_schema` has it.")
    idempotency_key: str | None
    start_within_seconds: float | None
    notify: list[str] | None

    @computed_field(description="What it runs, as a person would type it: its command, its image, its folder.")  # type: ignore[prop-decorator]
    @property
    def what(self) -> str | None:
        return what_runs(self.config)


class UsageGroup(Record):
    """What runs that have something in common have used."""

    group: str | None = Field(description="What they have in common; null for those without that label.")
    runs: int
    attempts: int
    wall_seconds: float = Field(description="For how long their attempts ran, those under way so far.")
    cpu_seconds: float | None = Field(
        description="Processor time of those of their attempts that have ended and were measured; null for none."
    )
    peak_memory_bytes: int | None = Field(description="The most that any one of these had in memory.")
    usage: dict[str, int | float] = Field(description="Sums of what they said they used, the 100 most frequent names.")
    unlisted_names: int


class UsageSummary(Record):
    """What runs have used since a time."""

    by: str
    since: datetime = Field(description="When the oldest of these runs was asked for, where it is not complete.")
    complete: bool = Field(description="Whether it is of all that were asked about: 100,000 runs at the most.")
    groups: list[UsageGroup] = Field(description="Those of most runs first, 1,000 at the most.")
    unlisted_groups: int


class RunPage(Record):
    """Runs, the newest first."""

    runs: list[Run]
    next: UUID | None = Field(description="`before` of the next page; null on the last.")


class SampleRecord(Record):
    """What an attempt had used at a moment."""

    at: datetime
    cpu_seconds: float = Field(description="Processor time up to then.")
    memory_bytes: int = Field(description="The most that it had in memory since the sample before.")


class SampleList(Record):
    """The oldest first; fewer for each hour the longer it runs, 240 at the most. None of what took no minute."""

    samples: list[SampleRecord]


class EnqueuedRun(Record):
    """A run that was asked for."""

    is_new: bool = Field(description="Whether this request made it; false where its idempotency key gave it before.")
    run: Run


class EnqueuedRuns(Record):
    """Runs that were asked for at once, in the order in which they were."""

    runs: list[EnqueuedRun]


class EventRecord(RowRecord):
    """What happened to a run."""

    at: datetime
    attempt: int
    kind: EventKind
    detail: dict[str, Any]


class FleetEvent(EventRecord):
    """What happened to a run of the fleet."""

    id: int = Field(description="Its place in the order in which events are told.")
    run_id: UUID


class SparingRecord(RowRecord):
    """Why a suspect was spared: one for each judgement on one silence, with the newest evidence."""

    attempt: int
    judgement: str
    silent_since: datetime
    first_at: datetime
    last_at: datetime
    times: int
    detail: dict[str, Any]


class ArchiveRecord(Record):
    """The object that holds a closed log."""

    object: str | None
    bytes: int
    sha256: str | None
    written_at: datetime
    removed_at: datetime | None


class QuarantineRecord(Record):
    """Chunks that could not be stored, first and last number."""

    first: int
    last: int
    reason: str


#: Ranges of each kind that the state of a log lists.
LISTED_RANGES = 100


class LogRecord(Record):
    """The state of an attempt's log. Ranges are pairs of first and last number, the first 100 of each kind."""

    attempt: int
    chunks: int = Field(description="How many are stored.")
    missing: list[tuple[int, int]] = Field(description="What should be there, and nobody has.")
    late: list[tuple[int, int]] = Field(description="What is known to be on its way: do not count it as lost.")
    lost: list[tuple[int, int]] = Field(description="What was stored, and cannot be read any more.")
    added: list[tuple[int, int]] = Field(description="What came after the log was closed; it is read with the rest.")
    unlisted: int = Field(description="How many further ranges there are.")
    quarantined: list[QuarantineRecord]
    closed: bool = Field(default=False, description="Whether it is closed. A small log is closed without an archive.")
    archive: ArchiveRecord | None


class NoticeRecord(RowRecord):
    """What is to be told to an address, or was."""

    id: UUID = Field(description="What its receiver gets as `webhook-id`, each time.")
    run_id: UUID | None = Field(description="Null for a test of a rule.")
    attempt: int
    kind: NoticeKind
    rule: str | None = Field(description="The rule that it is for; null for an address of the run's own.")
    address: str = Field(description="Where it goes, without what may be a credential.")
    state: NoticeState
    at: datetime
    tries: int
    reason: str | None = Field(description="Why the last try failed.")
    next_try_at: datetime
    settled_at: datetime | None = Field(description="When it was taken, or given up.")


class NoticeList(Record):
    notices: list[NoticeRecord]


class NoticeRuleRecord(RowRecord):
    """Whom to tell of what, of runs with these labels in this lane."""

    name: str
    address: str = Field(description="Where notices go, without what may be a credential.")
    kinds: list[NoticeKind] = Field(description="All of them where it is empty.")
    labels: dict[str, str]
    lane: str | None


class NoticeRuleList(Record):
    rules: list[NoticeRuleRecord]


class ExplanationRecord(Record):
    """Everything that is known of a run."""

    run: Run
    why: str = Field(default="", description="What ended it, what it waits for, or how it runs: read first.")
    next: str | None = Field(default=None, description="Where to look next.")
    logs: list[LogRecord]
    events: list[EventRecord]
    sparings: list[SparingRecord]
    notices: list[NoticeRecord] = []


class AccountRecord(Record):
    """The reaper's own account for one adapter."""

    adapter: str
    reaped: int
    suspected_false: int = Field(description="Of which output or a result came later.")


class HealthRecord(Record):
    """Whether the reaper sees and hears."""

    healthy: bool
    reasons: list[str] = Field(description="What is wrong, a sentence each.")
    sweep_age_seconds: float | None = Field(description="Age of the last completed sweep; null if there was none.")
    canary_age_seconds: float | None = Field(description="Age of the newest canary that came through the log queue.")
    last_report: dict[str, Any] | None = Field(description="What the last completed sweep did.")
    sweep_holder: str | None = Field(description="Node and process of a sweep under way, or of one that was cut off.")
    sweep_held_seconds: float | None = Field(description="For how long it has been at it; null between two sweeps.")
    account: list[AccountRecord]

    @classmethod
    def of(cls, pulse: "Pulse | None", reasons: Sequence[str], account: Sequence[Any]) -> Self:
        return cls(
            healthy=not reasons,
            reasons=list(reasons),
            sweep_age_seconds=pulse.age.total_seconds() if pulse and pulse.age else None,
            canary_age_seconds=pulse.lag.total_seconds() if pulse and pulse.lag else None,
            last_report=pulse.last_report if pulse else None,
            sweep_holder=pulse.holder if pulse else None,
            sweep_held_seconds=pulse.held_for.total_seconds() if pulse and pulse.held_for else None,
            account=[AccountRecord.model_validate(line) for line in account],
        )
