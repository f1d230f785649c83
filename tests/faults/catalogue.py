"""Writes docs/failures.md: the catalogue of failures, with the tests that are named after its rows.

    python -m tests.faults.catalogue

A row is closed when there is such a test: `test_a06_…` for A06.
"""

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
CATALOGUE = ROOT / "tests" / "faults" / "catalogue.toml"
PAGE = ROOT / "docs" / "failures.md"

HEAD = """\
# Failures

How systems that run jobs, keep their logs and reap the dead ones have failed, as their users reported it. A row is
closed when the invariant holds in the code and a test named after the row would fail if it stopped holding; below each
table are those tests. `make test ARGS='-k a06'` runs those of a row.

Written by `make failures` from `tests/faults/catalogue.toml` and the tests; a test fails when this page is not up to
date.
"""


def named_after_rows() -> Mapping[str, list[str]]:
    """The tests that are named after each row, as `file::test`, in order."""
    found = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                row = node.name.split("_")[1].upper()
                found[row].append(f"{path.relative_to(ROOT)}::{node.name}")
    return found


def page() -> str:
    return "\n".join(_lines(tomllib.loads(CATALOGUE.read_text()), named_after_rows())) + "\n"


def _lines(catalogue: Mapping, tests: Mapping[str, list[str]]) -> Iterator[str]:
    yield HEAD
    rows = [row for group in catalogue["group"] for row in group["row"]]
    closed = sum(row["name"] in tests for row in rows)
    yield f"{closed} of {len(rows)} rows are closed, by {sum(len(tests.get(row['name'], [])) for row in rows)} tests."
    for group in catalogue["group"]:
        yield f"\n## {group['letter']}. {group['title']}\n"
        yield "| row | what users saw, and why | reported in | what holds here | state |"
        yield "|---|---|---|---|---|"
        for row in group["row"]:
            state = "closed" if row["name"] in tests else "open"
            yield f"| {row['name']} | {row['seen']} | {row['sources']} | {row['invariant']} | {state} |"
        yield ""
        for row in group["row"]:
            yield from _tests(row["name"], tests.get(row["name"], []))


def _tests(row: str, names: list[str]) -> Iterator[str]:
    if names:
        yield f"<details><summary>{row}: {len(names)} tests</summary>\n"
        yield from (f"- `{name}`" for name in names)
        yield "\n</details>"


if __name__ == "__main__":
    PAGE.write_text(page())
