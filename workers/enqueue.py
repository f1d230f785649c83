"""For services that start runs: `enqueue_run`.

The row is written first, and is the fact; the message only makes it happen soon. A crash between the two, or a lost
message, is healed by the sweep, which sends again what stays queued.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from opentelemetry.context import Context

from reprieve.adapters.registry import find_adapter, validate_config
from reprieve.models.errors import InvalidRequest
from reprieve.models.rows import RunRow
from reprieve.models.text import is_plain_text
from reprieve.stores.runs.store import NewRun
from reprieve.workers import tracing
from reprieve.workers.bootstrap import services
from reprieve.workers.hints import send_execute

#: Labels are for filters and for people: so many, each side so long.
MAX_LABELS = 16
MAX_LABEL_LENGTH = 128
MAX_KEY_LENGTH = 255
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
) -> RunRow:
    """Ask for a run. Returns its row, which is queued (or, for a known idempotency key, whatever it is by now).

    `max_runtime` limits one attempt, in seconds. `max_attempts` limits how often the work may be started when the
    worker that owned it is lost; work that ends by itself is never started again. Raises `UnknownAdapter` and
    `InvalidRequest` at once, naming the field and what would work, and `IdempotencyConflict`.
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
) -> tuple[RunRow, bool]:
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
