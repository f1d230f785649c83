"""Reprieve supervises fleets of long jobs on Celery. What a service needs to start, follow and cancel runs is here.

    from reprieve import cancel_run, enqueue_run, wait_for

    run = enqueue_run("process", {"command": ["make", "report"]}, labels={"team": "data"}, max_runtime=3600)
    ended = wait_for(run, timeout=4000)

`reprieve.aio` has the same for asyncio, `reprieve.client` for services that have no way to the database, over HTTP.
Adapters are written against `reprieve.adapters.protocol`. Every other module is internal and may change in any release.
Each name is imported when it is first used: importing this package alone loads nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reprieve.client.enqueue import enqueue_run, enqueue_runs, run_again
    from reprieve.client.logs import follow_log, read_log
    from reprieve.client.runs import cancel_run, get_result, get_run, list_runs, wait_for
    from reprieve.models.errors import (
        IdempotencyConflict,
        InvalidRequest,
        LogLost,
        LogRemoved,
        LogUnavailable,
        NotAllowed,
        ReprieveError,
        RunNotFound,
        SettingsError,
        StillRunning,
        Unavailable,
        UnknownAdapter,
    )
    from reprieve.models.filters import RunChoice
    from reprieve.models.gaps import Gap
    from reprieve.models.output import Output
    from reprieve.models.records import Run
    from reprieve.models.requests import RunOptions, RunRequest
    from reprieve.models.status import Status

__all__ = [
    "Gap",
    "IdempotencyConflict",
    "InvalidRequest",
    "LogLost",
    "LogRemoved",
    "LogUnavailable",
    "NotAllowed",
    "Output",
    "ReprieveError",
    "Run",
    "RunChoice",
    "RunNotFound",
    "RunOptions",
    "RunRequest",
    "SettingsError",
    "Status",
    "StillRunning",
    "Unavailable",
    "UnknownAdapter",
    "cancel_run",
    "enqueue_run",
    "enqueue_runs",
    "follow_log",
    "get_result",
    "get_run",
    "list_runs",
    "read_log",
    "run_again",
    "wait_for",
]

_MODULES = {
    "Gap": "reprieve.models.gaps",
    "Output": "reprieve.models.output",
    "Run": "reprieve.models.records",
    "RunChoice": "reprieve.models.filters",
    "RunOptions": "reprieve.models.requests",
    "RunRequest": "reprieve.models.requests",
    "Status": "reprieve.models.status",
    "cancel_run": "reprieve.client.runs",
    "enqueue_run": "reprieve.client.enqueue",
    "enqueue_runs": "reprieve.client.enqueue",
    "follow_log": "reprieve.client.logs",
    "get_result": "reprieve.client.runs",
    "get_run": "reprieve.client.runs",
    "list_runs": "reprieve.client.runs",
    "read_log": "reprieve.client.logs",
    "run_again": "reprieve.client.enqueue",
    "wait_for": "reprieve.client.runs",
}


def __getattr__(name: str) -> Any:
    if name in ("aio", "client"):
        return import_module(f"{__name__}.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES.get(name, "reprieve.models.errors")), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
