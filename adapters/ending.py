"""Ending processes from an event loop: what has to be looked at is looked at on a thread, and no thread waits."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor

from reprieve.adapters import host
from reprieve.models.faults import is_unfit
from reprieve.models.process import ProcessIdentity

#: Looks that are taken at once. One takes milliseconds: hundreds of terminations share these threads.
LOOKS_AT_ONCE = 4
#: Seconds between two tries to end what is left, on a host that cannot even look …
END_INTERVAL = 0.5
#: … and for how long it is tried, before that is owed.
END_FOR = 60.0


class _Looks:
    """The threads. A fork of this process has none of them, and gets its own."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.threads = ThreadPoolExecutor(LOOKS_AT_ONCE, "ending")


_looks = _Looks()
os.register_at_fork(after_in_child=_looks.begin)


async def end(process: ProcessIdentity, grace: float) -> None:
    """As `host.terminate`, and on an unfit host for END_FOR seconds."""
    until = time.monotonic() + END_FOR
    while True:
        try:
            await _try_to_end(process, grace)
        except Exception as error:
            if not is_unfit(error) or time.monotonic() > until:
                raise
        else:
            return
        await asyncio.sleep(END_INTERVAL)


async def _try_to_end(process: ProcessIdentity, grace: float) -> None:
    loop, steps = asyncio.get_running_loop(), host.terminating(process, grace)
    while (seconds := await loop.run_in_executor(_looks.threads, next, steps, None)) is not None:
        await asyncio.sleep(seconds)
