"""The command about what has been: export."""

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer

from reprieve.cli.commands.runs import moment
from reprieve.cli.sentences import say
from reprieve.models.errors import InvalidRequest

#: Seconds between two words about how far it is.
TELL_EVERY = 5.0


def export(
    before: Annotated[str, typer.Option(metavar="DATE", help="Runs that ended before it, for example 2026-01-01.")],
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Where they go; standard output by default.")] = None,
) -> None:
    """Write ended runs with all that the rows have of them, a line of JSON each: before a retention removes them."""
    from reprieve.stores.database import let_interrupt
    from reprieve.workers.bootstrap import services

    let_interrupt()
    until, count, told = moment("--before", before), 0, time.monotonic()
    try:
        with _written(to) as out:
            for run in services().export.runs(until):
                out.write(json.dumps(run, separators=(",", ":")) + "\n")
                count += 1
                if time.monotonic() - told > TELL_EVERY:
                    told = time.monotonic()
                    say(f"{count} runs so far, asked for up to {run['run']['created_at'][:16]}.", problem=True)
    except KeyboardInterrupt:
        left = "" if to is None else f" {_part(to)} has what was written so far."
        say(f"the export was stopped after {count} runs.{left}", problem=True)
        raise typer.Exit(130) from None
    say(f"{count} runs that ended before {until:%Y-%m-%d %H:%M %Z}.", problem=True)


def _part(to: Path) -> Path:
    """The file for as long as it is not whole."""
    return to.with_name(f"{to.name}.part")


@contextmanager
def _written(to: Path | None) -> Iterator[TextIO]:
    """Standard output; or a file of this user's alone, which has its name only when all of it is on the disk."""
    if to is None:
        yield sys.stdout
        return
    if to.exists():
        raise InvalidRequest(f"{to} is there already; remove it, or give --to another name.")
    part = _part(to)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as out:
        _alone(out, part)
        out.truncate()
        yield out
        out.flush()
        os.fsync(out.fileno())
    part.replace(to)


def _alone(out: TextIO, part: Path) -> None:
    """Two exports that write one file at once would leave neither's. Raises `InvalidRequest`."""
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It has its own name by now, where the other one has just ended.
        is_ours = part.exists() and os.path.samestat(os.fstat(out.fileno()), part.stat())
    except (BlockingIOError, FileNotFoundError):
        is_ours = False
    if not is_ours:
        raise InvalidRequest(f"another export writes {part}; give --to another name, or wait.")
