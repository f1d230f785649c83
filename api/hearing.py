"""The reaper's hearing: while no API could accept reports, silence proves nothing.

Every 20 seconds each API records, on the path that reports take (same threads, same connections), that it accepts
them. The reaper reads that (`models.watching.hears_reports`).
"""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from fastapi import HTTPException

from reprieve.api.desks import Desk
from reprieve.models.faults import is_unfit
from reprieve.workers.bootstrap import Services

logger = logging.getLogger(__name__)


@asynccontextmanager
async def hearing(desk: Desk) -> AsyncIterator[None]:
    """While the block lasts, record that reports are accepted."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_note, desk)
        yield
        tasks.cancel_scope.cancel()


async def _note(desk: Desk) -> None:
    timing, last = desk.services.timing, time.monotonic()
    while True:
        # A process that stood still knows it, whatever others have recorded meanwhile.
        stood_still = time.monotonic() - last > timing.tolerated_lag.total_seconds()
        try:
            await desk.serve(_take_reports, stood_still)
            last = time.monotonic()
        except Exception as error:  # Whatever the reason: a missing record is what the reaper has to see.
            unfit = isinstance(error, HTTPException) or is_unfit(error)
            logger.warning("Cannot record that reports are accepted: %s.", type(error).__name__, exc_info=not unfit)
        await anyio.sleep(timing.keepalive_interval.total_seconds())


def _take_reports(services: Services, after_a_gap: bool) -> None:
    services.sweeps.take_reports(services.timing.tolerated_lag, after_a_gap=after_a_gap)
