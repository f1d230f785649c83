"""Tidying: have adapters forget what they keep on this host of attempts whose logs are closed."""

import logging

from reprieve.adapters.protocol import Keeping
from reprieve.adapters.registry import Adapters
from reprieve.models.paging import pages
from reprieve.stores.closings import Closings

logger = logging.getLogger(__name__)

#: Attempts that are looked up at once.
TIDY_AT_ONCE = 500


def tidy(adapters: Adapters, closings: Closings) -> None:
    """One turn over what adapters keep here; one that fails keeps no other from its turn."""
    for adapter in adapters.keeping():
        try:
            _tidy(adapter, closings)
        except Exception:
            logger.exception("What %s keeps here could not be looked through.", type(adapter).__name__)


def _tidy(adapter: Keeping, closings: Closings) -> None:
    for page in pages(adapter.kept(), TIDY_AT_ONCE):
        for attempt in closings.forgettable(page):
            try:
                adapter.forget(attempt)
            except Exception:
                logger.exception("Run %s attempt %d: what is kept of it here could not be deleted.", *attempt)
