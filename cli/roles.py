"""The processes of a deployment and the commands that start them: `reprieve up` and `reprieve start ROLE`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

_CELERY = (sys.executable, "-P", "-m", "reprieve.workers")
_WORKER = (*_CELERY, "worker", "--without-gossip", "--without-mingle", "--loglevel=INFO")

#: Runs that a worker has under way at once, unless it is told otherwise.
CONCURRENCY = 100

#: Role by role, the command. Runs have their own workers, since they are long; a sweep must never wait behind one.
ROLES: dict[str, tuple[str, ...]] = {
    "worker-runs": (*_WORKER, "--queues=runs", "--pool=threads", f"--concurrency={CONCURRENCY}", "--hostname=runs@%h"),
    "worker-logs": (*_WORKER, "--queues=logs", "--pool=threads", "--concurrency=2", "--hostname=logs@%h"),
    "worker-archive": (*_WORKER, "--queues=archive", "--pool=threads", "--concurrency=2", "--hostname=archive@%h"),
    "worker-control": (*_WORKER, "--queues=control", "--pool=threads", "--concurrency=2", "--hostname=control@%h"),
    # More than one may run: a sweep that was just made is not made again, and there is nothing to take over.
    "beat": (*_CELERY, "beat", "--scheduler=reprieve.workers.pulse:Scheduler", "--pidfile=", "--loglevel=INFO"),
    "flower": ("reprieve", "flower"),
    "api": ("reprieve", "api"),
}


def start(role: str, more: Sequence[str] = ()) -> NoReturn:
    """Become that role's process, with more arguments behind its own.

    Whoever is to fill the archive does not start where there can be none: raises `LogUnavailable`.
    """
    if role == "worker-archive":
        from reprieve.stores.objects import Objects
        from reprieve.workers.settings import load_settings

        Objects(load_settings().archive_url).open()
    program, *arguments = ROLES[role]
    beside = Path(sys.executable).parent / program
    os.execvp(str(beside) if beside.exists() else program, [program, *arguments, *more])
