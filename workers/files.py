"""The limit of open files of this process: raised where that helps, and told where it does not."""

import logging
import resource

from reprieve.adapters.descriptors import finite
from reprieve.models.capacity import Files

logger = logging.getLogger(__name__)


def files_for(concurrency: int) -> Files:
    """What this process may open, for so many runs at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Files(finite(soft), finite(hard), concurrency)


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
