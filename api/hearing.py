"""Our own hearing: an API that could not take reports for a while is a gap in it, and silence in a gap proves nothing.

Each API notes every 20 seconds, on the way that reports take (the same threads, the same connections), that it takes
them. The reaper reads it (`models.watching.hears_reports`).
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
    """For as long as the block lasts, it is noted that reports are taken."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_note, desk)
        yield
        tasks.cancel_scope.cancel()


async def _note(desk: Desk) -> None:
    timing, last = desk.services.timing, time.monotonic()
    while True:
        # A process that stood still knows it, whatever others have noted meanwhile.
        stood_still = time.monotonic() - last > timing.tolerated_lag.total_seconds()
        try:
            await desk.serve(_take_reports, stood_still)
            last = time.monotonic()
        except Exception as error:  # Whatever is the matter: that nothing is noted is what the reaper is to see.
            unfit = isinstance(error, HTTPException) or is_unfit(error)
            logger.warning("It cannot be noted that reports are taken: %s.", type(error).__name__, exc_info=not unfit)
        await anyio.sleep(timing.keepalive_interval.total_seconds())


def _take_reports(services: Services, after_a_gap: bool) -> None:
    services.sweeps.take_reports(services.timing.tolerated_lag, after_a_gap=after_a_gap)
