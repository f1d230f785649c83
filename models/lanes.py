"""Lanes: a name under which so many runs may be running at once. Pure."""

from reprieve.models.errors import InvalidRequest
from reprieve.models.text import is_plain_text, shown

#: The lane of a run that names none.
DEFAULT_LANE = "default"
MAX_LANE_LENGTH = 128


def checked_lane(lane: str) -> str:
    """The name of a lane that a run may wait in. Raises `InvalidRequest`."""
    if not is_plain_text(lane) or not 1 <= len(lane) <= MAX_LANE_LENGTH or "*" in lane or lane != lane.strip():
        raise InvalidRequest(
            f"lane is {shown(repr(lane))[:200]}; give text of 1 to {MAX_LANE_LENGTH} characters without an asterisk."
        )
    return lane
