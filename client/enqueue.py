"""`enqueue_run`, `enqueue_runs` and `run_again`: for services that start runs.

The rows are written first, and are the fact; the message only makes it happen soon. A crash between the two, or a lost
message, is healed by the sweep, which sends again what stays queued.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack
from uuid import UUID

from uuid_utils.compat import uuid7

from reprieve.adapters.kinds import find_kind, starts_work, validate_config, why_no_memory_limit
from reprieve.client.arguments import SomeRun, id_of
from reprieve.client.link import link
from reprieve.models.asker import this_process
from reprieve.models.errors import InvalidRequest, ReprieveError
from reprieve.models.records import Run
from reprieve.models.requests import NewRun, RunOptions, RunRequest, asked_for, checked_key
from reprieve.stores.runs.again import as_asked
from reprieve.stores.runs.insertion import By, insert
from reprieve.stores.statements import Executor
from reprieve.workers import tracing

if TYPE_CHECKING:
    from opentelemetry.context import Context

#: Mistakes that are named of the runs that are asked for in one call.
MISTAKES_NAMED = 10


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, where it is not this process for itself: by name, and from which place in a trace."""

    name: str
    context: "Context | None" = None


def enqueue_run(
    adapter: str,
    config: Mapping[str, Any],
    *,
    within: object = None,
    **options: Unpack[RunOptions],
) -> Run:
    """Ask for a run. Returns it: queued or, for a known idempotency key, whatever it is by now.

    `options` are those of `RunOptions`, which says what each means, and in which unit: `labels`, `max_runtime`,
    `max_attempts`, `idempotency_key`, `lane`, `priority`, `start_at`, `start_within`, `retry_on`, `retry_delay`,
    `notify`, `quiet_after`, `max_silence`, `max_memory`. Raises `UnknownAdapter` and
    `InvalidRequest` at once, naming the argument and what would work, `IdempotencyConflict`, and `Unavailable` while
    the database cannot be reached: it is then not known whether there is a run, and a second try with the same
    idempotency key gives one. A broker that is away changes nothing but how soon the run begins.

    `within` is a transaction of the caller's own in the same database (a SQLAlchemy `Session` or `Connection`, or a
    connection of Django): there is a run if that commits, and none if it is rolled back. The errors of its driver are
    raised as they are.
    """
    ((run, _),) = _enqueue([RunRequest.of({"adapter": adapter, "config": config, **options})], within)
    return run


def enqueue_runs(requests: Iterable[RunRequest | Mapping[str, Any]], *, within: object = None) -> list[Run]:
    """Ask for many runs by one statement: all of them, or, after an exception, none. Returns them in the same order.

    Raises as `enqueue_run` does, an `InvalidRequest` for each that cannot work, named by its place and its
    idempotency key; at most 10,000 at once. `within` is a transaction of the caller's own, as of `enqueue_run`.
    """
    return [run for run, _ in _enqueue(asked_for(requests), within)]


def _enqueue(requests: Sequence[RunRequest], within: object) -> list[tuple[Run, bool]]:
    if within is None:
        return enqueue_each(requests, link().connections)
    from reprieve.client.within import join  # For those who have such a transaction.

    transaction = join(within, link().connections)
    return enqueue_each(requests, transaction, after_commit=transaction.after_commit)


def _at_once(announce: Callable[[], None]) -> None:
    """After the commit of a statement that is a transaction of its own."""
    announce()


def enqueue_each(
    requests: Sequence[RunRequest],
    executor: Executor,
    *,
    after_commit: Callable[[Callable[[], None]], None] = _at_once,
    asker: Asker | None = None,
) -> list[tuple[Run, bool]]:
    """Write these runs, or none of them, and have the broker told. Returns each one, and whether it is new.

    `after_commit` calls what it is given once the runs are committed.
    """
    adapters = {str(request.adapter) for request in requests}
    return _written(adapters, partial(checked, requests), executor, after_commit, asker) if requests else []


def run_again(run: SomeRun, *, idempotency_key: str | None = None) -> Run:
    """Ask for a new run that does again what this one was asked for: the same config, labels, limits, lane, all of it.

    But it has an idempotency key of its own, and starts as soon as it can. Returns it; for a known key, whatever the
    run is by now that this key gave before. Raises `RunNotFound`, `InvalidRequest`, `IdempotencyConflict` and
    `Unavailable`.
    """
    ((new, _),) = again_each({id_of(run): idempotency_key}, link().connections)
    return new


def again_each(
    keys: Mapping[UUID, str | None], executor: Executor, *, asker: Asker | None = None
) -> list[tuple[Run, bool]]:
    """Do these runs again, each by its idempotency key, or none. Returns each one's run, and whether that is new."""
    asked = [
        replace(one, idempotency_key=checked_key(key))
        for one, key in zip(as_asked(executor, [*keys]), keys.values(), strict=True)
    ]
    return _written({one.adapter for one in asked}, lambda: asked, executor, _at_once, asker) if asked else []


def _written(
    adapters: Iterable[str],
    new: Callable[[], list[NewRun]],
    executor: Executor,
    after_commit: Callable[[Callable[[], None]], None],
    asker: Asker | None,
) -> list[tuple[Run, bool]]:
    """Write what `new` makes, all or none; tell the broker of those that are new."""
    asker = asker or Asker(this_process())
    with tracing.enqueueing(adapters, asker.context) as span:
        runs = insert(executor, new(), By(asker.name, tracing.place()))
        tracing.enqueued(span, [run.id for run, _ in runs])
        ids = [run.id for run, is_new in runs if is_new]
        after_commit(lambda: link().hints.announce(ids))
    return runs


def checked(requests: Sequence[RunRequest]) -> list[NewRun]:
    """The runs to be written. Raises what is wrong with one, or `InvalidRequest` with what is wrong with each."""
    if len(requests) == 1:
        return [_checked(requests[0])]
    new, mistakes = [], []
    for place, request in enumerate(requests):
        try:
            new.append(_checked(request))
        except ReprieveError as error:
            mistakes.append(f"Run {place}{request.name}: {error}")
    if mistakes:
        more = len(mistakes) - MISTAKES_NAMED
        named = " ".join(mistakes[:MISTAKES_NAMED]) + (f" And {more} more." if more > 0 else "")
        raise InvalidRequest(f"None of the {len(requests)} runs was enqueued. {named}")
    return new


def _checked(request: RunRequest) -> NewRun:
    kind = find_kind(request.adapter)
    if request.retry_on and not starts_work(kind):
        raise InvalidRequest(f"retry_on: nobody but its caller starts the work of the adapter {kind.type!r}.")
    if request.max_memory is not None and (why := why_no_memory_limit(kind)):
        raise InvalidRequest(f"max_memory: {why}")
    return NewRun.of(
        request,
        uuid7(),
        outlives=kind.has_out_of_process_liveness,
        config=validate_config(kind, request.config),
    )
