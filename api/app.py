"""The HTTP API as one ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from reprieve.api import (
    bulk,
    downloads,
    events,
    fleet,
    lanes,
    live,
    logs,
    metrics,
    notices,
    page,
    problems,
    reports,
    runs,
    searching,
    usage,
)
from reprieve.api.desks import Desks
from reprieve.api.hearing import hearing
from reprieve.api.limits import Limits
from reprieve.api.proxies import Proxied
from reprieve.workers.bootstrap import Services

DESCRIPTION = """\
Start, follow and end runs; remote work reports here. Errors are problem documents (RFC 9457) whose `detail` says what
to do.
"""


def create_app(wired: Services) -> FastAPI:
    """Build the application over these services."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with app.state.hub.running(), app.state.watcher.running(), hearing(app.state.desks.reports):
            yield
        app.state.desks.close()

    app = FastAPI(
        title="Reprieve",
        version=version("reprieve"),
        description=DESCRIPTION,
        lifespan=lifespan,
        # Swagger UI would load scripts from a CDN; the document itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
    )
    app.state.services = wired
    app.state.desks = Desks(wired)
    app.state.hub = live.Hub(wired)
    app.state.watcher = events.Watcher(wired)
    of_runs, of_all = (
        (live, events, bulk, runs, logs, downloads, reports),
        (searching, notices, fleet, lanes, usage, metrics, page),
    )
    for room in (*of_runs, *of_all):
        app.include_router(room.router)
    problems.install(app)
    app.add_middleware(Limits)
    app.add_middleware(Proxied)
    return app
