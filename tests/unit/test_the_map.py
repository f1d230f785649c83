"""docs/architecture.md leads to files that are there, and to names that are defined in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_place_that_the_map_and_the_glossary_name_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`(\w+/[\w/]+\.py)`(?: \(`(\w+)`\))?", page)
    assert len(named) > 40
    missing = {(path, name) for path, name in named if not (ROOT / path).is_file()}
    undefined = {
        (path, name)
        for path, name in set(named) - missing
        if name and not re.search(rf"^(class )?{name}\b", (ROOT / path).read_text(), re.M)
    }
    assert (missing, undefined) == (set(), set())
