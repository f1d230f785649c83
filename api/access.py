"""Authentication and authorisation: by token, or without one where `REPRIEVE_API_OPEN` allows it on this machine."""

import hmac
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from reprieve.api.peers import caller, is_loopback
from reprieve.models.access import Holder, Scope
from reprieve.models.asker import this_process
from reprieve.stores.tokens import hash_of
from reprieve.workers.bootstrap import Services

BEARER = HTTPBearer(auto_error=False, description="A token of `reprieve token create`, or of REPRIEVE_API_TOKENS.")

TOKEN_NEEDED = "A token is needed: send `Authorization: Bearer TOKEN`."  # noqa: S105 - a sentence

Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]


async def services_of(request: Request) -> Services:
    """The app's services. A coroutine, so that reports need no thread for it."""
    found: Services = request.app.state.services
    return found


Wired = Annotated[Services, Depends(services_of)]


def allow(needed: Scope) -> Callable[..., None]:
    """A dependency that admits only callers with this scope."""

    def check(request: Request, wired: Wired, credentials: Credentials) -> None:
        token = credentials.credentials if credentials else _token_of_page(request)
        if token is None:
            _without_a_token(request, wired)
            return
        holder = holder_of(wired, token)
        if holder is None:
            raise HTTPException(401, "The token is not known here; `reprieve token create` makes one.")
        if not holder.scope.includes(needed):
            raise HTTPException(403, f"The token has the scope {holder.scope}; this needs {needed}.")
        request.state.holder = holder

    return check


def cookie_name(request: Request) -> str:
    """The cookie of a caller who gave the page a token: browsers tell hosts apart by it, but not ports.

    Of two that are below paths of one host, a browser sends both cookies to the lower one.
    """
    below = root_path(request).replace("/", "~")
    return f"reprieve_token_{request.url.port or request.url.scheme}{below}"


def root_path(request: Request) -> str:
    """The path below which a proxy, or another application, has us; empty where none does."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def _token_of_page(request: Request) -> str | None:
    """The page's token, in a cookie that scripts cannot read and other sites cannot send.

    It counts only for requests of our own page, as the browser says (`Sec-Fetch-Site`); one that changes something must
    show it by its `Origin`, too. A page at another port of this host is of the same site, and another origin.
    """
    token = request.cookies.get(cookie_name(request))
    if token is None:
        return None
    changes_nothing = request.method in ("GET", "HEAD")
    if _may_be_of_our_page(request) and (changes_nothing or _is_from_here(request)):
        return token
    raise HTTPException(403, "This came from a page of another site.")


def _may_be_of_our_page(request: Request) -> bool:
    return request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def _is_from_here(request: Request) -> bool:
    host = request.headers.get("host")
    return bool(host) and urlsplit(request.headers.get("origin", "")).netloc == host


def _without_a_token(request: Request, wired: Services) -> None:
    """Raises unless this API was opened on purpose and the request comes from the user it is open to.

    A page from elsewhere, open in a browser of this machine, gives itself away by `Origin` or `Sec-Fetch-Site` or,
    if its name resolves to this machine, by `Host`. A header alone never grants access.
    """
    if not wired.settings.api_open:
        raise HTTPException(401, TOKEN_NEEDED)
    if (why := caller(request).why_a_token()) is not None:
        raise HTTPException(401, f"This request needs a token, since {why}: send `Authorization: Bearer TOKEN`.")
    of_another_page = "origin" in request.headers and not _is_from_here(request)
    if of_another_page or not _may_be_of_our_page(request) or not is_loopback(request.url.hostname or ""):
        raise HTTPException(403, "This came from a page of another site; without a token, only our own may ask.")


def holder_of(services: Services, token: str) -> Holder | None:
    """Whose token it is; compared in constant time. Those of the configuration have no names of their own."""
    given = hash_of(token)
    found = None
    for scope, secret in services.settings.api_tokens:
        if hmac.compare_digest(hash_of(secret.get_secret_value()), given):
            found = Holder(f"a configured token ({scope})", scope)
    return found or services.tokens.holder_of(token)


async def asker_of(request: Request) -> str:
    """Who asks, by the name of the token; without one it is the user of this machine that this API is open to."""
    holder: Holder | None = getattr(request.state, "holder", None)
    return this_process() if holder is None else holder.name


AskedBy = Annotated[str, Depends(asker_of)]

MayRead = Depends(allow(Scope.READ))
MayRun = Depends(allow(Scope.RUN))
MayAdministrate = Depends(allow(Scope.ADMIN))


async def bearer(credentials: Credentials) -> str | None:
    """The token itself, for routes that check it in another way."""
    return credentials.credentials if credentials else None


GivenToken = Annotated[str | None, Depends(bearer)]
