"""What a run is asked for with, and what is refused of it before anything is written."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from decimal import Decimal
from typing import Any, Self
from uuid import UUID

from reprieve.models.errors import InvalidRequest
from reprieve.models.text import is_plain_text, shown

#: Labels are for filters and for people: so many, each side so long.
MAX_LABELS = 16
MAX_LABEL_LENGTH = 128
MAX_KEY_LENGTH = 255
#: Runs that are asked for in one call at the most.
MOST_AT_ONCE = 10_000
#: Characters of what was given that an error repeats: a whole key, and not all of what is no key.
LONGEST_SHOWN = 2 * MAX_KEY_LENGTH
#: A longer limit is none.
MAX_RUNTIME = timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run to be enqueued, with the arguments of `enqueue_run`."""

    adapter: str
    config: Mapping[str, Any]
    labels: Mapping[str, str] | None = None
    max_runtime: float | timedelta | None = None
    max_attempts: int = 1
    idempotency_key: str | None = None

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
                f"{shown(unknown[0])[:LONGEST_SHOWN]} is not known of a run; known are {', '.join(known)}."
            )
        if missing := [name for name in ("adapter", "config") if name not in given]:
            raise InvalidRequest(f"{missing[0]} is missing.")
        return cls(**given)

    def check(self) -> None:
        """Raises `InvalidRequest` for what would be refused here, and is other work, or none to refuse, as JSON.

        There, a name that is a number is text, and two names are one.
        """
        _check_names(self.config)
        _checked_labels(self.labels or {})
        _checked_attempts(self.max_attempts)
        _checked_runtime(self.max_runtime)
        _checked_key(self.idempotency_key)

    @property
    def name(self) -> str:
        """What a person may find it by among others; empty for one without a key."""
        return f" (idempotency_key {shown(_brief(self.idempotency_key))})" if self.idempotency_key is not None else ""


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
    trace_parent: str | None = None

    @classmethod
    def of(
        cls, request: RunRequest, run_id: UUID, *, outlives: bool, config: dict[str, Any], trace_parent: str | None
    ) -> Self:
        """What was asked for, with the config as its adapter stores it; `outlives` says whether the work outlives its
        worker. Raises `InvalidRequest`, naming the argument and what would do.
        """
        return cls(
            id=run_id,
            adapter=request.adapter,
            out_of_process_liveness=outlives,
            config=_checked_config(config),
            labels=_checked_labels(request.labels or {}),
            max_attempts=_checked_attempts(request.max_attempts),
            max_runtime=_checked_runtime(request.max_runtime),
            idempotency_key=_checked_key(request.idempotency_key),
            trace_parent=trace_parent,
        )

    def is_as(self, adapter: str, config: dict[str, Any]) -> bool:
        """Whether a run of this adapter with this config, as a database gives it back, is the same work."""
        return self.adapter == adapter and (self.config == config or _as_kept(self.config) == _as_kept(config))


#: Made once: to make it takes as long as to write a config.
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def _brief(value: object) -> str:
    """What was given, as far as it can be shown: Python writes no number of more than 4,300 digits."""
    try:
        return repr(value)[:LONGEST_SHOWN]
    except ValueError:
        return f"of type {type(value).__name__}, and too long"


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
            raise InvalidRequest(f"config: {shown(_brief(name))[:100]} is no name; a name is text.")


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


def _checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(labels, Mapping):
        raise InvalidRequest(f"labels is of type {type(labels).__name__}; give a mapping of names to values.")
    if len(labels) > MAX_LABELS:
        raise InvalidRequest(f"labels: {len(labels)} of them; at most {MAX_LABELS} are kept.")
    for name, value in labels.items():
        for part in (name, value):
            if not is_plain_text(part) or len(part) > MAX_LABEL_LENGTH:
                raise InvalidRequest(f"labels: {_brief(name)} must be text of at most {MAX_LABEL_LENGTH} characters.")
    return dict(labels)


def _checked_attempts(max_attempts: int) -> int:
    if not isinstance(max_attempts, int) or isinstance(max_attempts, bool) or not 1 <= max_attempts <= 100:
        raise InvalidRequest(f"max_attempts is {_brief(max_attempts)}; give a whole number from 1 to 100.")
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
            f"max_runtime is {_brief(max_runtime)}; give seconds above 0 and up to {MAX_RUNTIME.days} days, "
            "or None for no limit."
        )
    return limit


def _checked_key(key: str | None) -> str | None:
    if key is not None and not (is_plain_text(key) and 1 <= len(key) <= MAX_KEY_LENGTH):
        raise InvalidRequest(f"idempotency_key must be text of 1 to {MAX_KEY_LENGTH} characters.")
    return key
