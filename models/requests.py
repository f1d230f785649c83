"""What a run is asked for with, and what is refused of it before anything is written."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Self, TypedDict
from uuid import UUID

from reprieve.models.errors import InvalidRequest
from reprieve.models.lanes import DEFAULT_LANE, checked_lane
from reprieve.models.notices import checked_url
from reprieve.models.status import ErrorCode
from reprieve.models.text import LONGEST_GIVEN, as_given, is_plain_text, shown

#: Labels are for filters and for people: so many, each side so long.
MAX_LABELS = 16
MAX_LABEL_LENGTH = 128
MAX_KEY_LENGTH = 255
#: Runs that are asked for in one call at the most.
MOST_AT_ONCE = 10_000
#: A longer limit is none.
MAX_RUNTIME = timedelta(days=3650)
#: Less memory starts nothing; more has no machine.
MEMORY = range(1024**2, 2**60 + 1)
#: Priorities, from the least urgent to the most.
PRIORITIES = range(-100, 101)
#: Addresses that one run tells of what happens to it.
MAX_NOTIFIED = 8
#: What may be said of each cause of a retry.
MAX_CAUSES = 32


class RunOptions(TypedDict, total=False):
    """What a run may be asked for with, beside its adapter and its config: one list for every way of asking.

    Times are seconds, or a `timedelta`.
    """

    labels: Mapping[str, str] | None
    """For filters and for people."""
    max_runtime: float | timedelta | None
    """Limits one attempt."""
    max_attempts: int
    """How often the work may be started; again only if its worker was lost with it, or as `retry_on` says."""
    idempotency_key: str | None
    """The same key gives the same run."""
    lane: str
    """The lane that it waits in; how many of its runs may be running at once is the lane's rule."""
    priority: int
    """From -100 to 100: within its lane, a run of a higher priority is started before older ones."""
    start_at: datetime | None
    """The moment before which it is not started; it has a time zone."""
    start_within: float | timedelta | None
    """It fails as `not_started` if it has not begun so long after it was asked for, or after `start_at`."""
    retry_on: Mapping[str, Sequence[int | str]] | None
    """Ends that are followed by another attempt, by their `exit_status`, `error_code` or `reason`."""
    retry_delay: float | timedelta | None
    """How long such an attempt waits."""
    notify: Sequence[str] | None
    """Addresses that are sent a notice when it ends, and when it is reaped, retried, quiet or suspected."""
    quiet_after: float | timedelta | None
    """After so long without output it is called quiet; nothing is done to it."""
    max_silence: float | timedelta | None
    """After so long without output an attempt is ended as `stalled`."""
    max_memory: int | None
    """Bytes that all of an attempt may have in memory; beyond it, it is ended as `oom_killed`."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run to be enqueued, with the arguments of `enqueue_run`."""

    adapter: str
    config: Mapping[str, Any]
    labels: Mapping[str, str] | None = None
    max_runtime: float | timedelta | None = None
    max_attempts: int = 1
    idempotency_key: str | None = None
    lane: str = DEFAULT_LANE
    priority: int = 0
    start_at: datetime | None = None
    start_within: float | timedelta | None = None
    retry_on: Mapping[str, Sequence[int | str]] | None = None
    retry_delay: float | timedelta | None = None
    notify: Sequence[str] | None = None
    quiet_after: float | timedelta | None = None
    max_silence: float | timedelta | None = None
    max_memory: int | None = None

    @classmethod
    def of(cls, given: "RunRequest | Mapping[str, Any]") -> Self:
        """A request, or a mapping with the same names. Raises `InvalidRequest`."""
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise InvalidRequest(f"it is of type {type(given).__name__}; give a RunRequest, or a mapping.")
        known = [one.name for one in fields(cls)]
        if unknown := [name for name in given if name not in known]:
            raise InvalidRequest(
                f"{shown(unknown[0])[:LONGEST_GIVEN]} is not known of a run; known are {', '.join(known)}."
            )
        if missing := [name for name in ("adapter", "config") if name not in given]:
            raise InvalidRequest(f"{missing[0]} is missing.")
        return cls(**given)

    def check(self) -> None:
        """Raises `InvalidRequest` for what would be refused here, and is other work, or none to refuse, as JSON.

        There, a name that is a number is text, and two names are one.
        """
        _check_names(self.config)
        self.terms()

    def terms(self) -> dict[str, Any]:
        """All but the adapter and its config, as a `NewRun` has it. Raises `InvalidRequest`, naming the argument."""
        return {
            "labels": checked_labels(self.labels or {}),
            "max_attempts": _checked_attempts(self.max_attempts),
            "max_runtime": _checked_span("max_runtime", self.max_runtime),
            "idempotency_key": checked_key(self.idempotency_key),
            "lane": checked_lane(self.lane),
            "priority": _checked_priority(self.priority),
            "start_at": _checked_start(self.start_at),
            "start_within": _checked_span("start_within", self.start_within),
            "retry_on": _checked_causes(self.retry_on, self.max_attempts),
            "retry_delay": _checked_span("retry_delay", self.retry_delay),
            "notify": _checked_addresses(self.notify),
            "quiet_after": _checked_span("quiet_after", self.quiet_after),
            "max_silence": _checked_span("max_silence", self.max_silence),
            "max_memory": _checked_memory(self.max_memory),
        }

    @property
    def name(self) -> str:
        """What a person may find it by among others; empty for one without a key."""
        return f" (idempotency_key {as_given(self.idempotency_key)})" if self.idempotency_key is not None else ""


def asked_for(requests: Iterable[RunRequest | Mapping[str, Any]]) -> list[RunRequest]:
    """These requests, whatever form they have. Raises `InvalidRequest`, naming the place of what is none."""
    asked = []
    for place, given in enumerate(requests):
        if place == MOST_AT_ONCE:
            raise InvalidRequest(f"More than {MOST_AT_ONCE:,} runs are asked for at once; ask for them in parts.")
        try:
            asked.append(RunRequest.of(given))
        except InvalidRequest as error:
            raise InvalidRequest(f"Run {place}: {error}") from None
    return asked


@dataclass(frozen=True, slots=True)
class NewRun:
    """A requested run, already validated."""

    id: UUID
    adapter: str
    out_of_process_liveness: bool
    config: dict[str, Any]
    labels: dict[str, str] = field(default_factory=dict)
    max_attempts: int = 1
    max_runtime: timedelta | None = None
    idempotency_key: str | None = None
    lane: str = DEFAULT_LANE
    priority: int = 0
    start_at: datetime | None = None
    start_within: timedelta | None = None
    retry_on: dict[str, list[int | str]] | None = None
    retry_delay: timedelta | None = None
    notify: list[str] | None = None
    quiet_after: timedelta | None = None
    max_silence: timedelta | None = None
    max_memory: int | None = None
    again_of: UUID | None = None
    """The run that it does again."""

    @classmethod
    def of(cls, request: RunRequest, run_id: UUID, *, outlives: bool, config: dict[str, Any]) -> Self:
        """What was asked for, with the config as its adapter stores it; `outlives` says whether the work outlives its
        worker. Raises `InvalidRequest`, naming the argument and what would do.
        """
        return cls(
            id=run_id,
            adapter=request.adapter,
            out_of_process_liveness=outlives,
            config=_checked_config(config),
            **request.terms(),
        )

    def is_as(self, adapter: str, config: dict[str, Any]) -> bool:
        """Whether a run of this adapter with this config, as a database gives it back, is the same work."""
        return self.adapter == adapter and (self.config == config or _as_kept(self.config) == _as_kept(config))


#: Made once: to make it takes as long as to write a config.
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def _checked_config(config: dict[str, Any]) -> dict[str, Any]:
    """What JSON or PostgreSQL cannot hold would be refused only by the database, and with it all that is beside it."""
    try:
        text = _JSON.encode(config)
        text.encode()
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"config cannot be kept as JSON: {shown(error)}.") from None
    if "\\u0000" in text and any(not is_plain_text(one) for one in _texts(config)):
        raise InvalidRequest("config holds a NUL; leave it out.")
    return config


def _as_kept(config: dict[str, Any]) -> Any:
    """With numbers by their digits, as PostgreSQL keeps them: a large float comes back as a whole number beside it."""
    return json.loads(json.dumps(config), parse_float=Decimal, parse_int=Decimal)


def _check_names(config: object) -> None:
    for name in (name for part in _parts(config) if isinstance(part, Mapping) for name in part):
        if not isinstance(name, str):
            raise InvalidRequest(f"config: {as_given(name, 100)} is no name; a name is text.")


def _texts(config: object) -> Iterator[str]:
    """All text of a config, names and values."""
    for part in _parts(config):
        yield from (text for text in (part if isinstance(part, Mapping) else [part]) if isinstance(text, str))


def _parts(config: object) -> Iterator[object]:
    """A config and what is in it, at whatever depth; what holds itself comes once."""
    seen: set[int] = set()
    parts = [config]
    while parts:
        part = parts.pop()
        if isinstance(part, Mapping | list | tuple):
            if id(part) in seen:
                continue
            seen.add(id(part))
            parts += part.values() if isinstance(part, Mapping) else part
        yield part


def checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(labels, Mapping):
        raise InvalidRequest(f"labels is of type {type(labels).__name__}; give a mapping of names to values.")
    if len(labels) > MAX_LABELS:
        raise InvalidRequest(f"labels: {len(labels)} of them; at most {MAX_LABELS} are kept.")
    for name, value in labels.items():
        for part in (name, value):
            if not is_plain_text(part) or len(part) > MAX_LABEL_LENGTH:
                raise InvalidRequest(f"labels: {as_given(name)} must be text of at most {MAX_LABEL_LENGTH} characters.")
    return dict(labels)


def _checked_attempts(max_attempts: int) -> int:
    if not isinstance(max_attempts, int) or isinstance(max_attempts, bool) or not 1 <= max_attempts <= 100:
        raise InvalidRequest(f"max_attempts is {as_given(max_attempts)}; give a whole number from 1 to 100.")
    return max_attempts


def _checked_span(name: str, given: float | timedelta | None) -> timedelta | None:
    if given is None:
        return None
    try:
        limit = given if isinstance(given, timedelta) else timedelta(seconds=given)
    except (TypeError, ValueError, OverflowError):
        limit = timedelta(0)
    if not timedelta(0) < limit <= MAX_RUNTIME:
        raise InvalidRequest(
            f"{name} is {as_given(given)}; give seconds above 0 and up to {MAX_RUNTIME.days} days, or None for no "
            "limit."
        )
    return limit


def _checked_priority(priority: int) -> int:
    if not isinstance(priority, int) or isinstance(priority, bool) or priority not in PRIORITIES:
        least, most = PRIORITIES[0], PRIORITIES[-1]
        raise InvalidRequest(f"priority is {as_given(priority)}; give a whole number from {least} to {most}.")
    return priority


def _checked_memory(size: int | None) -> int | None:
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size not in MEMORY):
        raise InvalidRequest(
            f"max_memory is {as_given(size, 100)}; give bytes as a whole number from {MEMORY[0]:,} (1 MiB) to "
            f"{MEMORY[-1]:,}, or None for no limit."
        )
    return size


#: PostgreSQL has years which no `datetime` can hold, in any zone or with `start_within` added: to read one would fail.
START_YEARS = range(1970, 9000)


def _checked_start(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise InvalidRequest(f"start_at is {as_given(moment)}; give a datetime with a time zone.")
    if moment.year not in START_YEARS:
        first, last = START_YEARS[0], START_YEARS[-1]
        raise InvalidRequest(f"start_at is {as_given(moment)}; give a moment of the years {first} to {last}.")
    return moment.astimezone(UTC)  # PostgreSQL knows no zones that are more than 16 hours away.


def _checked_causes(
    causes: Mapping[str, Sequence[int | str]] | None, max_attempts: int
) -> dict[str, list[int | str]] | None:
    """The ends that are followed by another attempt, by what an outcome says of them."""
    if causes is None:
        return None
    if max_attempts == 1:
        raise InvalidRequest("retry_on is given, and max_attempts is 1: give how often it may be started, 2 or more.")
    if not isinstance(causes, Mapping):
        raise InvalidRequest(f"retry_on is of type {type(causes).__name__}; give a mapping of causes to lists.")
    return {name: _checked_cause(name, values) for name, values in causes.items()}


#: Ends of an attempt: a run that has not started has none.
_CAUSES = [code.value for code in ErrorCode if code not in (ErrorCode.NOT_STARTED, ErrorCode.UNKNOWN_ADAPTER)]


def _checked_cause(name: str, values: Sequence[int | str]) -> list[int | str]:
    known: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "exit_status": ("whole numbers from 1 to 255", lambda one: type(one) is int and 1 <= one <= 255),
        "error_code": (f"any of {', '.join(_CAUSES)}", lambda one: one in _CAUSES),
        "reason": ("texts", lambda one: is_plain_text(one) and 0 < len(one) <= MAX_LABEL_LENGTH),
    }
    if name not in known:
        raise InvalidRequest(f"retry_on: {as_given(name, 100)} is no cause; known are {', '.join(known)}.")
    what, fits = known[name]
    if isinstance(values, str) or not isinstance(values, Sequence) or not 0 < len(values) <= MAX_CAUSES:
        raise InvalidRequest(f"retry_on: {name} must be a list of 1 to {MAX_CAUSES} {what}.")
    for value in values:
        if not fits(value):
            raise InvalidRequest(f"retry_on: {name} holds {as_given(value, 100)}; give {what}.")
    return list(values)


def _checked_addresses(urls: Sequence[str] | None) -> list[str] | None:
    if urls is None:
        return None
    if isinstance(urls, str) or not isinstance(urls, Sequence) or len(urls) > MAX_NOTIFIED:
        raise InvalidRequest(f"notify must be a list of at most {MAX_NOTIFIED} addresses.")
    try:
        return [checked_url(url) for url in urls]
    except InvalidRequest as error:
        raise InvalidRequest(f"notify: {error}") from None


def checked_key(key: str | None) -> str | None:
    if key is not None and not (is_plain_text(key) and 1 <= len(key) <= MAX_KEY_LENGTH):
        raise InvalidRequest(f"idempotency_key must be text of 1 to {MAX_KEY_LENGTH} characters.")
    return key
