"""Who asks for a run, or for its end: a service or a person, by the name that whoever is woken knows."""

import getpass
import os
import socket
from collections.abc import Mapping
from functools import cache

from reprieve.models.text import shown

#: Characters of a name that are kept.
MAX_ASKER = 128


def this_process() -> str:
    """The service whose process this is (`OTEL_SERVICE_NAME`), or else USER@HOST. Asked anew where that changes."""
    return named(os.environ, _user(os.getuid()), socket.gethostname())


def named(environment: Mapping[str, str], user: str, host: str) -> str:
    """How a process is called that was started with these variables, by this user of this host."""
    return shown(environment.get("OTEL_SERVICE_NAME", "").strip() or f"{user}@{host}")[:MAX_ASKER]


@cache
def _user(number: int) -> str:
    """The name of a user; in a container, many have a number only."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(number)
