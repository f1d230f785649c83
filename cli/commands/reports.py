"""Commands about what runs say of themselves: to say something, to see a result, to add up what was used."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reprieve.cli.commands import AsJson, RunId
from reprieve.cli.sentences import say as tell
from reprieve.cli.sentences import say_json
from reprieve.models.errors import InvalidRequest
from reprieve.models.saying import MAX_FILE, VARIABLE, report_of

if TYPE_CHECKING:
    from reprieve.models.records import UsageSummary


def report(
    progress: Annotated[float | None, typer.Option(help="How far it is, from 0 to 1.")] = None,
    say: Annotated[str | None, typer.Option(help="What it does just now, in a sentence.")] = None,
    result: Annotated[
        str | None, typer.Option(metavar="JSON", help="What has come of it: JSON of up to 64 KiB, or @FILE with it.")
    ] = None,
    usage: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="What it used since it last said; may be repeated."),
    ] = None,
) -> None:
    """Within a run: say how far it is, what it does, what it has used, what has come of it."""
    given = {"progress": progress, "say": say, "result": _result(result), "usage": _usage(usage)}
    said = report_of({name: value for name, value in given.items() if value is not None})
    file = os.environ.get(VARIABLE)
    if not file:
        raise InvalidRequest(f"{VARIABLE} is not set: this is no run that can say anything of itself.")
    _append(file, json.dumps(said.as_given(), separators=(",", ":")).encode() + b"\n")


def _append(file: str, line: bytes) -> None:
    """In one write, so that those who do so at once do not mix; after the rest of one that a full disk has cut."""
    try:
        fd = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                line = b"\n" + line
            if size + len(line) > MAX_FILE:
                raise InvalidRequest(f"{file} is full: no more than {MAX_FILE} bytes of it are read; say less often.")
            if os.write(fd, line) < len(line):
                raise InvalidRequest(f"{file} took only a part of the report: its disk is full.")
        finally:
            os.close(fd)
    except OSError as error:
        raise InvalidRequest(f"{file}, which {VARIABLE} names, cannot be written ({error.strerror}).") from None


def _result(given: str | None) -> Any:
    if given is None:
        return None
    try:
        return json.loads(Path(given[1:]).read_text() if given.startswith("@") else given)
    except OSError as error:
        raise InvalidRequest(f"--result: {given[1:]} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"""--result is no JSON ({error}); give JSON, as '"text"' or '[1, 2]', or @FILE."""
        ) from None


def _usage(given: list[str] | None) -> dict[str, float] | None:
    used: dict[str, float] = {}
    for pair in given or ():
        name, _, number = pair.rpartition("=")
        try:
            used[name] = used.get(name, 0) + (int(number) if number.isdecimal() else float(number))
        except ValueError:
            name = ""
        if not name:
            raise InvalidRequest(f"--usage {pair!r} is not of the form NAME=NUMBER, for example tokens=1200.")
    return used or None


def result(run_id: RunId) -> None:
    """Print the result that a run gave, as JSON. Exit status 1 if it has given none."""
    from reprieve.client.link import link

    wanted = link().records.resolve(run_id)
    given = link().records.result(wanted)
    if given is None:
        tell(f"Run {wanted} has given no result.", problem=True)
        raise typer.Exit(1)
    # Parsed, so that a terminal gets ASCII.
    say_json(json.loads(given))


def usage(
    by: Annotated[str, typer.Option(help="adapter, lane, status, or label:NAME.")] = "adapter",
    since: Annotated[str, typer.Option(metavar="TIME", help="Of runs asked for since: 24h, 7d, or a moment.")] = "7d",
    as_json: AsJson = False,
) -> None:
    """Add up what runs have used, by their own account and as it was measured, and the time that they took."""
    from reprieve.cli.commands.chosen import moment_of
    from reprieve.workers.bootstrap import services

    found = services().usage.since(moment_of("--since", since), by)
    if as_json:
        say_json(found.model_dump(mode="json"))
        return
    if not found.groups:
        tell(f"No run was asked for since {found.since:%Y-%m-%d %H:%M %Z}.")
        return
    from reprieve.cli.render import terminal, usage_table

    console = terminal()
    for line in usage_table(found, console.width):
        console.print(line, soft_wrap=True)
    for sentence in _left_out(found):
        tell(sentence, problem=True)


def _left_out(found: "UsageSummary") -> list[str]:
    lines = []
    if not found.complete:
        lines.append(
            f"There were more runs than are added up: these were asked for since {found.since:%Y-%m-%d %H:%M %Z}."
        )
    if found.unlisted_groups:
        lines.append(f"{found.unlisted_groups} groups of fewer runs are not shown.")
    return lines
