"""The HTTP API in this process, and a caller that may do everything."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from fastapi.testclient import TestClient
from pydantic import SecretStr

from reprieve.api.app import create_app
from reprieve.models.access import Scope
from reprieve.workers.bootstrap import Services

LOCAL = "http://127.0.0.1"
TOKEN = "a-token-in-the-settings-of-a-test"


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def with_token(services: Services, scope: Scope = Scope.ADMIN, token: str = TOKEN) -> Services:
    """The same services, to which one more token is known."""
    known = (*services.settings.api_tokens, (scope, SecretStr(token)))
    return replace(services, settings=services.settings.model_copy(update={"api_tokens": known}))


def opened(services: Services) -> Services:
    """The same services, whose API asks this user for no token."""
    return replace(services, settings=services.settings.model_copy(update={"api_open": True}))


@contextmanager
def calling(services: Services, *, raising: bool = True) -> Iterator[TestClient]:
    """A client that bears a token for everything. Unless it is `raising`, what goes wrong is an answer."""
    app = create_app(with_token(services))
    with TestClient(app, base_url=LOCAL, raise_server_exceptions=raising, headers=bearer()) as client:
        yield client
