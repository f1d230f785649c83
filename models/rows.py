"""The rows in PostgreSQL. `runs` is the narrow one: it is refreshed once a minute for every live run.

Three rules keep a refresh cheap (a HOT update, no index touched), and tests hold them:

1. `updated_at` and `last_proof` are in no index;
2. the table's fill factor leaves room on each page for the next version of a row;
3. what is wide or belongs to one attempt lives in a table beside it (`run_specs`, `run_attempts`).

The tables of logs have no foreign key to `runs`: checking one locks the run's row, which would write it once per block.

All tables are in this one file, long as it is, so that the schema reads as a whole beside its migrations.
"""

import uuid
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    Computed,
    ForeignKey,
    Index,
    SmallInteger,
    Text,
    Uuid,
    event,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, DOUBLE_PRECISION, INT8MULTIRANGE, INTERVAL, JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column, relationship

from reprieve.models.access import Scope
from reprieve.models.filters import END_OF_ID
from reprieve.models.lanes import DEFAULT_LANE
from reprieve.models.notices import NoticeKind, NoticeState
from reprieve.models.owed import Duty
from reprieve.models.process import ProcessIdentity, process_of, work_of
from reprieve.models.saying import of_run
from reprieve.models.status import ErrorCode, EventKind, Proof, Status
from reprieve.models.text import in_seconds
from reprieve.models.used import used_of


def _one_of(column: str, values: type[StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(value.value) for value in values)})"


class Row(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text(),
        datetime: TIMESTAMP(timezone=True),
        timedelta: INTERVAL(),
        dict[str, Any]: JSONB(),
        dict[str, str]: JSONB(),
    }


class RunRow(Row):
    """One piece of work for an adapter.

    `started_at` is the start of the current attempt, `not_before` the time before which it may not be claimed, and
    `start_by` the time by which it must have begun. Of the current attempt, `output_at` is the last output that a
    refresh has seen, and `longest_silence` the longest time between two proofs of life. It is quiet since `quiet_at`.
    `updated_at` is the last proof of life while the run is running, and the time at which its message was last sent
    while it is queued.
    """

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint(_one_of("status", Status), name="runs_status_known"),
        CheckConstraint(_one_of("error_code", ErrorCode), name="runs_error_code_known"),
        CheckConstraint(_one_of("last_proof", Proof), name="runs_last_proof_known"),
        CheckConstraint("(status = 'failed') = (error_code IS NOT NULL)", name="runs_failed_has_error_code"),
        CheckConstraint(
            "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name="runs_final_has_finished_at",
        ),
        CheckConstraint("status <> 'running' OR started_at IS NOT NULL", name="runs_running_has_started_at"),
        CheckConstraint("attempt BETWEEN 0 AND max_attempts AND max_attempts >= 1", name="runs_attempts_capped"),
        Index(
            "runs_queue",
            *("not_before", "lane", "adapter", text("priority DESC"), "id"),
            postgresql_where=text("status = 'queued'"),
        ),
        Index("runs_running", "id", postgresql_where=text("status = 'running'")),
        Index("runs_in_lane", "lane", postgresql_where=text("status = 'running'")),
        Index("runs_start_by", "start_by", postgresql_where=text("status = 'queued' AND start_by IS NOT NULL")),
        # By these, lists are read, the newest run first (`stores.runs.lists`): by a collation that lists alone ask for,
        # and without those that a sweep reads, so that neither a claim nor a sweep is ever planned by an index of all
        # runs there are. Where none waited when the table was analysed, a claim would read all that do, and sort them.
        Index(
            "runs_by_status",
            *("status", text("id DESC")),
            postgresql_ops={"status": 'COLLATE "C"'},
            postgresql_where=text("status <> 'running'"),
        ),
        Index("runs_by_adapter", "adapter", text("id DESC"), postgresql_ops={"adapter": 'COLLATE "C"'}),
        Index("runs_by_lane", "lane", text("id DESC"), postgresql_ops={"lane": 'COLLATE "C"'}),
        Index("runs_by_error", "error_code", text("id DESC"), postgresql_where=text("error_code IS NOT NULL")),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    adapter: Mapped[str]
    out_of_process_liveness: Mapped[bool]
    status: Mapped[str] = mapped_column(server_default=Status.QUEUED.value)
    attempt: Mapped[int] = mapped_column(server_default="0")
    epoch: Mapped[int] = mapped_column(BigInteger, server_default="0")
    max_attempts: Mapped[int] = mapped_column(server_default="1")
    max_runtime: Mapped[timedelta | None]
    sends: Mapped[int] = mapped_column(server_default="0")
    not_before: Mapped[datetime | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    started_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    last_proof: Mapped[str | None]
    finished_at: Mapped[datetime | None]
    lane: Mapped[str] = mapped_column(server_default=DEFAULT_LANE)
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    start_by: Mapped[datetime | None]
    quiet_after: Mapped[timedelta | None]
    max_silence: Mapped[timedelta | None]
    output_at: Mapped[datetime | None]
    quiet_at: Mapped[datetime | None]
    snoozed_until: Mapped[datetime | None]
    longest_silence: Mapped[timedelta | None]

    spec: Mapped["RunSpec"] = relationship(lazy="raise", uselist=False)
    attempts: Mapped[list["RunAttempt"]] = relationship(lazy="raise", order_by="RunAttempt.attempt")

    reports: Mapped[list["RunReport"]] = relationship(lazy="raise", order_by="RunReport.attempt")

    @property
    def labels(self) -> dict[str, str]:
        return self.spec.labels

    @property
    def report(self) -> dict[str, Any] | None:
        """What it has said of itself."""
        return of_run(map(vars, self.reports), self.attempt)

    @property
    def max_runtime_seconds(self) -> float | None:
        return in_seconds(self.max_runtime)

    @property
    def quiet_after_seconds(self) -> float | None:
        return in_seconds(self.quiet_after)

    @property
    def max_silence_seconds(self) -> float | None:
        return in_seconds(self.max_silence)

    @property
    def retry_on(self) -> dict[str, Any] | None:
        return self.spec.retry_on

    @property
    def retry_delay_seconds(self) -> float | None:
        return in_seconds(self.spec.retry_delay)

    @property
    def again_of(self) -> uuid.UUID | None:
        return self.spec.again_of

    @property
    def asked_by(self) -> str | None:
        return self.spec.asked_by

    @property
    def max_memory_bytes(self) -> int | None:
        return self.spec.max_memory


class Lane(Row):
    """The rule of the lanes that fit `pattern`: a name, or the beginning of names and an asterisk.

    At most `at_once` runs of each may be running, any number where that is NULL; none begins while it is paused.
    """

    __tablename__ = "lanes"
    __table_args__ = (CheckConstraint("at_once > 0", name="lanes_at_once_positive"),)

    pattern: Mapped[str] = mapped_column(primary_key=True)
    at_once: Mapped[int | None]
    paused_at: Mapped[datetime | None]


class RunSpec(Row):
    """What was asked for: written once, read when the work starts.

    `trace_parent` is the caller's place in a trace, as W3C Trace Context writes it; `asked_by` is the
    caller's name.
    """

    __tablename__ = "run_specs"
    __table_args__ = (
        # What is asked for is written once: each entry is put where it belongs, and none is left to be sorted in later.
        Index(
            "run_specs_labels",
            "labels",
            postgresql_using="gin",
            postgresql_ops={"labels": "jsonb_path_ops"},
            postgresql_with={"fastupdate": "off"},
        ),
        # By the end of its id, a person names a run.
        Index(
            "run_specs_by_end",
            # As PostgreSQL writes it, so that the two can be compared.
            literal_column(END_OF_ID.replace("CAST(run_id AS text)", "run_id::text")).label("end"),
            postgresql_ops={"end": "text_pattern_ops"},
        ),
    )

    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    config: Mapped[dict[str, Any]]
    labels: Mapped[dict[str, str]]
    idempotency_key: Mapped[str | None] = mapped_column(unique=True)
    trace_parent: Mapped[str | None]
    retry_on: Mapped[dict[str, Any] | None]
    retry_delay: Mapped[timedelta | None]
    notify: Mapped[list[str] | None] = mapped_column(JSONB)
    start_within: Mapped[timedelta | None]
    again_of: Mapped[uuid.UUID | None]
    asked_by: Mapped[str | None]
    max_memory: Mapped[int | None] = mapped_column(BigInteger)


class RunAttempt(Row):
    """One execution of a run: who follows it, what it started, how it ended, and what is still owed to it.

    The process metadata and the handle belong to the attempt, not to the run: the work of attempt 1 must be ended
    as itself while attempt 2 waits for exactly that. `termination` is NULL (nothing to do), `owed`, `waived` (still to
    be done, but nobody waits for it: its host is lost), or `done`; it is owed to the host named in `host`, or to any
    host where that is NULL. `slot` tells hosts of one name apart (`models.nodes`); earlier releases left it NULL. An
    attempt that has finished is owed the closing of its log until `log_closed_at` says that it is done.

    `worker_id` is the worker (a process, `Worker`) that follows it. `adoption` is `owed` while out-of-process work is
    to be followed by another one: to a worker of `host`, or to any where that is NULL; `adoption_owed_at` says since
    when (NULL where an older release wrote it). `late_output_at` and `late_result_at` say that something
    came of an attempt after it was reaped: perhaps it was alive.
    """

    __tablename__ = "run_attempts"
    __table_args__ = (
        CheckConstraint("termination IN ('owed', 'waived', 'done')", name="run_attempts_termination_known"),
        CheckConstraint("adoption = 'owed'", name="run_attempts_adoption_known"),
        Index("run_attempts_owed", "host", "run_id", postgresql_where=text("termination = 'owed'")),
        Index("run_attempts_waived", "host", "run_id", postgresql_where=text("termination = 'waived'")),
        Index("run_attempts_to_adopt", "host", "run_id", postgresql_where=text("adoption = 'owed'")),
        Index("run_attempts_followed", "worker_id", postgresql_where=text("finished_at IS NULL")),
        Index("run_attempts_reaped", "run_id", postgresql_where=text("reaped_at IS NOT NULL")),
        Index(
            "run_attempts_log_open",
            "finished_at",
            postgresql_where=text("finished_at IS NOT NULL AND log_closed_at IS NULL"),
        ),
    )

    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger)
    worker_node: Mapped[str]
    worker_id: Mapped[uuid.UUID | None]
    started_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    finished_at: Mapped[datetime | None]
    host: Mapped[str | None]
    slot: Mapped[str | None]
    process_pid: Mapped[int | None]
    process_group_id: Mapped[int | None]
    process_started_at: Mapped[float | None] = mapped_column(DOUBLE_PRECISION)
    process_namespace: Mapped[str | None]
    process_marker: Mapped[str | None]
    handle: Mapped[dict[str, Any] | None]
    outcome: Mapped[dict[str, Any] | None]
    last_seq: Mapped[int | None] = mapped_column(BigInteger)
    termination: Mapped[str | None]
    log_closed_at: Mapped[datetime | None]
    adoption: Mapped[str | None]
    adoption_owed_at: Mapped[datetime | None]
    reaped_at: Mapped[datetime | None]
    late_output_at: Mapped[datetime | None]
    late_result_at: Mapped[datetime | None]
    output_at: Mapped[datetime | None]
    longest_silence: Mapped[timedelta | None]
    cpu_seconds: Mapped[float | None] = mapped_column(DOUBLE_PRECISION)
    peak_memory: Mapped[int | None] = mapped_column(BigInteger)
    memory_limit: Mapped[int | None] = mapped_column(BigInteger)

    @property
    def longest_silence_seconds(self) -> float | None:
        return in_seconds(self.longest_silence)

    @property
    def used(self) -> dict[str, Any] | None:
        """What it used, once it has ended."""
        return used_of(vars(self))

    @property
    def process(self) -> ProcessIdentity | None:
        """The child that the worker owned, if the adapter spawned one."""
        return process_of(vars(self))

    @property
    def work(self) -> dict[str, Any] | None:
        """What `terminate` is given to end this attempt. None: nothing started."""
        return work_of(vars(self))


class RunReport(Row):
    """What an attempt has said of itself, by its reports up to a `number` (`models.saying`); `at` the last of them.

    Written by whoever follows it under `epoch`, once in some seconds, and by remote work itself. It is no part of
    `runs`, whose rows are refreshed, nor of its attempt's, which others lock. `result` is JSON as text.
    """

    __tablename__ = "run_reports"

    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger)
    number: Mapped[int] = mapped_column(BigInteger)
    progress: Mapped[float | None] = mapped_column(DOUBLE_PRECISION)
    sentence: Mapped[str | None]
    usage: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    result: Mapped[str | None] = mapped_column(deferred=True)
    at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    result_bytes: Mapped[int | None] = column_property(func.octet_length(literal_column("result")))


class AttemptSamples(Row):
    """What an attempt used over its life, for a plot: a moment each, the oldest first (`models.samples`).

    `every` is how many samples one of them stands for, `peak_memory` the most memory that any sample has seen.
    """

    __tablename__ = "attempt_samples"

    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    every: Mapped[int]
    at: Mapped[list[datetime]] = mapped_column(ARRAY(TIMESTAMP(timezone=True)))
    cpu_seconds: Mapped[list[float]] = mapped_column(ARRAY(DOUBLE_PRECISION))
    memory: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    peak_memory: Mapped[int] = mapped_column(BigInteger)


class RunEvent(Row):
    """What happened to a run, and why. Never changed; a trigger refuses it."""

    __tablename__ = "run_events"
    __table_args__ = (
        CheckConstraint(_one_of("kind", EventKind), name="run_events_kind_known"),
        Index("run_events_of_run", "run_id", "id"),
        # Events are written in the order of their times: the smallest of indexes finds an hour of them.
        Index("run_events_at", "at", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
    )

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    kind: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))


class HistoryStep(Row):
    """What happened in a step of time that is over, counted once by a sweep; steps of 25 hours are kept."""

    __tablename__ = "history_steps"

    at: Mapped[datetime] = mapped_column(primary_key=True)
    length: Mapped[timedelta] = mapped_column(primary_key=True)
    started: Mapped[int] = mapped_column(BigInteger)
    ended: Mapped[int] = mapped_column(BigInteger)
    reaped: Mapped[int] = mapped_column(BigInteger)
    failed: Mapped[int | None] = mapped_column(BigInteger)
    """Runs that failed, by themselves or by the reaper; NULL of a step that a release before this one has counted."""


class BulkRequest(Row):
    """Which runs were chosen by a request to end many, or to do many again: its key names the same ones again.

    Written before anything is done to them, and kept for a week (`stores.bulk`). `more` says that others fit as well.
    """

    __tablename__ = "bulk_requests"

    key: Mapped[str] = mapped_column(primary_key=True)
    asked: Mapped[dict[str, Any]]
    run_ids: Mapped[list[uuid.UUID]] = mapped_column(ARRAY(Uuid()))
    more: Mapped[bool]
    asked_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class AttemptLog(Row):
    """What is stored of an attempt's log. A writer of its segments locks this row, so that they never overlap.

    It is also the store's acknowledgement: shippers read `stored` and forget what is in it. Chunks of an epoch before
    `epoch` are refused: the follower that attached under it reads their source again.
    """

    __tablename__ = "attempt_logs"
    run_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    stored: Mapped[str] = mapped_column(INT8MULTIRANGE, server_default="{}")
    epoch: Mapped[int] = mapped_column(BigInteger, server_default="0")


class LogSegment(Row):
    """The hot tier: a block of one attempt's chunks (`models.chunks.Block`), as it was shipped.

    Partitioned by run id, which begins with the time: what a day's runs have printed lies together, and the emptied
    partition of a day is dropped as a whole (`stores.partitions`).
    """

    __tablename__ = "log_segments"
    __table_args__ = ({"postgresql_partition_by": "RANGE (run_id)"},)

    run_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    first_seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    last_seq: Mapped[int] = mapped_column(BigInteger)
    stored_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    payload: Mapped[bytes]


class LogArchive(Row):
    """A closed log: where its one object is, and what is in it. `object_key` is NULL for a log without a chunk.

    `frames` is the index of the object: first number, offset and size in bytes of each zstd frame. What is `lost` could
    not be read when it was last tried.
    """

    __tablename__ = "log_archives"

    run_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    object_key: Mapped[str | None]
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str | None]
    frames: Mapped[list[list[int]]] = mapped_column(JSONB)
    held: Mapped[str] = mapped_column(INT8MULTIRANGE)
    gaps: Mapped[str] = mapped_column(INT8MULTIRANGE)
    lost: Mapped[str | None] = mapped_column(INT8MULTIRANGE)
    written_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    removed_at: Mapped[datetime | None]


class ArchiveRefusal(Row):
    """What the log archive refuses at present, a row for each kind (`write`, `remove`), and its last refusal."""

    __tablename__ = "archive_refusals"

    operation: Mapped[str] = mapped_column(primary_key=True)
    since: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    times: Mapped[int] = mapped_column(BigInteger, server_default="1")
    refusal: Mapped[str]


class LogQuarantine(Row):
    """A block that could not be stored, and why: a dead-letter queue, so that it holds up no other and is not lost."""

    __tablename__ = "log_quarantine"

    run_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    first_seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    last_seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    reason: Mapped[str]
    payload: Mapped[bytes]
    received_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class Spooled(Row):
    """What the spool of a living worker holds of a log, and the store does not have: these numbers, and what follows.

    A `holder` is a process that ships spools. It says so while it holds anything for more than a moment, and is
    believed for a while (`models.extents.HOLDER_BELIEVED_FOR`).
    """

    __tablename__ = "spooled"
    __table_args__ = (Index("spooled_by", "holder"),)

    run_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    holder: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    from_seq: Mapped[int] = mapped_column(BigInteger)
    to_seq: Mapped[int] = mapped_column(BigInteger)
    seen_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class Setback(Row):
    """Owed work that failed: since when, how often, why the last time, and when it is tried next (`models.owed`)."""

    __tablename__ = "setbacks"
    __table_args__ = (CheckConstraint(_one_of("duty", Duty), name="setbacks_duty_known"),)

    duty: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    tries: Mapped[int]
    reason: Mapped[str]
    since: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    next_try_at: Mapped[datetime]


class Retention(Row):
    """How far the retention of runs is, one row (`models.retention.RetentionState`).

    The pass that is under way goes on `after` an id, has left the run `first_left` and none before, and `kept` so many
    that are due, since `oldest_kept` at the earliest. The next pass begins at `begin_at`. No run that was removed is
    younger than `removed_up_to`.
    """

    __tablename__ = "retention"
    __table_args__ = (CheckConstraint("id = 1", name="retention_single_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, server_default="1")
    policy: Mapped[str | None]
    done_until: Mapped[datetime]
    kept_since: Mapped[datetime | None]
    pass_began_at: Mapped[datetime | None]
    begin_at: Mapped[uuid.UUID] = mapped_column(server_default=text(f"'{uuid.UUID(int=0)}'"))
    after: Mapped[uuid.UUID] = mapped_column(server_default=text(f"'{uuid.UUID(int=0)}'"))
    first_left: Mapped[uuid.UUID | None]
    oldest_kept: Mapped[datetime | None]
    removed: Mapped[int] = mapped_column(BigInteger, server_default="0")
    kept: Mapped[int] = mapped_column(BigInteger, server_default="0")
    last_removed: Mapped[int] = mapped_column(BigInteger, server_default="0")
    last_kept: Mapped[int] = mapped_column(BigInteger, server_default="0")
    removed_up_to: Mapped[uuid.UUID | None]
    failing_since: Mapped[datetime | None]
    failure: Mapped[str | None]


class ReaperWatch(Row):
    """The reaper's own memory, one row: since when it has been watching and hearing without a gap, its last sweep.

    `heard_at` is the time at which the newest canary was sent that came back through the log queue. Since
    `reports_since`, an HTTP API has been taking reports of remote work without a gap, and last at `reports_at`.
    """

    __tablename__ = "reaper_watch"
    __table_args__ = (CheckConstraint("id = 1", name="reaper_watch_single_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, server_default="1")
    watching_since: Mapped[datetime]
    last_sweep_at: Mapped[datetime]
    window: Mapped[timedelta] = mapped_column("window_length")
    hearing_since: Mapped[datetime | None]
    heard_at: Mapped[datetime | None]
    last_completed_at: Mapped[datetime | None]
    last_report: Mapped[dict[str, Any] | None]
    reports_since: Mapped[datetime | None]
    reports_at: Mapped[datetime | None]


class Lease(Row):
    """Who alone may do something just now, and until when; `token` tells each taking of the lease from the next."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    token: Mapped[uuid.UUID]
    since: Mapped[datetime]
    until: Mapped[datetime]


class Worker(Row):
    """A process that follows runs, and its last heartbeat. A hint: it never decides whether a run is alive.

    `slot` and `namespace` tell holders of one name apart; NULL of a release that had none. It serves the `lanes` that
    fit one of these patterns, all where that is NULL. The rest is what it says of itself (`models.workers.Presence`),
    NULL of a release that said nothing.
    """

    __tablename__ = "workers"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    node: Mapped[str]
    host: Mapped[str]
    slot: Mapped[str | None]
    namespace: Mapped[str | None]
    started_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    seen_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    lanes: Mapped[list[str] | None] = mapped_column(ARRAY(Text()))
    version: Mapped[str | None]
    roles: Mapped[list[str] | None] = mapped_column(ARRAY(Text()))
    adapters: Mapped[list[str] | None] = mapped_column(ARRAY(Text()))
    places: Mapped[int | None]
    runs: Mapped[int | None]
    spool_bytes: Mapped[int | None] = mapped_column(BigInteger)
    stopping: Mapped[bool] = mapped_column(server_default=text("false"))


class Drain(Row):
    """A worker, or all of a host, is to take nothing new until this row is gone; `host` is the host of either."""

    __tablename__ = "drains"

    name: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    since: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class SeenNode(Row):
    """The holder of a slot of a data folder, and when a worker of it was last seen."""

    __tablename__ = "nodes"

    slot: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    namespace: Mapped[str]
    seen_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class Question(Row):
    """A probe that only the workers of one host can make, and their answer. It lives as long as its sweep asks."""

    __tablename__ = "questions"
    __table_args__ = (Index("questions_open", "host", postgresql_where=text("answer IS NULL")),)

    run_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    host: Mapped[str]
    adapter: Mapped[str]
    handle: Mapped[dict[str, Any]]
    asked_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    answer: Mapped[str | None]


class Sparing(Row):
    """Why a suspect was spared: one row for each judgement on one silence, with the newest evidence."""

    __tablename__ = "sparings"

    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    silent_since: Mapped[datetime] = mapped_column(primary_key=True)
    judgement: Mapped[str] = mapped_column(primary_key=True)
    first_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    last_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    times: Mapped[int] = mapped_column(server_default="1")
    detail: Mapped[dict[str, Any]]


class RunToken(Row):
    """The SHA-256 of the token by which remote work reports for its run; the token itself is stored nowhere."""

    __tablename__ = "run_tokens"

    run_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    hash: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class ApiToken(Row):
    """The SHA-256 of a token for the HTTP API, and its scope; the token itself is stored nowhere."""

    __tablename__ = "api_tokens"
    __table_args__ = (CheckConstraint(_one_of("scope", Scope), name="api_tokens_scope_known"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    hash: Mapped[bytes] = mapped_column(unique=True)
    scope: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class Notice(Row):
    """What is to be told to an address, or was (`models.notices`). A trigger writes it, beside what it tells of.

    It is written for an address of the run's own, or for that of a `rule`; `receiver` is its host and port. It is owed
    since `owed_at`, and tried at `next_try_at`: a try moves that on before it begins. One of kind `test` has no run.
    """

    __tablename__ = "notices"
    __table_args__ = (
        CheckConstraint(_one_of("kind", NoticeKind), name="notices_kind_known"),
        CheckConstraint(_one_of("state", NoticeState), name="notices_state_known"),
        CheckConstraint("(state = 'owed') = (settled_at IS NULL)", name="notices_settled_has_settled_at"),
        Index("notices_owed", "receiver", "next_try_at", postgresql_where=text("state = 'owed'")),
        Index("notices_settled", "state", "settled_at", postgresql_where=text("state <> 'owed'")),
        Index("notices_of_run", "run_id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))
    run_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    attempt: Mapped[int] = mapped_column(server_default="0")
    kind: Mapped[str]
    rule: Mapped[str | None]
    url: Mapped[str]
    receiver: Mapped[str] = mapped_column(
        Computed(
            """COALESCE(lower("substring"(url, '^[^:]*://(?:[^/?#]*@)?([^/?#]{1,255})'::text)), ''::text)""",
            persisted=True,
        )
    )
    state: Mapped[str] = mapped_column(server_default=NoticeState.OWED.value)
    at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    owed_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    tries: Mapped[int] = mapped_column(server_default="0")
    reason: Mapped[str | None]
    next_try_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    settled_at: Mapped[datetime | None]


class NoticeRule(Row):
    """Whom to tell of runs that no notice was asked for with: see `models.notice_rules.Rule`."""

    __tablename__ = "notice_rules"

    name: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str]
    kinds: Mapped[list[str] | None] = mapped_column(ARRAY(Text()))
    labels: Mapped[dict[str, str]] = mapped_column(server_default=text("'{}'"))
    lane: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


for _table in (RunRow.__table__, AttemptLog.__table__, RunReport.__table__):
    # Room on each page for the next version of a row. SQLAlchemy 2.0 has no option for it.
    event.listen(_table, "after_create", DDL("ALTER TABLE %(table)s SET (fillfactor = 70)"))  # type: ignore[no-untyped-call]
