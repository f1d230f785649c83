"""Desks: bulkheads. Requests of one kind are served at a desk of their own, so that no other kind waits for them.

A desk has its own threads and, if need be, its own connections to the database. Sixty readers may wait at the desk of
closed logs for an object store that hangs; reports of remote work are accepted at theirs meanwhile.
"""

import math
from collections.abc import Callable
from functools import cached_property, partial
from typing import Annotated, Concatenate, ParamSpec, TypeVar

import anyio
from anyio import to_thread
from fastapi import Depends, HTTPException, Request

from reprieve.workers.bootstrap import Services, beside

P = ParamSpec("P")
T = TypeVar("T")

#: Reports of remote work, and health checks, that are served at once.
REPORTS_AT_ONCE = 8
HEALTH_AT_ONCE = 2
#: Closed logs that are read at once for pages and downloads.
LOGS_AT_ONCE = 8
#: Searches of many logs at once; each reads four of them at a time.
SEARCHES_AT_ONCE = 2
#: Seconds that a request waits for its turn at a desk.
LONGEST_WAIT = 10.0


class Desk:
    """A fixed number of threads for one kind of request."""

    def __init__(self, services: Services, at_once: int, busy: str) -> None:
        self.services = services
        self._turns = anyio.CapacityLimiter(at_once)
        # Every turn has a thread: there are as many of them as turns, and no pool in between.
        self._threads = anyio.CapacityLimiter(math.inf)
        self._busy = busy

    async def serve(self, call: Callable[Concatenate[Services, P], T], *given: P.args, **named: P.kwargs) -> T:
        """What `call` returns, given these services; 503 if its turn does not come in time."""
        turn = object()
        try:
            with anyio.fail_after(LONGEST_WAIT):
                await self._turns.acquire_on_behalf_of(turn)
        except TimeoutError:
            raise HTTPException(503, f"{self._busy} Try again in a moment.", {"Retry-After": "5"}) from None
        try:
            return await to_thread.run_sync(partial(call, self.services, *given, **named), limiter=self._threads)
        finally:
            self._turns.release_on_behalf_of(turn)


class Desks:
    """All desks of a process. Those of reports and of health have reserved database connections.

    Opens nothing until it is used.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self.searches = Desk(services, SEARCHES_AT_ONCE, "Logs are being searched for others.")
        self.logs = Desk(services, LOGS_AT_ONCE, "Too many logs are being read, or the log archive does not answer.")

    @cached_property
    def _apart(self) -> Services:
        return beside(self._services, REPORTS_AT_ONCE + HEALTH_AT_ONCE)

    @cached_property
    def reports(self) -> Desk:
        return Desk(self._apart, REPORTS_AT_ONCE, "Too many reports are being taken.")

    @cached_property
    def health(self) -> Desk:
        return Desk(self._apart, HEALTH_AT_ONCE, "Health is being looked at, and it takes long.")

    def close(self) -> None:
        self._apart.database.dispose()


def desks_of(request: Request) -> Desks:
    """The desks of the app."""
    found: Desks = request.app.state.desks
    return found


async def _reports(request: Request) -> Desk:
    return desks_of(request).reports


async def _health(request: Request) -> Desk:
    return desks_of(request).health


async def _logs(request: Request) -> Desk:
    return desks_of(request).logs


async def _searches(request: Request) -> Desk:
    return desks_of(request).searches


ReportDesk = Annotated[Desk, Depends(_reports)]
HealthDesk = Annotated[Desk, Depends(_health)]
LogDesk = Annotated[Desk, Depends(_logs)]
SearchDesk = Annotated[Desk, Depends(_searches)]
