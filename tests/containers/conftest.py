"""One engine and one set of bases for all tests of containers."""

from collections.abc import Iterator

import pytest

from tests.containers import bases
from tests.containers.engine import Engine
from tests.containers.engine import engine as an_engine


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with an_engine() as found:
        bases.provide(found)
        yield found
