"""Rules of notices: who is told of what, by a run's labels, its lane, and what happens to it. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reprieve.models.errors import InvalidRequest
from reprieve.models.lanes import checked_lane
from reprieve.models.notices import KINDS, NoticeKind, address_of, checked_url
from reprieve.models.requests import checked_labels
from reprieve.models.text import as_given

#: Rules that there may be: whatever happens to a run is held against all of them.
MAX_RULES = 100
MAX_NAME_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Rule:
    """Who is told of what: of these kinds (all where there are none), of runs with these labels, in this lane."""

    name: str
    url: str
    kinds: tuple[NoticeKind, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    lane: str | None = None

    @property
    def address(self) -> str:
        """As it may be shown."""
        return address_of(self.url)


def is_name(name: str) -> bool:
    """Whether a rule may have this name, which stands in paths."""
    return bool(re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_NAME_LENGTH - 1}}}", name))


def checked_rule(
    name: str,
    url: str,
    kinds: Sequence[str] | None = None,
    labels: Mapping[str, str] | None = None,
    lane: str | None = None,
) -> Rule:
    """A rule. Raises `InvalidRequest`, which says what would do."""
    if not is_name(name):
        raise InvalidRequest(
            f"The name of a rule is of 1 to {MAX_NAME_LENGTH} letters, digits, dots, dashes and underscores."
        )
    for kind in kinds or ():
        if kind not in list(KINDS):
            raise InvalidRequest(f"{as_given(kind, 50)} is no kind of notice; known are {', '.join(KINDS)}.")
    return Rule(
        name=name,
        url=checked_url(url),
        kinds=tuple(dict.fromkeys(NoticeKind(kind) for kind in kinds or ())),
        labels=checked_labels(labels or {}),
        lane=None if lane is None else checked_lane(lane),
    )
