"""How many files this process may open: its soft limit, which it may raise as far as the hard one."""

import resource
from contextlib import suppress


def raise_files(wanted: int) -> int:
    """How many files this process may open, after its soft limit was raised towards so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = max(finite(soft), min(finite(hard), wanted))
    if raised > finite(soft):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return finite(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def finite(limit: int) -> int:
    return 2**31 if limit == resource.RLIM_INFINITY else limit
