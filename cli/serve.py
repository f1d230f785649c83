"""`reprieve api`: the HTTP API in a process of its own."""

import logging
import sys
from dataclasses import replace

import uvicorn
from pydantic import SecretStr

from reprieve.adapters.descriptors import raise_files
from reprieve.api.app import create_app
from reprieve.api.connections import run
from reprieve.api.peers import is_loopback
from reprieve.cli.door import page_address
from reprieve.cli.listening import listen, refuse_taken
from reprieve.cli.sentences import say
from reprieve.models.access import Scope
from reprieve.models.connections import FILES_OF_THE_API, WANTED, most_connections, most_readers
from reprieve.models.errors import SettingsError
from reprieve.models.pulse import asked_at
from reprieve.stores.tokens import OWN_TOKEN, make_own_token, own_token
from reprieve.workers import journal, pulse, tracing
from reprieve.workers.bootstrap import Services
from reprieve.workers.settings import host_and_port
from reprieve.workers.waiting import until_fit

#: Seconds that open streams get to end when the process is asked to; their readers come back to where they were.
GRACE = 3


def serve(services: Services) -> None:
    """Serve until asked to end. It waits for a database that is down, since the tokens are in it.

    Raises `SettingsError` rather than be open to a network, or closed to everybody.
    """
    services = with_own_token(services)
    listening = listen("REPRIEVE_API_ADDRESS", services.settings.api_address)
    handler = logging.StreamHandler()
    handler.setFormatter(journal.formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    tracing.set_up()
    most = most_connections(raise_files(WANTED + FILES_OF_THE_API))
    app = create_app(services)
    app.state.hub.most = min(app.state.hub.most, most_readers(most))
    config = uvicorn.Config(
        app,
        timeout_graceful_shutdown=GRACE,
        server_header=False,
        access_log=False,
        log_config=None,
        ws="none",
        # uvicorn would believe any process of this machine; whom to believe is ours to be told (`api.proxies`).
        proxy_headers=not services.settings.api_trusted_proxies,
    )
    pulse.answers(services.settings.pulse_file, asked_at(*host_and_port(services.settings.api_address), "/health/live"))
    run(config, listening, most)


def with_own_token(services: Services) -> Services:
    """The same services, with the token of the data folder added to the known ones, if there is one.

    It is made where there is no other, for a machine of its own. Raises `SettingsError` for what is to be open, or has
    no token, and is not on loopback.
    """
    settings = services.settings
    local = is_loopback(host_and_port(settings.api_address)[0])
    if settings.api_open and not local:
        raise SettingsError(
            f"REPRIEVE_API_OPEN is set, and REPRIEVE_API_ADDRESS is {settings.api_address}: whoever reaches it "
            "could start commands on the workers. Open is for loopback only; make a token instead "
            "(`reprieve token create NAME --scope admin`)."
        )
    if local:  # Before anything is made for it, or said.
        refuse_taken("REPRIEVE_API_ADDRESS", settings.api_address)
    if settings.api_open:
        say(f"REPRIEVE_API_OPEN is set: this user needs no token at http://{settings.api_address}.", problem=True)
    token = own_token(settings.data_dir)
    if token is None and not settings.api_open and not _once_it_answers(services):
        if not local:
            raise SettingsError(
                f"REPRIEVE_API_ADDRESS is {settings.api_address}, and there is no token, so nobody could come in. Make "
                "one (`reprieve token create NAME --scope admin`), or set REPRIEVE_API_TOKENS."
            )
        token = make_own_token(settings.data_dir)
        page = page_address(f"{settings.api_address}{settings.api_root_path}", token)
        told = page if sys.stderr.isatty() else "`reprieve token show` prints it"
        say(f"There was no token; one was made, in {settings.data_dir / OWN_TOKEN}: {told}", problem=True)
    if token is None:
        return services
    known = (*settings.api_tokens, (Scope.ADMIN, SecretStr(token)))
    return replace(services, settings=settings.model_copy(update={"api_tokens": known}))


def _once_it_answers(services: Services) -> bool:
    """Whether there is a token, in the settings or the database; asked for as long as that takes to say so."""

    def tell(tries: int, why: str) -> None:
        say(f"The API waits for the database (try {tries}): {why}", problem=True)

    return bool(services.settings.api_tokens) or until_fit(services.tokens.any_for_api, tell, longest=15)
