"""The limit of open files of this process: raised where that helps, and told where it does not."""

import logging
import resource
from contextlib import suppress

from reprieve.models.capacity import Files

logger = logging.getLogger(__name__)


def files_for(concurrency: int) -> Files:
    """What this process may open, for so many runs at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Files(_finite(soft), _finite(hard), concurrency)


def allow_files(concurrency: int) -> None:
    """Raise the soft limit as far as so many runs at once need it; say so where that is not enough."""
    files = files_for(concurrency)
    if files.raised > files.soft:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files.raised, hard))
            logger.info("This worker may now open %d files, not %d.", files.raised, files.soft)
        except (OSError, ValueError) as error:
            logger.warning("The limit of open files could not be raised: %s", error)
    if files.shortage is not None:
        logger.warning("%s", files.shortage)


def raise_files(wanted: int) -> int:
    """How many files this process may open, after its soft limit was raised towards so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = max(_finite(soft), min(_finite(hard), wanted))
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return _finite(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _finite(limit: int) -> int:
    return 2**31 if limit == resource.RLIM_INFINITY else limit
