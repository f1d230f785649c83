"""How what runs have used is added up: over those that have something in common. Pure."""

from dataclasses import dataclass
from datetime import timedelta

from reprieve.models.errors import InvalidRequest
from reprieve.models.text import as_given, is_plain_text

#: What is asked about where nothing is said.
LATELY = timedelta(days=7)
#: Runs that are added up at the most, the newest; groups that are listed, those of most runs; names of each.
MOST_RUNS, MOST_GROUPS, MOST_LISTED = 100_000, 1_000, 100

OF_A_RUN = ("adapter", "lane", "status")
OF_A_LABEL = "label:"


@dataclass(frozen=True, slots=True)
class Grouping:
    """What the runs of a group have in common: a column of theirs, or the value of a label."""

    column: str | None = None
    label: str | None = None

    @classmethod
    def of(cls, given: str) -> "Grouping":
        """Raises `InvalidRequest`."""
        if given in OF_A_RUN:
            return cls(column=given)
        if given.startswith(OF_A_LABEL) and is_plain_text(given) and given != OF_A_LABEL:
            return cls(label=given.removeprefix(OF_A_LABEL))
        known = ", ".join(OF_A_RUN)
        raise InvalidRequest(f"by is {as_given(given, 100)}; give {known}, or {OF_A_LABEL}NAME.")
