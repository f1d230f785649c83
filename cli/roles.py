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


def role_of(command: Sequence[str]) -> str | None:
    """The role that a command line starts, behind an init or not, or has become; None where it is none of ours."""
    if not {word.rpartition("/")[2] for word in command} & {"reprieve", "reprieve.workers"}:
        return None
    for role, (_, *words) in ROLES.items():
        if role in command or set(words) <= set(command):
            return role
    return None


def role_of_this_container() -> str | None:
    """The role for which the first process here was started; None on a machine, and where it runs something else."""
    try:
        return role_of(Path("/proc/1/cmdline").read_text(errors="replace").split("\0"))
    except OSError:
        return None


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
