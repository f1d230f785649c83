"""Writes docs/failures.md: the catalogue of failures, with the tests that are marked with its rows.

    python -m tests.faults.catalogue

A row is closed when a test, or its module, has its marker: `@pytest.mark.row("A06")`, or `pytestmark` with the same.
"""

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
CATALOGUE = ROOT / "tests" / "faults" / "catalogue.toml"
PAGE = ROOT / "docs" / "failures.md"

HEAD = """\
# Failures

How systems that run jobs, keep their logs and reap the dead ones have failed, as their users reported it. A row is
closed when the invariant holds in the code and a test marked with the row would fail if it stopped holding; below each
table are those tests. `make test ARGS='-k A06'` runs those of a row, and for F14 it is `make test-containers`.

Written by `make failures` from `tests/faults/catalogue.toml` and the tests; a test fails when this page is not up to
date.
"""


def marked_with_rows() -> Mapping[str, list[str]]:
    """The tests that are marked with each row, as `file::test`, in order."""
    found = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        module = ast.parse(path.read_text())
        of_all = _rows(node for node in module.body if isinstance(node, ast.Assign))
        for node in module.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for row in sorted(of_all | _rows(node.decorator_list)):
                    found[row].append(f"{path.relative_to(ROOT)}::{node.name}")
    return found


def _rows(nodes: Iterable[ast.AST]) -> set[str]:
    """The rows that `pytest.mark.row("A06")` names anywhere in these."""
    calls = (call for node in nodes for call in ast.walk(node) if isinstance(call, ast.Call))
    return {ast.literal_eval(call.args[0]) for call in calls if ast.unparse(call.func) == "pytest.mark.row"}


def page() -> str:
    return "\n".join(_lines(tomllib.loads(CATALOGUE.read_text()), marked_with_rows())) + "\n"


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
