"""Reprieve supervises fleets of long jobs on Celery. What a service needs to start and cancel runs is here.

    from reprieve import cancel_run, enqueue_run

    run = enqueue_run("process", {"command": ["make", "report"]}, labels={"team": "data"}, max_runtime=3600)
    cancel_run(run.id)

Adapters are written against `reprieve.adapters.protocol`. Every other module is internal and may change in any release.
Each name is imported when it is first used: importing this package alone loads nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reprieve.client.enqueue import enqueue_run, enqueue_runs
    from reprieve.models.errors import (
        IdempotencyConflict,
        InvalidRequest,
        ReprieveError,
        RunNotFound,
        SettingsError,
        Unavailable,
        UnknownAdapter,
    )
    from reprieve.models.records import Run
    from reprieve.models.requests import RunRequest
    from reprieve.models.status import Status
    from reprieve.workers.cancel import cancel_run

__all__ = [
    "IdempotencyConflict",
    "InvalidRequest",
    "ReprieveError",
    "Run",
    "RunNotFound",
    "RunRequest",
    "SettingsError",
    "Status",
    "Unavailable",
    "UnknownAdapter",
    "cancel_run",
    "enqueue_run",
    "enqueue_runs",
]

_MODULES = {
    "Run": "reprieve.models.records",
    "RunRequest": "reprieve.models.requests",
    "Status": "reprieve.models.status",
    "cancel_run": "reprieve.workers.cancel",
    "enqueue_run": "reprieve.client.enqueue",
    "enqueue_runs": "reprieve.client.enqueue",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES.get(name, "reprieve.models.errors")), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
