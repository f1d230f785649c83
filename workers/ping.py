"""Who watches the watchman: after each healthy sweep an address of others is asked, and its silence is an alarm.

A dead man's switch (healthchecks.io, a heartbeat of the alerting that is in use): it notices that no sweep is
made any more, though nothing here runs that could say so.
"""

import asyncio
import logging
import threading

from reprieve.models.faults import is_unfit
from reprieve.models.health import ailments
from reprieve.models.notices import EVERYWHERE, address_of
from reprieve.workers.bootstrap import Services
from reprieve.workers.posting import NotPosted, post

logger = logging.getLogger(__name__)

_under_way = threading.Lock()


def ping(services: Services) -> None:
    """Ask `REPRIEVE_PING_URL`, if all is well, on a thread of its own: returns at once, and raises nothing.

    While one is still being made, no other is: the address hears of the next sweep.
    """
    if services.settings.ping_url is None or not _under_way.acquire(blocking=False):
        return
    try:
        threading.Thread(target=_ping, args=(services,), name="ping", daemon=True).start()
    except RuntimeError:  # The system gives no more threads.
        _under_way.release()
        logger.warning("That a sweep was made is not told: there is no thread for it.")


def _ping(services: Services) -> None:
    assert services.settings.ping_url is not None  # noqa: S101 - what this is called for
    url = services.settings.ping_url.get_secret_value()
    try:
        if not ailments(services.sweeps.pulse(), services.timing):
            asyncio.run(post(url, b"", {"User-Agent": "Reprieve"}, EVERYWHERE, method="GET"))
    except NotPosted as error:
        logger.warning("That a sweep was made could not be told to %s: %s.", address_of(url), error)
    except Exception as error:
        logger.warning("That a sweep was made is not told: %s.", type(error).__name__, exc_info=not is_unfit(error))
    finally:
        _under_way.release()
