"""One engine and one set of bases for all tests of containers."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.containers import bases
from tests.containers import stack as stacks
from tests.containers.engine import ROOT, Engine
from tests.containers.engine import engine as an_engine


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with an_engine() as found:
        bases.provide(found)
        yield found


@pytest.fixture(scope="session")
def image(engine: Engine) -> Iterator[str]:
    """The image that stacks are made of, built without any secret."""
    engine.docker("build", "--tag", stacks.IMAGE, ROOT)
    yield stacks.IMAGE
    engine.docker("rmi", "--force", stacks.IMAGE, check=False)


@pytest.fixture
def stack(engine: Engine, image: str, tmp_path: Path) -> Iterator[stacks.Stack]:
    """A stack that is not up yet, and has no secrets."""
    with stacks.stack(engine, tmp_path) as made:
        yield made
    left = stacks.things_of(engine, made.project)
    assert left == [], "something of the stack is left"


@pytest.fixture
def tell(capfd: pytest.CaptureFixture[str]) -> Callable[[object], None]:
    """Says something where whoever runs the tests sees it: what a stack came through, and how long that took."""

    def say(what: object) -> None:
        with capfd.disabled():
            print(f"\n{json.dumps(what, indent=1)}", flush=True)

    return say
