"""The `reprieve` command. Each command is a few lines over the rooms; errors are a sentence and exit status 2."""

import errno
import json
import os
import secrets
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolExhausted

from reprieve.adapters.spool import SPOOL_BYTES
from reprieve.cli import output, render
from reprieve.cli.door import page_address, token_of_up
from reprieve.cli.exec import run_reported
from reprieve.cli.render import say, say_json
from reprieve.cli.roles import ROLES, start
from reprieve.cli.stack import Stack, flower_port, wait_for_end
from reprieve.models.access import Scope
from reprieve.models.errors import InvalidRequest, ReprieveError, SettingsError, cannot_be_written
from reprieve.models.records import HealthRecord, RunRecord
from reprieve.models.rows import Run
from reprieve.models.status import Status
from reprieve.simulation.plan import Plan, parse_faults, parse_guards
from reprieve.stores.embedded import EmbeddedServerError
from reprieve.stores.embedded.address import write_private
from reprieve.stores.migrate import database_trouble
from reprieve.stores.migrate import migrate as migrate_database
from reprieve.stores.tokens import own_token
from reprieve.stores.urls import Url
from reprieve.workers.bootstrap import Services, fleet_services, resolve_settings, services
from reprieve.workers.cancel import cancel_run
from reprieve.workers.enqueue import enqueue_run
from reprieve.workers.explaining import explain as explain_run
from reprieve.workers.health import complaints
from reprieve.workers.reporting import new_token
from reprieve.workers.secrecy import conceal
from reprieve.workers.settings import Settings, load_settings
from reprieve.workers.sweep import sweep as sweep_once

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Supervises fleets of long jobs: no live run is reaped, no dead run lingers, no line of log is lost.",
)

tokens = typer.Typer(no_args_is_help=True, help="Tokens: of the HTTP API, and of remote runs.")
app.add_typer(tokens, name="token")

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or the beginning or end of one.")]
AsJson = Annotated[bool, typer.Option("--json", help="For a program to read.")]


@app.command()
def up() -> None:
    """Run everything on this machine: PostgreSQL, Redis, workers, beat, Flower and the API. Ctrl-C ends it all."""
    settings = load_settings()
    secret = settings.flower_password
    password = secret.get_secret_value() if secret else secrets.token_urlsafe(12)
    token = token_of_up(settings)  # Before the API starts, which looks for it once.
    with Stack(settings, flower_password=password) as stack:
        # Terminals are recorded, and looked at: what is secret is in a file that its owner alone can read.
        kept = None if secret else settings.data_dir / "flower-password"
        if kept is not None:
            write_private(kept, f"{password}\n")
        _print_addresses(settings, stack, kept, token)
        wait_for_end(stack)
        say("Ending everything …")


def _print_addresses(settings: Settings, stack: Stack, password: Path | None, token: str | None) -> None:
    say(f"PostgreSQL  {Url.parse(stack.database_url or '').shown}")
    say(f"Redis       {Url.parse(stack.redis_url or '').shown}")
    known = f"the password is in {password}" if password else "the password is REPRIEVE_FLOWER_PASSWORD"
    say(f"Flower      http://127.0.0.1:{stack.flower_port}  user reprieve; {known}")
    say(f"The page    {page_address(stack.api_address, token)}  and the HTTP API, described at /openapi.json")
    say(f"Data        {settings.data_dir}  (logs of the processes in {stack.logs})")
    say("Try it      reprieve run --follow -- echo hello")
    say("Ctrl-C ends everything.")


@app.command(context_settings={"ignore_unknown_options": True})
def run(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND…", help="After --: the program and its arguments; none for a remote run."),
    ] = None,
    adapter: Annotated[str, typer.Option(help="What does the work.")] = "process",
    config: Annotated[
        str | None, typer.Option(help="The config of an adapter that runs no command here: JSON, or @FILE with JSON.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show its output; exit with its exit status.")] = False,
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for the command; may be repeated.")] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=env:VARIABLE or NAME=file:/PATH, which the worker has; masked in the output; may be repeated."
        ),
    ] = None,
    pty: Annotated[
        bool, typer.Option("--pty", help="Give it a terminal: many programs then print each line at once.")
    ] = False,
    cwd: Annotated[Path | None, typer.Option(help="Folder to run in; the current one by default.")] = None,
    max_runtime: Annotated[float | None, typer.Option(help="Seconds after which it is ended.")] = None,
    max_attempts: Annotated[int, typer.Option(help="How often it may be started if its worker is lost.")] = 1,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key gives the same run.")] = None,
) -> None:
    """Start a run."""
    asked = _config(config)
    # Only for a command of this host, or if asked for: other adapters may not know them.
    here = bool(command) and config is None
    if command:
        asked["command"] = command
    if here or cwd:
        asked["cwd"] = str((cwd or Path.cwd()).absolute())
    if here or env:
        asked["env"] = _pairs("--env", env)
    if secret:
        asked["secrets"] = _pairs("--secret", secret, form="NAME=env:VARIABLE or NAME=file:/PATH")
    if pty:
        asked["pty"] = True
    started = enqueue_run(
        adapter,
        asked,
        labels=_pairs("--label", label),
        max_runtime=max_runtime,
        max_attempts=max_attempts,
        idempotency_key=idempotency_key,
    )
    if not follow:
        say(started.id)
        return
    say(f"run {started.id}", problem=True)
    raise typer.Exit(_follow_to_the_end(services(), started))


def _follow_to_the_end(wired: Services, started: Run) -> int:
    try:
        output.write(output.reader_of(wired, started).follow())
    except KeyboardInterrupt:
        say(f"the run goes on; `reprieve cancel {started.id}` ends it.", problem=True)
        return 130
    ended = wired.runs.get(started.id)
    if ended.status != Status.SUCCEEDED:
        code = f" ({ended.error_code})" if ended.error_code else ""
        say(f"{ended.status}{code}. {ended.error_message or ''}".rstrip(), problem=True)
    return output.exit_status(ended)


def _find(wired: Services, run_id: str) -> Run:
    """The run that a person means; raises `RunNotFound`."""
    return wired.runs.get(wired.runs.resolve(run_id))


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


def _pairs(option: str, values: list[str] | None, form: str = "NAME=VALUE") -> dict[str, str]:
    pairs = {}
    for value in values or []:
        name, equals, rest = value.partition("=")
        if not equals or not name:
            raise InvalidRequest(f"{option} {value!r} is not of the form {form}.")
        pairs[name] = rest
    return pairs


@app.command()
def ps(
    status: Annotated[list[Status] | None, typer.Option(help="Only these; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List runs, the newest first."""
    wired = services()
    runs = wired.runs.list(statuses=status or [], limit=limit)
    if as_json:
        say_json([RunRecord.of(each).model_dump(mode="json") for each in runs])
    elif runs:
        console = render.terminal()
        for line in render.runs_table(runs, wired.database.now(), console.width):
            console.print(line, soft_wrap=True)
    else:
        say("No runs. Start one with `reprieve run -- COMMAND`.")


@app.command()
def logs(
    run_id: RunId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="From this attempt on; the first by default.")] = None,
    after: Annotated[int, typer.Option(min=0, help="After this sequence number of that attempt.")] = 0,
    stream: Annotated[str | None, typer.Option(help="Only this stream, for example stdout.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="With --stream: its bytes on standard output, of one attempt, the last one.")
    ] = False,
) -> None:
    """Show what a run has printed, byte for byte. Exit status 1 if some of it is missing."""
    if raw and stream is None:
        raise InvalidRequest("--raw needs --stream, for example --stream stdout: one file cannot hold two streams.")
    wired = services()
    wanted = _find(wired, run_id)
    if attempt is not None and attempt > wanted.attempt and not follow:
        raise InvalidRequest(f"There is no attempt {attempt} (yet): the run has had {wanted.attempt}.")
    first = attempt or (max(wanted.attempt, 1) if raw else 1)
    reader = output.reader_of(wired, wanted)
    attempts = range(first, wanted.attempt + 1)[: 1 if raw else None]
    stored = (item for number in attempts for item in reader.stored(number, after if number == first else 0))
    try:
        whole = output.write(reader.follow(first, after) if follow else stored, stream=stream, raw=raw)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if not whole:
        raise typer.Exit(1)


@tokens.command("run")
def token_for_run(run_id: RunId) -> None:
    """Print a new token for a remote run, by which its work reports; it replaces the old one."""
    wired = services()
    say(new_token(wired, wired.runs.resolve(run_id)))


@tokens.command("create")
def token_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is for: a service, a person.")],
    scope: Annotated[Scope, typer.Option(help="read: look; run: also start and cancel; admin: everything.")],
) -> None:
    """Print a new token for the HTTP API. It is shown this once."""
    say(services().tokens.create(name, scope))


@tokens.command("list")
def token_list() -> None:
    """List the tokens of the HTTP API that are in the database, without what they are."""
    for one in services().tokens.all_for_api():
        say(f"{one.name}  {one.scope}  {one.created_at:%Y-%m-%d %H:%M} UTC")


@tokens.command("show")
def token_show() -> None:
    """Print the token of this data folder, which `reprieve up` (or `api`, where there was none) has made."""
    settings = load_settings()
    token = own_token(settings.data_dir)
    if token is None:
        raise InvalidRequest(f"There is no token in {settings.data_dir}; `reprieve up` makes one.")
    say(token)


@tokens.command("revoke")
def token_revoke(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Have a token of the HTTP API be refused from now on."""
    if not services().tokens.revoke(name):
        raise InvalidRequest(f"There is no token {name!r}; `reprieve token list` shows them.")


@app.command("start", context_settings={"ignore_unknown_options": True})
def start_role(
    role: Annotated[str, typer.Argument(metavar="ROLE", help=f"One of {', '.join(ROLES)}.")],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="ARGUMENTS…", help="For it, for example --concurrency=200.")
    ] = None,
) -> None:
    """Start one process of a deployment, as a container or a systemd unit does. `reprieve up` starts all of them."""
    if role not in ROLES:
        raise InvalidRequest(f"There is no role {role!r}; there are {', '.join(ROLES)}.")
    # Here, where what is wrong with a setting is a sentence; of Celery, it would be a traceback.
    settings = resolve_settings()
    if role != "flower":
        settings.require_database_url()
        settings.require_redis_url()
    start(role, more or [])


@app.command()
def api() -> None:
    """Serve the HTTP API at REPRIEVE_API_ADDRESS, on loopback by default. Where there is no token, one is made."""
    from reprieve.cli.serve import serve

    serve(services())


@app.command("exec", context_settings={"ignore_unknown_options": True})
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
    raise typer.Exit(run_reported(run_id, server, command, spool, spool_bytes))


@app.command()
def cancel(run_id: RunId) -> None:
    """End a run and its work."""
    wired = services()
    before = _find(wired, run_id)
    after = cancel_run(before.id)
    already = "had already ended: " if Status(before.status).is_final else ""
    say(f"{after.id} {already}{after.status}")


@app.command()
def explain(run_id: RunId, as_json: AsJson = False) -> None:
    """Tell why a run is as it is: its proof of life, what happened, and the evidence of a reap."""
    wired = fleet_services()
    told = explain_run(wired, wired.runs.resolve(run_id))
    if as_json:
        say_json(told.record.model_dump(mode="json"))
    else:
        say(*told.lines)


@app.command()
def sweep() -> None:
    """Have the reaper look now, instead of at its next turn."""
    say_json(sweep_once(fleet_services(), by_hand=True))


@app.command()
def health(as_json: AsJson = False) -> None:
    """Say whether the reaper sees and hears; exit status 1 with the reasons if it does not."""
    wired = fleet_services()
    pulse = wired.sweeps.pulse()
    reasons = complaints(wired, pulse)
    account = wired.sweeps.account()
    if as_json:
        say_json(HealthRecord.of(pulse, reasons, account).model_dump(mode="json"))
    else:
        say(*(reasons or ["Well: sweeps are made, and output comes through."]))
        if not reasons and pulse and pulse.under_way:
            say(pulse.under_way)
        for line in account:
            say(f"{line.adapter}: {line.reaped} reaped, {line.suspected_false} of them gave signs of life later")
    if reasons:
        raise typer.Exit(1)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is set up, what is not, and what to do, a line each; exit status 1 if something is wrong."""
    from reprieve.cli.doctor import examine

    raise typer.Exit(examine(as_json=as_json))


@app.command()
def migrate() -> None:
    """Bring the database to the form that this version expects."""
    say(f"The database is at revision {migrate_database(services().database)}.")


@app.command()
def flower() -> None:
    """Start Flower on loopback behind a password, unless FLOWER_ADDRESS and REPRIEVE_FLOWER_PASSWORD say otherwise."""
    secret = resolve_settings().flower_password
    if secret is None and not os.environ.get("FLOWER_BASIC_AUTH"):
        raise SettingsError("REPRIEVE_FLOWER_PASSWORD is not set; without a password Flower is open to everyone.")
    if secret is not None:
        os.environ["FLOWER_BASIC_AUTH"] = f"reprieve:{secret.get_secret_value()}"
    os.environ.setdefault("FLOWER_ADDRESS", "127.0.0.1")
    flower_port()
    # To look at. Its buttons cancel runs (a task's id is its run's), and shut workers down as well.
    os.environ.setdefault("FLOWER_READ_ONLY", "True")
    from reprieve.workers.__main__ import main as celery

    celery(["flower"])


@app.command()
def demo(
    real_time: Annotated[bool, typer.Option("--real-time", help="At 300/60/60 seconds: about 8 minutes.")] = False,
) -> None:
    """Show on servers of its own that live runs survive and dead ones are found; exit status 0 if all came out so."""
    from reprieve.cli.demo import run_demo

    raise typer.Exit(run_demo(real_time=real_time))


@app.command()
def simulate(
    runs: Annotated[int, typer.Option(help="How many are started over the time.")] = 100_000,
    hours: Annotated[float, typer.Option(help="Virtual hours.")] = 24.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same, to the letter.")] = 1,
    seeds: Annotated[int, typer.Option(help="So many seeds, from --seed on.")] = 1,
    faults: Annotated[str, typer.Option(help="all, none, or names with commas between them.")] = "all",
    without: Annotated[
        str | None, typer.Option(help="Also without each of these: watch,listen,ask,brake,adopt, or all.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the first seed.")] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate a fleet under faults through the reaper's own decisions; exit status 1 if it broke its promise."""
    from reprieve.cli.simulate import run_simulate

    plan = Plan(runs=runs, hours=hours, seed=seed, faults=parse_faults(faults))
    guards = parse_guards(without) if without is not None else ()
    try:
        status = run_simulate(plan, seeds=seeds, without=guards, picture=picture, as_json=as_json)
    except KeyboardInterrupt:
        say("the simulation was stopped.", problem=True)
        raise typer.Exit(130) from None
    raise typer.Exit(status)


def main() -> None:
    """The entry point: what goes wrong in a foreseeable way is a sentence, not a traceback."""
    conceal()
    for stream in (sys.stdout, sys.stderr):
        # A terminal of another character set shows what it can. One that was closed (`>&-`) is None.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        finally:
            # Now, where it can still be told; at exit, Python could only complain.
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _give_up_output()
        sys.exit(141)
    except Exception as error:
        told = _told(error)
        if told is None:
            raise
        sys.exit(_complain(told))


def _told(error: Exception) -> str | None:
    """What to say of an error, in a sentence; None for a mistake of ours, whose traceback is wanted."""
    if isinstance(error, ReprieveError | EmbeddedServerError):
        return str(error)
    if isinstance(error, DBAPIError | PoolExhausted):
        told = database_trouble(error)
        return told and f"{told} ({str(getattr(error, 'orig', error)).strip().splitlines()[0]})"
    if isinstance(error, RedisError):
        return f"Redis does not do as it is asked ({error}): is REPRIEVE_REDIS_URL right?"
    return (_output_trouble(error) or _data_trouble(error)) if isinstance(error, OSError) else None


def _output_trouble(error: OSError) -> str | None:
    """What to say where standard output takes nothing more: its disk is full, for example."""
    if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG):
        return None
    _give_up_output()
    return f"The output cannot be written ({os.strerror(error.errno)})."


def _give_up_output() -> None:
    """What is left of it would be tried again at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _data_trouble(error: OSError) -> str | None:
    """What to say where the data folder is of no use: it cannot be written, or is a file."""
    folder = load_settings().data_dir
    named = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    of_the_folder = any(name == folder or folder in name.parents or name in folder.parents for name in named)
    return str(cannot_be_written(folder, error)) if of_the_folder else None


def _complain(sentence: str) -> int:
    say(f"{sentence}", problem=True)
    return 2
