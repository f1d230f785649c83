"""Commands about tokens: of the HTTP API, and of remote runs."""

from typing import Annotated

import typer

from reprieve.cli.commands import RunId
from reprieve.cli.sentences import say
from reprieve.models.access import Scope
from reprieve.models.errors import InvalidRequest


def token_for_run(run_id: RunId) -> None:
    """Print a new token for a remote run, by which its work reports; it replaces the old one."""
    from reprieve.workers.bootstrap import services
    from reprieve.workers.reporting import new_token

    wired = services()
    say(new_token(wired, wired.records.resolve(run_id)))


def token_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is for: a service, a person.")],
    scope: Annotated[Scope, typer.Option(help="read: look; run: also start and cancel; admin: everything.")],
) -> None:
    """Print a new token for the HTTP API. It is shown this once."""
    from reprieve.workers.bootstrap import services

    say(services().tokens.create(name, scope))


def token_list() -> None:
    """List the tokens of the HTTP API that are in the database, without what they are."""
    from reprieve.workers.bootstrap import services

    for one in services().tokens.all_for_api():
        say(f"{one.name}  {one.scope}  {one.created_at:%Y-%m-%d %H:%M} UTC")


def token_show() -> None:
    """Print the token of this data folder, which `reprieve up` (or `api`, where there was none) has made."""
    from reprieve.stores.tokens import own_token
    from reprieve.workers.settings import load_settings

    settings = load_settings()
    token = own_token(settings.data_dir)
    if token is None:
        raise InvalidRequest(f"There is no token in {settings.data_dir}; `reprieve up` makes one.")
    say(token)


def token_revoke(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Have a token of the HTTP API be refused from now on."""
    from reprieve.workers.bootstrap import services

    if not services().tokens.revoke(name):
        raise InvalidRequest(f"There is no token {name!r}; `reprieve token list` shows them.")
