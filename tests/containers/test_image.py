"""The image: what is in it, and that it is the same whenever the same commit is built."""

import pytest

from tests.containers.engine import ROOT, Engine

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1200)]


def test_it_is_built_from_the_repository(engine: Engine) -> None:
    engine.docker("build", "--tag", "reprieve-test", ROOT)
    assert "reprieve" in engine.docker("run", "--rm", "reprieve-test", "reprieve", "--version").stdout
