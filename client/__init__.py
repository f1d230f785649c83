"""How a service asks for runs: directly, by the database and the broker, or over HTTP (`Client`, `AsyncClient`).

    from reprieve.client import Client

Both names are imported when they are first used: who asks directly needs no HTTP.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reprieve.client.http.asynchronous import AsyncClient
    from reprieve.client.http.blocking import Client

__all__ = ["AsyncClient", "Client"]

_MODULES = {"AsyncClient": "asynchronous", "Client": "blocking"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"reprieve.client.http.{_MODULES[name]}"), name)
    return value
