"""The API over real PostgreSQL and Redis: in this process for what answers at once, on a socket for what streams."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from reprieve.workers.bootstrap import Services
from tests.support.http import calling, opened
from tests.support.served import Served


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    """A caller that may do everything; what goes wrong is an answer, as it is for a client."""
    with calling(services, raising=False) as made:
        yield made


@pytest.fixture
def served(services: Services) -> Iterator[Served]:
    """Open to this user."""
    made = Served(opened(services))
    made.start()
    yield made
    made.stop()
