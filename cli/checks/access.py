"""Checks of access control: Flower and the HTTP API."""

from reprieve.api.peers import is_loopback
from reprieve.cli.checks import Found
from reprieve.stores.tokens import own_token
from reprieve.workers.bootstrap import Services
from reprieve.workers.settings import host_and_port


def flower(wired: Services) -> Found:
    if wired.settings.flower_password is None:
        return False, "Flower has no password here: set REPRIEVE_FLOWER_PASSWORD, or it does not start."
    return True, "Flower asks for a password."


def http_api(wired: Services) -> Found:
    settings, address = wired.settings, wired.settings.api_address
    local = is_loopback(host_and_port(address)[0])
    if settings.api_open:
        if not local:
            return False, f"The HTTP API would not start at {address}: REPRIEVE_API_OPEN is for loopback only."
        return True, f"The HTTP API ({address}) asks for no token of this user, as REPRIEVE_API_OPEN says."
    if settings.api_tokens or own_token(settings.data_dir) or wired.tokens.any_for_api():
        return True, f"The HTTP API ({address}) asks for a token."
    if local:
        return True, f"The HTTP API ({address}) makes a token when it starts: there is none."
    return False, f"The HTTP API would not start at {address}: there is no token. `reprieve token create` makes one."
