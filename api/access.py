"""Who asks, and whether they may: bearer tokens, and nobody at all where none was ever made."""

import hmac
import ipaddress
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from models.access import Scope
from stores.tokens import hash_of
from workers.bootstrap import Services

BEARER = HTTPBearer(auto_error=False, description="A token of `reprieve token create`, or of REPRIEVE_API_TOKENS.")

#: The cookie of those who gave their token to the page.
COOKIE = "reprieve_token"

Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]


async def services_of(request: Request) -> Services:
    """What the app was made with. It takes no thread: reports wait for none."""
    found: Services = request.app.state.services
    return found


Wired = Annotated[Services, Depends(services_of)]


def is_open(services: Services) -> bool:
    """Whether there is no token at all: then the API is for this machine only, and everyone on it may do everything."""
    return not services.settings.api_tokens and not services.tokens.any_for_api()


def allow(needed: Scope) -> Callable[..., None]:
    """A dependency that lets only those pass who have a scope."""

    def check(request: Request, wired: Wired, credentials: Credentials) -> None:
        token = credentials.credentials if credentials else _token_of_page(request)
        if token is None:
            if is_open(wired):
                _only_from_here(request)
                return
            raise HTTPException(401, "A token is needed: send `Authorization: Bearer TOKEN`.")
        scope = scope_of(wired, token)
        if scope is None:
            raise HTTPException(401, "The token is not known here; `reprieve token create` makes one.")
        if not scope.includes(needed):
            raise HTTPException(403, f"The token has the scope {scope}; this needs {needed}.")

    return check


def _token_of_page(request: Request) -> str | None:
    """The token of somebody who uses the page: in a cookie that no script can read and no other site can send.

    What changes something must come from a page of ours, by its `Origin`.
    """
    token = request.cookies.get(COOKIE)
    if token is None or request.method in ("GET", "HEAD") or _is_from_here(request):
        return token
    raise HTTPException(403, "This came from a page of another site.")


def _is_from_here(request: Request) -> bool:
    return urlsplit(request.headers.get("origin", "")).netloc == request.headers.get("host")


def _only_from_here(request: Request) -> None:
    """What needs no token must be meant: a page from elsewhere, open in a browser of this machine, may not ask for it.

    Such a page gives itself away by its `Origin`, or, where it has its own name point here, by `Host`.
    """
    named, from_a_page = request.url.hostname or "", "origin" in request.headers
    if not is_loopback(named) or (from_a_page and not _is_from_here(request)):
        raise HTTPException(403, "There is no token, so this is only for requests from this machine to its loopback.")


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def scope_of(services: Services, token: str) -> Scope | None:
    """What a token is good for; compared in a time that tells nothing of how much of it is right."""
    given = hash_of(token)
    found = None
    for scope, secret in services.settings.api_tokens:
        if hmac.compare_digest(hash_of(secret.get_secret_value()), given):
            found = scope
    return found or services.tokens.scope_of(token)


MayRead = Depends(allow(Scope.READ))
MayRun = Depends(allow(Scope.RUN))
MayAdministrate = Depends(allow(Scope.ADMIN))


async def bearer(credentials: Credentials) -> str | None:
    """The token itself, for those who check it by other means."""
    return credentials.credentials if credentials else None


GivenToken = Annotated[str | None, Depends(bearer)]
