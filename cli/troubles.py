"""What goes wrong in a foreseeable way, as a sentence."""

import errno
import os
import sys
from pathlib import Path

from reprieve.cli.extras import missing
from reprieve.models.errors import ReprieveError, cannot_be_written


def sentence_of(error: Exception) -> str | None:
    """What to say of an error, in a sentence; None for a mistake of ours, whose traceback is wanted."""
    if isinstance(error, ReprieveError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return missing(error, "This command")
    if isinstance(error, OSError):
        return _output_trouble(error) or _data_trouble(error)
    return _server_trouble(error)


def _server_trouble(error: Exception) -> str | None:
    """What to say of a server that does not do as it is asked."""
    import psycopg2
    from redis.exceptions import RedisError
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.exc import TimeoutError as PoolExhausted

    from reprieve.models.faults import database_trouble

    if isinstance(error, psycopg2.Error | DBAPIError | PoolExhausted):
        told = database_trouble(error)
        return told and f"{told} ({str(getattr(error, 'orig', error)).strip().splitlines()[0]})"
    if isinstance(error, RedisError):
        return f"Redis does not do as it is asked ({error}): is REPRIEVE_REDIS_URL right?"
    return None


def _output_trouble(error: OSError) -> str | None:
    """What to say where standard output takes nothing more: its disk is full, for example."""
    if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG):
        return None
    give_up_output()
    return f"The output cannot be written ({os.strerror(error.errno)})."


def give_up_output() -> None:
    """What is left of it would be tried again at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _data_trouble(error: OSError) -> str | None:
    """What to say where the data folder is of no use: it cannot be written, or is a file."""
    from reprieve.workers.settings import load_settings

    folder = load_settings().data_dir
    named = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    of_the_folder = any(name == folder or folder in name.parents or name in folder.parents for name in named)
    return str(cannot_be_written(folder, error)) if of_the_folder else None
