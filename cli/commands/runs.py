"""Commands about runs: start, list, read, end, explain."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reprieve.cli.commands import AsJson, RunId
from reprieve.cli.sentences import say, say_json
from reprieve.models.capacity import SPOOL_BYTES
from reprieve.models.errors import InvalidRequest
from reprieve.models.filters import labels_of
from reprieve.models.lanes import DEFAULT_LANE
from reprieve.models.status import Status
from reprieve.models.text import bytes_of, seconds_of

if TYPE_CHECKING:
    from reprieve.models.records import Run
    from reprieve.workers.bootstrap import Services

Command = Annotated[
    list[str] | None,
    typer.Argument(metavar="COMMAND…", help="After --: the program and its arguments; none for a remote run."),
]
Config = Annotated[
    str | None, typer.Option(help="The config of an adapter that runs no command here: JSON, or @FILE with JSON.")
]
Secrets = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME=env:VARIABLE or NAME=file:/PATH, which the worker has; masked in the output; may be repeated."
    ),
]
AT = "The moment before which it is not started, for example 2026-12-01T06:00+01:00."
ON = "An end that another attempt follows: exit_status=75, error_code=…, reason=…; may be repeated."
Pty = Annotated[bool, typer.Option("--pty", help="Give it a terminal: many programs then print each line at once.")]


def run(
    command: Command = None,
    adapter: Annotated[str, typer.Option(help="What does the work.")] = "process",
    config: Config = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show its output; exit with its exit status.")] = False,
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the command; may be repeated.")] = None,
    secret: Secrets = None,
    pty: Pty = False,
    cwd: Annotated[Path | None, typer.Option(help="Folder to run in; the current one by default.")] = None,
    max_runtime: Annotated[float | None, typer.Option(help="Seconds after which it is ended.")] = None,
    max_attempts: Annotated[int, typer.Option(help="How often it may be started if its worker is lost.")] = 1,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key gives the same run.")] = None,
    lane: Annotated[str, typer.Option(help="The lane that it waits in.")] = DEFAULT_LANE,
    priority: Annotated[int, typer.Option(help="From -100 to 100: within its lane, the higher goes first.")] = 0,
    start_at: Annotated[str | None, typer.Option(metavar="TIME", help=AT)] = None,
    start_within: Annotated[float | None, typer.Option(help="Seconds after which it fails if not begun.")] = None,
    retry_on: Annotated[list[str] | None, typer.Option(metavar="CAUSE=VALUE", help=ON)] = None,
    retry_delay: Annotated[float | None, typer.Option(help="Seconds that such an attempt waits.")] = None,
    notify: Annotated[
        list[str] | None, typer.Option(help="Address that is told what happens to it; may be repeated.")
    ] = None,
    quiet_after: Annotated[float | None, typer.Option(help="Seconds without output; it is then called quiet.")] = None,
    max_silence: Annotated[float | None, typer.Option(help="Seconds without output; it is then ended.")] = None,
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory beyond which it is ended, for example 512M or 2G.")
    ] = None,
) -> None:
    """Start a run."""
    from reprieve.client.enqueue import enqueue_run

    started = enqueue_run(
        adapter,
        _config(config) | _command_fields(command or [], cwd, env, secret, pty, by_itself=config is None),
        labels=labels(label),
        max_runtime=max_runtime,
        max_attempts=max_attempts,
        idempotency_key=idempotency_key,
        lane=lane,
        priority=priority,
        start_at=None if start_at is None else moment("--start-at", start_at),
        start_within=start_within,
        retry_on=_causes(retry_on),
        retry_delay=retry_delay,
        notify=notify,
        quiet_after=quiet_after,
        max_silence=max_silence,
        max_memory=None if max_memory is None else bytes_of(max_memory),
    )
    if not follow:
        say(started.id)
        return
    say(f"run {started.id}", problem=True)
    from reprieve.workers.bootstrap import services

    raise typer.Exit(_follow_to_the_end(services(), started))


def _command_fields(
    command: list[str],
    cwd: Path | None,
    env: list[str] | None,
    secret: list[str] | None,
    pty: bool,
    *,
    by_itself: bool,
) -> dict[str, Any]:
    """The config that the options of a command make.

    `cwd` and `env` are in it for a command that has no other config, or if they are given: other adapters may not know
    them.
    """
    here = bool(command) and by_itself
    fields: dict[str, Any] = {"command": command} if command else {}
    if here or cwd:
        fields["cwd"] = str((cwd or Path.cwd()).absolute())
    if here or env:
        fields["env"] = pairs("--env", env)
    if secret:
        fields["secrets"] = pairs("--secret", secret, form="NAME=env:VARIABLE or NAME=file:/PATH")
    return fields | ({"pty": True} if pty else {})


def _config(given: str | None) -> dict[str, Any]:
    """A config given as JSON, or as the name of a file with it."""
    if given is None:
        return {}
    try:
        text = Path(given[1:]).read_text() if given.startswith("@") else given
        config = json.loads(text)
    except OSError as error:
        raise InvalidRequest(f"--config: {given[1:]} cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise InvalidRequest(f"--config is no JSON ({error}); give an object, or @FILE.") from None
    if not isinstance(config, dict):
        raise InvalidRequest(f"--config is a {type(config).__name__}; give an object of fields and values.")
    return config


def pairs(option: str, values: list[str] | None, form: str = "NAME=VALUE") -> dict[str, str]:
    return dict(_pairs(option, values, form))


def labels(values: list[str] | None) -> dict[str, str]:
    """Labels that all must hold; a name has one value."""
    return labels_of(_pairs("--label", values, "NAME=VALUE"))


def _pairs(option: str, values: list[str] | None, form: str) -> Iterator[tuple[str, str]]:
    for value in values or []:
        name, equals, rest = value.partition("=")
        if not equals or not name:
            raise InvalidRequest(f"{option} {value!r} is not of the form {form}.")
        yield name, rest


def moment(option: str, given: str) -> datetime:
    """A moment as ISO 8601 writes it; of this machine's time zone, where it names none."""
    try:
        return datetime.fromisoformat(given).astimezone()
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{option} {given!r} is no moment; give one like 2026-12-01T06:00+01:00.") from None


def _causes(values: list[str] | None) -> dict[str, list[int | str]] | None:
    """The ends that are followed by another attempt."""
    causes: dict[str, list[int | str]] = {}
    for value in values or []:
        name, equals, cause = value.partition("=")
        if not equals:
            raise InvalidRequest(f"--retry-on {value!r} is not of the form CAUSE=VALUE, for example exit_status=75.")
        causes.setdefault(name, []).append(int(cause) if name == "exit_status" and cause.isdecimal() else cause)
    return causes or None


def _follow_to_the_end(wired: "Services", started: "Run") -> int:
    from reprieve.cli import output

    try:
        output.write(wired.log_of(started.id).follow())
    except KeyboardInterrupt:
        say(f"the run goes on; `reprieve cancel {started.id}` ends it.", problem=True)
        return 130
    ended = wired.records.get(started.id)
    if ended.status != Status.SUCCEEDED:
        code = f" ({ended.error_code})" if ended.error_code else ""
        say(f"{ended.status}{code}. {ended.error_message or ''}".rstrip(), problem=True)
    return output.exit_status(ended)


def find(wired: "Services", run_id: str) -> "Run":
    """The run that a person means; raises `RunNotFound`."""
    return wired.records.get(wired.records.resolve(run_id))


def snooze(
    run_id: RunId,
    length: Annotated[str, typer.Argument(metavar="LENGTH", help="30s, 45m, 1h, 2d; 0 ends a snooze.")],
) -> None:
    """Tell nobody that a run is quiet, and do not end it as stalled, for so long from now."""
    from reprieve.workers.bootstrap import services
    from reprieve.workers.quiet import snooze_run

    seconds, wired = seconds_of(length), services()
    after = snooze_run(wired, find(wired, run_id).id, seconds)
    if after.status.is_final:
        say(f"{after.id} had already ended: {after.status}")
    elif seconds:
        say(f"{after.id} snoozed until {after.snoozed_until:%Y-%m-%d %H:%M:%S %Z}")
    else:
        say(f"{after.id} is not snoozed any more")


def explain(run_id: RunId, as_json: AsJson = False) -> None:
    """Tell why a run is as it is: its proof of life, what happened, and the evidence of a reap."""
    from reprieve.workers.bootstrap import fleet_services
    from reprieve.workers.explaining import explain as explain_run

    wired = fleet_services()
    told = explain_run(wired, wired.records.resolve(run_id))
    if as_json:
        say_json(told.record.model_dump(mode="json"))
    else:
        say(*told.lines)


def exec_reported(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND…", help="After --: the program and its arguments.")],
    run_id: Annotated[str, typer.Option("--run", help="The whole id of the remote run that this is the work of.")],
    server: Annotated[str, typer.Option(help="The address of the API, for example https://reprieve.example.com.")],
    spool: Annotated[
        Path | None, typer.Option(help="Folder for output that waits for the server; a temporary one by default.")
    ] = None,
    spool_bytes: Annotated[
        int, typer.Option(min=1024 * 1024, help="Bytes that may wait there; beyond it, the command waits.")
    ] = SPOOL_BYTES,
) -> None:
    """Run a command here and report it to a remote run; the run's token is in REPRIEVE_RUN_TOKEN."""
    from reprieve.cli.exec import run_reported

    raise typer.Exit(run_reported(run_id, server, command, spool, spool_bytes))
