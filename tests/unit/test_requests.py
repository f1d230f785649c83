"""What is refused of a run that is asked for as JSON, before it is sent."""

from typing import Any

import pytest

from reprieve.models.errors import InvalidRequest
from reprieve.models.requests import RunRequest


def nested(depth: int, innermost: Any) -> dict[Any, Any]:
    config: dict[Any, Any] = {"a": [innermost]}
    for _ in range(depth):
        config = {"a": (config,)}
    return config


@pytest.mark.parametrize("depth", [0, 10, 50_000])
def test_a_name_that_is_no_text_is_found_at_whatever_depth(depth: int) -> None:
    RunRequest("process", nested(depth, {"1": "b"})).check()
    with pytest.raises(InvalidRequest, match="config: 1 is no name; a name is text"):
        RunRequest("process", nested(depth, {1: "b"})).check()


def test_a_config_that_holds_itself_is_looked_through_once() -> None:
    config: dict[str, Any] = {"a": {}}
    config["a"]["again"] = config
    RunRequest("process", config).check()
