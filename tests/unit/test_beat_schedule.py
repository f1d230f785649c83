"""What beat sends is plain data, at the timings' own pace."""

from datetime import timedelta
from typing import Any

import pytest

from reprieve.beat_schedule import beat_schedule
from reprieve.models.liveness import Timing


def leaves(value: Any) -> list[Any]:
    return [leaf for inner in value.values() for leaf in leaves(inner)] if isinstance(value, dict) else [value]


def test_the_schedule_is_plain_data() -> None:
    assert {type(leaf) for leaf in leaves(beat_schedule(Timing()))} <= {str, int, float, timedelta}


@pytest.mark.parametrize("scale", [1, 30])
def test_the_reaper_sweeps_once_per_sweep_interval(scale: int) -> None:
    sweep = beat_schedule(Timing.scaled(scale))["reaper.sweep"]
    assert (sweep["task"], sweep["schedule"]) == ("reaper.sweep", timedelta(seconds=60) / scale)
    assert sweep["options"]["queue"] == "control"


def test_no_message_of_beat_expires_by_some_workers_clock() -> None:
    assert all("expires" not in entry.get("options", {}) for entry in beat_schedule(Timing()).values())
