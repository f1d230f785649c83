"""What runs have printed: of one run, or the lines of many that match."""

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from reprieve.cli.commands.chosen import ANY, choosing
from reprieve.cli.commands.runs import find
from reprieve.cli.sentences import say
from reprieve.models.errors import InvalidRequest
from reprieve.models.filters import RunFilter
from reprieve.models.text import volume

if TYPE_CHECKING:
    from reprieve.workers.searching import OfRun

Run = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="A run's id, or the beginning or end of one; all with --grep.")
]
#: Runs after which it is said how far a search is.
SAY_AFTER = 1_000


@choosing
def logs(
    run_id: Run = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="From this attempt on; the first by default.")] = None,
    after: Annotated[int, typer.Option(min=0, help="After this sequence number of that attempt.")] = 0,
    stream: Annotated[str | None, typer.Option(help="Only this stream, for example stdout.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="With --stream: its bytes on standard output, of one attempt, the last one.")
    ] = False,
    grep: Annotated[
        str | None, typer.Option(metavar="RE", help="Lines that match, of all runs that are chosen; RE2.")
    ] = None,
    ignore_case: Annotated[bool, typer.Option("--ignore-case", "-i", help="With --grep: in capitals or not.")] = False,
    most: Annotated[int, typer.Option("--limit", min=1, help="With --grep: lines after which it stops.")] = 1_000,
    wanted: RunFilter = ANY,
) -> None:
    """Show what a run has printed, byte for byte. Exit status 1 if some of it is missing, or no line matches."""
    if grep is not None:
        if run_id is not None or follow or attempt or after or raw:
            raise InvalidRequest("--grep looks through the logs of many runs: choose them by --label, --since, ….")
        raise typer.Exit(_search(wanted, grep, stream, most, ignore_case=ignore_case))
    if run_id is None or not wanted.is_any or ignore_case:
        raise InvalidRequest("Give one run, or --grep and options that choose some.")
    _show(run_id, attempt, after, stream, follow=follow, raw=raw)


def _show(run_id: str, attempt: int | None, after: int, stream: str | None, *, follow: bool, raw: bool) -> None:
    if raw and stream is None:
        raise InvalidRequest("--raw needs --stream, for example --stream stdout: one file cannot hold two streams.")
    from reprieve.cli import output
    from reprieve.workers.bootstrap import services

    wired = services()
    wanted = find(wired, run_id)
    if attempt is not None and attempt > wanted.attempt and not follow:
        raise InvalidRequest(f"There is no attempt {attempt} (yet): the run has had {wanted.attempt}.")
    first = attempt or (max(wanted.attempt, 1) if raw else 1)
    reader = wired.log_of(wanted.id)
    attempts = range(first, wanted.attempt + 1)[: 1 if raw else None]
    stored = (item for number in attempts for item in reader.stored(number, after if number == first else 0))
    try:
        whole = output.write(reader.follow(first, after) if follow else stored, stream=stream, raw=raw)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if not whole:
        raise typer.Exit(1)


def _search(wanted: RunFilter, pattern: str, stream: str | None, most: int, *, ignore_case: bool) -> int:
    """Print the lines that match as they are found; returns the status to exit with, as `grep` does."""
    from reprieve.workers.bootstrap import services
    from reprieve.workers.searching import compiled, search

    found = runs = size = 0
    try:
        with closing(search(services(), wanted, compiled(pattern, ignore_case=ignore_case), stream=stream)) as each:
            for one in each:
                if isinstance(one, UUID):
                    continue
                runs, size = runs + 1, size + one.size
                found += _print(one)
                if runs % SAY_AFTER == 0:
                    say(f"{_so_far(runs, size, found)}, back to {one.run.created_at:%Y-%m-%d %H:%M}", problem=True)
                if found >= most:
                    say(f"Stopped after {found:,} lines; --limit gives more.", problem=True)
                    break
    except KeyboardInterrupt:
        say(f"Stopped: {_so_far(runs, size, found)}.", problem=True)
        return 130
    if sys.stderr.isatty():
        say(f"{_so_far(runs, size, found)}.", problem=True)
    return 0 if found else 1


def _print(one: "OfRun") -> int:
    for line in one.lines:
        say(f"{one.run.id}:{line.attempt}:{line.number}: {line.text}")
    if one.more:
        say(f"{one.run.id}: more lines match than are given.", problem=True)
    if one.missing:
        say(f"{one.run.id} was not looked at as a whole: {one.missing}", problem=True)
    return len(one.lines)


def _so_far(runs: int, size: int, found: int) -> str:
    return f"{found:,} lines found in {runs:,} runs, {volume(size)}"
