"""For services that start runs: `enqueue_run` and `cancel_run`.

The row is written first, and is the fact; the message only makes it happen soon. A crash between the two, or a lost
message, is healed by the sweep, which sends again what stays queued.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from opentelemetry.context import Context

from adapters.registry import find_adapter, validate_config
from models.errors import InvalidRequest
from models.rows import Run
from models.status import Status
from models.text import is_plain_text
from models.work import End, Token
from stores.runs import NewRun
from workers import tracing
from workers.bootstrap import Services, services
from workers.finish import finish
from workers.hints import send_hint

#: Labels are for filters and for people: so many, each side so long.
MAX_LABELS = 16
MAX_LABEL_LENGTH = 128
MAX_KEY_LENGTH = 255
#: The header of a message that says how often it was passed on.
PASSED_ON = "reprieve_passed_on"
#: A longer limit is none.
MAX_RUNTIME = timedelta(days=3650)


def enqueue_run(
    adapter: str,
    config: Mapping[str, Any],
    *,
    labels: Mapping[str, str] | None = None,
    max_runtime: float | timedelta | None = None,
    max_attempts: int = 1,
    idempotency_key: str | None = None,
) -> Run:
    """Ask for a run. Returns its row, which is queued (or, for a known idempotency key, whatever it is by now).

    `max_runtime` limits one attempt, in seconds. `max_attempts` limits how often the work may be started when the
    worker that owned it is lost; work that ends by itself is never started again. Raises `UnknownAdapter` and
    `InvalidRequest` at once, naming the field and what would do, and `IdempotencyConflict`.
    """
    run, _ = enqueue_once(
        adapter,
        config,
        labels=labels,
        max_runtime=max_runtime,
        max_attempts=max_attempts,
        idempotency_key=idempotency_key,
    )
    return run


def enqueue_once(
    adapter: str,
    config: Mapping[str, Any],
    *,
    labels: Mapping[str, str] | None,
    max_runtime: float | timedelta | None,
    max_attempts: int,
    idempotency_key: str | None,
    caller: Context | None = None,
) -> tuple[Run, bool]:
    """The same, and whether the run is new; `caller` is a place in a trace, where it is not this thread's own."""
    adapter_class = find_adapter(adapter)
    new = NewRun(
        adapter=adapter,
        out_of_process_liveness=adapter_class.has_out_of_process_liveness,
        config=validate_config(adapter_class, config),
        labels=_checked_labels(labels or {}),
        max_attempts=_checked_attempts(max_attempts),
        max_runtime=_checked_runtime(max_runtime),
        idempotency_key=_checked_key(idempotency_key),
    )
    with tracing.enqueueing(adapter, caller) as span:
        run, is_new = services().runs.add(replace(new, trace_parent=tracing.place()))
        span.set_attribute("reprieve.run_id", str(run.id))
        if is_new:
            send_execute(run.id)
    return run, is_new


def send_execute(run_id: UUID, *, after: float = 0.0, passed_on: int = 0) -> None:
    """Send the message that a run is waiting, to be taken after so many seconds; the sweep sends what is lost.

    `passed_on` counts the workers that could not use it. It is in a header: a release that knows nothing of it is not
    disturbed.
    """
    later: dict[str, Any] = {"countdown": after} if after > 0 else {}
    if passed_on:
        later["headers"] = {PASSED_ON: passed_on}
    shown = {"task_id": str(run_id), "argsrepr": f"({run_id})"}
    send_hint(
        "runs.execute", [str(run_id)], otherwise=f"run {run_id} is queued, and the sweep sends it", **shown, **later
    )


def cancel_run(run_id: UUID | str) -> Run:
    """End a run that has not ended; its producer is told to stop and its work is terminated. Returns its row.

    A run that had already ended stays as it is. Raises `RunNotFound`.
    """
    wired = services()
    while True:
        run = wired.runs.get(_as_uuid(wired, run_id))
        status = Status(run.status)
        if status.is_final:
            return run
        # Repeated when a worker claims, or another ends, the run between the reading and the writing.
        finish(wired, [End.by_cancel(Token(run.id, run.epoch), from_status=status)])


def _as_uuid(wired: Services, run_id: UUID | str) -> UUID:
    return run_id if isinstance(run_id, UUID) else wired.runs.resolve(run_id)


def _checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(labels, Mapping):
        raise InvalidRequest(f"labels is of type {type(labels).__name__}; give a mapping of names to values.")
    if len(labels) > MAX_LABELS:
        raise InvalidRequest(f"labels: {len(labels)} of them; at most {MAX_LABELS} are kept.")
    for name, value in labels.items():
        for part in (name, value):
            if not is_plain_text(part) or len(part) > MAX_LABEL_LENGTH:
                raise InvalidRequest(f"labels: {name!r} must be text of at most {MAX_LABEL_LENGTH} characters.")
    return dict(labels)


def _checked_attempts(max_attempts: int) -> int:
    if not isinstance(max_attempts, int) or isinstance(max_attempts, bool) or not 1 <= max_attempts <= 100:
        raise InvalidRequest(f"max_attempts is {max_attempts!r}; give a whole number from 1 to 100.")
    return max_attempts


def _checked_runtime(max_runtime: float | timedelta | None) -> timedelta | None:
    if max_runtime is None:
        return None
    try:
        limit = max_runtime if isinstance(max_runtime, timedelta) else timedelta(seconds=max_runtime)
    except (TypeError, ValueError, OverflowError):
        limit = timedelta(0)
    if not timedelta(0) < limit <= MAX_RUNTIME:
        raise InvalidRequest(
            f"max_runtime is {max_runtime!r}; give seconds above 0 and up to {MAX_RUNTIME.days} days, "
            "or None for no limit."
        )
    return limit


def _checked_key(key: str | None) -> str | None:
    if key is not None and not (is_plain_text(key) and 1 <= len(key) <= MAX_KEY_LENGTH):
        raise InvalidRequest(f"idempotency_key must be text of 1 to {MAX_KEY_LENGTH} characters.")
    return key
