"""Services that ask for runs in their own transactions."""

from collections.abc import Iterator

import pytest

from reprieve.workers.bootstrap import Services
from tests.conftest import Servers
from tests.support.callers import CALLERS, Caller, OfDjango, OfSession


@pytest.fixture(params=CALLERS)
def caller(request: pytest.FixtureRequest, services: Services, servers: Servers) -> Iterator[Caller]:
    made = CALLERS[request.param](servers.postgres.url)
    yield made
    made.close()


@pytest.fixture
def session(services: Services, servers: Servers) -> Iterator[Caller]:
    """The caller that stands for all where libraries do not differ."""
    made = OfSession(servers.postgres.url, "psycopg2")
    yield made
    made.close()


@pytest.fixture
def django(services: Services, servers: Servers) -> Iterator[Caller]:
    made = OfDjango(servers.postgres.url, "psycopg")
    yield made
    made.close()
