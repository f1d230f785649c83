"""`reprieve api`: the HTTP API in a process of its own."""

import logging
import sys

import uvicorn
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential_jitter

from api.access import is_loopback, is_open
from api.app import create_app
from cli.listening import refuse_taken
from models.errors import SettingsError
from models.faults import is_unfit
from models.results import last_line
from workers import journal, tracing
from workers.bootstrap import Services
from workers.settings import host_and_port

#: Seconds that open streams get to end when the process is asked to; their readers come back to where they were.
GRACE = 3


def serve(services: Services) -> None:
    """Until it is asked to end. A database that is away is waited for, since the tokens are in it.

    Raises `SettingsError` rather than be open to a network.
    """
    address = services.settings.api_address
    refuse_taken("REPRIEVE_API_ADDRESS", address)
    host, port = host_and_port(address)
    if _once_it_answers(services):
        if not is_loopback(host):
            raise SettingsError(
                f"REPRIEVE_API_ADDRESS is {address}, and there is no token: everyone who reaches it could start "
                "commands on the workers. Make one (`reprieve token create NAME --scope admin`), or set "
                "REPRIEVE_API_TOKENS; without, the API is for loopback only."
            )
        print(
            f"There is no token: whoever is on this machine may do everything at http://{address}. "
            "`reprieve token create NAME --scope admin` ends that.",
            file=sys.stderr,
            flush=True,
        )
    handler = logging.StreamHandler()
    handler.setFormatter(journal.formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    tracing.set_up()
    uvicorn.run(
        create_app(services),
        host=host,
        port=port,
        timeout_graceful_shutdown=GRACE,
        server_header=False,
        access_log=False,
        log_config=None,
    )


def _once_it_answers(services: Services) -> bool:
    """Whether whoever comes may do everything; asked for as long as it takes the database to say so."""

    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        told = last_line(error) if error else ""
        print(f"The API waits for the database (try {state.attempt_number}): {told}", file=sys.stderr, flush=True)

    wait = wait_exponential_jitter(multiplier=0.5, max=15)
    retrying = Retrying(retry=retry_if_exception(is_unfit), wait=wait, before_sleep=say)
    return retrying(is_open, services)
