"""`reprieve api`: the HTTP API in a process of its own."""

import logging
import sys

import uvicorn

from api.access import is_loopback, is_open
from api.app import create_app
from models.errors import SettingsError
from workers import journal, tracing
from workers.bootstrap import Services
from workers.settings import host_and_port

#: Seconds that open streams get to end when the process is asked to; their readers come back to where they were.
GRACE = 3


def serve(services: Services) -> None:
    """Until it is asked to end. Raises `SettingsError` rather than be open to a network."""
    address = services.settings.api_address
    host, port = host_and_port(address)
    if is_open(services):
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
