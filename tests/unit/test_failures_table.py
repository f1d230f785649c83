"""docs/failures.md says of each row whether it is closed; the tests named after the rows must agree."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_row_is_closed_if_and_only_if_a_test_is_named_after_it() -> None:
    table = (ROOT / "docs" / "failures.md").read_text()
    states = dict(re.findall(r"^\| ([A-G]\d\d) \|.*\| (closed|open) \|$", table, re.MULTILINE))
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    tested = {row.upper() for source in sources for row in re.findall(r"def test_([a-g]\d\d)_", source)}
    assert states
    assert {row for row, state in states.items() if state == "closed"} == tested
