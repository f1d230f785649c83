"""The `reprieve` command. Errors are a sentence and exit status 2."""

import sys
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated

import typer

from reprieve.cli.commands import (
    checks,
    chosen,
    history,
    lanes,
    logs,
    notices,
    reports,
    runs,
    servers,
    tokens,
    workers,
)
from reprieve.cli.sentences import say
from reprieve.cli.troubles import give_up_output, sentence_of
from reprieve.workers.secrecy import conceal

Command = Callable[..., None]

#: In the order in which `--help` lists them.
COMMANDS: dict[str, Command] = {
    "up": servers.up,
    "run": runs.run,
    "ps": chosen.ps,
    "logs": logs.logs,
    "start": servers.start_role,
    "api": servers.api,
    "exec": runs.exec_reported,
    "cancel": chosen.cancel,
    "again": chosen.again,
    "snooze": runs.snooze,
    "explain": runs.explain,
    "report": reports.report,
    "result": reports.result,
    "usage": reports.usage,
    "lanes": lanes.lanes,
    "workers": workers.workers,
    "drain": workers.drain,
    "undrain": workers.undrain,
    "sweep": checks.sweep,
    "health": checks.health,
    "healthcheck": checks.healthcheck,
    "whatif": checks.whatif,
    "doctor": checks.doctor,
    "migrate": servers.migrate,
    "export": history.export,
    "flower": servers.flower,
    "demo": servers.demo,
    "simulate": checks.simulate,
}
LANE_COMMANDS: dict[str, Command] = {
    "set": lanes.lane_set,
    "pause": lanes.lane_pause,
    "resume": lanes.lane_resume,
    "remove": lanes.lane_remove,
}
TOKEN_COMMANDS: dict[str, Command] = {
    "run": tokens.token_for_run,
    "create": tokens.token_create,
    "list": tokens.token_list,
    "show": tokens.token_show,
    "revoke": tokens.token_revoke,
}
NOTICE_COMMANDS: dict[str, Command] = {
    "list": notices.notices_list,
    "rules": notices.notices_rules,
    "add": notices.notices_add,
    "remove": notices.notices_remove,
    "test": notices.notices_test,
    "again": notices.notices_again,
    "secret": notices.notices_secret,
}


def _group(commands: Mapping[str, Command], told: str, *, with_options_of_others: Collection[str] = ()) -> typer.Typer:
    """A group whose `--help` has the whole sentence of each command, and is written without Rich: to import that takes
    longer than all the rest of it.
    """
    group = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help=told)
    for name, command in commands.items():
        settings = {"ignore_unknown_options": name in with_options_of_others}
        group.command(name, short_help=command.__doc__, context_settings=settings)(command)
    return group


app = _group(
    COMMANDS,
    "Supervises fleets of long jobs: no live run is reaped, no dead run lingers, no line of log is lost.",
    with_options_of_others=("run", "start", "exec"),
)
app.add_typer(_group(LANE_COMMANDS, "Lanes: how many of their runs may be running at once."), name="lane")
app.add_typer(_group(TOKEN_COMMANDS, "Tokens: of the HTTP API, and of remote runs."), name="token")
app.add_typer(_group(NOTICE_COMMANDS, "Notices: who is told what happens to runs."), name="notices")


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"reprieve {version('reprieve')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


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
        give_up_output()
        sys.exit(141)
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        say(sentence, problem=True)
        sys.exit(2)
